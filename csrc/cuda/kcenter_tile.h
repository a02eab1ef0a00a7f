// What a block computes of a chunk: 128 rows x 64 picks, 32 of these pairs a thread. The ways to do it have the same
// shape: kRows rows and kPicks picks a thread, of which row(i) and pick(j) tell the places in the tile, kLanes
// neighbouring lanes that share rows, and two halves of the block that share rows: warps 0 to 3 and 4 to 7.
#pragma once
#include "kcenter_feed.h"
#include "mma.h"

namespace pcf {

// Sums of (x - y)^2, one subtraction and one fused multiply-add a column, or of x y, which takes half of that. For four
// columns a thread reads 12 quads and does 256 or 128 operations. A warp has 4 x 8 threads, so its lanes read 4 different
// quads of rows at a time, or 8 of picks.
template <bool DIFFERENCES>
struct FfmaTile {
    static constexpr int kRows = 8, kPicks = 4, kLanes = 8;
    PCF_DEVICE static int row(int i) { return (warp() & 3) * 4 + (lane() >> 3) + 16 * i; }
    PCF_DEVICE static int pick(int j) { return (warp() >> 2) * 8 + (lane() & 7) + 16 * j; }

    PCF_DEVICE static void add(const Chunk& chunk, float (&sum)[kRows][kPicks]) {
#pragma unroll 1 // more at a time do not fit into 128 registers, with which two blocks share a multiprocessor
        for (int quad = 0; quad < kWords / 4; ++quad) {
            // Rows 16 apart have their quads at the same place.
            const float* x = chunk.x + quad_place(row(0), quad);
            const float* y = chunk.y + quad_place(pick(0), quad);
            float4 b[kPicks];
            PCF_UNROLL
            for (int j = 0; j < kPicks; ++j) b[j] = *reinterpret_cast<const float4*>(y + 16 * j * kWords);
            PCF_UNROLL
            for (int i = 0; i < kRows; ++i) {
                const float4 a = *reinterpret_cast<const float4*>(x + 16 * i * kWords);
                PCF_UNROLL
                for (int j = 0; j < kPicks; ++j) {
                    sum[i][j] = plus(a.x, b[j].x, sum[i][j]);
                    sum[i][j] = plus(a.y, b[j].y, sum[i][j]);
                    sum[i][j] = plus(a.z, b[j].z, sum[i][j]);
                    sum[i][j] = plus(a.w, b[j].w, sum[i][j]);
                }
            }
        }
    }

  private:
    PCF_DEVICE static float plus(float x, float y, float sum) {
        return DIFFERENCES ? __fmaf_rn(x - y, x - y, sum) : __fmaf_rn(x, y, sum);
    }
};

// Inner products on tensor cores: a warp has 32 rows x 32 picks.
struct TensorTile {
    static constexpr int kRows = 4, kPicks = 8, kLanes = 4;
    PCF_DEVICE static int row(int i) { return (warp() & 3) * 32 + (lane() >> 2) + 8 * i; }
    PCF_DEVICE static int pick(int j) { return (warp() >> 2) * 32 + (lane() & 3) * 2 + (j & 1) + 8 * (j >> 1); }
};

// As three products of TF32 numbers. Which column is which term of a product does not matter as long as both sides
// agree, so a lane reads a quad of a row at once and gives its values to terms t and t + 4 of two products one after the
// other. A chunk is summed by itself and then added: what tensor cores cut off is then cut off a chunk's sum, not a
// whole row's (update.cu has the bound).
struct MmaTile : TensorTile {
    PCF_DEVICE static void add(const Chunk& chunk, float (&sum)[kRows][kPicks]) {
        const int first_pick = (warp() >> 2) * 32 + (lane() >> 2);
        const float* x = chunk.x + quad_place(row(0), lane() & 3);
        const float* y = chunk.y + quad_place(first_pick, lane() & 3);
        uint32_t high[2][kRows / 2][4], low[2][kRows / 2][4];
        PCF_UNROLL
        for (int i = 0; i < kRows; ++i) {
            const float4 a = *reinterpret_cast<const float4*>(x + 8 * i * kWords);
            const int m = i / 2, h = i % 2;
            split_tf32(a.x, high[0][m][h], low[0][m][h]);
            split_tf32(a.y, high[0][m][2 + h], low[0][m][2 + h]);
            split_tf32(a.z, high[1][m][h], low[1][m][h]);
            split_tf32(a.w, high[1][m][2 + h], low[1][m][2 + h]);
        }
        PCF_UNROLL
        for (int n = 0; n < kPicks / 2; ++n) {
            const float4 b = *reinterpret_cast<const float4*>(y + 8 * n * kWords);
            uint32_t b_high[2][2], b_low[2][2];
            split_tf32(b.x, b_high[0][0], b_low[0][0]);
            split_tf32(b.y, b_high[0][1], b_low[0][1]);
            split_tf32(b.z, b_high[1][0], b_low[1][0]);
            split_tf32(b.w, b_high[1][1], b_low[1][1]);
            PCF_UNROLL
            for (int m = 0; m < kRows / 2; ++m) {
                float d[4] = {};
                PCF_UNROLL
                for (int step = 0; step < 2; ++step) { // the small products first
                    mma_tf32(d, low[step][m], b_high[step]);
                    mma_tf32(d, high[step][m], b_low[step]);
                }
                PCF_UNROLL
                for (int step = 0; step < 2; ++step) mma_tf32(d, high[step][m], b_high[step]);
                sum[2 * m][2 * n] += d[0];
                sum[2 * m][2 * n + 1] += d[1];
                sum[2 * m + 1][2 * n] += d[2];
                sum[2 * m + 1][2 * n + 1] += d[3];
            }
        }
    }
};

// Of halves as they are, T Half or Brain, in two steps of 16 columns: quads are rows of the matrices that fragments are
// loaded from, so no register has to be moved.
template <class T>
struct HalfTile : TensorTile {
    PCF_DEVICE static void add(const Chunk& chunk, float (&sum)[kRows][kPicks]) {
        // Matrices of a load: rows 0-7 and 8-15 by a quad, then by the next; or picks 0-7 by all four quads.
        const int row = (warp() & 3) * 32 + (lane() & 15), pick = (warp() >> 2) * 32 + (lane() & 7);
        const float* y = chunk.y + quad_place(pick, lane() >> 3);
        uint32_t b[kPicks / 2][4];
        PCF_UNROLL
        for (int n = 0; n < kPicks / 2; ++n) load_matrices(b[n], y + 8 * n * kWords);
        PCF_UNROLL
        for (int step = 0; step < 2; ++step) {
            const float* x = chunk.x + quad_place(row, 2 * step + (lane() >> 4));
            PCF_UNROLL
            for (int m = 0; m < kRows / 2; ++m) {
                uint32_t a[4];
                load_matrices(a, x + 16 * m * kWords);
                PCF_UNROLL
                for (int n = 0; n < kPicks / 2; ++n) {
                    const uint32_t other[2] = {b[n][2 * step], b[n][2 * step + 1]};
                    float d[4] = {sum[2 * m][2 * n], sum[2 * m][2 * n + 1], sum[2 * m + 1][2 * n],
                                  sum[2 * m + 1][2 * n + 1]};
                    mma_half<T>(d, a, other);
                    sum[2 * m][2 * n] = d[0];
                    sum[2 * m][2 * n + 1] = d[1];
                    sum[2 * m + 1][2 * n] = d[2];
                    sum[2 * m + 1][2 * n + 1] = d[3];
                }
            }
        }
    }
};

} // namespace pcf
