// Which device is current. For gpu.h, where CUDA is: the emulator has but one device.
#pragma once
#include "status.h"

#include <cuda.h> // types only: the driver's functions are asked for by name
#include <cuda_runtime.h>

namespace pcf {

// The driver's own functions for its current context; null where no driver is.
struct CurrentContext {
    decltype(&cuCtxGetCurrent) get = nullptr;
    decltype(&cuCtxSetCurrent) set = nullptr;
};

inline const CurrentContext& current_context() {
    static const CurrentContext found = [] {
        const auto named = [](const char* name) {
            void* function = nullptr;
            cudaDriverEntryPointQueryResult result;
            constexpr unsigned kSince = 4000; // CUDA 4.0 has them
            if (cudaGetDriverEntryPointByVersion(name, &function, kSince, cudaEnableDefault, &result) != cudaSuccess) {
                cudaGetLastError();
                return static_cast<void*>(nullptr);
            }
            return result == cudaDriverEntryPointSuccess ? function : nullptr;
        };
        CurrentContext context;
        context.get = reinterpret_cast<decltype(context.get)>(named("cuCtxGetCurrent"));
        context.set = reinterpret_cast<decltype(context.set)>(named("cuCtxSetCurrent"));
        return context;
    }();
    return found;
}

// Makes a device current, and then what was before. Which device is current is not a matter of this library's runtime
// alone: the driver has one current context a thread, and every runtime in the process goes by it, torch's too. So the
// context is what is put back. cudaSetDevice(former device) would make one, of hundreds of MB, on a device that had
// none.
class DeviceGuard {
  public:
    explicit DeviceGuard(int device) {
        const CurrentContext& context = current_context();
        if (!context.get || context.get(&before_) != CUDA_SUCCESS) before_ = nullptr;
        int now = -1;
        status_.code = cudaGetDevice(&now);
        if (status_.code == 0 && (now != device || !before_)) status_.code = cudaSetDevice(device);
        if (status_.code) cudaGetLastError(); // not to be seen by a later launch
    }
    ~DeviceGuard() {
        const CurrentContext& context = current_context();
        CUcontext now = nullptr;
        if (context.get && context.set && context.get(&now) == CUDA_SUCCESS && now != before_) context.set(before_);
    }
    DeviceGuard(const DeviceGuard&) = delete;
    DeviceGuard& operator=(const DeviceGuard&) = delete;
    Status status() const { return status_.in("choosing the device"); }

  private:
    Status status_;
    CUcontext before_ = nullptr;
};

} // namespace pcf
