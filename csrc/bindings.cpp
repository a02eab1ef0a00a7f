// The whole native surface: addresses, sizes and strides in; exceptions out. No torch, no numpy headers.
#include "cpu/isa.h"
#include "cpu/kcenter.h"
#include "cpu/knn.h"

#include <pybind11/functional.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

namespace py = pybind11;
using namespace pcf;

namespace {

// Ctrl-C reaches a job within 50 ms: the thread that called it looks for signals between tasks.
void poll() {
    const py::gil_scoped_acquire gil;
    if (PyErr_CheckSignals() != 0) throw py::error_already_set();
}

Type type_of(const std::string& name) {
    if (name == "float16") return Type::f16;
    if (name == "bfloat16") return Type::bf16;
    if (name == "float32") return Type::f32;
    if (name == "float64") return Type::f64;
    throw std::invalid_argument("type must be float16, bfloat16, float32 or float64, got " + name);
}

// (address, type, rows, columns, row stride, column stride); strides in elements.
using Rows = std::tuple<uintptr_t, std::string, int64_t, int64_t, int64_t, int64_t>;

Matrix matrix_of(const Rows& rows) {
    const auto& [address, type, n, dim, row_stride, column_stride] = rows;
    if (n < 0 || dim < 1) throw std::invalid_argument("rows must be >= 0 and columns >= 1");
    if (n > 0 && address == 0) throw std::invalid_argument("the address of the rows is null");
    return {reinterpret_cast<const void*>(address), type_of(type), n, dim, row_stride, column_stride};
}

template <class T>
T* pointer(uintptr_t address) {
    if (address % alignof(T) != 0) throw std::invalid_argument("an address is not aligned for its type");
    return reinterpret_cast<T*>(address);
}

int at_least_one(int threads) {
    if (threads < 1) throw std::invalid_argument("threads must be at least 1, got " + std::to_string(threads));
    return threads;
}

// The frame of a job and what is known of the rows in it.
struct Look {
    Frame frame;
    std::vector<float> norm2, rho;
    Extremes extremes{0, 0};
};

Look look_over(const Rows& rows, const std::string& isa, uintptr_t centre, double scale, int threads) {
    const Matrix x = matrix_of(rows);
    const TileKernel& kernel = kernel_of(isa.empty() ? isa_choose() : isa_from_name(isa));
    Look look{Frame(kernel, pointer<const double>(centre), scale, x.dim), std::vector<float>(size_t(x.rows)),
              std::vector<float>(size_t(x.rows)), {0, 0}};
    const py::gil_scoped_release release;
    Team team(at_least_one(threads), poll);
    look.extremes = measure(team, x, look.frame, {look.norm2.data(), look.rho.data()});
    return look;
}

} // namespace

