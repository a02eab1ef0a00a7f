// Tiles of inner products of packed rows: 128 x 64 by a block of 256 threads, 32 of them a thread (64 would have to
// share 128 registers with everything else, and spilled). By float32 multiply-adds or, from sm_80 on, by tensor cores:
// of float32 rows in three TF32 products, of halves in one (tf32x3 and half of kernels/backends/device/precision.py).
//
// Rows come through shared memory in chunks of 8 words, a ring of two or three stages with a chunk of both sides each.
// A word is a float, or two halves. A row of a chunk takes 12 words there: eight rows one after the other, read 16
// bytes each, fall into different banks, also as matrices that fragments are loaded from. Copies are asynchronous where the
// card has that; elsewhere the next chunk waits in registers while this one is multiplied.
#pragma once
#include "mma.h"
#include "mode.h"

namespace pcf {
namespace cuda {

constexpr int kTile = 128, kOthers = 64, kTileThreads = 256; // rows x, rows y
constexpr int kChunk = 8, kPitch = 12; // words; between rows in shared memory
constexpr int kSide = kTile * kPitch, kStage = kSide + kOthers * kPitch; // words of rows x, and of both sides

struct alignas(16) Four {
    float v[4];
};

// Which 32 of a tile's values a thread has: kRows x kColumns of them.
struct FfmaShare { // a warp has 4 rows x 8 columns of threads; warps lie 4 x 2
    static constexpr int kRows = 8, kColumns = 4, kStages = 2;
    PCF_DEVICE static int row(int i) { return (warp() & 3) * 4 + (lane() >> 3) + 16 * i; }
    PCF_DEVICE static int column(int j) { return (warp() >> 2) * 8 + (lane() & 7) + 16 * j; }
};

struct TensorShare { // a warp has 32 x 32 of the tile: 2 x 4 fragments of 16 x 8
    static constexpr int kRows = 4, kColumns = 8, kStages = 3; // a chunk takes less time than it takes to come
    PCF_DEVICE static int row(int i) { return (warp() & 3) * 32 + (lane() >> 2) + 8 * i; }
    PCF_DEVICE static int column(int j) { return (warp() >> 2) * 32 + (lane() & 3) * 2 + (j & 1) + 8 * (j >> 1); }
};

template <Mode MODE>
using Share = std::conditional_t<MODE == Mode::expanded, FfmaShare, TensorShare>;

// values[i][j] += x_i . y_j over one chunk
PCF_DEVICE void multiply_ffma(const float* x, const float* y, float (&values)[8][4]) {
    x += FfmaShare::row(0) * kPitch;
    y += FfmaShare::column(0) * kPitch;
    PCF_UNROLL
    for (int k = 0; k < kChunk; k += 4) {
        Four other[4];
    PCF_UNROLL
        for (int j = 0; j < 4; ++j) other[j] = *reinterpret_cast<const Four*>(y + 16 * j * kPitch + k);
    PCF_UNROLL
        for (int i = 0; i < 8; ++i) {
            const Four one = *reinterpret_cast<const Four*>(x + 16 * i * kPitch + k);
    PCF_UNROLL
            for (int e = 0; e < 4; ++e)
    PCF_UNROLL
                for (int j = 0; j < 4; ++j) values[i][j] = __fmaf_rn(one.v[e], other[j].v[e], values[i][j]);
        }
    }
}

// Fragments from a chunk: of 16 rows x all 8 words, and of 16 rows y, the first two registers for 8 of them.
PCF_DEVICE void load_rows(uint32_t (&out)[4], const float* x, int row) {
    load_matrices(out, x + (row + (lane() & 15)) * kPitch + 4 * (lane() >> 4));
}
PCF_DEVICE void load_others(uint32_t (&out)[4], const float* y, int row) {
    load_matrices(out, y + (row + (lane() & 7) + 8 * (lane() >> 4)) * kPitch + (lane() & 8) / 2);
}

PCF_DEVICE void add_to(float (&values)[4][8], int m, int n, const float (&d)[4]) {
    values[2 * m][2 * n] += d[0];
    values[2 * m][2 * n + 1] += d[1];
    values[2 * m + 1][2 * n] += d[2];
    values[2 * m + 1][2 * n + 1] += d[3];
}

// In TF32, a chunk by itself: tensor cores cut off its sum, not the whole (see update.cu).
PCF_DEVICE void multiply_mma(const float* x, const float* y, float (&values)[4][8]) {
    uint32_t high[2][4], low[2][4];
    PCF_UNROLL
    for (int m = 0; m < 2; ++m) {
        uint32_t one[4];
        load_rows(one, x, (warp() & 3) * 32 + 16 * m);
        PCF_UNROLL
        for (int e = 0; e < 4; ++e) split_tf32(bits_to_float(one[e]), high[m][e], low[m][e]);
    }
    PCF_UNROLL
    for (int pair = 0; pair < 2; ++pair) {
        uint32_t other[4], other_high[4], other_low[4];
        load_others(other, y, (warp() >> 2) * 32 + 16 * pair);
        PCF_UNROLL
        for (int e = 0; e < 4; ++e) split_tf32(bits_to_float(other[e]), other_high[e], other_low[e]);
        PCF_UNROLL
        for (int half = 0; half < 2; ++half)
            PCF_UNROLL
            for (int m = 0; m < 2; ++m) {
                float d[4] = {};
                mma_tf32(d, low[m], other_high + 2 * half);
                mma_tf32(d, high[m], other_low + 2 * half);
                mma_tf32(d, high[m], other_high + 2 * half);
                add_to(values, m, 2 * pair + half, d);
            }
    }
}

// Of halves, T Half or Brain, all in one accumulator.
template <class T>
PCF_DEVICE void multiply_halves(const float* x, const float* y, float (&values)[4][8]) {
    uint32_t one[2][4];
    PCF_UNROLL
    for (int m = 0; m < 2; ++m) load_rows(one[m], x, (warp() & 3) * 32 + 16 * m);
    PCF_UNROLL
    for (int pair = 0; pair < 2; ++pair) {
        uint32_t other[4];
        load_others(other, y, (warp() >> 2) * 32 + 16 * pair);
        PCF_UNROLL
        for (int half = 0; half < 2; ++half)
            PCF_UNROLL
            for (int m = 0; m < 2; ++m) {
                const int n = 2 * pair + half;
                float d[4] = {values[2 * m][2 * n], values[2 * m][2 * n + 1], values[2 * m + 1][2 * n],
                              values[2 * m + 1][2 * n + 1]};
                mma_half<T>(d, one[m], other + 2 * half);
                values[2 * m][2 * n] = d[0];
                values[2 * m][2 * n + 1] = d[1];
                values[2 * m + 1][2 * n] = d[2];
                values[2 * m + 1][2 * n + 1] = d[3];
            }
    }
}

template <Mode MODE>
PCF_DEVICE void multiply(const float* x, const float* y, float (&values)[Share<MODE>::kRows][Share<MODE>::kColumns]) {
    if constexpr (MODE == Mode::expanded) multiply_ffma(x, y, values);
    else if constexpr (MODE == Mode::tf32x3) multiply_mma(x, y, values);
    else multiply_halves<std::conditional_t<MODE == Mode::half, Half, Brain>>(x, y, values);
}

// Whether copies to shared memory go on while a thread works.
PCF_DEVICE bool copies_ahead() {
#if defined(PCF_EMULATED)
    return emulated::code() >= 80;
#elif defined(__CUDA_ARCH__)
    return __CUDA_ARCH__ >= 800;
#else
    return false;
#endif
}

// Brings the chunks of one tile of rows x, again and again, and of one tile after the other of rows y with their norms.
// Rows are `width` words long, a multiple of kChunk, and lie x_pitch and y_pitch words apart, at multiples of 16 bytes.
// Thread t copies 4 words of row t / 2 of either side, where there is one. In each step all threads do
//     wait(); __syncthreads(); ask(); multiply(x(), y(), ...); keep(); advance();
// and a tile's norms may be read after its last step, until the barrier of the next one. More than two stages are for
// asynchronous copies only.
template <int kStages>
class Feed {
  public:
    static constexpr int kNorms = kStages > 2 ? 4 : 2; // tiles whose norms are there
    static constexpr int kRing = kStages * kStage + kNorms * kOthers; // words

