// The CUDA part of the native module: its submodule `cuda`, or the reason why there is none.
#pragma once
#include "bindings_common.h"
#include "cuda/status.h"

namespace pcf {

// Adds cuda_refusal(), which says why this build has no CUDA ("" where it has), and the submodule `cuda` if it has.
void bind_cuda(pybind11::module_& module);

#if PCF_HAVE_CUDA || defined(PCF_EMULATED)

// Each file of bindings adds its own functions.
void bind_frame(pybind11::module_& cuda);
void bind_kcenter(pybind11::module_& cuda);
void bind_knn(pybind11::module_& cuda);

inline DeviceMatrix device_matrix(const Rows& rows) { return matrix_from<DeviceMatrix>(rows); }
inline stream_t stream_of(uintptr_t stream) { return reinterpret_cast<stream_t>(stream); }

inline void check(const Status& status) { // RuntimeError, in Python
    if (status) throw std::runtime_error(describe(status));
}

#endif

} // namespace pcf