PYBIND11_MODULE(_native, m) {
    m.doc() = "Native CPU engine of patchcore_fast: use patchcore_fast.kernels.";
    m.def("isa", [] { return std::string(isa_name(isa_choose())); });
    m.def("explain_isa", [] {
        std::vector<std::pair<std::string, std::string>> out;
        for (Isa isa : all_isas) out.emplace_back(isa_name(isa), isa_refusal(isa));
        return out;
    });

    py::class_<Look>(m, "Look", "Rows looked over in a frame: norms and rounding errors.")
        .def(py::init(&look_over), py::arg("rows"), py::arg("isa"), py::arg("centre"), py::arg("scale"),
             py::arg("threads"))
        .def_property_readonly("largest_norm2", [](const Look& l) { return l.extremes.norm2; })
        .def_property_readonly("beta", [](const Look& l) { return l.extremes.beta; })
        .def_property_readonly("isa", [](const Look& l) { return std::string(l.frame.kernel().name); });

    py::class_<KCenter>(m, "KCenter", "Leaves of k-center greedy; see csrc/cpu/kcenter.h.")
        .def(py::init([](const Rows& rows, Look& look, uintptr_t squared, uintptr_t weight, int64_t capacity,
                         int threads) {
                 const Matrix x = matrix_of(rows);
                 if (int64_t(look.norm2.size()) != x.rows || look.frame.dim() != x.dim)
                     throw std::invalid_argument("the rows are not those that were looked over");
                 if (capacity < 1 || capacity > x.rows || capacity > INT32_MAX)
                     throw std::invalid_argument("capacity must lie in 1..rows, got " + std::to_string(capacity));
                 return std::make_unique<KCenter>(x, look.frame, std::move(look.norm2), std::move(look.rho),
                                                  look.extremes.beta, pointer<double>(squared),
                                                  pointer<const double>(weight), capacity, at_least_one(threads),
                                                  poll);
             }),
             py::arg("rows"), py::arg("look"), py::arg("squared"), py::arg("weight"), py::arg("capacity"),
             py::arg("threads"))
        .def_property_readonly("count", &KCenter::count)
        .def("append",
             [](KCenter& k, uintptr_t rows, int64_t count) { 
                 k.check_rows(pointer<const int64_t>(rows), count);
                 k.append(pointer<const int64_t>(rows), count);
             })
        .def("edge", &KCenter::edge, py::call_guard<py::gil_scoped_release>())
        .def("count_pool", [](const KCenter& k, double edge) { return k.pool(edge, nullptr, 0); },
             py::call_guard<py::gil_scoped_release>())
        .def("pool",
             [](const KCenter& k, double edge, uintptr_t rows, int64_t room) {
                 return k.pool(edge, pointer<int64_t>(rows), room);
             },
             py::call_guard<py::gil_scoped_release>())
        .def("key",
             [](const KCenter& k, uintptr_t rows, int64_t count, uintptr_t out) {
                 const auto* r = pointer<const int64_t>(rows);
                 k.check_rows(r, count);
                 for (int64_t i = 0; i < count; ++i) pointer<double>(out)[i] = k.key(r[i]);
             })
        .def("refresh",
             [](KCenter& k, uintptr_t rows, int64_t count) {
                 if (rows) k.check_rows(pointer<const int64_t>(rows), count);
                 return k.refresh(rows ? pointer<const int64_t>(rows) : nullptr, count);
             },
             py::call_guard<py::gil_scoped_release>())
        .def("resolve",
             [](KCenter& k, uintptr_t rows, int64_t count, bool limited, double key, int64_t row, int64_t quota,
                int64_t block) {
                 k.check_rows(pointer<const int64_t>(rows), count);
                 if (block < 1) throw std::invalid_argument("block must be at least 1, got " + std::to_string(block));
                 const Rank outside{key, row};
                 Picks picks = k.resolve(pointer<const int64_t>(rows), count, limited ? &outside : nullptr, quota, block);
                 return std::make_pair(std::move(picks.rows), std::move(picks.squared));
             },
             py::call_guard<py::gil_scoped_release>());

    m.def("knn",
          [](const Rows& query, const Rows& bank, Look& of_query, Look& of_bank, double beta, int64_t k, int threads,
             uintptr_t squared, uintptr_t rows) {
              const Matrix q = matrix_of(query), b = matrix_of(bank);
              if (int64_t(of_query.norm2.size()) != q.rows || int64_t(of_bank.norm2.size()) != b.rows ||
                  of_query.frame.dim() != q.dim || of_bank.frame.dim() != b.dim || q.dim != b.dim)
                  throw std::invalid_argument("the rows are not those that were looked over");
              if (&of_query.frame.kernel() != &of_bank.frame.kernel())
                  throw std::invalid_argument("query and bank were looked over for different instruction sets");
              if (k < 1 || k > b.rows || b.rows > INT32_MAX)
                  throw std::invalid_argument("k must lie in 1..bank rows, got " + std::to_string(k));
              knn(q, b, of_bank.frame, {of_query.norm2.data(), of_query.rho.data()},
                  {of_bank.norm2.data(), of_bank.rho.data()}, beta, k, at_least_one(threads), poll,
                  pointer<double>(squared), pointer<int64_t>(rows));
          },
          py::call_guard<py::gil_scoped_release>());
}
