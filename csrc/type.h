// The types that rows may have, in the caller's memory.
#pragma once

namespace pcf {

enum class Type { f16, bf16, f32, f64 };

} // namespace pcf
