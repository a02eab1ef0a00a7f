// AVX-512: 32 lanes x 12 points in twenty-four of the thirty-two registers.
#include "kernel.h"

#include <immintrin.h>

namespace pcf {
namespace {

typedef __m512 V;
constexpr int kWidth = 16, kVectors = 2, kPoints = 12;

inline V load(const float* p) { return _mm512_load_ps(p); }
inline void store(float* p, V v) { _mm512_store_ps(p, v); }
inline V broadcast(const float* p) { return _mm512_set1_ps(*p); }
inline V fma(V a, V b, V c) { return _mm512_fmadd_ps(a, b, c); }
inline V larger(V a, V b) { return _mm512_max_ps(a, b); }
inline V smaller(V a, V b) { return _mm512_min_ps(a, b); }
inline uint32_t at_least(V a, V b) { return _mm512_cmp_ps_mask(a, b, _CMP_GE_OQ); }

#include "tile_common.h"
#include "transpose_avx512.h"

void pack_lanes(const float* rows, int64_t depth, void* group) {
    float* out = static_cast<float*>(group); // [depth][32]
    for (int64_t k = 0; k < depth; k += 16)
        for (int part = 0; part < 32; part += 16) {
            __m512i r[16];
#pragma GCC unroll 16
            for (int l = 0; l < 16; ++l) r[l] = _mm512_loadu_si512(rows + (part + l) * depth + k);
            transpose(r);
#pragma GCC unroll 16
            for (int i = 0; i < 16; ++i) _mm512_store_si512(out + (k + i) * 32 + part, r[i]);
        }
}

#define PCF_OWN_PACK_LANES
#include "tile_simd.h"

void widen_f16(const uint16_t* x, int64_t dim, float* out) {
    int64_t i = 0;
    for (; i + 16 <= dim; i += 16)
        _mm512_storeu_ps(out + i, _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(x + i))));
    for (; i < dim; ++i) out[i] = _cvtsh_ss(x[i]);
}

} // namespace

const TileKernel& avx512_kernel() {
    static const TileKernel kernel = {"avx512f", kLanes, kPoints, 16, 4, 1.0, 0.0, pack_lanes, pack_point, copy_point, tile, insert, measure,
                                      squared_f32, squared_f64, subtract, widen_f16, project, apart,
                                      no_state, no_state};
    return kernel;
}

} // namespace pcf
