// A cut through the order of greedy (larger key first, then lower row) by one block, such that no more rows rank before
// it than there is room for, and nearly so many.
#pragma once
#include "gpu.h"
#include "layout.h"

namespace pcf {

constexpr int kCutThreads = 1024;

struct Cut {
    int64_t key, row; // before it: larger keys, and of this very key the rows up to this one
    PCF_DEVICE bool before(int64_t bits, int64_t which) const { return bits > key || (bits == key && which <= row); }
};

struct CutShared {
    int32_t bins[kCutThreads], sums[32];
    int32_t above, fits; // rows above the range, all of which are taken; bins that fit
};

// The sum of `value` over the threads up to this one; all threads call it.
PCF_DEVICE int block_scan(int value, int32_t* sums) {
    const int own = warp_scan(value);
    if (lane() == 31) sums[warp()] = own;
    __syncthreads();
    int before = 0;
    for (int w = 0; w < warp(); ++w) before += sums[w];
    __syncthreads();
    return before + own;
}

// `each(visit)` calls visit(bits, row) for every row of this thread: keys that are not negative, as bits, which lie in
// low..high. There are more than `most` of them, over all threads; `least` to `most` of them are before the cut.
//
// A histogram of the range, highest bin first, tells how many bins fit; the bin that does not is divided in turn if
// fewer than `least` are above it, at last among rows of one key by row. One round mostly does.
template <class Each>
PCF_DEVICE Cut cut_at(CutShared& s, int64_t low, int64_t high, int most, int least, Each each) {
    const int me = int(threadIdx.x), threads = int(blockDim.x);
    Cut cut{-1, kLastRow};
    bool by_row = false;
    int above = 0;
    for (;;) {
        int shift = 0;
        while ((high - low) >> shift >= threads) ++shift;
        s.bins[me] = 0;
        if (me == 0) s.fits = 0, s.above = above;
        __syncthreads();
        each([&](int64_t bits, int64_t row) {
            const int64_t value = by_row ? kLastRow - row : bits;
            const bool counted = !by_row || bits == cut.key;
            if (counted && value >= low && value <= high) atomicAdd(&s.bins[int((value - low) >> shift)], 1);
        });
        __syncthreads();
        // Thread t has the bin t from the top; those that fit are a prefix.
        const int reached = above + block_scan(s.bins[threads - 1 - me], s.sums);
        if (reached <= most) atomicAdd(&s.fits, 1), atomicMax(&s.above, reached);
        __syncthreads();
        const int fits = s.fits;
        above = s.above;
        __syncthreads();
        // Fewer rows than `most` are above and more are there, so some bin does not fit.
        const int64_t bin = threads - 1 - fits, from = low + (bin << shift), wide = int64_t(1) << shift;
        const int64_t to = high - from < wide ? high : from + wide - 1; // infinity's bits are near the end of int64
        const bool done = above >= least;
        if (by_row) cut.row = kLastRow - to - 1;
        else cut.key = done ? to : from;
        if (done && !by_row) cut.row = -1;
        if (done) return cut;
        low = from, high = to;
        if (shift == 0) { // one key: the rows that have it
            by_row = true;
            low = 0, high = kLastRow;
        }
    }
}

} // namespace pcf
