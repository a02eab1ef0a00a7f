// What one instruction set provides: a tile of products with a threshold test, and the canonical distance.
//
// "Lanes" are the rows whose bounds are sought (features, queries), "points" what they are compared with (picks, bank
// rows). Of a lane x and a point y the tile computes v = x.y - |y|^2 / 2, so that |x - y|^2 = |x|^2 - 2 v, and
// says where v >= threshold[lane]. How far v may be off, and what stands for the squared norms of rounded rows, is
// bound.h's business.
#pragma once
#include <cstdint>
#include <string>

namespace pcf {

struct TileKernel {
    const char* name;
    int lanes;        // rows of a lane group; at most 32
    int points;       // points of a block
    int step;         // depth (values of a packed row, zero-padded) is a multiple of this
    int bytes;        // of a packed value
    double roundings; // float32 roundings a product goes through in the accumulation
    double longest;   // rows are rounded to integers, and none may be longer than this; 0: rows of any length
    // [lanes][depth] float32 -> lanes * depth * bytes, 64-byte aligned
    void (*pack_lanes)(const float* rows, int64_t depth, void* group);
    // one row [depth] float32 -> place `slot` of a block of points * depth * bytes, 64-byte aligned
    void (*pack_point)(const float* row, int64_t depth, void* block, int slot);
    void (*copy_point)(const void* from, int slot, int64_t depth, void* block, int place);
    // half[points] = -w_y / 2, threshold[lanes]. Sets bit l of masks[p] where v >= threshold[l]; true if any is.
    // values[points][lanes] holds v for every point with a mask that is not zero.
    bool (*tile)(const void* group, const void* block, int64_t depth, const float* half, const float* threshold,
                 uint32_t* masks, float* values);
    // Keep in top[k][lanes], descending, the k largest values of each lane, those of values[points][lanes] included.
    void (*insert)(const float* values, int64_t k, float* top);
    // |z|^2, |q|^2 and |z - q|^2 of a row z and its packed form q, summed in float64
    void (*measure)(const float* row, int64_t depth, double* norm2);
    // canonical squared distance (kernels/exact.py): float64 differences, squares, summed by halving. scratch [dim]
    double (*squared_f32)(const float* x, const float* y, int64_t dim, double* scratch);
    double (*squared_f64)(const double* x, const double* y, int64_t dim, double* scratch);
    // (x - centre) * scale; the scale is a power of two
    void (*subtract)(const float* x, const float* centre, float scale, int64_t dim, float* out);
    void (*widen_f16)(const uint16_t* x, int64_t dim, float* out);
    // four rows [4][dim] times directions [blocks][dim][8] -> along [4][blocks * 8]
    void (*project)(const double* rows, int64_t dim, const double* directions, int64_t blocks, double* along);
    // sum of squared differences of n values, a multiple of 16; no more than n / 16 + 6 roundings a term
    float (*apart)(const float* x, const float* y, int64_t n);
    void (*begin)(); // around the tiles that one thread computes: state of the unit
    void (*end)();
};

enum class Isa;
const TileKernel& kernel_of(Isa isa); // throws std::runtime_error where it cannot run
// The same by name; "avx2i" is AVX2 on rows rounded to 16-bit integers.
const TileKernel& kernel_named(const std::string& name);

const TileKernel& portable_kernel();
#if PCF_HAVE_AVX2
const TileKernel& avx2_kernel();
const TileKernel& avx2_integers();
#endif
#if PCF_HAVE_AVX512
const TileKernel& avx512_kernel();
#endif
#if PCF_HAVE_VNNI
const TileKernel& vnni_kernel();
#endif
#if PCF_HAVE_AMX
const TileKernel& amx_kernel();
#endif

} // namespace pcf
