// The fast search: tiles of 128 queries against 64 bank rows, of which the smallest distances of each query are kept.
//
// Kept are S slots a query in global memory, keys of (F - |x|^2 = |y|^2 - 2 x.y in float32, bank row), ascending: where
// float32 is exact, ties are decided here already. A tile in which nothing falls below its query's largest slot costs a
// comparison a value. What does fall below waits in a small buffer of its query in shared memory; when one is full, the
// warps sort the fuller buffers into the slots, each those of its own 16 queries.
#include "knn.h"
#include "slots.h"
#include "tile_inner.h"

namespace pcf {
namespace cuda {
namespace {

constexpr int kWaiting = 16; // keys in a buffer: what half a warp sorts
constexpr int kWarpQueries = kTile / (kTileThreads / 32);
// Queries that half a warp sorts side by side. The compiler takes more registers for the newest cards: two would spill.
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 1000
constexpr int kAtOnce = 1;
#else
constexpr int kAtOnce = 2;
#endif

struct Search {
    const float* query; // [Q, P]
    const float* bank;  // [rows, P]
    const float* norm;  // [rows]
    Key* kept;          // [splits, Q, S]
    int64_t first; // number of the chunk's first row
    int queries, rows, span; // span: rows that one split compares
    int pitch, slots;
};

// What a block keeps in shared memory beside the ring of its tiles: also what is rarely used, which would take
// registers from the multiplication.
struct Waiting {
    Key key[kTile][kWaiting];
    float worst[kTile]; // values from here on stay out; it may lag behind the slots, never lead
    int count[kTile];   // may exceed kWaiting: those found no place
    Key* kept;          // slots of the block's first query
    int slots;
    uint32_t first; // number of the chunk's first row
};

// Sorts buffers with at least `least` keys into the slots of the warp's queries.
PCF_DEVICE void merge(Waiting& waiting, int least) {
    Key* const kept = waiting.kept;
    const int slots = waiting.slots;
    PCF_ROLLED
    for (int q = warp() * kWarpQueries; q < (warp() + 1) * kWarpQueries; q += 2 * kAtOnce) {
        Key* to[kAtOnce];
        Key key[kAtOnce];
        bool any = false;
        PCF_UNROLL
        for (int n = 0; n < kAtOnce; ++n) {
            const int mine = q + 2 * n + (lane() >> 4), count = waiting.count[mine];
            any |= count >= least;
            to[n] = count >= least ? kept + int64_t(mine) * slots : nullptr;
            key[n] = count >= least && half_lane() < count ? waiting.key[mine][half_lane()] : kEmpty;
        }
        if (!__any_sync(kAll, any)) continue;
        sort(key);
        absorb(to, slots, key);
        __syncwarp(); // all lanes have read the counts
        PCF_UNROLL
        for (int n = 0; n < kAtOnce; ++n)
            if (to[n] && half_lane() == 0) {
                const int mine = q + 2 * n + (lane() >> 4);
                waiting.worst[mine] = value_of(key[n]);
                waiting.count[mine] = 0;
            }
    }
}

template <bool MMA>
PCF_DEVICE void search_bank(const Search& s) {
    using Mine = Share<MMA>;
    using Tiles = Feed<Mine::kStages>;
    Waiting& waiting = *shared<Waiting>();
    float* ring = reinterpret_cast<float*>(&waiting + 1);
    const int query = int(blockIdx.x) * kTile, begin = int(blockIdx.y) * s.span, end = min(begin + s.span, s.rows);
    Key* kept = s.kept + (int64_t(blockIdx.y) * s.queries + query) * s.slots;

    for (int i = 0; i < kWarpQueries; ++i) {
        const int mine = warp() * kWarpQueries + i;
        float worst = -INFINITY; // nothing enters where there is no query
        if (query + mine < s.queries) {
            Key* slots = kept + int64_t(mine) * s.slots;
            worst = s.first > 0 ? value_of(slots[s.slots - 1]) : INFINITY;
            // By the half that will sort them.
            if (s.first == 0 && lane() >> 4 == (mine & 1))
                for (int place = half_lane(); place < s.slots; place += 16) slots[place] = kEmpty;
        }
        if (lane() == 0) {
            waiting.worst[mine] = worst;
            waiting.count[mine] = 0;
        }
    }
    if (threadIdx.x == 0) {
        waiting.kept = kept;
        waiting.slots = s.slots;
        waiting.first = uint32_t(s.first);
    }
    if (begin >= end) return;

    Tiles tiles(ring, s.query, query, s.queries, s.bank, s.norm, begin, end, s.pitch);
    int left; // rows from the tile's first on
    do {
        float value[Mine::kRows][Mine::kColumns] = {};
        do {
            tiles.wait();
            __syncthreads();
            tiles.ask();
            multiply<MMA>(tiles.x(), tiles.y(), value);
            tiles.keep();
            tiles.advance();
        } while (!tiles.last());
        const int tile = tiles.tile();
        const float* norm = tiles.norms(tile);
        left = end - tile;
        float worst[Mine::kRows];
        PCF_UNROLL
        for (int i = 0; i < Mine::kRows; ++i) worst[i] = waiting.worst[Mine::row(i)];
        bool any = false;
        PCF_UNROLL
        for (int j = 0; j < Mine::kColumns; ++j) {
            const float y = Mine::column(j) < left ? norm[Mine::column(j)] : INFINITY;
            PCF_UNROLL
            for (int i = 0; i < Mine::kRows; ++i) {
                value[i][j] = __fmaf_rn(-2.0f, value[i][j], y);
                any |= value[i][j] < worst[i];
            }
        }
        // Rows ascend from tile to tile: a value equal to the largest kept stays out.
        uint32_t entering = 0;
        if (any) {
            PCF_UNROLL
            for (int i = 0; i < Mine::kRows; ++i)
                PCF_UNROLL
                for (int j = 0; j < Mine::kColumns; ++j)
                    entering |= uint32_t(value[i][j] < worst[i]) << (i * Mine::kColumns + j);
        }
        for (;;) {
            if (entering) {
                PCF_UNROLL
                for (int i = 0; i < Mine::kRows; ++i)
                    PCF_UNROLL
                    for (int j = 0; j < Mine::kColumns; ++j) {
                        const uint32_t bit = uint32_t(1) << (i * Mine::kColumns + j);
                        if (!(entering & bit)) continue;
                        const int mine = Mine::row(i);
                        // In a second round the largest kept may be of this very tile: an equal value may enter.
                        if (value[i][j] <= waiting.worst[mine]) {
                            const int place = atomicAdd(&waiting.count[mine], 1);
                            if (place >= kWaiting) continue;
                            const uint32_t row = waiting.first + uint32_t(tile + Mine::column(j));
                            waiting.key[mine][place] = key_of(value[i][j], row);
                        }
                        entering &= ~bit;
                    }
            }
            if (!__syncthreads_or(entering != 0)) break;
            merge(waiting, kWaiting / 2);
            __syncthreads();
        }
    } while (left > kOthers);
    merge(waiting, 1);
}

template <bool MMA>
__global__ void __launch_bounds__(kTileThreads, 2) search_kernel(Search s) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 800
    if constexpr (MMA) return; // never launched there
    else
#endif
        search_bank<MMA>(s);
}

template <bool MMA>
Status launch_search(const Search& s, int splits, stream_t stream) {
    const size_t bytes = sizeof(Waiting) + Feed<Share<MMA>::kStages>::kRing * sizeof(float);
    const dim3 grid(unsigned((s.queries + kTile - 1) / kTile), unsigned(splits));
    PCF_LAUNCH(search_kernel<MMA>, grid, dim3(kTileThreads), bytes, stream, s);
    return {};
}

} // namespace

Status search(const Knn& knn, int64_t first, int64_t rows, bool tensor_cores, stream_t stream) {
    const int64_t tiles = (rows + kOthers - 1) / kOthers, span = (tiles + knn.splits - 1) / knn.splits * kOthers;
    const Search s{knn.packed, knn.packed_bank, knn.norm + first, knn.kept,  first, int(knn.query.rows),
                   int(rows),  int(span),       knn.pitch,        knn.slots};
    return tensor_cores ? launch_search<true>(s, knn.splits, stream) : launch_search<false>(s, knn.splits, stream);
}

Status load_search() {
    PCF_LOAD(search_kernel<false>);
    PCF_LOAD(search_kernel<true>);
    return {};
}

} // namespace cuda
} // namespace pcf
