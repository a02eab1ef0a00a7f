// Tensor cores, from sm_80 on: their instructions, and what they are given.
#pragma once
#include "gpu.h"

#include <type_traits>

namespace pcf {

// x rounded to TF32, nearest, ties away from zero; the low 13 bits are zero.
PCF_DEVICE uint32_t to_tf32(float x) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
    uint32_t out;
    asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(out) : "f"(x));
    return out & 0xffffe000u;
#else
    const uint32_t bits = float_to_bits(x);
    return ((bits & 0x7f800000u) == 0x7f800000u ? bits : bits + 0x1000u) & 0xffffe000u;
#endif
}

// x = hi + lo, exactly; the tensor core then cuts lo to TF32, off by 2^-21 |x| at most.
PCF_DEVICE void split_tf32(float x, uint32_t& hi, uint32_t& lo) {
    hi = to_tf32(x);
    lo = float_to_bits(x - bits_to_float(hi));
}

// Four matrices of 8 rows of 16 bytes from shared memory, as registers of fragments: lane l brings the address of row
// l % 8 of matrix l / 8, a multiple of 16 bytes, and gets the word l % 4 of row l / 4 of each matrix.
PCF_DEVICE void load_matrices(uint32_t (&out)[4], const float* row PCF_SITE) {
#if defined(PCF_EMULATED)
    for (int i = 0; i < 4; ++i) {
        const auto from = __shfl_sync(kAll, reinterpret_cast<uintptr_t>(row), 8 * i + lane() / 4, 32 PCF_AT);
        const uint4 v = *reinterpret_cast<const uint4*>(from);
        const uint32_t words[4] = {v.x, v.y, v.z, v.w};
        out[i] = words[lane() % 4];
    }
#else
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(out[0]), "=r"(out[1]), "=r"(out[2]), "=r"(out[3])
                 : "r"(unsigned(__cvta_generic_to_shared(row)))
                 : "memory");
#endif
}

// d += a b for a [16, 8] row by row, b [8, 8] column by column, d [16, 8]; fragments as PTX's mma.m16n8k8 lays them
// out, with g = lane / 4, t = lane % 4: a = (g, t), (g + 8, t), (g, t + 4), (g + 8, t + 4); b = (t, g), (t + 4, g);
// d = (g, 2 t), (g, 2 t + 1), (g + 8, 2 t), (g + 8, 2 t + 1).
PCF_DEVICE void mma_tf32(float d[4], const uint32_t a[4], const uint32_t b[2] PCF_SITE) {
#if defined(PCF_EMULATED)
    emulated::mma_tf32(d, a, b PCF_AT);
#elif defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
    asm("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#elif defined(__CUDA_ARCH__)
    __trap(); // the host never launches it there
#endif
}

// The same for a [16, 16] and b [16, 8] of Half or Brain, two values side by side along k in a register, the first one
// in its low half: a = (g, 2 t), (g + 8, 2 t), (g, 2 t + 8), (g + 8, 2 t + 8); b = (2 t, g), (2 t + 8, g).
template <class T>
PCF_DEVICE void mma_half(float d[4], const uint32_t a[4], const uint32_t b[2] PCF_SITE) {
    [[maybe_unused]] constexpr bool brain = std::is_same_v<T, Brain>;
#if defined(PCF_EMULATED)
    emulated::mma_half(d, a, b, brain PCF_AT);
#elif defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
    if constexpr (brain)
        asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
            : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
            : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
    else
        asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
            : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
            : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#elif defined(__CUDA_ARCH__)
    __trap(); // the host never launches it there
#endif
}

} // namespace pcf
