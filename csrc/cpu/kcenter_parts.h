// The inner parts of k-center: one thread's room, and what it compares rows with.
#pragma once
#include "kcenter.h"
#include "sketch.h"

namespace pcf {

constexpr int kHits = 8; // points kept for a row before they are settled

// Points in a frame, with the bound that goes with them.
struct KCenter::View {
    const Frame* frame;
    const Points* points;
    const Bound* bound;
    double rho;  // of a row relative to its norm, where it is not measured; < 0: it is
    bool tight;  // a value bounds the distance from above too
};

struct KCenter::Worker {
    struct Hit {
        int32_t point;
        float value;
    };
    struct Meter { // what a way of comparing costs
        double cost = 1e300; // nanoseconds a row and pick
        int64_t interval = 8, due = 0; // panels until it is tried again
    };
    Worker(const Matrix& x, const Frame& frame, const Sketch* sketch, int64_t groups)
        : lanes(frame, groups), centre_lanes(frame, 32 / std::min(32, frame.kernel().lanes)),
          sketch_lanes(sketch ? sketch->frame : frame, sketch ? groups : 0), scratch(frame),
          canonical(frame.kernel(), x, x), few(frame, kFewRoom), few_room(kFewRoom), hits(size_t(lanes.rows() * kHits)),
          held(size_t(lanes.rows())), best(size_t(lanes.rows())), reach(size_t(lanes.rows())) {}
    Prune choose(Prune asked, bool has_sketch);
    void charge(Prune way, double cost);

    static constexpr int64_t kFewRoom = 4096;
    Lanes lanes, centre_lanes, sketch_lanes;
    Scratch scratch;
    Canonical canonical;
    Points few; // the picks that the triangle inequality leaves
    int64_t few_room;
    std::vector<int32_t> few_ids;
    std::vector<int64_t> centres; // rows
    std::vector<double> widest;   // largest squared distance of a row of the panel to its centre
    std::vector<Hit> hits;     // [lanes][kHits]
    std::vector<int32_t> held; // hits of a lane
    std::vector<float> best;   // largest value among them
    std::vector<double> reach; // squared distance that the nearest of all points seen is not above
    Meter meter[3];            // by Prune
    int64_t panels = 0, settled = 0;
};

} // namespace pcf
