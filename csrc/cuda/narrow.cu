// Where more candidates were found than there is room for: the first of them in rank, and an edge behind these.
#include "cut.h"
#include "kcenter.h"

namespace pcf {
namespace {

struct NarrowShared {
    CutShared cut;
    int64_t high;
    int32_t kept;
};

// All candidates are fresh, so their keys rank them; rows behind the new edge are no candidates of this pass. One block.
// A list that has overflowed is given up: the rows have been refreshed, and the next cut is an exact one.
__global__ void __launch_bounds__(kCutThreads) narrow_kernel(KCenterPass p) {
    auto& s = *shared<NarrowShared>();
    const int found = p.counters[kInside], me = int(threadIdx.x), threads = int(blockDim.x);
    __syncthreads();
    if (me == 0) p.control[kFound] = found;
    if (found <= p.room) return;
    if (found > p.listed) {
        if (me == 0) p.counters[kInside] = 0;
        return;
    }
    const auto each = [&](auto visit) {
        for (int at = me; at < found; at += threads) {
            const int row = p.candidates[at];
            visit(__double_as_longlong(p.key[row]), row);
        }
    };
    if (me == 0) s.high = -1, s.kept = 0;
    __syncthreads();
    int64_t high = -1;
    each([&](int64_t bits, int64_t) { high = max(high, bits); });
    high = warp_max(high);
    if (lane() == 0) atomic_max(&s.high, high);
    __syncthreads();
    const Cut cut = cut_at(s.cut, p.control[kEdge], s.high, p.room, p.room / 2, each);
    for (int base = 0; base < found; base += threads) {
        const int at = base + me, row = at < found ? p.candidates[at] : 0;
        const bool in = at < found && cut.before(__double_as_longlong(p.key[row]), row);
        const int place = s.kept + block_scan(in, s.cut.sums) - 1; // no further on than what is still to be read
        if (in) p.candidates[place] = row;
        __syncthreads();
        if (me == threads - 1) s.kept = place + 1;
        __syncthreads();
    }
    if (me != 0) return;
    p.counters[kInside] = s.kept;
    p.control[kEdge] = cut.key;
    p.control[kEdgeRow] = cut.row;
}

} // namespace

Status narrow(const KCenterPass& p, stream_t stream) {
    PCF_LAUNCH(narrow_kernel, 1, kCutThreads, sizeof(NarrowShared), stream, p);
    return {};
}

} // namespace pcf
