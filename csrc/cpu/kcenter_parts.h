// The inner parts of k-center: one thread's room, and what it compares rows with.
#pragma once
#include "kcenter.h"
#include "sketch.h"

#include <algorithm>

namespace pcf {

constexpr int kHits = 8; // points kept for a row before they are settled

// Points in a frame, with the bound that goes with them.
struct KCenter::View {
    const Frame* frame;
    const Points* points;
    const Bound* bound;
    bool whole; // not a sketch: a value bounds the distance from above too
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
          canonical(frame.kernel(), x, x), few_room(room_for_few(frame)), few(frame, few_room), hits(size_t(lanes.rows() * kHits)),
          held(size_t(lanes.rows())), best(size_t(lanes.rows())), reach(size_t(lanes.rows())) {}
    Prune choose(Prune asked, bool has_sketch);
    void charge(Prune way, double cost);

    static int64_t room_for_few(const Frame& frame) { // 4,096, or 16 MB of wide ones
        const int64_t fit = (16 << 20) / (frame.depth() * frame.kernel().bytes);
        return std::max<int64_t>(frame.kernel().points, std::min<int64_t>(4096, fit));
    }
    Lanes lanes, centre_lanes, sketch_lanes;
    Scratch scratch;
    Canonical canonical;
    int64_t few_room;
    Points few; // the picks that the triangle inequality leaves
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

// The ids (or their positions, where ids is null) that pass, in order.
template <class Passes>
void KCenter::gather(int64_t total, const Passes& passes, const int64_t* ids, std::vector<int64_t>& out) {
    const int64_t parts = total < (1 << 15) ? 1 : team_.size(), step = (total + parts - 1) / parts;
    std::vector<int64_t> start(size_t(parts) + 1);
    const auto each = [&](int64_t part, const auto& visit) {
        for (int64_t i = part * step; i < std::min(total, (part + 1) * step); ++i) {
            const int64_t id = ids ? ids[i] : i;
            if (passes(id)) visit(id);
        }
    };
    team_.run(parts, [&](int64_t part, int) {
        int64_t count = 0;
        each(part, [&](int64_t) { ++count; });
        start[size_t(part) + 1] = count;
    });
    for (size_t p = 1; p < start.size(); ++p) start[p] += start[p - 1];
    out.clear();
    out.resize(size_t(start.back())); // exactly: growing by doubling would cost memory the caller was not told of
    team_.run(parts, [&](int64_t part, int) {
        int64_t at = start[size_t(part)];
        each(part, [&](int64_t id) { out[size_t(at++)] = id; });
    });
}

} // namespace pcf
