// Greedy inside the block: exact distances of the pairs that may matter, then the picks, then these into the frame.
#include "kcenter_feed.h"

namespace pcf {
namespace {

constexpr int kNearThreads = 256, kSide = 32, kNearDepth = 32, kNearPitch = kNearDepth + 4;

// Row of the features that stands at a place of the block.
PCF_DEVICE const char* row_at(const KCenterPass& p, int place) {
    return static_cast<const char*>(p.x.data) + p.block_row[place] * p.x.row_stride * bytes_of(p.x.type);
}

struct NearShared {
    float rows[2][kSide * kNearPitch];
    float reach[2][kSide]; // of the places of each side, rounded up: float32 is what is compared
};

// Pairs of places of which one, once picked, may come nearer to the other than all picks so far; no others matter. In
// difference form, whatever the mode: its bound is the smaller one. A block compares 32 places with 32.
__global__ void __launch_bounds__(kNearThreads, 4) near_kernel(KCenterPass p) {
    auto& s = *shared<NearShared>();
    const int size = p.counters[kBlock], dim = int(p.x.dim);
    const int first[2] = {int(blockIdx.x) * kSide, int(blockIdx.y) * kSide};
    if (first[0] > first[1] || first[1] >= size) return;
    const int i0 = int(threadIdx.x) >> 4, j0 = int(threadIdx.x) & 15; // and 16 further
    if (threadIdx.x < 2 * kSide) {
        const int side = int(threadIdx.x) / kSide, which = first[side] + int(threadIdx.x) % kSide;
        float reach = -1;
        if (which < size) {
            const double exact = p.block_exact[which] * Scale({p.centre, p.params}).squared();
            reach = __double2float_ru(widen(exact, p.norm[p.block_row[which]], p.params));
        }
        s.reach[side][threadIdx.x % kSide] = reach;
    }
    float sum[2][2] = {};
    for (int from = 0; from < dim; from += kNearDepth) {
        __syncthreads();
        for (int at = int(threadIdx.x); at < 2 * kSide * kNearDepth; at += kNearThreads) {
            const int side = at / (kSide * kNearDepth), place = at / kNearDepth % kSide, column = at % kNearDepth;
            const int which = first[side] + place;
            const bool there = which < size && from + column < dim;
            s.rows[side][place * kNearPitch + column] =
                there ? framed_at(p, p.block_row[which] * p.rows.row_stride, from + column) : 0.0f;
        }
        __syncthreads();
        PCF_UNROLL
        for (int k = 0; k < kNearDepth; k += 4) {
            float4 a[2], b[2];
            PCF_UNROLL
            for (int e = 0; e < 2; ++e) {
                a[e] = *reinterpret_cast<const float4*>(s.rows[0] + (i0 + 16 * e) * kNearPitch + k);
                b[e] = *reinterpret_cast<const float4*>(s.rows[1] + (j0 + 16 * e) * kNearPitch + k);
            }
            PCF_UNROLL
            for (int i = 0; i < 2; ++i)
                PCF_UNROLL
                for (int j = 0; j < 2; ++j) {
                    sum[i][j] = __fmaf_rn(a[i].x - b[j].x, a[i].x - b[j].x, sum[i][j]);
                    sum[i][j] = __fmaf_rn(a[i].y - b[j].y, a[i].y - b[j].y, sum[i][j]);
                    sum[i][j] = __fmaf_rn(a[i].z - b[j].z, a[i].z - b[j].z, sum[i][j]);
                    sum[i][j] = __fmaf_rn(a[i].w - b[j].w, a[i].w - b[j].w, sum[i][j]);
                }
        }
    }
    bool near[2][2];
    int count = 0;
    PCF_UNROLL
    for (int e = 0; e < 4; ++e) {
        const int i = i0 + 16 * (e >> 1), j = j0 + 16 * (e & 1);
        const bool pair = first[0] + i < first[1] + j && first[1] + j < size;
        near[e >> 1][e & 1] = pair && sum[e >> 1][e & 1] <= fmaxf(s.reach[0][i], s.reach[1][j]);
        count += near[e >> 1][e & 1];
    }
    const int upto = warp_scan(count), all = __shfl_sync(kAll, upto, 31);
    if (all == 0) return;
    int at = 0;
    if (lane() == 0) at = atomicAdd(p.counters + kPairs, all);
    at = __shfl_sync(kAll, at, 0) + upto - count;
    PCF_UNROLL
    for (int e = 0; e < 4; ++e)
        if (near[e >> 1][e & 1])
            p.pairs[at++] = (first[0] + i0 + 16 * (e >> 1)) * p.block + first[1] + j0 + 16 * (e & 1);
}

// The exact distances of those pairs, a warp a pair.
__global__ void __launch_bounds__(256, 2) pairs_kernel(KCenterPass p) {
    const int pairs = p.counters[kPairs], dim = int(p.x.dim);
    for (int at = int(blockIdx.x) * warps() + warp(); at < pairs; at += int(gridDim.x) * warps()) {
        const int i = p.pairs[at] / p.block, j = p.pairs[at] % p.block;
        const double squared = canonical_warp(row_at(p, i), row_at(p, j), dim, p.x.column_stride, p.x.column_stride,
                                              p.x.type, p.x.type);
        if (lane() == 0) p.squared[at] = squared;
    }
}

enum State : int32_t { kOpen, kPicked, kOut };

struct ResolveShared {
    int64_t exact[kMostBlock], next[kMostBlock]; // bits of squared distances: now, and as found in this round
    int64_t key[kMostBlock];                     // bits
    double weight[kMostBlock];
    int32_t row[kMostBlock], state[kMostBlock], blocked[kMostBlock];
    int16_t order[kMostBlock];
    int32_t kept, open[2], picked; // pairs that go on to the next round; whether rows are open; picks
};
static_assert(sizeof(ResolveShared) <= 48 << 10, "more has to be asked for at every launch");

// Whether place a ranks before place b: larger key, then lower row.
PCF_DEVICE bool before(const ResolveShared& s, int a, int b) {
    return s.key[a] > s.key[b] || (s.key[a] == s.key[b] && s.row[a] < s.row[b]);
}

// Sort the first `size` of s.order by rank, places -1 last; size is a power of two.
PCF_DEVICE void sort_by_rank(ResolveShared& s, int size) {
    for (int run = 2; run <= size; run *= 2)
        for (int apart = run / 2; apart > 0; apart /= 2) {
            __syncthreads();
            for (int at = int(threadIdx.x); at < size / 2; at += int(blockDim.x)) {
                const int low = 2 * apart * (at / apart) + at % apart, high = low + apart;
                const int a = s.order[low], b = s.order[high];
                const bool sorted = b < 0 || (a >= 0 && before(s, a, b));
                if (sorted == ((low & run) != 0) && a != b) s.order[low] = int16_t(b), s.order[high] = int16_t(a);
            }
        }
    __syncthreads();
}

// The plain algorithm over the block, for as long as its best row ranks before every row outside. One block.
//
// Greedy takes rows one after the other, but what it takes can be found in rounds. Let the key of an open row be the
// one it has after the picks known so far that rank before it. It can only sink. A row is a pick, with the key it has,
// as soon as no open row of higher rank would come nearer to it than its picks: all that greedy takes before it are
// known then, because open rows of lower rank only sink further. A pick lowers the keys of the rows of lower rank that
// it is near to. The best open row is always decided, so rounds end; mostly a few do, since few candidates are near to
// each other. Rows that fall behind what lies outside the block, or below the edge, are out: this pass cannot pick
// them, nor what ranks behind them. Sorted by rank the picks come out in the order of greedy.
//
// Float64 that is not negative has the order of its bits: comparing integers is what cards with few float64 units do
// much faster.
__global__ void __launch_bounds__(1024) resolve_kernel(KCenterPass p) {
    auto& s = *shared<ResolveShared>();
    const int size = p.counters[kBlock], me = int(threadIdx.x), threads = int(blockDim.x);
    const int64_t edge = p.control[kEdge], edge_row = p.control[kEdgeRow];
    const int64_t best = p.control[kBest], best_row = p.control[kBestRow], count = p.control[kCount];
    const auto key_of = [&](int place) {
        if (!p.weighted) return s.exact[place];
        const double weight = s.weight[place];
        return weight > 0 ? int64_t(__double_as_longlong(__dmul_rn(weight, __longlong_as_double(s.exact[place])))) : 0;
    };
    const auto leads = [&](int place) {
        const int64_t key = s.key[place], row = s.row[place];
        return (key > edge || (key == edge && row <= edge_row)) && (key > best || (key == best && row < best_row));
    };
    if (me == 0) s.picked = 0, s.kept = 0, s.open[0] = 0, s.open[1] = 0;
    __syncthreads();
    bool open = false;
    for (int place = me; place < size; place += threads) {
        s.row[place] = p.block_row[place];
        s.exact[place] = s.next[place] = __double_as_longlong(p.block_exact[place]);
        if (p.weighted) s.weight[place] = p.block_weight[place];
        s.key[place] = key_of(place);
        s.state[place] = leads(place) ? kOpen : kOut;
        s.blocked[place] = 0;
        open = open || s.state[place] == kOpen;
    }
    if (open) atomicOr(&s.open[0], 1);
    __syncthreads();

    // Pairs that still matter move between the halves of their buffers: there are less than P^2 / 2.
    const int64_t half = int64_t(p.block) * p.block / 2;
    int pairs = p.counters[kPairs];
    for (int round = 0; s.open[round & 1]; ++round) {
        const int64_t from = round & 1 ? half : 0, to = half - from;
        for (int base = 0; base < pairs; base += threads) {
            const int at = base + me;
            int code = 0;
            int64_t squared = 0;
            bool matters = false;
            if (at < pairs) {
                code = p.pairs[from + at];
                squared = __double_as_longlong(p.squared[from + at]);
                int i = code / p.block, j = code % p.block;
                if (before(s, j, i)) {
                    const int higher = j;
                    j = i, i = higher;
                }
                const int32_t one = s.state[i], other = s.state[j];
                const bool closer = squared < s.exact[j];
                if (one == kPicked && other == kOpen) {
                    if (closer) atomic_min(&s.next[j], squared);
                } else if (one == kOpen && other != kOut) {
                    if (closer && other == kOpen) atomicOr(&s.blocked[j], 1);
                    // Row i may yet sink below row j.
                    matters = (closer && other == kOpen) || squared < s.exact[i];
                }
            }
            const unsigned all = __ballot_sync(kAll, matters);
            if (all == 0) continue;
            int first = 0;
            if (lane() == 0) first = atomicAdd(&s.kept, __popc(all));
            first = __shfl_sync(kAll, first, 0);
            if (!matters) continue;
            const int64_t place = to + first + __popc(all & ((1u << lane()) - 1u));
            p.pairs[place] = code;
            p.squared[place] = __longlong_as_double(squared);
        }
        __syncthreads();
        pairs = s.kept;
        open = false;
        for (int place = me; place < size; place += threads) {
            if (s.state[place] != kOpen) continue;
            if (s.next[place] < s.exact[place]) {
                s.exact[place] = s.next[place];
                s.key[place] = key_of(place);
                if (!leads(place)) s.state[place] = kOut;
            } else if (!s.blocked[place]) {
                s.state[place] = kPicked;
                s.order[atomicAdd(&s.picked, 1)] = int16_t(place);
            }
            s.blocked[place] = 0;
            open = open || s.state[place] == kOpen;
        }
        if (open) atomicOr(&s.open[(round & 1) ^ 1], 1);
        __syncthreads();
        if (me == 0) s.kept = 0, s.open[round & 1] = 0;
        __syncthreads();
    }

    const int picked = s.picked;
    int sorted = 1;
    while (sorted < picked) sorted *= 2;
    for (int at = picked + me; at < sorted; at += threads) s.order[at] = -1;
    sort_by_rank(s, sorted);
    const int accepted = int(min(int64_t(picked), p.control[kEnd] - count));
    for (int at = me; at < accepted; at += threads) {
        const int place = s.order[at], row = s.row[place];
        p.pick_row[count + at] = row;
        p.pick_squared[count + at] = __longlong_as_double(s.exact[place]);
        p.key[row] = -1.0;
    }
    if (me == 0 && count < p.control[kEnd]) {
        p.control[kAccepted] = accepted;
        p.control[kCount] = count + accepted;
        p.control[kPasses] += 1;
    }
}

// This pass's picks to where rows are compared with them, in the frame, or the halves that they are: a warp a pick.
__global__ void __launch_bounds__(256) append_kernel(KCenterPass p) {
    const int accepted = int(p.control[kAccepted]), number = int(blockIdx.x) * warps() + warp();
    if (number >= accepted) return;
    const int64_t pick = p.control[kCount] - accepted + number, row = p.pick_row[pick];
    const auto* halves = static_cast<const uint16_t*>(p.rows.data) + row * p.rows.row_stride;
    for (int column = lane(); column < p.pitch; column += 32) {
        const bool there = column < p.rows.dim;
        const int64_t at = pick * p.pitch + column;
        if (of_halves(p.mode)) static_cast<uint16_t*>(p.picks)[at] = there ? halves[column] : 0;
        else static_cast<float*>(p.picks)[at] = there ? framed_at(p, row * p.rows.row_stride, column) : 0.0f;
    }
    if (lane() == 0) p.pick_norm[pick] = p.norm[row];
}

} // namespace

Status resolve(const KCenterPass& p, stream_t stream) {
    const unsigned sides = unsigned((p.block + kSide - 1) / kSide);
    PCF_LAUNCH(near_kernel, dim3(sides, sides), kNearThreads, sizeof(NearShared), stream, p);
    PCF_LAUNCH(pairs_kernel, dim3(unsigned(4 * p.processors)), 256, 0, stream, p);
    PCF_LAUNCH(resolve_kernel, 1, p.block < 256 ? 256 : 1024, sizeof(ResolveShared), stream, p);
    PCF_LAUNCH(append_kernel, dim3(unsigned((p.block + 7) / 8)), 256, 0, stream, p);
    return {};
}

} // namespace pcf
