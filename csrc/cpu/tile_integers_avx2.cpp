// AVX2 on 16-bit integers: an instruction multiplies twice as many of them as of float32; 16 lanes x 6 points.
//
// As in tile_vnni.cpp the frame is scaled so that no row is longer than kLongest, rows are rounded to integers, and by
// Cauchy and Schwarz no sum of products, nor any part of one, leaves 32 bits: the integer arithmetic is exact.
#include "kernel.h"

#include <immintrin.h>

namespace pcf {
namespace {

typedef __m256 V;
constexpr int kWidth = 8, kLanes = 16, kPoints = 6;
constexpr double kLongest = 32000; // a rounded row is longer by half the root of its depth at most

inline V load(const float* p) { return _mm256_load_ps(p); }
inline void store(float* p, V v) { _mm256_store_ps(p, v); }
inline V larger(V a, V b) { return _mm256_max_ps(a, b); }
inline V smaller(V a, V b) { return _mm256_min_ps(a, b); }
inline uint32_t at_least(V a, V b) { return uint32_t(_mm256_movemask_ps(_mm256_cmp_ps(a, b, _CMP_GE_OQ))); }

#include "tile_common.h"
#include "tile_insert.h"

inline __m256i rounded(const float* row) { // 16 floats -> 16 integers of 16 bits
    const __m256i low = _mm256_cvtps_epi32(_mm256_loadu_ps(row)), high = _mm256_cvtps_epi32(_mm256_loadu_ps(row + 8));
    return _mm256_permute4x64_epi64(_mm256_packs_epi32(low, high), 0xd8);
}

inline void transpose(__m256i (&r)[8]) { // 8 x 8 of 32 bits
    __m256i a[8], b[8];
    for (int i = 0; i < 8; i += 2) {
        a[i] = _mm256_unpacklo_epi32(r[i], r[i + 1]);
        a[i + 1] = _mm256_unpackhi_epi32(r[i], r[i + 1]);
    }
    for (int i = 0; i < 8; i += 4)
        for (int j = 0; j < 2; ++j) {
            b[i + 2 * j] = _mm256_unpacklo_epi64(a[i + j], a[i + j + 2]);
            b[i + 2 * j + 1] = _mm256_unpackhi_epi64(a[i + j], a[i + j + 2]);
        }
    for (int i = 0; i < 4; ++i) {
        r[i] = _mm256_permute2x128_si256(b[i], b[i + 4], 0x20);
        r[i + 4] = _mm256_permute2x128_si256(b[i], b[i + 4], 0x31);
    }
}

// A group is [depth / 2][16 lanes][2].
void pack_lanes(const float* rows, int64_t depth, void* group) {
    int32_t* out = static_cast<int32_t*>(group);
    for (int64_t k = 0; k < depth; k += 16, out += 8 * kLanes)
        for (int part = 0; part < kLanes; part += 8) {
            __m256i r[8];
#pragma GCC unroll 8
            for (int l = 0; l < 8; ++l) r[l] = rounded(rows + (part + l) * depth + k);
            transpose(r);
#pragma GCC unroll 8
            for (int i = 0; i < 8; ++i) _mm256_store_si256(reinterpret_cast<__m256i*>(out + i * kLanes + part), r[i]);
        }
}

// A block is [depth / 2][6 points][2].
void pack_point(const float* row, int64_t depth, void* block, int slot) {
    int32_t* out = static_cast<int32_t*>(block) + slot;
    alignas(32) int32_t pairs[8];
    for (int64_t k = 0; k < depth; k += 16) {
        _mm256_store_si256(reinterpret_cast<__m256i*>(pairs), rounded(row + k));
        for (int i = 0; i < 8; ++i, out += kPoints) *out = pairs[i];
    }
}

void copy_point(const void* from, int slot, int64_t depth, void* block, int place) {
    const int32_t* in = static_cast<const int32_t*>(from) + slot;
    int32_t* out = static_cast<int32_t*>(block) + place;
    for (int64_t k = 0; k < depth / 2; ++k) out[k * kPoints] = in[k * kPoints];
}

// In place: of the intrinsics GCC 12 makes all products first, for which accumulators leave their registers.
inline void multiply_add(__m256i& sum, __m256i a, __m256i b) {
    __m256i product;
    asm("vpmaddwd %3, %2, %1\n\tvpaddd %1, %0, %0" : "+x"(sum), "=&x"(product) : "x"(a), "x"(b));
}

bool tile(const void* group, const void* block, int64_t depth, const float* half, const float* threshold,
          uint32_t* masks, float* values) {
    const __m256i* lane = static_cast<const __m256i*>(group);
    const int32_t* point = static_cast<const int32_t*>(block);
    __m256i sum[kPoints][2];
#pragma GCC unroll 6
    for (int p = 0; p < kPoints; ++p) sum[p][0] = sum[p][1] = _mm256_setzero_si256();
    for (int64_t k = 0; k < depth; k += 2, lane += 2, point += kPoints) {
        const __m256i a = _mm256_load_si256(lane), b = _mm256_load_si256(lane + 1);
#pragma GCC unroll 6
        for (int p = 0; p < kPoints; ++p) {
            const __m256i y = _mm256_set1_epi32(point[p]);
            multiply_add(sum[p][0], a, y);
            multiply_add(sum[p][1], b, y);
        }
    }
    const V low = load(threshold), high = load(threshold + 8);
    V v[kPoints][2];
    uint32_t any = 0;
#pragma GCC unroll 6
    for (int p = 0; p < kPoints; ++p) {
        const V shift = _mm256_broadcast_ss(half + p);
        v[p][0] = _mm256_add_ps(_mm256_cvtepi32_ps(sum[p][0]), shift);
        v[p][1] = _mm256_add_ps(_mm256_cvtepi32_ps(sum[p][1]), shift);
        masks[p] = at_least(v[p][0], low) | at_least(v[p][1], high) << 8;
        any |= masks[p];
    }
    if (any == 0) return false;
#pragma GCC unroll 6
    for (int p = 0; p < kPoints; ++p) {
        store(values + p * kLanes, v[p][0]);
        store(values + p * kLanes + 8, v[p][1]);
    }
    return true;
}

inline void add_squares(__m256d (&sum)[2], __m256 x) {
    const __m256d low = _mm256_cvtps_pd(_mm256_castps256_ps128(x)), high = _mm256_cvtps_pd(_mm256_extractf128_ps(x, 1));
    sum[0] = _mm256_fmadd_pd(low, low, sum[0]);
    sum[1] = _mm256_fmadd_pd(high, high, sum[1]);
}

void measure(const float* row, int64_t depth, double* norm2) {
    __m256d sum[3][2] = {};
    for (int64_t k = 0; k < depth; k += 8) {
        const __m256 x = _mm256_loadu_ps(row + k);
        const __m256 q = _mm256_round_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
        add_squares(sum[0], x);
        add_squares(sum[1], q);
        add_squares(sum[2], _mm256_sub_ps(x, q)); // the difference is exact: the two are close
    }
    for (int i = 0; i < 3; ++i) {
        alignas(32) double part[4];
        _mm256_store_pd(part, _mm256_add_pd(sum[i][0], sum[i][1]));
        norm2[i] = (part[0] + part[2]) + (part[1] + part[3]);
    }
}

void no_state() {}

void widen_f16(const uint16_t* x, int64_t dim, float* out) {
    int64_t i = 0;
    for (; i + 8 <= dim; i += 8)
        _mm256_storeu_ps(out + i, _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(x + i))));
    for (; i < dim; ++i) out[i] = _cvtsh_ss(x[i]);
}

} // namespace

const TileKernel& avx2_integers() {
    static const TileKernel kernel = {"avx2i", kLanes, kPoints, 16, 2, 0.0, kLongest, pack_lanes, pack_point, copy_point, tile,
                                      insert, measure, squared_f32, squared_f64, subtract, widen_f16, project, apart,
                                      no_state, no_state};
    return kernel;
}

} // namespace pcf