    // Rows first_x .. end_x - 1 of x and first_y .. end_y - 1 of y, at least one of each; first_y is a multiple of
    // kOthers. Rows are numbers here, not addresses: they take fewer registers.
    PCF_DEVICE Feed(float* ring, const float* x, int x_pitch, int first_x, int end_x, const float* y, int y_pitch,
                    const float* norm, int first_y, int end_y, int width)
        : ring_(ring), x_(x), y_(y), norm_(norm), x_pitch_(x_pitch), y_pitch_(y_pitch), width_(width),
          row_(min(first_x + row(), end_x - 1)), end_(end_y), left_(end_y - first_y) {
        for (int stage = 0; stage < kStages - 1; ++stage) {
            ask();
            keep();
            advance();
        }
    }

    // Until the chunk of this step is there, as far as this thread copied it.
    PCF_DEVICE void wait() { cp_async_wait<kStages - 2>(); }

    // Asks for the next chunk. Behind the last tile nothing is read, and zeros come.
    PCF_DEVICE void ask() {
        const bool begins = column_ == 0 && int(threadIdx.x) < min(kOthers, left_);
        const int tile = end_ - left_;
        const float* one = x_ + int64_t(row_) * x_pitch_ + column_ + column(); // behind the last row: that row
        const float* other = y_ + int64_t(tile + row()) * y_pitch_ + column_ + column();
        const float* norm = norm_ + tile + int(threadIdx.x);
        float* to_norm = norms(tile) + threadIdx.x;
        if (copies_ahead()) {
            cp_async16(stage() + place(), one, true);
            if (row() < kOthers) cp_async16(stage() + kSide + place(), other, row() < left_);
            if (begins) cp_async4(to_norm, norm, true);
            cp_async_commit();
        } else {
            one_ = *reinterpret_cast<const Four*>(one);
            other_ = row() < min(kOthers, left_) ? *reinterpret_cast<const Four*>(other) : Four{};
            if (begins) *to_norm = *norm;
        }
        column_ += kChunk;
        if (column_ == width_) { // on to the next tile
            column_ = 0;
            left_ -= kOthers;
        }
    }

