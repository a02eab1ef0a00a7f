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
inline uint32_t at_least(V a, V b) { return _mm512_cmp_ps_mask(a, b, _CMP_GE_OQ); }

#include "tile_common.h"
#include "tile_simd.h"

void widen_f16(const uint16_t* x, int64_t dim, float* out) {
    int64_t i = 0;
    for (; i + 16 <= dim; i += 16)
        _mm512_storeu_ps(out + i, _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(x + i))));
    for (; i < dim; ++i) out[i] = _cvtsh_ss(x[i]);
}

} // namespace

const TileKernel& avx512_kernel() {
    static const TileKernel kernel = {"avx512", kLanes, kPoints, 8, 4, 1.0, pack_lanes, pack_point, tile, measure,
                                      squared_f32, squared_f64, subtract, widen_f16, no_state, no_state};
    return kernel;
}

} // namespace pcf
