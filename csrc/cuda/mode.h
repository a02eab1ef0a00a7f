// How the bulk of the distances is taken. Why each is right: update.cu.
#pragma once

namespace pcf {

// ffma: sums of squared differences in float32; the others take inner products. expanded: these in float32, which
// Python calls "ieee"; half, brain: of rows of float16 or bfloat16 as they are, which Python calls "half".
enum class Mode : int { ffma = 0, tf32x3 = 1, half = 2, brain = 3, expanded = 4 };

constexpr bool on_tensor_cores(Mode mode) { return mode != Mode::ffma && mode != Mode::expanded; }
#ifdef __CUDACC__
__host__ __device__
#endif
constexpr bool of_halves(Mode mode) { return mode == Mode::half || mode == Mode::brain; }

} // namespace pcf
