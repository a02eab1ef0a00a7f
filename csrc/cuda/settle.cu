// Exact distances of candidates to their nearest pick, and the block of them that greedy runs over.
#include "cut.h"
#include "kcenter_feed.h"

namespace pcf {
namespace {

constexpr int kSettleThreads = 256;
constexpr int kDoubts = 8;       // that a block of the scan takes at a time
constexpr int kSegment = 512;    // and picks
constexpr int kStaged = 1536;    // columns of the doubts that shared memory holds
constexpr int kTogether = 4;     // picks that a warp compares with at a time, 8 lanes each

// Between a row and pick j, which is that row of `picked_from`.
PCF_DEVICE double canonical(const KCenterPass& p, int64_t i, int64_t j) {
    const DeviceMatrix &x = p.x, &y = p.picked_from;
    const int64_t bytes = bytes_of(x.type);
    return canonical_warp(static_cast<const char*>(x.data) + i * x.row_stride * bytes,
                          static_cast<const char*>(y.data) + j * y.row_stride * bytes, int(x.dim), x.column_stride,
                          y.column_stride, x.type, x.type);
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
    if (place >= p.counters[kInside]) return;
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
            const int64_t y = int64_t(min(pick, count - 1)) * p.pitch;
            float sum[kDoubts] = {};
            for (int from = 0; from < dim; from += staged) {
                if (held != from) {
                    __syncthreads();
                    for (int at = int(threadIdx.x); at < kDoubts * staged; at += kSettleThreads) {
                        const int row = s.row[at / staged], column = from + at % staged;
                        rows[at] = row >= 0 && column < dim ? framed_at(p, row * p.rows.row_stride, column) : 0.0f;
                    }
                    held = from;
                    __syncthreads();
                }
                for (int c = 4 * (lane() & 7); c < staged && from + c < dim; c += 32) {
                    const float4 b = picked4(p, y + from + c);
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

constexpr int kHeld = kMostRoom / kCutThreads; // candidates a thread

struct TrimShared {
    CutShared cut;
    int64_t low, high; // of keys
    int32_t taken;
    int64_t best, best_row;
};

// The first P candidates in rank, or three quarters of P and more, and the best of the others. One block.
__global__ void __launch_bounds__(kCutThreads) trim_kernel(KCenterPass p) {
    auto& s = *shared<TrimShared>();
    const int held = p.counters[kInside], threads = int(blockDim.x);
    const int me = int(threadIdx.x);
    int row[kHeld];
    int64_t bits[kHeld]; // of the key; -1 where there is none
    double exact[kHeld];
    if (me == 0) s.low = INT64_MAX, s.high = -1, s.taken = 0, s.best = -1, s.best_row = kLastRow;
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

    Cut cut{-1, kLastRow};
    if (held > p.block)
        cut = cut_at(s.cut, s.low, s.high, p.block, 3 * p.block / 4, [&](auto visit) {
            PCF_UNROLL
            for (int e = 0; e < kHeld; ++e)
                if (bits[e] >= 0) visit(bits[e], row[e]);
        });
    int64_t best = -1;
    bool in[kHeld];
    PCF_UNROLL
    for (int e = 0; e < kHeld; ++e) {
        in[e] = bits[e] >= 0 && cut.before(bits[e], row[e]);
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
    // Aim at `target` candidates: the next edge lets in more rows if too few of them held, fewer if too many did.
    const int64_t target = p.target, before = p.control[kWanted], found = p.control[kFound];
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
    return {};
}

Status trim(const KCenterPass& p, stream_t stream) {
    const int threads = p.room / kHeld < 128 ? 128 : p.room / kHeld;
    PCF_LAUNCH(trim_kernel, 1, threads, sizeof(TrimShared), stream, p);
    return {};
}

} // namespace pcf
