// Fused distance tiles with a running minimum: what new picks change for a row. Nothing rows x picks is stored.
//
// How far a fast squared distance F can be from the true one, d^2, u = 2^-24, D columns, rows x and y in the frame:
//
// ffma: F is the sum of (x_i - y_i)^2. Where float32 holds rows as they are (float16, bfloat16, float32) the frame has
//   no centre, and its scale, a power of two, rounds nothing that does not underflow. Then
//     t_i = fl(x_i - y_i) = (x_i - y_i)(1 + e_i), |e_i| <= u: a sum never underflows;
//     F = fma(t_D, t_D, fma(..., t_1 t_1)), every step off by a factor 1 + e, and so, all terms having one sign,
//     F = sum of (x_i - y_i)^2 (1 + e)^2 (1 + e)^k, k <= D, and |F - d^2| <= ((1 + u)^(D + 2) - 1) d^2 <= g d^2,
//     g = (D + 2) u / (1 - (D + 2) u): relative to d^2 alone, however far from the origin the rows lie.
//   In float64 the canonical distance itself is off by (log2 D + 3) 2^-53 d^2, far less than u d^2.
//   float64 rows are rounded into the frame: x' = x + r, |r_i| <= u |x_i|. The distance d' of rounded rows obeys
//   |d' - d| <= s = u (|x| + |y|) <= u (2 |x| + d), and
//     |d'^2 - d^2| <= s (2 d + s) <= 4 u d |x| + 2 u d^2 + s^2 <= u |x|^2 + 6 u d^2 + 8 u^2 |x|^2 + 2 u^2 d^2,
//   as 4 d |x| <= |x|^2 + 4 d^2: the bound then has a part for the row's norm, 2 u |x|^2 with its own rounding.
//   All in all c = (D + 12) u, where 2 would do for rows that are not rounded and 9 for those that are.
//   Underflow: a square or a sum below 2^-126 is off by 2^-150, D of them by D 2^-150. A value that the scale takes
//   below 2^-126 is off by 2^-150 too, which changes d^2 by 2 d sqrt(D) 2^-149 + D 2^-298, where d <= 2^42 sqrt(D):
//   frames keep values within 2^41. Differences of float64 below 2^-511 lose digits of their squares, D 2^-1074 in all,
//   D 2^-174 in the frame, whose scale is at most 2^450. The absolute part of the bound, D 2^-79 where the frame
//   scales and D 2^-100 where it does not, is beyond all of these.
//   Integers of which 4 D max^2 <= 2^24 are exact: every difference, square and sum is an integer up to 2^24.
//
// expanded: F = |x|^2 + |y|^2 - 2 x.y, the inner product by D fused multiply-adds, which are off by D u |x||y| to first
//   order. Twice that enters F, D u / 2 (|x| + |y|)^2; norms, the rows in the frame and the last two additions take 16 u.
//   c = (D + 32) u / (1 - (D + 32) u), as in kernels/rounding.py.
//
// tf32x3: F = |x|^2 + |y|^2 - 2 x.y, the inner product from tensor cores. A chunk c of 16 columns is six products of
//   mma.m16n8k8, added up from zero and then to the sum in float32. Let P_c = |x_c||y_c|; all P_c together are at most
//   |x||y|. Tensor cores add 4 or 8 exact products to what is there at once, cut each addend but the largest below the
//   last of at least 24 bits of the largest, and cut the result to float32: up to 2 u P_c each time. A group of 4
//   products is cut 5 times at most, one without products not at all; a chunk has 12 groups, and a column is in 3 of
//   them. So a chunk is off by 120 u P_c, one of n columns by 12 n u P_c if that is less. Adding chunks rounds
//   D / 16 times, and split rows leave out 20 u |x||y| (precision.py). Twice all this enters F, and
//   |x||y| <= (|x| + |y|)^2 / 4: (6 min(D, 10) + 10 + D / 32) u (|x| + |y|)^2. Norms, the rows in the frame and the
//   last two additions take 16 u more. c = (4 D + 64) u is beyond that for every D, by the least where D = 10.
//
// half: the same with one product of the halves themselves, neither centred nor scaled: products of 11-bit or 8-bit
//   numbers are exact, and all of a row are added to one accumulator, each cut at most 2 u |x||y|, as no partial sum is
//   larger than |x||y| by more than was cut. Six cuts for a group of 4 columns are 3 D u |x||y|; a last group of 1,
//   2 or 3 columns has 3, 4 or 5 cuts, 3 u more at most. Twice all this enters F: 1.5 (D + 1) u (|x| + |y|)^2, and
//   norms and the last two additions take 16 u. c = (2 D + 64) u. bfloat16 has products below 2^-126: they are off by
//   2^-126 each, which the absolute part is beyond.
//
// Whichever way, by `widen` of rows.h: d^2 <= widen(F), and d <= m implies F <= widen(m^2).
#include "edge.h"
#include "kcenter_tile.h"

