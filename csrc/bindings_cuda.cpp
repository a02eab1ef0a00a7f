// See bindings_cuda.h.
#include "bindings_cuda.h"
#include "cuda/device.h"

namespace py = pybind11;

namespace pcf {

void bind_cuda(py::module_& module) {
    module.def("cuda_refusal", [] { return std::string(); });
    py::module_ m = module.def_submodule("cuda", "CUDA kernels of patchcore_fast: use patchcore_fast.kernels.");
    m.def("info", [] {
        py::dict out;
        std::vector<int> archs;
        for (int i = 0; compiled_arch(i) != 0; ++i) archs.push_back(compiled_arch(i));
        out["archs"] = archs;
        out["ptx"] = compiled_ptx();
        out["runtime"] = runtime_version();
        out["emulated"] = is_emulated();
        return out;
    });
    m.def(
        "device_info",
        [](int device) {
            DeviceInfo info;
            {
                const py::gil_scoped_release release; // a driver may take a while to wake a card
                info = device_info(device);
            }
            py::dict out;
            out["arch"] = info.arch;
            out["code"] = info.code;
            out["multiprocessors"] = info.multiprocessors;
            out["shared_limit"] = info.shared_limit;
            out["driver"] = info.driver;
            out["runnable"] = info.refusal[0] == '\0';
            out["reason"] = std::string(info.refusal);
            out["lasting"] = info.lasting;
            return out;
        },
        py::arg("device"));
    bind_frame(m);
    bind_kcenter(m);
    bind_knn(m);
}

} // namespace pcf
