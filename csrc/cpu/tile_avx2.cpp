// AVX2 with fused multiply-add: 16 lanes x 6 points in twelve of the sixteen registers.
#include "kernel.h"

#include <immintrin.h>

namespace pcf {
namespace {

typedef __m256 V;
constexpr int kWidth = 8, kVectors = 2, kPoints = 6;

inline V load(const float* p) { return _mm256_load_ps(p); }
inline void store(float* p, V v) { _mm256_store_ps(p, v); }
inline V broadcast(const float* p) { return _mm256_broadcast_ss(p); }
inline V fma(V a, V b, V c) { return _mm256_fmadd_ps(a, b, c); }
inline V larger(V a, V b) { return _mm256_max_ps(a, b); }
inline V smaller(V a, V b) { return _mm256_min_ps(a, b); }
inline uint32_t at_least(V a, V b) { return uint32_t(_mm256_movemask_ps(_mm256_cmp_ps(a, b, _CMP_GE_OQ))); }

#include "tile_common.h"
#include "tile_simd.h"

void widen_f16(const uint16_t* x, int64_t dim, float* out) {
    int64_t i = 0;
    for (; i + 8 <= dim; i += 8)
        _mm256_storeu_ps(out + i, _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(x + i))));
    for (; i < dim; ++i) out[i] = _cvtsh_ss(x[i]);
}

} // namespace

const TileKernel& avx2_kernel() {
    static const TileKernel kernel = {"avx2", kLanes, kPoints, 8, 4, 1.0, 0.0, pack_lanes, pack_point, copy_point, tile, insert, measure,
                                      squared_f32, squared_f64, subtract, widen_f16, project, apart,
                                      no_state, no_state};
    return kernel;
}

} // namespace pcf
