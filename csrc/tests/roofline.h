// Loops that show what a processor can do at most: multiply-adds in registers, reads of memory. In assembly, so that no
// compiler shortens them and no flags are needed; call only what isa_refusal allows. Included by roofline.cpp.
#pragma once
#include "cpu/isa.h"
#include "cpu/kernel.h"

#include <cstdint>

namespace {

using namespace pcf;

#if defined(__x86_64__)
#define PCF_ALL_XMM "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", "xmm10", "xmm11", \
                    "xmm12", "xmm13", "xmm14", "xmm15"
#define PCF_ON12(f) f(0) f(1) f(2) f(3) f(4) f(5) f(6) f(7) f(8) f(9) f(10) f(11)
// Twelve independent sums hide the latency; zeros are no denormals, and speed does not depend on values.
#define PCF_LOOP(name, clear, body, finish)                                                             \
    void name(int64_t n) {                                                                              \
        __asm__ volatile(clear "1:\n" body "dec %0\n jnz 1b\n" finish : "+r"(n) : : "cc", PCF_ALL_XMM); \
    }
#define PCF_CLEAR(i) "xorps %%xmm" #i ", %%xmm" #i "\n"
#define PCF_MUL(i) "mulps %%xmm12, %%xmm" #i "\n"
#define PCF_ADD(i) "addps %%xmm12, %%xmm" #i "\n"
#define PCF_SSE PCF_MUL(0) PCF_ADD(1) PCF_MUL(2) PCF_ADD(3) PCF_MUL(4) PCF_ADD(5) \
    PCF_MUL(6) PCF_ADD(7) PCF_MUL(8) PCF_ADD(9) PCF_MUL(10) PCF_ADD(11)
#define PCF_AVX2(i) "vfmadd231ps %%ymm12, %%ymm13, %%ymm" #i "\n"
#define PCF_AVX512(i) "vfmadd231ps %%zmm12, %%zmm13, %%zmm" #i "\n"
#define PCF_VNNI(i) "vpdpwssd %%zmm12, %%zmm13, %%zmm" #i "\n"
PCF_LOOP(peak_sse, PCF_ON12(PCF_CLEAR) PCF_CLEAR(12), PCF_SSE, "")
PCF_LOOP(peak_avx2, "vzeroall\n", PCF_ON12(PCF_AVX2), "vzeroupper\n")
#if PCF_HAVE_AVX512
PCF_LOOP(peak_avx512, "vzeroall\n", PCF_ON12(PCF_AVX512), "vzeroupper\n")
#endif
#if PCF_HAVE_VNNI
PCF_LOOP(peak_vnni, "vzeroall\n", PCF_ON12(PCF_VNNI), "vzeroupper\n")
#endif
#if PCF_HAVE_AMX
void peak_amx(int64_t n) {
    const TileKernel& kernel = kernel_of(Isa::amx);
    kernel.begin(); // eight tiles of sixteen rows of 64 bytes
    __asm__ volatile("tilezero %%tmm0\n tilezero %%tmm1\n tilezero %%tmm2\n tilezero %%tmm3\n tilezero %%tmm4\n"
                     "tilezero %%tmm5\n tilezero %%tmm6\n tilezero %%tmm7\n"
                     "1:\n tdpbf16ps %%tmm6, %%tmm4, %%tmm0\n tdpbf16ps %%tmm7, %%tmm4, %%tmm1\n"
                     "tdpbf16ps %%tmm6, %%tmm5, %%tmm2\n tdpbf16ps %%tmm7, %%tmm5, %%tmm3\n dec %0\n jnz 1b\n"
                     : "+r"(n) : : "cc");
    kernel.end();
}
#endif

#define PCF_ON8(f) f(0) f(1) f(2) f(3) f(4) f(5) f(6) f(7)
#define PCF_READ(name, width, load, finish)                                                        \
    void name(const char* p, int64_t bytes) {                                                      \
        const char* end = p + bytes;                                                               \
        __asm__ volatile("1:\n" PCF_ON8(load) "add $" #width "*8, %0\n cmp %1, %0\n jb 1b\n" finish \
                         : "+r"(p) : "r"(end) : "cc", "memory", PCF_ALL_XMM);                      \
    }
#define PCF_READ16(i) "movaps 16*" #i "(%0), %%xmm" #i "\n"
#define PCF_READ32(i) "vmovaps 32*" #i "(%0), %%ymm" #i "\n"
#define PCF_READ64(i) "vmovaps 64*" #i "(%0), %%zmm" #i "\n"
PCF_READ(read_sse, 16, PCF_READ16, "")
PCF_READ(read_avx2, 32, PCF_READ32, "vzeroupper\n")
#if PCF_HAVE_AVX512
PCF_READ(read_avx512, 64, PCF_READ64, "vzeroupper\n")
#endif

struct Peak {
    Isa isa;
    const char* instruction;
    double operations; // of one turn: a multiply-add counts as two
    void (*run)(int64_t);
};
const Peak kPeaks[] = {
    {Isa::portable, "mulps, addps xmm", 12 * 4, peak_sse},
    {Isa::avx2, "vfmadd231ps ymm", 12 * 16, peak_avx2},
#if PCF_HAVE_AVX512
    {Isa::avx512f, "vfmadd231ps zmm", 12 * 32, peak_avx512},
#endif
#if PCF_HAVE_VNNI
    {Isa::avx512, "vpdpwssd zmm", 12 * 64, peak_vnni},
#endif
#if PCF_HAVE_AMX
    {Isa::amx, "tdpbf16ps tmm", 4 * 16384, peak_amx},
#endif
};

void (*reader())(const char*, int64_t) {
#if PCF_HAVE_AVX512
    if (isa_refusal(Isa::avx512f).empty()) return read_avx512;
#endif
    return isa_refusal(Isa::avx2).empty() ? read_avx2 : read_sse;
}
#endif

} // namespace
