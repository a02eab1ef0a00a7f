#include "isa.h"

#include <cstdint>
#include <cstdlib>
#include <stdexcept>

#if defined(__x86_64__)
#include <cpuid.h>
#endif
#if defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#endif

// CMake defines these for every translation unit when it builds the one in question.
#ifndef PCF_HAVE_AVX2
#define PCF_HAVE_AVX2 0
#endif
#ifndef PCF_HAVE_AVX512
#define PCF_HAVE_AVX512 0
#endif
#ifndef PCF_HAVE_VNNI
#define PCF_HAVE_VNNI 0
#endif
#ifndef PCF_HAVE_AMX
#define PCF_HAVE_AMX 0
#endif

namespace pcf {
namespace {

constexpr const char* variable = "PATCHCORE_FAST_ISA";
constexpr const char* accepted = "portable, avx2, avx512f, avx512, amx";

#if defined(__x86_64__)

struct Registers {
    uint32_t eax = 0, ebx = 0, ecx = 0, edx = 0;
};

Registers cpuid(uint32_t leaf, uint32_t subleaf) {
    Registers r;
    // Returns 0 and writes nothing where the CPU has no such leaf; a subleaf that does not exist reads as zeros.
    __get_cpuid_count(leaf, subleaf, &r.eax, &r.ebx, &r.ecx, &r.edx);
    return r;
}

struct Cpu {
    Registers basic = cpuid(1, 0), extended = cpuid(7, 0), more;
    uint64_t saved = 0; // XCR0: the register state that the operating system saves between threads

    Cpu() {
        if (extended.eax >= 1) more = cpuid(7, 1);
        if (basic.ecx >> 27 & 1) { // OSXSAVE: without it xgetbv faults
            uint32_t low, high;
            __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0)); // the intrinsic would need -mxsave
            saved = uint64_t(high) << 32 | low;
        }
    }
};

const Cpu& this_cpu() {
    static const Cpu cpu;
    return cpu;
}

constexpr uint64_t ymm_state = 0x6, zmm_state = 0xe6, tile_state = 0x60000;

struct Need {
    const char* name;
    uint32_t word;
    int bit;
};

template <size_t n>
std::string missing(const Need (&needs)[n]) {
    std::string names;
    for (const Need& need : needs)
        if (!(need.word >> need.bit & 1)) names += (names.empty() ? "" : ", ") + std::string(need.name);
    return names;
}

std::string refusal_avx2() {
    const Cpu& cpu = this_cpu();
    const Need needs[] = {{"avx", cpu.basic.ecx, 28},
                          {"avx2", cpu.extended.ebx, 5},
                          {"fma", cpu.basic.ecx, 12},
                          {"f16c", cpu.basic.ecx, 29}};
    const std::string names = missing(needs);
    if (!names.empty()) return "the CPU has no AVX2 (missing: " + names + ")";
    if ((cpu.saved & ymm_state) != ymm_state) return "the operating system does not save the AVX registers";
    return "";
}

std::string refusal_avx512() {
    const Cpu& cpu = this_cpu();
    const Need needs[] = {{"avx512f", cpu.extended.ebx, 16},
                          {"avx512bw", cpu.extended.ebx, 30},
                          {"avx512vl", cpu.extended.ebx, 31},
                          {"avx512dq", cpu.extended.ebx, 17}};
    const std::string names = missing(needs);
    if (!names.empty()) return "the CPU has no AVX-512 (missing: " + names + ")";
    if ((cpu.saved & zmm_state) != zmm_state) return "the operating system does not save the AVX-512 registers";
    return refusal_avx2(); // its flags, fma and f16c among them, are on in the AVX-512 translation unit too
}

std::string refusal_vnni() {
    const Need needs[] = {{"avx512_vnni", this_cpu().extended.ecx, 11}};
    const std::string below = refusal_avx512(), names = missing(needs);
    return below.empty() && !names.empty() ? "the CPU has no AVX-512 VNNI (missing: " + names + ")" : below;
}

