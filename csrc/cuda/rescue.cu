// Crowded queries: every bank row in reach is settled, with a running exact top-k in (distance, row) order.
//
// 16 crowded queries share tiles of fast distances to 128 bank rows, which are read as the caller has them. Each warp
// then settles what is in reach of its two queries, lowest rows first; the reach shrinks as exact distances come in.
// Where there are few crowded queries, several blocks of the grid take a part of the bank each, and a second kernel
// merges their neighbours. Fast distances are float32 multiply-adds whatever the search has used: every bound covers
// them.
#include "neighbours.h"

namespace pcf {
namespace cuda {
namespace {

constexpr int kRescuers = 256, kDepth = 16; // threads; columns at a time
constexpr int kOfWarp = kCrowded / (kRescuers / 32);

struct Rescue {
    float query[kDepth][kCrowded];
    float row[kDepth][kRescued + 1];
    float value[kCrowded][kRescued];
    double exact[kCrowded][kMostNeighbours]; // ascending
    uint32_t near[kCrowded][kMostNeighbours];
};

// `reach` for values without |x|^2: rounded to float32, then up; the bound has room for it.
PCF_DEVICE float below(double reach, float norm) {
    const float limit = float(reach - double(norm));
    return limit + fabsf(limit) * 2.4e-7f + 1e-37f;
}

// How many parts of the bank blocks take for each 16 crowded queries. With two or more, a block has at most one.
PCF_DEVICE int parts_of(int count, int64_t bank) {
    const int most = int(min(int64_t(kMostParts), (bank + kRescued - 1) / kRescued));
    return max(1, min(most, int(gridDim.x) / max(1, (count + kCrowded - 1) / kCrowded)));
}

// One value of the bank in the frame, as it was packed.
PCF_DEVICE float framed_at(const Knn& knn, int64_t row, int64_t column, const Scale& scale) {
    const int64_t at = row * knn.bank.row_stride + column * knn.bank.column_stride;
    const float centre = knn.centre[column];
    if (knn.bank.type == Type::f64) return framed(static_cast<const double*>(knn.bank.data)[at], centre, scale);
    return framed(load_float(knn.bank.data, knn.bank.type, at), centre, scale);
}

// One value of a query in the frame.
PCF_DEVICE float packed_at(const Knn& knn, int64_t query, int64_t column) {
    if (knn.query_in_place) return load_float(knn.query.data, knn.query.type, query * knn.query.row_stride + column);
    if (of_halves(knn.mode)) return load_float(knn.packed, knn.query.type, query * 2 * knn.pitch + column);
    return knn.packed[query * knn.pitch + column];
}

// The fast values of 16 crowded queries and the bank rows from `low` on, NaN where there is none or it is surplus.
PCF_DEVICE void fast_values(Rescue& mine, const Knn& knn, const int64_t* crowded, int live, int64_t low) {
    const Scale scale({knn.centre, knn.params});
    float sum[2][4] = {};
    const int row = int(threadIdx.x) % 64, first = int(threadIdx.x) / 64 * 4;
    for (int64_t column = 0; column < knn.bank.dim; column += kDepth) {
        __syncthreads(); // what was there has been read
        for (int e = int(threadIdx.x); e < kCrowded * kDepth; e += kRescuers) {
            const int c = e % kDepth, q = e / kDepth; // packed queries are zero behind the last column
            const bool here = q < live && column + c < knn.bank.dim;
            mine.query[c][q] = here ? packed_at(knn, crowded[q], column + c) : 0.0f;
        }
        for (int e = int(threadIdx.x); e < kRescued * kDepth; e += kRescuers) {
            const int c = e % kDepth, r = e / kDepth;
            const bool here = low + r < knn.bank.rows && column + c < knn.bank.dim;
            mine.row[c][r] = here ? framed_at(knn, low + r, column + c, scale) : 0.0f;
        }
        __syncthreads();
        PCF_UNROLL
        for (int c = 0; c < kDepth; ++c) {
            const float one = mine.row[c][row], other = mine.row[c][row + 64];
            PCF_UNROLL
            for (int q = 0; q < 4; ++q) {
                const float x = mine.query[c][first + q];
                sum[0][q] = __fmaf_rn(x, one, sum[0][q]);
                sum[1][q] = __fmaf_rn(x, other, sum[1][q]);
            }
        }
    }
    PCF_UNROLL
    for (int half = 0; half < 2; ++half) {
        const int64_t at = low + row + 64 * half;
        const bool here = at < knn.bank.rows && !(knn.surplus && knn.surplus[at]);
        const float norm = here ? knn.norm[at] : NAN; // in reach of nothing
        PCF_UNROLL
        for (int q = 0; q < 4; ++q) mine.value[first + q][row + 64 * half] = __fmaf_rn(-2.0f, sum[half][q], norm);
    }
    __syncthreads();
}

// A warp puts a pair into the ascending list of its query, whose largest falls out. Rows come in ascending order: a row
// goes behind those at an equal distance.
PCF_DEVICE void insert(double* exact, uint32_t* near, int k, double squared, uint32_t row) {
    double before[kMostNeighbours / 32];
    uint32_t row_before[kMostNeighbours / 32];
    int place = 0;
    PCF_UNROLL
    for (int half = 0; half < kMostNeighbours / 32; ++half) {
        const int i = half * 32 + lane();
        place += __popc(__ballot_sync(kAll, i < k && exact[i] <= squared));
        before[half] = i > 0 && i < k ? exact[i - 1] : 0.0;
        row_before[half] = i > 0 && i < k ? near[i - 1] : 0;
    }
    __syncwarp();
    PCF_UNROLL
    for (int half = 0; half < kMostNeighbours / 32; ++half) {
        const int i = half * 32 + lane();
        if (i < place || i >= k) continue;
        exact[i] = i == place ? squared : before[half];
        near[i] = i == place ? row : row_before[half];
    }
    __syncwarp();
}

// A warp settles what is in reach of one query, and lowers its limit.
PCF_DEVICE float settle_row(Rescue& mine, const Knn& knn, int q, int64_t query, int64_t low, float limit) {
    const double scale = knn.params[0] * knn.params[4];
    const float norm = knn.packed_norm[query];
    double* exact = mine.exact[q];
    for (int base = 0; base < kRescued; base += 32) {
        const float value = mine.value[q][base + lane()];
        unsigned hits = __ballot_sync(kAll, value <= limit);
        while (hits) {
            const int bit = __ffs(int(hits)) - 1;
            const int64_t row = low + base + bit;
            const double squared = settled(knn, query, row);
            if (squared < exact[knn.k - 1]) {
                __syncwarp();
                insert(exact, mine.near[q], knn.k, squared, uint32_t(row));
                limit = fminf(limit, below(widen(exact[knn.k - 1] * scale * scale, norm, knn.params), norm));
            }
            hits &= hits - 1;
            hits &= __ballot_sync(kAll, value <= limit);
        }
    }
    return limit;
}

__global__ void __launch_bounds__(kRescuers, 2) rescue_kernel(Knn knn) {
    Rescue& mine = *shared<Rescue>();
    const int count = *knn.count, parts = parts_of(count, knn.bank.rows);
    const int64_t tiles = (knn.bank.rows + kRescued - 1) / kRescued, span = (tiles + parts - 1) / parts * kRescued;
    const int items = (count + kCrowded - 1) / kCrowded * parts;
    for (int item = int(blockIdx.x); item < items; item += int(gridDim.x)) {
        const int first = item / parts * kCrowded, live = min(kCrowded, count - first);
        const int64_t begin = item % parts * span, end = min(begin + span, knn.bank.rows);
        const int64_t* crowded = knn.crowded + first;
        float limit[kOfWarp];
        PCF_UNROLL
        for (int i = 0; i < kOfWarp; ++i) {
            const int q = warp() * kOfWarp + i;
            limit[i] = q < live ? below(knn.reach[crowded[q]], knn.packed_norm[crowded[q]]) : -INFINITY;
            for (int place = lane(); place < knn.k; place += 32) {
                mine.exact[q][place] = INFINITY;
                mine.near[q][place] = kNoRow;
            }
        }
        __syncwarp();
        for (int64_t low = begin; low < end; low += kRescued) {
            fast_values(mine, knn, crowded, live, low);
            PCF_UNROLL
            for (int i = 0; i < kOfWarp; ++i) {
                const int q = warp() * kOfWarp + i;
                if (q < live) limit[i] = settle_row(mine, knn, q, crowded[q], low, limit[i]);
            }
        }
        PCF_UNROLL
        for (int i = 0; i < kOfWarp; ++i) {
            const int q = warp() * kOfWarp + i;
            if (q >= live) continue;
            for (int place = lane(); place < knn.k; place += 32) {
                const double exact = mine.exact[q][place];
                const uint32_t row = mine.near[q][place];
                if (parts > 1) {
                    const int64_t at = (int64_t(item) * kCrowded + q) * knn.k + place;
                    knn.part_exact[at] = exact;
                    knn.part_row[at] = row;
                } else if (row != kNoRow) {
                    knn.squared[crowded[q] * knn.k + place] = exact;
                    knn.rows[crowded[q] * knn.k + place] = row;
                }
            }
        }
        __syncwarp(); // the lists are read; the next queries begin new ones
    }
}

// Merges what rescue_kernel left, launched with as many blocks. A warp takes the nearest of the heads of its query's
// lists, of which each lane has two, until it has k.
__global__ void __launch_bounds__(kRescuers) merge_kernel(Knn knn) {
    const int count = *knn.count, parts = parts_of(count, knn.bank.rows);
    const int first = int(blockIdx.x) * kCrowded;
    if (parts == 1 || first >= count) return;
    for (int q = warp(); q < min(kCrowded, count - first); q += warps()) {
        const int64_t query = knn.crowded[first + q];
        int64_t head[2];
        double exact[2];
        uint32_t row[2];
        int taken[2] = {0, 0};
        PCF_UNROLL
        for (int i = 0; i < 2; ++i) {
            const int part = lane() + 32 * i;
            head[i] = ((int64_t(blockIdx.x) * parts + part) * kCrowded + q) * knn.k;
            exact[i] = part < parts ? knn.part_exact[head[i]] : INFINITY;
            row[i] = part < parts ? knn.part_row[head[i]] : kNoRow;
        }
        for (int place = 0; place < knn.k; ++place) {
            const bool second = exact[1] < exact[0] || (exact[1] == exact[0] && row[1] < row[0]);
            double best = second ? exact[1] : exact[0];
            uint32_t best_row = second ? row[1] : row[0];
            const uint32_t own = best_row;
            for (int step = 16; step > 0; step /= 2) {
                const double other = __shfl_xor_sync(kAll, best, step);
                const uint32_t other_row = __shfl_xor_sync(kAll, best_row, step);
                if (other < best || (other == best && other_row < best_row)) {
                    best = other;
                    best_row = other_row;
                }
            }
            if (best_row == kNoRow) break; // values were not finite
            if (lane() == 0) {
                knn.squared[query * knn.k + place] = best;
                knn.rows[query * knn.k + place] = best_row;
            }
            if (own != best_row) continue; // a row is in one part only
            PCF_UNROLL
            for (int i = 0; i < 2; ++i)
                if (second == (i == 1)) {
                    const bool more = ++taken[i] < knn.k;
                    exact[i] = more ? knn.part_exact[head[i] + taken[i]] : INFINITY;
                    row[i] = more ? knn.part_row[head[i] + taken[i]] : kNoRow;
                }
        }
    }
}

} // namespace

Status rescue(const Knn& knn, stream_t stream) {
    const dim3 grid = dim3(unsigned(knn.rescuers)), block = dim3(kRescuers);
    PCF_LAUNCH(rescue_kernel, grid, block, sizeof(Rescue), stream, knn);
    PCF_LAUNCH(merge_kernel, grid, block, 0, stream, knn);
    return {};
}

Status load_rescue() {
    PCF_LOAD(rescue_kernel);
    PCF_LOAD(merge_kernel);
    return {};
}

} // namespace cuda
} // namespace pcf
