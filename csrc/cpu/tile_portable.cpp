// The kernel for any processor: four floats at a time by compiler vectors, without fused multiply-add.
#include "kernel.h"

namespace pcf {
namespace {

typedef float V __attribute__((vector_size(16)));
constexpr int kWidth = 4, kVectors = 2, kPoints = 6;

inline V load(const float* p) { return *reinterpret_cast<const V*>(p); }
inline void store(float* p, V v) { *reinterpret_cast<V*>(p) = v; }
inline V broadcast(const float* p) { return V{*p, *p, *p, *p}; }
inline V fma(V a, V b, V c) { return a * b + c; }
inline V larger(V a, V b) { return a > b ? a : b; }
inline V smaller(V a, V b) { return a > b ? b : a; }
inline uint32_t at_least(V a, V b) {
    const auto m = a >= b;
    return (m[0] & 1u) | (m[1] & 2u) | (m[2] & 4u) | (m[3] & 8u);
}

#include "tile_common.h"
#include "tile_simd.h"

// binary16 by its bits: moving the exponent, then undoing the offset, is exact for every finite value.
void widen_f16(const uint16_t* x, int64_t dim, float* out) {
    union { uint32_t bits; float value; } word, scale;
    scale.bits = (254u - 15u) << 23; // 2^112
    for (int64_t i = 0; i < dim; ++i) {
        const uint32_t h = x[i];
        word.bits = (h & 0x7fffu) << 13;
        word.value *= scale.value;
        if ((h & 0x7c00u) == 0x7c00u) word.bits |= 255u << 23; // infinity and NaN stay what they are
        word.bits |= (h & 0x8000u) << 16;
        out[i] = word.value;
    }
}

} // namespace

const TileKernel& portable_kernel() {
    static const TileKernel kernel = {"portable", kLanes, kPoints, 8, 4, 2.0, 0.0, pack_lanes, pack_point, copy_point, tile, insert, measure,
                                      squared_f32, squared_f64, subtract, widen_f16, project, apart,
                                      no_state, no_state};
    return kernel;
}

} // namespace pcf
