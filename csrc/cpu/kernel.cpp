#include "kernel.h"

#include "isa.h"

#include <stdexcept>

namespace pcf {

const TileKernel& kernel_of(Isa isa) {
    const std::string refusal = isa_refusal(isa);
    if (!refusal.empty()) throw std::runtime_error(std::string(isa_name(isa)) + ": " + refusal);
    switch (isa) {
#if PCF_HAVE_AVX2
    case Isa::avx2: return avx2_kernel();
#endif
#if PCF_HAVE_AVX512
    case Isa::avx512f: return avx512_kernel();
#endif
#if PCF_HAVE_VNNI
    case Isa::avx512: return vnni_kernel();
#endif
#if PCF_HAVE_AMX
    case Isa::amx: return amx_kernel();
#endif
    default: return portable_kernel();
    }
}

const TileKernel& kernel_named(const std::string& name) {
    if (name != "avx2i") return kernel_of(isa_from_name(name));
    kernel_of(Isa::avx2); // throws where it cannot run
#if PCF_HAVE_AVX2
    return avx2_integers();
#else
    return portable_kernel(); // not reached
#endif
}

} // namespace pcf
