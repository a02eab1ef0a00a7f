// The CUDA part of the native module: its submodule `cuda`. Compiled where there are CUDA kernels, or emulated ones.
#pragma once
#include "bindings_common.h"
#include "cuda/status.h"

namespace pcf {

// Adds the submodule `cuda`, and cuda_refusal(), which is "" here and else says why a build has no CUDA.
void bind_cuda(pybind11::module_& module);

// Each file of bindings adds its own functions.
void bind_frame(pybind11::module_& cuda);
void bind_kcenter(pybind11::module_& cuda);
void bind_knn(pybind11::module_& cuda);

inline DeviceMatrix device_matrix(const Rows& rows) { return matrix_from<DeviceMatrix>(rows); }
inline stream_t stream_of(uintptr_t stream) { return reinterpret_cast<stream_t>(stream); }

inline void check(const Status& status) { // RuntimeError, in Python
    if (status) throw std::runtime_error(describe(status));
}

} // namespace pcf
