// What the entry points of csrc/cuda give back and take, for callers that know nothing of CUDA.
#pragma once
#include "type.h"

#include <cstdint>
#include <string>

struct CUstream_st;

namespace pcf {

using stream_t = CUstream_st*; // a cudaStream_t; null is the default stream, and the only one of the emulator

// A cudaError_t and the kernel whose launch gave it. Kernels run later: what breaks inside one is reported by a later
// launch or by the caller's next wait.
struct Status {
    int code = 0;
    const char* where = "";
    explicit operator bool() const { return code != 0; } // `if (status) return status;`
    Status in(const char* kernel) const { return {code, code ? kernel : ""}; }
};

const char* error_text(int code); // what CUDA calls the error; of the emulator: what the last launch did wrong

// "CUDA error 700 (an illegal memory access ...) in update, launching". Here, and not in a file that nvcc compiles: its
// C++ library need not be that of the bindings (packaging/wheels.sh), so csrc/cuda passes none of its types.
inline std::string describe(const Status& status) {
    if (!status) return "";
    std::string text = "CUDA error " + std::to_string(status.code) + " (";
#ifdef PCF_EMULATED
    return text + "emulated: " + error_text(status.code) + ") in " + status.where;
#else
    return text + error_text(status.code) + ") in " + status.where + ", launching";
#endif
}

// [rows, dim] in device memory; strides in elements.
struct DeviceMatrix {
    const void* data;
    Type type;
    int64_t rows, dim;
    int64_t row_stride, column_stride;
};

} // namespace pcf
