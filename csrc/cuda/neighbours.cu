// From slots of fast distances to neighbours: what may be among them is settled in float64 and ranked.
//
// With F_k the k-th smallest fast distance of a query, every true neighbour has F <= widen(widen(F_k))
// (kernels/backends/tiled/search.py). If even the largest one kept is within that reach, rows that were not kept may be
// too: the query is crowded.
#include "neighbours.h"

namespace pcf {
namespace cuda {
namespace {

constexpr int kSettlers = 128; // threads: four pairs at a time
constexpr int kGroups = kSettlers / 16;

struct Pairs {
    double exact[kMostSlots];
    uint32_t row[kMostSlots];
};

// All that the splits have kept goes to the first one's slots: half warps take every eighth split, then the first takes
// what the others have.
PCF_DEVICE void gather(const Knn& knn, int64_t query) {
    const int group = int(threadIdx.x) / 16, most = min(knn.splits, kGroups);
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
        __syncthreads();
    }
}

__global__ void __launch_bounds__(kSettlers) settle_kernel(Knn knn) {
    Pairs& pairs = *shared<Pairs>();
    const int64_t query = blockIdx.x;
    if (knn.splits > 1) gather(knn, query);
    const Key* kept = knn.kept + query * knn.slots;
    const float norm = knn.packed_norm[query];
    const double kth = double(value_of(kept[knn.k - 1])) + double(norm);
    const double last = double(value_of(kept[knn.slots - 1])) + double(norm);
    const double reach = widen(widen(kth, norm, knn.params), norm, knn.params);
    // Where float32 is exact, and where the slots hold the whole bank, nothing was left out that counts.
    if (knn.params[1] > 0 && knn.bank.rows > knn.slots && last <= reach) {
        if (threadIdx.x == 0) {
            knn.reach[query] = reach;
            knn.crowded[atomicAdd(knn.count, 1)] = query;
        }
        return;
    }
    // Those in reach come first: the slots ascend.
    int found = 0;
    for (; found < knn.slots; ++found) {
        const Key key = kept[found];
        if (!(double(value_of(key)) + double(norm) <= reach) || row_of(key) == kNoRow) break;
    }
    for (int i = warp(); i < found; i += warps()) {
        const uint32_t row = row_of(kept[i]);
        const double exact = settled(knn, query, row);
        if (lane() == 0) {
            pairs.exact[i] = exact;
            pairs.row[i] = row;
        }
    }
    __syncthreads();
    for (int i = int(threadIdx.x); i < found; i += kSettlers) {
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

Status settle(const Knn& knn, stream_t stream) {
    if (const Status failed = clear_async(knn.count, sizeof(int), stream)) return failed;
    PCF_LAUNCH(settle_kernel, dim3(unsigned(knn.query.rows)), dim3(kSettlers), sizeof(Pairs), stream, knn);
    return {};
}

Status load_settle() {
    PCF_LOAD(settle_kernel);
    return {};
}

} // namespace cuda
} // namespace pcf
