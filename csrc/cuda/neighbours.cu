// From slots of fast distances to neighbours: what may be among them is settled in float64 and ranked.
//
// With F_k the k-th smallest fast distance of a query, every true neighbour has F <= widen(widen(F_k))
// (kernels/backends/tiled/search.py). If even the largest one kept is within that reach, rows that were not kept may be
// too: the query is crowded.
#include "neighbours.h"

namespace pcf {
namespace cuda {
namespace {

constexpr int kSettlers = 128; // threads: four warps
// Queries of a multiprocessor from which each has a warp of its own: then there is work for all warps, and none waits
// for others or has nothing to do. Where there are fewer, four warps share a query, and are done with it sooner.
constexpr int kEnough = 32;

struct Pairs {
    double exact[kMostSlots];
    uint32_t row[kMostSlots];
};

// The warps of a query wait for one another.
template <int Warps>
PCF_DEVICE void meet() {
    if constexpr (Warps == 1) __syncwarp();
    else __syncthreads();
}

// All that the splits have kept goes to the first one's slots: each half warp takes some of the splits, then the first
// takes what the others have.
template <int Warps>
PCF_DEVICE void gather(const Knn& knn, int64_t query) {
    constexpr int kGroups = 2 * Warps;
    const int group = int(threadIdx.x) / 16 % kGroups, most = min(knn.splits, kGroups);
    const int64_t stride = knn.query.rows * knn.slots;
    Key* const kept = knn.kept + query * knn.slots;
    for (int round = 0; round < 2; ++round) {
        const int from = round == 0 ? group + kGroups : 1, step = round == 0 ? kGroups : 1;
        const int end = round == 0 ? knn.splits : most;
        Key* to[1] = {round == 0 || group == 0 ? kept + group * stride : nullptr};
        // As many steps for every half warp: all lanes take part in what a warp does.
        const int steps = round == 0 ? (knn.splits - 1) / kGroups : most - 1;
        for (int i = 0; i < steps; ++i) {
            const int split = from + i * step;
            const bool mine = to[0] && split < end;
            for (int base = 0; base < knn.slots; base += 16) {
                const int place = base + half_lane();
                Key* into[1] = {mine ? to[0] : nullptr};
                Key key[1] = {mine && place < knn.slots ? kept[split * stride + place] : kEmpty};
                absorb(into, knn.slots, key);
            }
        }
        meet<Warps>();
    }
}

// Exact distances of the rows kept, ranked; queries that need more rows are listed. So many warps a query.
template <int Warps>
__global__ void __launch_bounds__(kSettlers) settle_kernel(Knn knn) {
    constexpr int kThreads = 32 * Warps, kQueries = kSettlers / kThreads;
    const int own = int(threadIdx.x) / kThreads, me = int(threadIdx.x) % kThreads;
    Pairs& pairs = shared<Pairs>()[own];
    const int64_t query = int64_t(blockIdx.x) * kQueries + own;
    if (query >= knn.query.rows) return;
    if (knn.splits > 1) gather<Warps>(knn, query);
    const Key* kept = knn.kept + query * knn.slots;
    const float norm = knn.packed_norm[query];
    const double kth = double(value_of(kept[knn.k - 1])) + double(norm);
    const double last = double(value_of(kept[knn.slots - 1])) + double(norm);
    const double reach = widen(widen(kth, norm, knn.params), norm, knn.params);
    // Where float32 is exact, and where the slots hold the whole bank, nothing was left out that counts.
    if (knn.params[1] > 0 && knn.bank.rows > knn.slots && last <= reach) {
        if (me == 0) {
            knn.reach[query] = reach;
            knn.crowded[atomicAdd(knn.count, 1)] = query;
        }
        return;
    }
    // Those in reach come first: the slots ascend.
    int found = 0;
    for (int base = 0; base < knn.slots; base += 32) {
        const Key key = base + lane() < knn.slots ? kept[base + lane()] : kEmpty;
        const bool in = double(value_of(key)) + double(norm) <= reach && row_of(key) != kNoRow;
        const unsigned all = __ballot_sync(kAll, in);
        found += all == kAll ? 32 : __ffs(int(~all)) - 1;
        if (all != kAll) break;
    }
    for (int i = me / 32; i < found; i += Warps) {
        const uint32_t row = row_of(kept[i]);
        const double exact = settled(knn, query, row);
        if (lane() == 0) {
            pairs.exact[i] = exact;
            pairs.row[i] = row;
        }
    }
    meet<Warps>();
    for (int i = me; i < found; i += kThreads) {
        const double exact = pairs.exact[i];
        const uint32_t row = pairs.row[i];
        int place = 0;
        for (int j = 0; j < found; ++j)
            place += pairs.exact[j] < exact || (pairs.exact[j] == exact && pairs.row[j] < row);
        if (place < knn.k) {
            knn.squared[query * knn.k + place] = exact;
            knn.rows[query * knn.k + place] = row;
        }
    }
}

} // namespace

Status settle(const Knn& knn, int device, stream_t stream) {
    if (const Status failed = clear_async(knn.count, sizeof(int), stream)) return failed;
    const int64_t queries = knn.query.rows;
    if (queries < int64_t(kEnough) * multiprocessors(device))
        PCF_LAUNCH(settle_kernel<4>, dim3(unsigned(queries)), dim3(kSettlers), sizeof(Pairs), stream, knn);
    else
        PCF_LAUNCH(settle_kernel<1>, dim3(unsigned((queries + 3) / 4)), dim3(kSettlers),
                   4 * sizeof(Pairs), stream, knn);
    return {};
}

Status load_settle() {
    PCF_LOAD(settle_kernel<4>);
    PCF_LOAD(settle_kernel<1>);
    return {};
}

} // namespace cuda
} // namespace pcf
