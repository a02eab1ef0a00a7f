// See device.h.
#include "device.h"

#include "gpu.h"

#include <cstdarg>
#include <cstdio>

namespace pcf {
namespace {

__global__ void probe_kernel(int* out) {
    if (out) *out = 1;
}

void refuse(DeviceInfo& info, const char* format, ...) {
    va_list values;
    va_start(values, format);
    std::vsnprintf(info.refusal, sizeof info.refusal, format, values);
    va_end(values);
}

// Whether an error in loading a kernel says that its code does not fit the card or the driver: InvalidDeviceFunction,
// InvalidKernelImage, NoKernelImageForDevice, InvalidPtx, JitCompilerNotFound, UnsupportedPtxVersion and
// JitCompilationDisabled. All others are of the moment, or of what the process has done.
bool misfit(int error) {
    return error == 98 || error == 200 || error == 209 || error == 218 || (error >= 221 && error <= 223);
}

} // namespace

Status tensor_cores_run(const char* kernel) {
    constexpr int kNotSupported = 801;
    int code = 0;
    if (const Status failed = load(probe_kernel, &code).in("probe_kernel")) return failed;
    return code < 80 ? Status{kNotSupported, kernel} : Status{};
}

#ifdef PCF_EMULATED

int compiled_arch(int) { return 0; }
bool is_emulated() { return true; }
int compiled_ptx() { return 0; }
int runtime_version() { return 0; }

const char* error_text(int) { return emulated::message().c_str(); }

DeviceInfo device_info(int device) {
    DeviceInfo info;
    info.arch = arch(device);
    info.multiprocessors = multiprocessors(device);
    info.shared_limit = shared_limit(device);
    info.code = emulated::code();
    int ran = 0;
    const Status status = launch(probe_kernel, 1, 32, 0, stream_t(), &ran);
    if (status || ran != 1) refuse(info, "the emulator does not run: %s", error_text(status.code));
    return info;
}

#else

int compiled_arch(int i) {
    constexpr int archs[] = {__CUDA_ARCH_LIST__}; // nvcc's own: 750, 800, ...
    return i >= 0 && i < int(sizeof archs / sizeof *archs) ? archs[i] / 10 : 0;
}
bool is_emulated() { return false; }
int compiled_ptx() { return PCF_CUDA_PTX; }
int runtime_version() { return CUDART_VERSION; }

const char* error_text(int code) { return cudaGetErrorString(cudaError_t(code)); }

DeviceInfo device_info(int device) {
    DeviceInfo info;
    int devices = 0;
    if (cudaDriverGetVersion(&info.driver) != cudaSuccess) info.driver = 0;
    const cudaError_t counted = cudaGetDeviceCount(&devices);
    cudaGetLastError();
    if (info.driver == 0)
        refuse(info, "no NVIDIA driver on this machine");
    else if (counted == cudaErrorInsufficientDriver)
        refuse(info, "the NVIDIA driver knows CUDA %d.%d, this needs one for CUDA %d.0 or newer", info.driver / 1000,
               info.driver % 1000 / 10, CUDART_VERSION / 1000);
    else if (counted != cudaSuccess) {
        refuse(info, "the driver finds no usable GPU: %s", cudaGetErrorString(counted));
        info.lasting = counted == cudaErrorNoDevice;
    }
    else if (device < 0 || device >= devices)
        refuse(info, "no CUDA device %d, there are %d", device, devices);
    if (*info.refusal) return info;
    info.arch = arch(device);
    info.multiprocessors = multiprocessors(device);
    info.shared_limit = shared_limit(device);
    const DeviceGuard guard(device);
    const Status error = guard.status() ? guard.status() : load(probe_kernel, &info.code);
    info.lasting = !error || misfit(error.code);
    if (error && info.lasting)
        refuse(info, "nothing compiled here runs on compute capability %d.%d: %s", info.arch / 10, info.arch % 10,
               error_text(error.code));
    else if (error)
        refuse(info, "the device cannot be used now: %s", error_text(error.code));
    return info;
}

#endif

} // namespace pcf
