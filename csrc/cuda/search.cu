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
    const float* query; // [Q] rows of `width` words, so many apart
    const float* bank;  // [rows]
    const float* norm;  // [rows]
    Key* kept;          // [splits, Q, S]
    int64_t first; // number of the chunk's first row
    int queries, rows, span; // span: rows that one split compares
    int query_pitch, bank_pitch, width, slots;
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

template <Mode MODE>
PCF_DEVICE void search_bank(const Search& s) {
    using Mine = Share<MODE>;
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

    Tiles tiles(ring, s.query, s.query_pitch, query, s.queries, s.bank, s.bank_pitch, s.norm, begin, end, s.width);
    int left; // rows from the tile's first on
    do {
        float value[Mine::kRows][Mine::kColumns] = {};
        do {
            tiles.wait();
            __syncthreads();
            tiles.ask();
            multiply<MODE>(tiles.x(), tiles.y(), value);
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

template <Mode MODE>
__global__ void __launch_bounds__(kTileThreads, 2) search_kernel(Search s) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 800
    if constexpr (MODE != Mode::expanded) return; // never launched there
    else
#endif
        search_bank<MODE>(s);
}

template <Mode MODE>
Status launch_search(const Search& s, int splits, stream_t stream) {
    const size_t bytes = sizeof(Waiting) + Feed<Share<MODE>::kStages>::kRing * sizeof(float);
    const dim3 grid(unsigned((s.queries + kTile - 1) / kTile), unsigned(splits));
    PCF_LAUNCH(search_kernel<MODE>, grid, dim3(kTileThreads), bytes, stream, s);
    return {};
}

} // namespace

Status search(const Knn& knn, const DeviceMatrix& bank, int64_t first, stream_t stream) {
    const int64_t tiles = (bank.rows + kOthers - 1) / kOthers, span = (tiles + knn.splits - 1) / knn.splits * kOthers;
    const auto words = [&](const DeviceMatrix& x) { return int(x.row_stride * bytes_of(x.type) / 4); };
    Search s{knn.packed, knn.packed_bank, knn.norm + first, knn.kept,  first,     int(knn.query.rows), int(bank.rows),
             int(span),  knn.pitch,       knn.pitch,        knn.pitch, knn.slots};
    if (knn.query_in_place) s.query = static_cast<const float*>(knn.query.data), s.query_pitch = words(knn.query);
    if (knn.bank_in_place) s.bank = static_cast<const float*>(bank.data), s.bank_pitch = words(bank);
    switch (knn.mode) {
    case Mode::expanded: return launch_search<Mode::expanded>(s, knn.splits, stream);
    case Mode::tf32x3: return launch_search<Mode::tf32x3>(s, knn.splits, stream);
    case Mode::half: return launch_search<Mode::half>(s, knn.splits, stream);
    default: return launch_search<Mode::brain>(s, knn.splits, stream);
    }
}

Status load_search() {
    PCF_LOAD(search_kernel<Mode::expanded>);
    PCF_LOAD(search_kernel<Mode::tf32x3>);
    PCF_LOAD(search_kernel<Mode::half>);
    PCF_LOAD(search_kernel<Mode::brain>);
    return {};
}

} // namespace cuda
} // namespace pcf
