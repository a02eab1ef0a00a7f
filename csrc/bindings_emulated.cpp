// The module of the tests: the CUDA kernels, compiled for the emulator, and nothing else. It is not installed.
#include "bindings_cuda.h"

PYBIND11_MODULE(_native_emulated, m) {
    m.doc() = "The CUDA kernels of patchcore_fast on the emulator of csrc/cuda/emulated.h, for tests.";
    pcf::bind_cuda(m);
}
