// Exact distances of candidates to their nearest pick, and the block of them that greedy runs over.
#include "edge.h"
#include "kcenter_feed.h"

namespace pcf {
namespace {

constexpr int kSettleThreads = 256;
constexpr int kDoubts = 8;       // that a block of the scan takes at a time
constexpr int kSegment = 512;    // and picks
constexpr int kStaged = 1536;    // columns of the doubts that shared memory holds
constexpr int kTogether = 4;     // picks that a warp compares with at a time, 8 lanes each

// Candidates of this pass; none where there are more than there is room for.
PCF_DEVICE int candidates_of(const KCenterPass& p) {
    const int found = p.counters[kInside];
    return found <= p.room ? found : 0;
}

PCF_DEVICE double canonical(const KCenterPass& p, int64_t i, int64_t j) {
    const char* x = static_cast<const char*>(p.x.data);
    const int64_t bytes = bytes_of(p.x.type) * p.x.row_stride;
    return canonical_warp(x + i * bytes, x + j * bytes, int(p.x.dim), p.x.column_stride, p.x.column_stride, p.x.type,
                          p.x.type);
}

// How large a fast distance may be where the true one is no larger than what is known of the row.
PCF_DEVICE double reach_of(const KCenterPass& p, int row) {
    double bound = widen(double(p.value[row]), p.norm[row], p.params);
    if (p.has_initial) bound = fmin(bound, p.initial[row] * Scale({p.centre, p.params}).squared());
    return widen(bound, p.norm[row], p.params);
}

// One float64 distance a candidate: to the nearest pick, if every other is certainly farther. Else a doubt. A warp
// settles one candidate.
__global__ void __launch_bounds__(kSettleThreads, 2) settle_kernel(KCenterPass p) {
    const int place = int(blockIdx.x) * (kSettleThreads / 32) + warp();
    if (place >= candidates_of(p)) return;
    const int row = p.candidates[place];
    double exact = p.has_initial ? p.initial[row] : INFINITY;
    if (p.tracked) {
        // A pick no farther than the bound shows no more than this; nothing was picked where near is -1.
        const double reach = reach_of(p, row);
        const int near = p.near[row];
        if (near >= 0 && double(p.value[row]) <= reach) {
            exact = fmin(exact, canonical(p, row, p.pick_row[near]));
            if (lane() == 0 && double(p.second[row]) <= reach) p.doubt[atomicAdd(p.counters + kDoubt, 1)] = place;
        }
    } else {
        exact = fmin(exact, double(p.value[row]));
    }
    if (lane() == 0) p.settled[place] = exact;
}

struct alignas(16) ScanShared {
    int32_t place[kDoubts], row[kDoubts];
    float reach[kDoubts]; // rounded up: float32 is what is compared
};

// Doubts: the exact distance to every pick that may be nearest. The fast distances are in difference form, whatever the
// mode: its bound is the smaller one. Behind ScanShared lie `staged` columns of each of the doubts.
__global__ void __launch_bounds__(kSettleThreads, 2) scan_kernel(KCenterPass p, int staged) {
    auto& s = *shared<ScanShared>();
    float* rows = reinterpret_cast<float*>(shared<char>() + sizeof(ScanShared));
    const int count = int(p.control[kCount]), doubts = p.counters[kDoubt], dim = int(p.x.dim);
    const int segments = (count + kSegment - 1) / kSegment, groups = (doubts + kDoubts - 1) / kDoubts;
    constexpr int kEach = kSettleThreads / 32 * kTogether; // picks that the block compares with at a time
    for (int64_t job = blockIdx.x; job < int64_t(groups) * segments; job += gridDim.x) {
        __syncthreads();
        if (threadIdx.x < kDoubts) {
            const int number = int(job / segments) * kDoubts + int(threadIdx.x);
            const int place = number < doubts ? p.doubt[number] : -1;
            s.place[threadIdx.x] = place;
            s.row[threadIdx.x] = place < 0 ? -1 : p.candidates[place];
            s.reach[threadIdx.x] = place < 0 ? -1.0f : __double2float_ru(reach_of(p, p.candidates[place]));
        }
        __syncthreads();
        const int start = int(job % segments) * kSegment, end = min(start + kSegment, count);
        int held = -1; // the column from which rows are staged
        for (int base = start; base < end; base += kEach) {
            const int pick = base + warp() * kTogether + (lane() >> 3);
            const float* y = p.picks + int64_t(min(pick, count - 1)) * p.pitch;
            float sum[kDoubts] = {};
            for (int from = 0; from < dim; from += staged) {
                if (held != from) {
                    __syncthreads();
                    for (int at = int(threadIdx.x); at < kDoubts * staged; at += kSettleThreads) {
                        const int row = s.row[at / staged], column = from + at % staged;
                        rows[at] = row >= 0 && column < dim ? framed_at(p, row * p.x.row_stride, column) : 0.0f;
                    }
                    held = from;
                    __syncthreads();
                }
                for (int c = 4 * (lane() & 7); c < staged && from + c < dim; c += 32) {
                    const float4 b = *reinterpret_cast<const float4*>(y + from + c);
                    PCF_UNROLL
                    for (int d = 0; d < kDoubts; ++d) {
                        const float4 a = *reinterpret_cast<const float4*>(rows + d * staged + c);
                        sum[d] = __fmaf_rn(a.x - b.x, a.x - b.x, sum[d]);
                        sum[d] = __fmaf_rn(a.y - b.y, a.y - b.y, sum[d]);
                        sum[d] = __fmaf_rn(a.z - b.z, a.z - b.z, sum[d]);
                        sum[d] = __fmaf_rn(a.w - b.w, a.w - b.w, sum[d]);
                    }
                }
            }
            unsigned near = 0; // bit d: this lane's pick may be nearest to doubt d
            PCF_UNROLL
            for (int d = 0; d < kDoubts; ++d) {
                PCF_UNROLL
                for (int apart = 1; apart < 8; apart *= 2) sum[d] += __shfl_xor_sync(kAll, sum[d], apart);
                if (pick < end && sum[d] <= s.reach[d]) near |= 1u << d;
            }
            if (!__any_sync(kAll, near != 0)) continue;
            for (int d = 0; d < kDoubts; ++d) {
                const unsigned close = __ballot_sync(kAll, near >> d & 1);
                for (int which = 0; which < kTogether; ++which) {
                    if (!(close >> (8 * which) & 1)) continue;
                    const double exact = canonical(p, s.row[d], p.pick_row[base + warp() * kTogether + which]);
                    // Not negative: the order of float64 is that of its bits.
                    if (lane() == 0)
                        atomic_min(reinterpret_cast<int64_t*>(p.settled + s.place[d]), __double_as_longlong(exact));
                }
            }
        }
    }
}

constexpr int kTrimThreads = 1024, kHeld = kMostRoom / kTrimThreads; // candidates a thread

struct TrimShared {
    int32_t bins[kTrimThreads], sums[32];
    int64_t low, high; // the range of values that the bins divide
    int32_t above;     // rows above the range, all of which are taken
    int32_t fits, taken;
    int64_t best, best_row;
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

// The first P candidates in rank, or nearly so many, and the best of the others. One block.
//
// A histogram of the range of keys, highest bin first, tells how many bins fit; the bin that does not is divided in
// turn if fewer than three quarters of P are below it, at last among rows of one key by row. One round mostly does.
__global__ void __launch_bounds__(kTrimThreads) trim_kernel(KCenterPass p) {
    auto& s = *shared<TrimShared>();
    const int found = p.counters[kInside], held = candidates_of(p), block = p.block, threads = int(blockDim.x);
    const int me = int(threadIdx.x);
    int row[kHeld];
    int64_t bits[kHeld]; // of the key; -1 where there is none
    double exact[kHeld];
    if (me == 0) s.low = INT64_MAX, s.high = -1, s.above = 0, s.taken = 0, s.best = -1, s.best_row = kLastRow;
    __syncthreads();
    int64_t low = INT64_MAX, high = -1;
    PCF_UNROLL
    for (int e = 0; e < kHeld; ++e) {
        const int place = e * threads + me;
        row[e] = 0, bits[e] = -1, exact[e] = 0;
        if (place >= held) continue;
        row[e] = p.candidates[place];
        exact[e] = p.settled[place];
        double key = exact[e];
        if (p.weighted) key = p.weight[row[e]] > 0 ? __dmul_rn(p.weight[row[e]], key) : 0.0;
        p.key[row[e]] = key;
        bits[e] = __double_as_longlong(key);
        low = min(low, bits[e]);
        high = max(high, bits[e]);
    }
    low = warp_min(low), high = warp_max(high);
    if (lane() == 0) atomic_min(&s.low, low), atomic_max(&s.high, high);
    __syncthreads();

    // Taken: keys above `cut`, and of those with the key `cut` the rows up to `cut_row`.
    int64_t cut = -1, cut_row = kLastRow;
    if (held > block) {
        bool by_row = false;
        int above = 0;
        low = s.low, high = s.high;
        for (;;) {
            int shift = 0;
            while ((high - low) >> shift >= threads) ++shift;
            s.bins[me] = 0;
            if (me == 0) s.fits = 0, s.above = above;
            __syncthreads();
            PCF_UNROLL
            for (int e = 0; e < kHeld; ++e) {
                const int64_t value = by_row ? kLastRow - row[e] : bits[e];
                const bool counted = by_row ? bits[e] == cut : bits[e] >= 0;
                if (counted && value >= low && value <= high) atomicAdd(&s.bins[int((value - low) >> shift)], 1);
            }
            __syncthreads();
            // Thread t has the bin t from the top; those that fit are a prefix.
            const int reached = above + block_scan(s.bins[threads - 1 - me], s.sums);
            if (reached <= block) atomicAdd(&s.fits, 1), atomicMax(&s.above, reached);
            __syncthreads();
            const int fits = s.fits;
            above = s.above;
            __syncthreads();
            // Fewer rows than P are above and more are there, so some bin does not fit.
            const int64_t bin = threads - 1 - fits, from = low + (bin << shift), to = from + (int64_t(1) << shift) - 1;
            const bool done = 4 * above >= 3 * block;
            if (by_row) cut_row = kLastRow - to - 1;
            else cut = done ? to : from;
            if (done && !by_row) cut_row = -1;
            if (done) break;
            low = from, high = min(to, high);
            if (shift == 0) { // one key: the rows that have it
                by_row = true;
                low = 0, high = kLastRow;
            }
        }
    }
    int64_t best = -1;
    bool in[kHeld];
    PCF_UNROLL
    for (int e = 0; e < kHeld; ++e) {
        in[e] = bits[e] >= 0 && (bits[e] > cut || (bits[e] == cut && row[e] <= cut_row));
        if (!in[e]) best = max(best, bits[e]);
        const unsigned all = __ballot_sync(kAll, in[e]);
        int first = 0;
        if (lane() == 0 && all != 0) first = atomicAdd(&s.taken, __popc(all));
        first = __shfl_sync(kAll, first, 0);
        if (!in[e]) continue;
        const int place = first + __popc(all & ((1u << lane()) - 1u));
        p.block_row[place] = row[e];
        p.block_exact[place] = exact[e];
        p.block_weight[place] = p.weighted ? p.weight[row[e]] : 1.0;
    }
    best = warp_max(best);
    if (lane() == 0) atomic_max(&s.best, best);
    __syncthreads();
    best = s.best;
    int64_t best_row = kLastRow;
    PCF_UNROLL
    for (int e = 0; e < kHeld; ++e)
        if (!in[e] && bits[e] >= 0 && bits[e] == best) best_row = min(best_row, int64_t(row[e]));
    best_row = warp_min(best_row);
    if (lane() == 0) atomic_min(&s.best_row, best_row);
    __syncthreads();
    if (me != 0) return;
    p.counters[kBlock] = s.taken;
    p.control[kBest] = best;
    p.control[kBestRow] = s.best_row;
    p.control[kFound] = found;
    // Aim at `target` candidates: the next edge lets in more rows if too few of them held, fewer if too many did.
    const int64_t target = p.target, before = p.control[kWanted];
    const int64_t wanted = found == 0 ? before * 4 : (before + before * target / found) / 2;
    p.control[kWanted] = min(max(wanted, min(target, p.x.rows)), min(64 * target, p.x.rows));
}

} // namespace

Status settle(const KCenterPass& p, stream_t stream) {
    PCF_LAUNCH(settle_kernel, dim3(unsigned(p.room * 32 / kSettleThreads)), kSettleThreads, 0, stream, p);
    if (p.tracked) {
        const int staged = int(p.pitch < kStaged ? p.pitch : kStaged);
        const size_t bytes = sizeof(ScanShared) + sizeof(float) * kDoubts * staged;
        PCF_LAUNCH(scan_kernel, dim3(unsigned(4 * p.processors)), kSettleThreads, bytes, stream, p, staged);
    }
    const int threads = p.room / kHeld < 128 ? 128 : p.room / kHeld;
    PCF_LAUNCH(trim_kernel, 1, threads, sizeof(TrimShared), stream, p);
    return {};
}

} // namespace pcf
