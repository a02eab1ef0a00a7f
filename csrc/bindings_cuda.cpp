// See bindings_cuda.h.
#include "bindings_cuda.h"
#include "cuda/device.h"
#include "cuda/probe.h"

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
    m.def(
        "tensor_core_products",
        [](uintptr_t x, uintptr_t y, uintptr_t start, uintptr_t out, int tiles, const std::string& numbers, int device,
           uintptr_t stream) {
            if (tiles < 1 || tiles > 1 << 16)
                throw std::invalid_argument("tiles must lie in 1..65536, got " + std::to_string(tiles));
            const Type type = type_of(numbers == "TF32" ? "float32" : numbers);
            if (type == Type::f64 || numbers == "float32")
                throw std::invalid_argument("numbers must be TF32, float16 or bfloat16, got " + numbers);
            const auto *a = array<const uint32_t>(x, 1), *b = array<const uint32_t>(y, 1);
            const auto* c = array<const float>(start, 1);
            auto* d = array<float>(out, 1);
            const py::gil_scoped_release release;
            check(tensor_core_products(a, b, type, c, d, tiles, device, stream_of(stream)));
        },
        py::arg("x"), py::arg("y"), py::arg("start"), py::arg("out"), py::arg("tiles"), py::arg("numbers"),
        py::arg("device"), py::arg("stream"),
        "start + x y^T on tensor cores: [tiles, 16, depth], [tiles, 8, depth], [tiles, 16, 8] float32; depth 8, or 16 "
        "of float16 and bfloat16.");
    bind_frame(m);
    bind_kcenter(m);
    bind_knn(m);
}

} // namespace pcf