std::string request_tile_data() {
#if defined(__linux__) && defined(SYS_arch_prctl)
    // Linux gives the 8 KiB of tile registers only to processes that ask; threads made before and after are covered.
    constexpr long arch_req_xcomp_perm = 0x1023, xfeature_xtiledata = 18;
    if (syscall(SYS_arch_prctl, arch_req_xcomp_perm, xfeature_xtiledata) == 0) return "";
    return std::string("the kernel does not grant AMX tile data (") + std::strerror(errno) + ")";
#else
    return "no way is known to ask this operating system for AMX tile data";
#endif
}

std::string refusal_amx() {
    const Cpu& cpu = this_cpu();
    const Need needs[] = {{"amx_tile", cpu.extended.edx, 24}, {"amx_bf16", cpu.extended.edx, 22}};
    std::string names = missing(needs);
    if (!names.empty()) return "the CPU has no AMX (missing: " + names + ")";
    const Need beside[] = {{"avx512_bf16", cpu.more.eax, 5}};
    names = missing(beside);
    if (!names.empty()) return "the CPU has AMX but not all that goes with it (missing: " + names + ")";
    if ((cpu.saved & tile_state) != tile_state) return "the operating system does not save the AMX tile registers";
    const std::string below = refusal_avx512();
    if (!below.empty()) return below;
    static const std::string granted = request_tile_data(); // once, also when threads race to it
    return granted;
}

std::string refusal_of_cpu(Isa isa) {
    switch (isa) {
        case Isa::portable: return "";
        case Isa::avx2: return refusal_avx2();
        case Isa::avx512f: return refusal_avx512();
        case Isa::avx512: return refusal_vnni();
        case Isa::amx: return refusal_amx();
    }
    return "unknown instruction set";
}

constexpr const char* not_built = "not built: the compiler of this build lacks its flags";

#else

std::string refusal_of_cpu(Isa) { return ""; }

constexpr const char* not_built = "not built: not an x86-64 CPU";

#endif

bool parse(const std::string& name, Isa& out) {
    for (Isa isa : all_isas)
        if (name == isa_name(isa)) {
            out = isa;
            return true;
        }
    return false;
}

} // namespace

const char* isa_name(Isa isa) {
    switch (isa) {
        case Isa::portable: return "portable";
        case Isa::avx2: return "avx2";
        case Isa::avx512f: return "avx512f";
        case Isa::avx512: return "avx512";
        case Isa::amx: return "amx";
    }
    return "unknown";
}

Isa isa_from_name(const std::string& name) {
    Isa isa;
    if (parse(name, isa)) return isa;
    throw std::invalid_argument("instruction set: want one of " + std::string(accepted) + ", got '" + name + "'");
}

bool isa_built(Isa isa) {
    switch (isa) {
        case Isa::portable: return true;
        case Isa::avx2: return PCF_HAVE_AVX2;
        case Isa::avx512f: return PCF_HAVE_AVX512;
        case Isa::avx512: return PCF_HAVE_VNNI;
        case Isa::amx: return PCF_HAVE_AMX;
    }
    return false;
}

std::string isa_refusal(Isa isa) { return isa_built(isa) ? refusal_of_cpu(isa) : not_built; }

Isa isa_best() {
    Isa best = Isa::portable;
    for (Isa isa : all_isas)
        if (isa_refusal(isa).empty()) best = isa;
    return best;
}

Isa isa_choose() {
    const char* value = std::getenv(variable);
    const std::string wanted = value ? value : "";
    if (wanted.empty() || wanted == "auto") return isa_best();
    Isa isa;
    if (!parse(wanted, isa))
        throw std::invalid_argument(std::string(variable) + ": want auto, " + accepted + ", got '" + wanted + "'");
    const std::string reason = isa_refusal(isa);
    if (!reason.empty()) throw std::runtime_error(std::string(variable) + "=" + wanted + ": " + reason);
    return isa;
}

} // namespace pcf
