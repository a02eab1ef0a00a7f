// AMX: products of bfloat16 tiles, sixteen points x sixteen lanes x 32 values in one instruction of sixteen cycles.
//
// Rows are rounded to bfloat16, so a value is off by up to 2^-9 of itself. The tile is a filter only: what may be
// nearer than a row's bound, by the rounding error measured for every row, is settled in float64.
#include "kernel.h"

#include <immintrin.h>

namespace pcf {
namespace {

#include "tile_common.h"

constexpr int kLanes = 32, kPoints = 32;
constexpr int64_t kTileBytes = 1024; // 16 rows of 64 bytes

struct alignas(64) TileConfig {
    uint8_t palette = 1, start = 0, reserved[14] = {};
    uint16_t bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
    uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
};

// Not a local: the intrinsic of GCC 12 reads eight bytes as far as the optimiser knows.
const TileConfig kConfig;

void begin() { _tile_loadconfig(&kConfig); }

void end() { _tile_release(); }

inline __m512i rounded(const float* row) { // 32 floats -> 32 bfloat16, to nearest even
    return (__m512i)_mm512_cvtne2ps_pbh(_mm512_loadu_ps(row + 16), _mm512_loadu_ps(row));
}

#include "transpose_avx512.h"

// A group is [depth / 32][2 halves][16 pairs of values][16 lanes][2]: the layout of the second operand.
void pack_lanes(const float* rows, int64_t depth, void* group) {
    char* out = static_cast<char*>(group);
    for (int64_t k = 0; k < depth; k += 32)
        for (int part = 0; part < 2; ++part, out += kTileBytes) {
            __m512i r[16];
#pragma GCC unroll 16
            for (int l = 0; l < 16; ++l) r[l] = rounded(rows + (part * 16 + l) * depth + k);
            transpose(r);
#pragma GCC unroll 16
            for (int l = 0; l < 16; ++l) _mm512_store_si512(out + 64 * l, r[l]);
        }
}

// A block is [depth / 32][2 halves][16 points][32 values]: the layout of the first operand.
void pack_point(const float* row, int64_t depth, void* block, int slot) {
    char* out = static_cast<char*>(block) + slot * 64;
    for (int64_t k = 0; k < depth; k += 32, out += 2 * kTileBytes) _mm512_store_si512(out, rounded(row + k));
}

void copy_point(const void* from, int slot, int64_t depth, void* block, int place) {
    const char* in = static_cast<const char*>(from) + slot * 64;
    char* out = static_cast<char*>(block) + place * 64;
    for (int64_t k = 0; k < depth; k += 32, in += 2 * kTileBytes, out += 2 * kTileBytes)
        _mm512_store_si512(out, _mm512_load_si512(in));
}

bool tile(const void* group, const void* block, int64_t depth, const float* half, const float* threshold,
          uint32_t* masks, float* values) {
    const char* lane = static_cast<const char*>(group);
    const char* point = static_cast<const char*>(block);
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    for (int64_t k = 0; k < depth; k += 32, lane += 2 * kTileBytes, point += 2 * kTileBytes) {
        _tile_loadd(4, point, 64);
        _tile_loadd(6, lane, 64);
        _tile_loadd(7, lane + kTileBytes, 64);
        _tile_dpbf16ps(0, 4, 6);
        _tile_dpbf16ps(1, 4, 7);
        _tile_loadd(5, point + kTileBytes, 64);
        _tile_dpbf16ps(2, 5, 6);
        _tile_dpbf16ps(3, 5, 7);
    }
    _tile_stored(0, values, 128);
    _tile_stored(1, values + 16, 128);
    _tile_stored(2, values + 16 * kLanes, 128);
    _tile_stored(3, values + 16 * kLanes + 16, 128);
    const __m512 low = _mm512_load_ps(threshold), high = _mm512_load_ps(threshold + 16);
    uint32_t any = 0;
#pragma GCC unroll 8
    for (int p = 0; p < kPoints; ++p) {
        const __m512 shift = _mm512_set1_ps(half[p]);
        const __m512 a = _mm512_add_ps(shift, _mm512_load_ps(values + p * kLanes));
        const __m512 b = _mm512_add_ps(shift, _mm512_load_ps(values + p * kLanes + 16));
        masks[p] = uint32_t(_mm512_cmp_ps_mask(a, low, _CMP_GE_OQ)) |
                   uint32_t(_mm512_cmp_ps_mask(b, high, _CMP_GE_OQ)) << 16;
        any |= masks[p];
    }
    if (any == 0) return false;
    for (int p = 0; p < kPoints; ++p) {
        if (masks[p] == 0) continue;
        const __m512 shift = _mm512_set1_ps(half[p]);
        float* v = values + p * kLanes;
        _mm512_store_ps(v, _mm512_add_ps(shift, _mm512_load_ps(v)));
        _mm512_store_ps(v + 16, _mm512_add_ps(shift, _mm512_load_ps(v + 16)));
    }
    return true;
}

typedef __m512 V;
constexpr int kWidth = 16;

inline V load(const float* p) { return _mm512_load_ps(p); }
inline void store(float* p, V v) { _mm512_store_ps(p, v); }
inline V larger(V a, V b) { return _mm512_max_ps(a, b); }
inline V smaller(V a, V b) { return _mm512_min_ps(a, b); }
inline uint32_t at_least(V a, V b) { return _mm512_cmp_ps_mask(a, b, _CMP_GE_OQ); }

#include "tile_insert.h"

void measure(const float* row, int64_t depth, double* norm2) {
    __m512d sum[3] = {};
    for (int64_t k = 0; k < depth; k += 16) {
        const __m512 x = _mm512_loadu_ps(row + k);
        const __m256i packed = (__m256i)_mm512_cvtneps_pbh(x);
        const __m512 q = _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(packed), 16));
        const __m512 part[3] = {x, q, _mm512_sub_ps(x, q)}; // the difference is exact: the two are close
        for (int i = 0; i < 3; ++i) {
            const __m512d low = _mm512_cvtps_pd(_mm512_castps512_ps256(part[i]));
            const __m512d high = _mm512_cvtps_pd(_mm512_extractf32x8_ps(part[i], 1));
            sum[i] = _mm512_fmadd_pd(high, high, _mm512_fmadd_pd(low, low, sum[i]));
        }
    }
    for (int i = 0; i < 3; ++i) norm2[i] = _mm512_reduce_add_pd(sum[i]);
}

void widen_f16(const uint16_t* x, int64_t dim, float* out) {
    int64_t i = 0;
    for (; i + 16 <= dim; i += 16)
        _mm512_storeu_ps(out + i, _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(x + i))));
    for (; i < dim; ++i) out[i] = _cvtsh_ss(x[i]);
}

} // namespace

const TileKernel& amx_kernel() {
    // Each of the two products that an instruction adds to a sum is rounded once, and so is the sum.
    static const TileKernel kernel = {"amx", kLanes, kPoints, 32, 2, 2.0, 0.0, pack_lanes, pack_point, copy_point, tile, insert, measure,
                                      squared_f32, squared_f64, subtract, widen_f16, project, apart,
                                      begin, end};
    return kernel;
}

} // namespace pcf
