// AVX-512 VNNI: products of 16-bit integers, twice as many an instruction as of float32; 32 lanes x 12 points.
//
// The frame is scaled so that no row is longer than kLongest; rows are rounded to integers. By Cauchy and Schwarz no
// sum of products, nor any part of one, then leaves 32 bits: the integer arithmetic is exact, and what rounding lost
// is measured for every row.
#include "kernel.h"

#include <immintrin.h>

namespace pcf {
namespace {

typedef __m512 V;
constexpr int kWidth = 16, kLanes = 32, kPoints = 12;
constexpr double kLongest = 32000; // a rounded row is longer by half the root of its depth at most

inline V load(const float* p) { return _mm512_load_ps(p); }
inline void store(float* p, V v) { _mm512_store_ps(p, v); }
inline V larger(V a, V b) { return _mm512_max_ps(a, b); }
inline V smaller(V a, V b) { return _mm512_min_ps(a, b); }
inline uint32_t at_least(V a, V b) { return _mm512_cmp_ps_mask(a, b, _CMP_GE_OQ); }

#include "tile_common.h"
#include "tile_insert.h"
#include "transpose_avx512.h"

inline __m512i rounded(const float* row) { // 32 floats -> 32 integers of 16 bits
    const __m256i low = _mm512_cvtsepi32_epi16(_mm512_cvtps_epi32(_mm512_loadu_ps(row)));
    const __m256i high = _mm512_cvtsepi32_epi16(_mm512_cvtps_epi32(_mm512_loadu_ps(row + 16)));
    return _mm512_inserti64x4(_mm512_castsi256_si512(low), high, 1);
}

// A group is [depth / 2][32 lanes][2].
void pack_lanes(const float* rows, int64_t depth, void* group) {
    int32_t* out = static_cast<int32_t*>(group);
    for (int64_t k = 0; k < depth; k += 32, out += 16 * kLanes)
        for (int part = 0; part < kLanes; part += 16) {
            __m512i r[16];
#pragma GCC unroll 16
            for (int l = 0; l < 16; ++l) r[l] = rounded(rows + (part + l) * depth + k);
            transpose(r);
#pragma GCC unroll 16
            for (int i = 0; i < 16; ++i) _mm512_store_si512(out + i * kLanes + part, r[i]);
        }
}

// A block is [depth / 2][12 points][2].
void pack_point(const float* row, int64_t depth, void* block, int slot) {
    int32_t* out = static_cast<int32_t*>(block) + slot;
    alignas(64) int32_t pairs[16];
    for (int64_t k = 0; k < depth; k += 32) {
        _mm512_store_si512(pairs, rounded(row + k));
        for (int i = 0; i < 16; ++i, out += kPoints) *out = pairs[i];
    }
}

void copy_point(const void* from, int slot, int64_t depth, void* block, int place) {
    const int32_t* in = static_cast<const int32_t*>(from) + slot;
    int32_t* out = static_cast<int32_t*>(block) + place;
    for (int64_t k = 0; k < depth / 2; ++k) out[k * kPoints] = in[k * kPoints];
}

// In place: the intrinsic makes GCC 12 copy every accumulator, which halves the speed.
inline void multiply_add(__m512i& sum, __m512i a, __m512i b) { asm("vpdpwssd %2, %1, %0" : "+v"(sum) : "v"(a), "v"(b)); }

bool tile(const void* group, const void* block, int64_t depth, const float* half, const float* threshold,
          uint32_t* masks, float* values) {
    const int32_t* lane = static_cast<const int32_t*>(group);
    const int32_t* point = static_cast<const int32_t*>(block);
    __m512i sum[kPoints][2];
#pragma GCC unroll 12
    for (int p = 0; p < kPoints; ++p) sum[p][0] = sum[p][1] = _mm512_setzero_si512();
    for (int64_t k = 0; k < depth; k += 2, lane += kLanes, point += kPoints) {
        const __m512i a = _mm512_load_si512(lane), b = _mm512_load_si512(lane + 16);
#pragma GCC unroll 12
        for (int p = 0; p < kPoints; ++p) {
            const __m512i y = _mm512_set1_epi32(point[p]);
            multiply_add(sum[p][0], a, y);
            multiply_add(sum[p][1], b, y);
        }
    }
    const V low = load(threshold), high = load(threshold + 16);
    V v[kPoints][2];
    uint32_t any = 0;
#pragma GCC unroll 12
    for (int p = 0; p < kPoints; ++p) {
        const V shift = _mm512_set1_ps(half[p]);
        v[p][0] = _mm512_add_ps(_mm512_cvtepi32_ps(sum[p][0]), shift);
        v[p][1] = _mm512_add_ps(_mm512_cvtepi32_ps(sum[p][1]), shift);
        masks[p] = at_least(v[p][0], low) | at_least(v[p][1], high) << 16;
        any |= masks[p];
    }
    if (any == 0) return false;
#pragma GCC unroll 12
    for (int p = 0; p < kPoints; ++p) {
        store(values + p * kLanes, v[p][0]);
        store(values + p * kLanes + 16, v[p][1]);
    }
    return true;
}

void measure(const float* row, int64_t depth, double* norm2) {
    __m512d sum[3] = {};
    for (int64_t k = 0; k < depth; k += 16) {
        const __m512 x = _mm512_loadu_ps(row + k);
        const __m512 q = _mm512_roundscale_ps(x, 0);
        const __m512 part[3] = {x, q, _mm512_sub_ps(x, q)}; // the difference is exact: the two are close
        for (int i = 0; i < 3; ++i) {
            const __m512d low = _mm512_cvtps_pd(_mm512_castps512_ps256(part[i]));
            const __m512d high = _mm512_cvtps_pd(_mm512_extractf32x8_ps(part[i], 1));
            sum[i] = _mm512_fmadd_pd(high, high, _mm512_fmadd_pd(low, low, sum[i]));
        }
    }
    for (int i = 0; i < 3; ++i) norm2[i] = _mm512_reduce_add_pd(sum[i]);
}

void no_state() {}

void widen_f16(const uint16_t* x, int64_t dim, float* out) {
    int64_t i = 0;
    for (; i + 16 <= dim; i += 16)
        _mm512_storeu_ps(out + i, _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(x + i))));
    for (; i < dim; ++i) out[i] = _cvtsh_ss(x[i]);
}

} // namespace

const TileKernel& vnni_kernel() {
    static const TileKernel kernel = {"avx512", kLanes, kPoints, 32, 2, 0.0, kLongest, pack_lanes, pack_point, copy_point, tile,
                                      insert, measure, squared_f32, squared_f64, subtract, widen_f16, project, apart,
                                      no_state, no_state};
    return kernel;
}

} // namespace pcf