namespace pcf {
namespace {

// The nearest of some picks, and how near the second nearest is.
struct Nearest {
    float best, second;
    int which;
    PCF_DEVICE static Nearest none() { return {INFINITY, INFINITY, -1}; }
    PCF_DEVICE void take(float squared, int pick) {
        second = fminf(second, fmaxf(best, squared));
        which = squared < best ? pick : which;
        best = fminf(best, squared);
    }
    PCF_DEVICE void join(const Nearest& other) {
        second = fminf(fminf(second, other.second), fmaxf(best, other.best));
        which = other.best < best ? other.which : which;
        best = fminf(best, other.best);
    }
    PCF_DEVICE Nearest of_lane(int apart) const {
        return {__shfl_xor_sync(kAll, best, apart), __shfl_xor_sync(kAll, second, apart),
                __shfl_xor_sync(kAll, which, apart)};
    }
};

// Into how many pieces the picks of every tile are cut: where tiles are few, so many that there is work for everyone.
PCF_DEVICE int pieces_of(const KCenterPass& p, int tiles, int count) {
    const int most = (count + kTilePicks - 1) / kTilePicks, room = p.parts / max(tiles, 1);
    return max(min(room, most), 1);
}

PCF_DEVICE int stale_of(const KCenterPass& p, bool listed) { return listed ? p.counters[kStale] : int(p.x.rows); }

// Take new distances into what is known of a row; where it still reaches the edge it becomes a candidate. All lanes of
// a warp call this, with row -1 where there is none.
PCF_DEVICE void absorb(const KCenterPass& p, int row, int seen, Nearest found, int count) {
    const bool real = row >= 0;
    bool inside = false;
    if (real) {
        float value = p.value[row];
        if (p.tracked) {
            p.second[row] = fminf(fminf(found.second, fmaxf(value, found.best)), p.second[row]);
            if (found.best < value) p.near[row] = found.which;
        }
        value = fminf(value, found.best);
        const Scale scale({p.centre, p.params});
        double bound = widen(double(value), p.norm[row], p.params) / scale.squared();
        if (p.has_initial) bound = fmin(bound, p.initial[row]);
        if (p.weighted) bound = p.weight[row] > 0 ? __dmul_rn(p.weight[row], bound) : 0.0;
        const double key = fmin(p.key[row], bound);
        p.value[row] = value;
        p.key[row] = key;
        p.seen[row] = count;
        inside = Edge(p.control).reached(key, row);
    }
    const int64_t computed = warp_sum(int64_t(real ? count - seen : 0));
    if (lane() == 0 && computed > 0) atomic_add(p.control + kDistances, computed);
    append(inside, row, p.counters + kInside, p.candidates, p.listed);
}

// Chunks on their way or in use: those of halves take less time than they take to come.
template <Mode MODE>
constexpr int kStages = of_halves(MODE) ? 3 : 2;

template <int Stages>
struct UpdateShared {
    Chunk chunks[Stages];
    union {
        uint4 raw[kUpdateThreads];    // for Feed, before
        Nearest halves[2][kTileRows]; // what each half of the block has found
    };
    int32_t rows[kTileRows], seen[kTileRows];
    int32_t oldest[kTileRows / 32], newest[kTileRows / 32];
    int32_t job, end, count, stale, tiles, pieces; // kept here: registers are for sums
};

template <Mode MODE>
using TileOf =
    std::conditional_t<!on_tensor_cores(MODE), FfmaTile<MODE == Mode::ffma>,
                       std::conditional_t<MODE == Mode::tf32x3, MmaTile, HalfTile<ValueOf<MODE>>>>;

// Distances of a finished tile of `live` picks from `first` on. Rows that were refreshed later than others of the tile
// have met some of these already.
template <Mode MODE>
PCF_DEVICE void take_tile(const KCenterPass& p, const UpdateShared<kStages<MODE>>& s, int first, int live,
                          float (&sum)[TileOf<MODE>::kRows][TileOf<MODE>::kPicks],
                          Nearest (&found)[TileOf<MODE>::kRows]) {
    using Tile = TileOf<MODE>;
    bool met = false;
    for (int w = 0; w < kTileRows / 32; ++w) met = met || first < s.newest[w];
    PCF_UNROLL
    for (int j = 0; j < Tile::kPicks; ++j) {
        const int place = Tile::pick(j), pick = first + place;
        float norm = place < live ? 0.0f : INFINITY;
        if (MODE != Mode::ffma && place < live) norm = p.pick_norm[pick];
        PCF_UNROLL
        for (int i = 0; i < Tile::kRows; ++i) {
            float squared = MODE == Mode::ffma ? sum[i][j] + norm : __fmaf_rn(-2.0f, sum[i][j], norm);
            if (met && s.seen[Tile::row(i)] > pick) squared = INFINITY;
            found[i].take(squared, pick);
            sum[i][j] = 0;
        }
    }
}

// All chunks of some picks, where several are on their way: in steps, of which each begins with a chunk that has come.
template <Mode MODE, class Tiles>
PCF_DEVICE void take_picks(const KCenterPass& p, UpdateShared<kStages<MODE>>& s, Tiles& feed, int start, int end,
                           float (&sum)[TileOf<MODE>::kRows][TileOf<MODE>::kPicks],
                           Nearest (&found)[TileOf<MODE>::kRows]) {
    constexpr int kAhead = kStages<MODE> - 1, kColumns = kDepth<ValueOf<MODE>>;
    const int dim = int(p.rows.dim);
    int next_first = start, next_column = 0, next = 0; // what is asked for, and to which chunk it comes
    const auto ask = [&] {
        if (next_first < end) feed.fetch(s.chunks[next], next_first, end - next_first, next_column);
        else cp_async_commit(); // of nothing: every step has its group
        next_column += kColumns;
        if (next_column >= dim) next_first += kTilePicks, next_column = 0;
        next = next == kAhead ? 0 : next + 1;
    };
    for (int i = 0; i < kAhead; ++i) ask();
    int first = start, column = 0, now = 0;
    while (first < end) {
        cp_async_wait<kAhead - 1>();
        __syncthreads(); // the chunk has come, and the one before it is no longer read
        ask();
        TileOf<MODE>::add(s.chunks[now], sum);
        now = now == kAhead ? 0 : now + 1;
        column += kColumns;
        if (column < dim) continue;
        take_tile<MODE>(p, s, first, end - first, sum, found);
        first += kTilePicks, column = 0;
    }
}

// Compare rows with the picks they have not seen. Two blocks on a multiprocessor, so that one computes while the other
// waits; the rare source may take more registers.
template <Mode MODE, Source SOURCE>
__global__ void __launch_bounds__(kUpdateThreads, SOURCE == Source::any ? 1 : 2)
    update_kernel(KCenterPass p, bool listed) {
    using Tile = TileOf<MODE>;
    auto& s = *shared<UpdateShared<kStages<MODE>>>();
    constexpr int kColumns = kDepth<ValueOf<MODE>>;
    const int dim = int(p.rows.dim), place = int(threadIdx.x);
    if (place == 0) {
        s.count = int(p.control[kCount]);
        s.stale = stale_of(p, listed);
        s.tiles = (s.stale + kTileRows - 1) / kTileRows;
        s.pieces = pieces_of(p, s.tiles, s.count);
    }
    for (;;) {
        // Tiles come oldest first, so those with most to do are taken first.
        if (place == 0) s.job = atomicAdd(p.counters + kQueue, 1);
        __syncthreads();
        if (s.job / s.pieces >= s.tiles) break;
        if (place < kTileRows) {
            const int64_t at = int64_t(s.job / s.pieces) * kTileRows + place;
            const int row = at >= s.stale ? -1 : listed ? p.stale[at] : int(at);
            const int seen = row >= 0 ? p.seen[row] : s.count;
            s.rows[place] = row;
            s.seen[place] = seen;
            const int oldest = warp_min(seen), newest = warp_max(row >= 0 ? seen : 0);
            if (lane() == 0) s.oldest[warp()] = oldest, s.newest[warp()] = newest;
        }
        __syncthreads();
        int start = s.oldest[0];
        for (int w = 1; w < kTileRows / 32; ++w) start = min(start, s.oldest[w]);
        const int all = (s.count - start + kTilePicks - 1) / kTilePicks;
        const int each = (all + s.pieces - 1) / s.pieces * kTilePicks;
        start = int(min(int64_t(start) + int64_t(s.job % s.pieces) * each, int64_t(s.count)));
        const int end = start + min(each, s.count - start);

        Feed<SOURCE, ValueOf<MODE>> feed(p, s.rows, s.raw);
        Nearest found[Tile::kRows];
        float sum[Tile::kRows][Tile::kPicks];
        PCF_UNROLL
        for (int i = 0; i < Tile::kRows; ++i) {
            found[i] = Nearest::none();
            PCF_UNROLL
            for (int j = 0; j < Tile::kPicks; ++j) sum[i][j] = 0;
        }
        if constexpr (kStages<MODE> > 2) {
            take_picks<MODE>(p, s, feed, start, end, sum, found);
        } else {
            int first = start, column = 0, now = 0;
            if (first < end) {
                feed.fetch(s.chunks[0], first, end - first, 0);
                feed.finish(s.chunks[0], 0);
            }
            if (place == 0) s.end = end;
            __syncthreads();
            // One loop over picks and columns: copies run ahead from one tile of picks into the next.
            while (first < s.end) {
                const bool last = column + kColumns >= dim;
                const int next_first = last ? first + kTilePicks : first, next_column = last ? 0 : column + kColumns;
                if (next_first < s.end) feed.fetch(s.chunks[now ^ 1], next_first, s.end - next_first, next_column);
                Tile::add(s.chunks[now], sum);
                if (last) take_tile<MODE>(p, s, first, s.end - first, sum, found);
                if (next_first < s.end) feed.finish(s.chunks[now ^ 1], next_column);
                __syncthreads();
                now ^= 1, first = next_first, column = next_column;
            }
        }

        PCF_UNROLL
        for (int i = 0; i < Tile::kRows; ++i) {
            PCF_UNROLL
            for (int apart = 1; apart < Tile::kLanes; apart *= 2) found[i].join(found[i].of_lane(apart));
            if (lane() % Tile::kLanes == 0) s.halves[warp() >> 2][Tile::row(i)] = found[i];
        }
        __syncthreads();
        if (place < kTileRows) {
            Nearest all = s.halves[0][place];
            all.join(s.halves[1][place]);
            const int row = s.rows[place];
            if (MODE != Mode::ffma && row >= 0) all.best += p.norm[row], all.second += p.norm[row];
            if (s.pieces == 1) {
                absorb(p, row, s.seen[place], all, s.count);
            } else {
                const int64_t at = int64_t(s.job) * kTileRows + place;
                p.part[at] = all.best;
                p.part[int64_t(p.parts) * kTileRows + at] = all.second;
                p.part_near[at] = all.which;
            }
        }
        __syncthreads(); // before the next job is written
    }
}

// Join the pieces of each tile of the update, if there are several. A block a tile.
__global__ void __launch_bounds__(kTileRows) merge_kernel(KCenterPass p, bool listed) {
    const int count = int(p.control[kCount]), stale = stale_of(p, listed);
    const int tiles = (stale + kTileRows - 1) / kTileRows, pieces = pieces_of(p, tiles, count);
    const int tile = int(blockIdx.x), place = int(threadIdx.x);
    if (pieces == 1 || tile >= tiles) return;
    Nearest all = Nearest::none();
    for (int piece = 0; piece < pieces; ++piece) {
        const int64_t at = (int64_t(tile) * pieces + piece) * kTileRows + place;
        all.join({p.part[at], p.part[int64_t(p.parts) * kTileRows + at], p.part_near[at]});
    }
    const int64_t at = int64_t(tile) * kTileRows + place;
    const int row = at >= stale ? -1 : listed ? p.stale[at] : int(at);
    absorb(p, row, row >= 0 ? p.seen[row] : count, all, count);
}

template <Mode MODE>
Status update_in(const KCenterPass& p, bool listed, stream_t stream) {
    const dim3 grid(unsigned(kcenter_programs(p.processors)));
    constexpr size_t bytes = sizeof(UpdateShared<kStages<MODE>>);
    if constexpr (of_halves(MODE)) { // the bindings have seen to it that they lie so
        PCF_LAUNCH((update_kernel<MODE, Source::direct>), grid, kUpdateThreads, bytes, stream, p, listed);
    } else {
        switch (source_of(p)) {
        case Source::direct:
            PCF_LAUNCH((update_kernel<MODE, Source::direct>), grid, kUpdateThreads, bytes, stream, p, listed);
            break;
        case Source::halves:
            PCF_LAUNCH((update_kernel<MODE, Source::halves>), grid, kUpdateThreads, bytes, stream, p, listed);
            break;
        default: PCF_LAUNCH((update_kernel<MODE, Source::any>), grid, kUpdateThreads, bytes, stream, p, listed);
        }
    }
    return {};
}

} // namespace

Status update(const KCenterPass& p, bool listed, stream_t stream) {
    Status (*in)(const KCenterPass&, bool, stream_t) = nullptr;
    switch (p.mode) {
    case Mode::ffma: in = update_in<Mode::ffma>; break;
    case Mode::expanded: in = update_in<Mode::expanded>; break;
    case Mode::tf32x3: in = update_in<Mode::tf32x3>; break;
    case Mode::half: in = update_in<Mode::half>; break;
    case Mode::brain: in = update_in<Mode::brain>; break;
    }
    if (const Status status = in(p, listed, stream)) return status;
    // Tiles in several pieces are at most half as many as the parts.
    PCF_LAUNCH(merge_kernel, dim3(unsigned(p.parts / 2)), kTileRows, 0, stream, p, listed);
    return {};
}

} // namespace pcf
