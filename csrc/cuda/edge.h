// The edge of a pass in device code: which rows reach it, and the list of those that do.
#pragma once
#include "gpu.h"
#include "layout.h"

namespace pcf {

struct Edge {
    int64_t bits, row;
    bool done; // all picks are made: of passes enqueued ahead the rest has nothing to do
    PCF_DEVICE explicit Edge(const int64_t* control)
        : bits(control[kEdge]), row(control[kEdgeRow]), done(control[kCount] >= control[kEnd]) {}
    // Whether a row ranks no lower: larger key first, then lower row. Keys that are not negative have the order of
    // their bits; -1 marks what was picked.
    PCF_DEVICE bool reached(double key, int64_t which) const {
        const int64_t own = __double_as_longlong(key);
        return key >= 0 && (own > bits || (own == bits && which <= row));
    }
};

// Append to a list, in any order, by all lanes of a warp together; where more than `room` come, the rest is only
// counted. `found` is the list's counter.
PCF_DEVICE void append(bool wanted, int value, int* found, int* list, int room PCF_SITE) {
    const unsigned all = __ballot_sync(kAll, wanted PCF_AT);
    if (all == 0) return;
    int first = 0;
    if (lane() == 0) first = atomicAdd(found, __popc(all));
    first = __shfl_sync(kAll, first, 0, 32 PCF_AT);
    const int place = first + __popc(all & ((1u << lane()) - 1u));
    if (wanted && place < room) list[place] = value;
}

// 0 for the rows that have seen fewest picks, up to kAgeBins - 1.
PCF_DEVICE int age(int seen, int64_t count) { return int(int64_t(seen) * kAgeBins / (count > 1 ? count : 1)); }

} // namespace pcf
