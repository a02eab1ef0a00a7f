// One thread's room in k-center.
#pragma once
#include "kcenter.h"

namespace pcf {

constexpr int kHits = 8; // points kept for a row before they are settled

struct KCenter::Worker {
    struct Hit {
        int32_t point;
        float value;
    };
    Worker(const Matrix& x, const Frame& frame, int64_t groups)
        : lanes(frame, groups), scratch(frame), canonical(frame.kernel(), x, x),
          hits(size_t(lanes.rows() * kHits)), held(size_t(lanes.rows())), best(size_t(lanes.rows())),
          reach(size_t(lanes.rows())) {}
    Lanes lanes;
    Scratch scratch;
    Canonical canonical;
    std::vector<Hit> hits;     // [lanes][kHits]
    std::vector<int32_t> held; // hits of a lane
    std::vector<float> best;   // largest value among them
    std::vector<double> reach; // squared distance that the nearest of all points seen is not above
};

} // namespace pcf
