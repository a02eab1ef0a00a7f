// Which instruction set runs the tiles: what was built, what this CPU and this kernel allow, what the user asks for.
#pragma once

#include <string>

namespace pcf {

// In order of preference: a later one is faster where it runs.
enum class Isa { portable, avx2, avx512f, avx512, amx };
constexpr Isa all_isas[] = {Isa::portable, Isa::avx2, Isa::avx512f, Isa::avx512, Isa::amx};

// "portable", "avx2", "avx512f" (float32), "avx512" (with VNNI) or "amx".
const char* isa_name(Isa isa);

// The opposite of isa_name. Throws std::invalid_argument, naming the accepted names.
Isa isa_from_name(const std::string& name);

// Whether this library contains the translation unit of that instruction set.
bool isa_built(Isa isa);

// Empty if that instruction set runs here; else the reason in plain words. Asking about amx asks the kernel, once for
// the process, for the permission to use AMX tile data.
std::string isa_refusal(Isa isa);

// The last of all_isas that is not refused.
Isa isa_best();

// What PATCHCORE_FAST_ISA asks for (a name), or isa_best() where it is unset, empty or "auto"; the variable is read at
// every call. Throws std::invalid_argument for an unknown name, std::runtime_error with the reason for a refused one.
Isa isa_choose();

} // namespace pcf