    // The multiplication is done: what was asked for goes to its stage, which nobody reads any more.
    PCF_DEVICE void keep() {
        if (copies_ahead()) return;
        *reinterpret_cast<Four*>(stage() + place()) = one_;
        if (row() < kOthers) *reinterpret_cast<Four*>(stage() + kSide + place()) = other_;
    }

    // After `ask`: whether this step's chunk is its tile's last. What was asked for lies kStages - 1 chunks behind it.
    PCF_DEVICE bool last() const {
        constexpr int kAhead = (kStages - 1) * kChunk;
        return column_ == (width_ > kAhead ? kAhead : 0);
    }

    // Then: the first row of that tile. What is asked for next lies so many tiles behind it.
    PCF_DEVICE int tile() const {
        const int chunks = width_ / kChunk, ahead = chunks >= kStages ? 1 : chunks == 1 ? kStages : 2;
        return end_ - left_ - ahead * kOthers;
    }

    PCF_DEVICE void advance() { asked_ = next(asked_); }
    PCF_DEVICE const float* x() const { return ring_ + next(asked_) * kStage; } // the oldest stage
    PCF_DEVICE const float* y() const { return x() + kSide; }
    // Of the tile that begins with row `tile`; behind the last row there is anything.
    PCF_DEVICE float* norms(int tile) const { return ring_ + kStages * kStage + (tile & (kNorms - 1) * kOthers); }

  private:
    PCF_DEVICE static int next(int stage) { return stage == kStages - 1 ? 0 : stage + 1; }
    PCF_DEVICE static int row() { return int(threadIdx.x) >> 1; }
    PCF_DEVICE static int column() { return (int(threadIdx.x) & 1) * 4; }
    PCF_DEVICE static int place() { return row() * kPitch + column(); }
    PCF_DEVICE float* stage() const { return ring_ + asked_ * kStage; }

    float* ring_;
    const float *x_, *y_, *norm_;
    int x_pitch_, y_pitch_, width_, row_, end_, left_; // left_: rows y from the tile on that is asked for
    int column_ = 0, asked_ = 0;
    Four one_, other_; // where copies are not asynchronous
};

} // namespace cuda
} // namespace pcf
