// What this library was compiled for, and whether that runs on a device.
#pragma once
#include "status.h"

namespace pcf {

int compiled_arch(int i); // the i-th compute capability with machine code inside: 75, 80, ...; 0 after the last
int compiled_ptx();       // the one with PTX, from which a driver compiles for newer cards; 0: none
int runtime_version();             // of CUDA, as 13000
bool is_emulated();

struct DeviceInfo {
    int arch = 0, multiprocessors = 0, shared_limit = 0;
    int code = 0; // compute capability that the code which runs there was compiled for: at most `arch`
    int driver = 0; // the newest CUDA that the driver knows, as 13000; 0: no driver
    char refusal[256] = ""; // why nothing here can run on the device; empty if it can
    bool lasting = true;    // whether all this stays so in this process: not where the device is only out of memory
};
DeviceInfo device_info(int device);

// Whether a kernel with products on tensor cores may be launched on the current device: 801 (cudaErrorNotSupported)
// where the code that runs there has none, whatever the card could do.
Status tensor_cores_run(const char* kernel);

} // namespace pcf
