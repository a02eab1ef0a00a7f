// Which rows a pass looks at: a cut through the order (larger key first, then lower row) by histograms of its bits.
//
// A key is a float64 that is not negative, so its order is that of its bits. Each level takes 11 more of them, first of
// the key, then of the row. Two levels give an edge that lets in at least as many rows as wanted, nine exactly as many.
#include "select.h"

#include "edge.h"
#include "gpu.h"
#include "layout.h"

namespace pcf {
namespace {

constexpr int kThreads = 256, kThreadWarps = kThreads / kWarp;
constexpr int kAhead = 4;                       // keys that a thread loads before it counts them
constexpr int kBinsPerThread = kBins / kThreads;

// Count `bin` of every lane, those with bin < 0 excepted. Keys share their exponents: lanes that agree add up first.
PCF_DEVICE void count_bin(int* bins, int bin) {
    const unsigned same = __match_any_sync(kAll, bin);
    if (bin >= 0 && lane() == __ffs(int(same)) - 1) atomicAdd(&bins[bin], __popc(same));
}

struct Digits {
    int level, shift, width; // this level counts `width` bits from `shift` up
    bool of_row;             // of the row, flipped, among rows with the edge's key, not of the key
    bool highest;            // no bits above these: nothing is decided yet
};

PCF_DEVICE int bin_of(double key, int64_t row, int64_t edge, int64_t edge_row, const Digits& cut) {
    const int64_t bits = __double_as_longlong(key);
    const int64_t own = cut.of_row ? row ^ kLastRow : bits; // the lowest row is highest
    const int64_t decided = cut.of_row ? edge_row ^ kLastRow : edge;
    if (!(key >= 0) || (cut.of_row && bits != edge)) return -1;
    if (!cut.highest && own >> (cut.shift + cut.width) != decided >> (cut.shift + cut.width)) return -1;
    return int(own >> cut.shift & ((int64_t(1) << cut.width) - 1));
}

// One level: count, and the block that finishes last takes the bin where the wanted row lies.
__global__ void __launch_bounds__(kThreads)
    edge_kernel(const double* key, int64_t rows, int64_t* control, int32_t* counters, Digits cut) {
    int* bins = shared<int>(); // [kBins]
    int* sums = bins + kBins;  // [kThreadWarps]
    const int thread = int(threadIdx.x);
    const int64_t left = control[cut.level == 0 ? kWanted : kLeft], edge = control[kEdge];
    const int64_t edge_row = control[kEdgeRow];
    if (left < 0 || control[kCount] >= control[kEnd]) return;
    for (int b = thread; b < kBins; b += kThreads) bins[b] = 0;
    __syncthreads();
    const int64_t stride = int64_t(gridDim.x) * kThreads;
    for (int64_t lo = int64_t(blockIdx.x) * kThreads; lo < rows; lo += kAhead * stride) {
        double keys[kAhead];
        PCF_UNROLL
        for (int i = 0; i < kAhead; ++i) {
            const int64_t row = lo + i * stride + thread;
            keys[i] = row < rows ? key[row] : -1.0;
        }
        PCF_UNROLL
        for (int i = 0; i < kAhead; ++i)
            count_bin(bins, bin_of(keys[i], lo + i * stride + thread, edge, edge_row, cut));
    }
    __syncthreads();
    int32_t* found = counters + kHistogram + cut.level * kBins;
    for (int b = thread; b < kBins; b += kThreads)
        if (bins[b] > 0) atomicAdd(&found[b], bins[b]);
    // All that this block adds comes before its ticket, and the last block reads past the first-level cache.
    __threadfence();
    __syncthreads();
    if (thread == 0) sums[0] = atomicAdd(&counters[kTicket + cut.level], 1);
    __syncthreads();
    const bool last = sums[0] == int(gridDim.x) - 1;
    __syncthreads();
    if (!last) return;
    __threadfence();
    int mine[kBinsPerThread], sum = 0;
    PCF_UNROLL
    for (int i = 0; i < kBinsPerThread; ++i) sum += mine[i] = __ldcg(&found[thread * kBinsPerThread + i]);
    int upto = warp_scan(sum);
    if (lane() == kWarp - 1) sums[warp()] = upto;
    __syncthreads();
    int64_t total = 0;
    for (int w = 0; w < kThreadWarps; ++w) {
        if (w < warp()) upto += sums[w];
        total += sums[w];
    }
    int64_t from_here = total - (upto - sum); // rows in this bin and above
    PCF_UNROLL
    for (int i = 0; i < kBinsPerThread; ++i) {
        const int bin = thread * kBinsPerThread + i;
        const int64_t above = from_here - mine[i];
        if (from_here >= left && (bin == kBins - 1 || above < left)) {
            if (cut.of_row) {
                control[kEdgeRow] = edge_row - (int64_t(bin) << cut.shift);
            } else {
                control[kEdge] = (cut.level == 0 ? 0 : edge) + (int64_t(bin) << cut.shift);
                control[kEdgeRow] = kLastRow;
            }
            control[kLeft] = left - above;
            if (cut.level == kCoarseLevels - 1) {
                const int64_t wanted = control[kWanted], let_in = wanted - left + above + mine[i];
                control[kCrowded] = let_in > 2 * wanted;
            }
        }
        from_here = above;
    }
    if (thread == 0 && total < left) { // fewer rows than wanted (at level 0 only): all are in
        control[kEdge] = 0;
        control[kEdgeRow] = kLastRow;
        control[kLeft] = -1;
        control[kCrowded] = 0;
    }
}

PCF_DEVICE bool is_stale(double key, int64_t row, int seen, int64_t count, const Edge& edge, bool eager) {
    return seen < count && (eager ? key >= 0 : edge.reached(key, row)) && !edge.done;
}

// Rows to refresh, by age; rows that are fresh and reach the edge are candidates at once.
__global__ void __launch_bounds__(kThreads) count_kernel(Selection s) {
    int* ages = shared<int>(); // [kAgeBins]
    const int thread = int(threadIdx.x);
    const Edge edge(s.control);
    const int64_t count = s.control[kCount];
    if (thread < kAgeBins) ages[thread] = 0;
    __syncthreads();
    const int64_t first = int64_t(blockIdx.x) * s.span, last = first + s.span < s.rows ? first + s.span : s.rows;
    for (int64_t lo = first; lo < last; lo += kThreads) {
        const int64_t row = lo + thread;
        const double key = row < last ? s.key[row] : -1.0;
        const int seen = row < last ? s.seen[row] : 0;
        const bool stale = is_stale(key, row, seen, count, edge, s.eager);
        count_bin(ages, stale ? age(seen, count) : -1);
        append(edge.reached(key, row) && seen >= count && !edge.done, int(row), &s.counters[kInside], s.candidates,
               s.listed);
    }
    __syncthreads();
    if (thread < kAgeBins) s.ages[int64_t(blockIdx.x) * kAgeBins + thread] = ages[thread];
}

// List the rows to refresh, those with most to catch up on first: rows of like age share a tile. Within an age they
// stand in order. Same grid and span as count_kernel.
__global__ void __launch_bounds__(kThreads) scatter_kernel(Selection s) {
    constexpr int kParts = kThreads / kAgeBins;
    int* offset = shared<int>();            // [kAgeBins] where this block's next row of an age goes
    int* total = offset + kAgeBins;         // [kParts][kAgeBins] rows of all blocks,
    int* before = total + kThreads;         // and of those before this one
    int* counts = before + kThreads;        // [kThreadWarps][kAgeBins] rows of this step
    const int thread = int(threadIdx.x), bin = thread % kAgeBins;
    int all = 0, earlier = 0;
    for (int b = thread / kAgeBins; b < s.blocks; b += kParts) {
        const int rows = s.ages[int64_t(b) * kAgeBins + bin];
        all += rows;
        if (b < int(blockIdx.x)) earlier += rows;
    }
    total[thread] = all;
    before[thread] = earlier;
    if (thread < kThreadWarps * kAgeBins) counts[thread] = 0;
    __syncthreads();
    if (warp() == 0) {
        all = earlier = 0;
        for (int part = 0; lane() < kAgeBins && part < kParts; ++part) {
            all += total[part * kAgeBins + lane()];
            earlier += before[part * kAgeBins + lane()];
        }
        const int upto = warp_scan(all);
        if (lane() < kAgeBins) offset[lane()] = upto - all + earlier;
        if (blockIdx.x == 0 && lane() == kAgeBins - 1) s.counters[kStale] = upto;
    }
    // The offsets are read behind the first barrier of the loop.
    const Edge edge(s.control);
    const int64_t count = s.control[kCount];
    const int64_t first = int64_t(blockIdx.x) * s.span, last = first + s.span < s.rows ? first + s.span : s.rows;
    for (int64_t lo = first; lo < last; lo += kThreads) {
        const int64_t row = lo + thread;
        const double key = row < last ? s.key[row] : -1.0;
        const int seen = row < last ? s.seen[row] : 0;
        const bool stale = is_stale(key, row, seen, count, edge, s.eager);
        const int own = stale ? age(seen, count) : -1;
        const unsigned same = __match_any_sync(kAll, own);
        const int rank = __popc(same & ((1u << lane()) - 1u));
        if (stale && rank == 0) counts[warp() * kAgeBins + own] = __popc(same);
        __syncthreads();
        if (stale) {
            int place = offset[own] + rank;
            for (int w = 0; w < warp(); ++w) place += counts[w * kAgeBins + own];
            s.stale[place] = int(row);
        }
        __syncthreads();
        if (thread < kAgeBins) {
            for (int w = 0; w < kThreadWarps; ++w) {
                offset[thread] += counts[w * kAgeBins + thread];
                counts[w * kAgeBins + thread] = 0;
            }
        }
        __syncthreads();
    }
}

} // namespace

Status select(const Selection& s, int levels, stream_t stream) {
    for (int level = 0; level < levels; ++level) {
        const bool of_row = level >= kKeyLevels;
        const Digits cut{level, kLevels[level].shift, kLevels[level].width, of_row, level == 0 || level == kKeyLevels};
        PCF_LAUNCH(edge_kernel, s.blocks, kThreads, sizeof(int) * (kBins + kThreadWarps), stream, s.key, s.rows,
                   s.control, s.counters, cut);
    }
    PCF_LAUNCH(count_kernel, s.blocks, kThreads, sizeof(int) * kAgeBins, stream, s);
    PCF_LAUNCH(scatter_kernel, s.blocks, kThreads, sizeof(int) * (kAgeBins * (1 + kThreadWarps) + 2 * kThreads), stream,
               s);
    return {};
}

} // namespace pcf
