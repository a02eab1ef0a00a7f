// The whole native surface: addresses, sizes and strides in; exceptions out. No torch, no numpy headers.
#include "bindings_common.h"
#include "cpu/float_mode.h"
#include "cpu/isa.h"
#include "cpu/kcenter.h"
#include "cpu/knn.h"
#include "cpu/prepared.h"
#if PCF_HAVE_CUDA
#include "bindings_cuda.h"
#endif

#include <cmath>

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

Prune prune_of(const std::string& name) {
    if (name == "auto") return Prune::automatic;
    if (name == "none") return Prune::none;
    if (name == "triangle") return Prune::triangle;
    if (name == "partial") return Prune::partial;
    throw std::invalid_argument("prune must be auto, none, triangle or partial, got " + name);
}

Matrix matrix_of(const Rows& rows) { return matrix_from<Matrix>(rows); }

// Rows of other processes, of one type with a job's own.
const void* guests_of(uintptr_t address, Type type) {
    const uintptr_t bytes = type == Type::f64 ? 8 : type == Type::f32 ? 4 : 2;
    if (address % bytes != 0) throw std::invalid_argument("the address of the guests is not aligned for their type");
    return reinterpret_cast<const void*>(address);
}

int at_least_one(int threads) {
    if (threads < 1) throw std::invalid_argument("threads must be at least 1, got " + std::to_string(threads));
    return threads;
}

// The frame of a job and what is known of the rows in it.
struct Look {
    Rows rows;
    std::vector<double> centre;
    Frame frame;
    std::vector<float> w, rho;
    Extremes extremes{0, {0, 0}, 0};

    Known known() && { return {matrix_from<Matrix>(rows), std::move(frame), std::move(w), std::move(rho), extremes.loss}; }
    bool fits() const { return extremes.norm2 <= most_norm2(frame.kernel()); }

    // The engine trusts what was measured: these rows, none too long for the arithmetic of the tiles.
    void check(const Rows& given) const {
        if (given != rows || int64_t(w.size()) != std::get<2>(rows))
            throw std::invalid_argument("the rows are not those that were looked over, or the look is used up");
        if (!fits())
            throw std::invalid_argument("the rows are not finite, or too long for the instruction set");
    }
};

Look in_frame(const Rows& rows, std::vector<double> centre, Frame frame, int threads) {
    const Matrix x = matrix_of(rows);
    if (x.dim != frame.dim()) throw std::invalid_argument("the rows do not have the columns of the frame");
    Look look{rows, std::move(centre), std::move(frame), std::vector<float>(size_t(x.rows)),
              std::vector<float>(size_t(x.rows)), {0, {0, 0}, 0}};
    const py::gil_scoped_release release;
    const FloatMode mode;
    Team team(at_least_one(threads), poll);
    look.extremes = measure(team, x, look.frame, {look.w.data(), look.rho.data()});
    return look;
}

Look look_over(const Rows& rows, const std::string& isa, uintptr_t centre, double scale, int threads) {
    const int64_t dim = matrix_of(rows).dim;
    const TileKernel& kernel = isa.empty() ? kernel_of(isa_choose()) : kernel_named(isa);
    if (!(scale > 0 && scale < INFINITY)) throw std::invalid_argument("scale must be positive and finite");
    const auto* c = array<const double>(centre, 0);
    return in_frame(rows, c ? std::vector<double>(c, c + dim) : std::vector<double>(), Frame(kernel, c, scale, dim),
                    threads);
}

Way way_of(const std::string& name) {
    if (name == "auto") return Way::automatic;
    if (name == "none") return Way::plain;
    if (name == "partial") return Way::partial;
    throw std::invalid_argument("prune must be auto, none or partial, got " + name);
}

} // namespace

PYBIND11_MODULE(_native, m) {
    m.doc() = "Native CPU engine of patchcore_fast: use patchcore_fast.kernels.";
#if PCF_HAVE_CUDA
    bind_cuda(m);
#else // here and not in a file of its own: pybind11's headers take the compiler longer than all kernels for CPUs
    m.def("cuda_refusal", [] { return std::string("built without CUDA: " PCF_CUDA_REFUSAL); });
#endif
    m.def("isa", [] { return std::string(isa_name(isa_choose())); });
    m.def("explain_isa", [] {
        std::vector<std::pair<std::string, std::string>> out;
        for (Isa isa : all_isas) out.emplace_back(isa_name(isa), isa_refusal(isa));
        return out;
    });

    py::class_<Look>(m, "Look", py::module_local(), "Rows looked over in a frame: norms and rounding errors.")
        .def(py::init(&look_over), py::arg("rows"), py::arg("isa"), py::arg("centre"), py::arg("scale"),
             py::arg("threads"))
        .def_property_readonly("fits", &Look::fits)
        .def_property_readonly("centre", [](const Look& l) { return l.centre; })
        .def_property_readonly("scale", [](const Look& l) { return l.frame.scale(); })
        .def_property_readonly("largest_norm2", [](const Look& l) { return l.extremes.norm2; })
        .def_property_readonly("coarse", [](const Look& l) { return l.extremes.coarse; })
        .def_property_readonly("step", [](const Look& l) { return l.frame.kernel().step; })
        .def_property_readonly("packs_float32", [](const Look& l) { return l.frame.kernel().bytes == 4; })
        .def_property_readonly("longest", [](const Look& l) { return l.frame.kernel().longest; })
        .def_property_readonly("isa", [](const Look& l) { return std::string(l.frame.kernel().name); });

    py::class_<KCenter>(m, "KCenter", py::module_local(), "Leaves of k-center greedy; see csrc/cpu/kcenter.h.")
        .def(py::init([](const Rows& rows, Look& look, uintptr_t squared, uintptr_t weight, int64_t capacity,
                         const std::string& prune, uintptr_t directions, int64_t direction_count, int threads,
                         uintptr_t guests) {
                 Matrix x = matrix_of(rows);
                 x.guests = guests_of(guests, x.type);
                 look.check(rows);
                 if (capacity < 1 || (capacity > x.rows && !guests) || capacity > INT32_MAX)
                     throw std::invalid_argument("capacity must lie in 1..rows, got " + std::to_string(capacity));
                 at_least_one(threads);
                 auto* s = array<double>(squared, x.rows);
                 const auto* w = array<const double>(weight, 0);
                 for (int64_t i = 0; i < x.rows; ++i)
                     if (std::isnan(s[i]) || (w && !(w[i] >= 0 && w[i] < INFINITY)))
                         throw std::invalid_argument("squared must not be NaN, weight finite and >= 0");
                 if (directions && (direction_count < 1 || direction_count >= x.dim || look.frame.kernel().bytes != 4))
                     throw std::invalid_argument("directions must be 1..columns - 1, for a kernel that packs float32");
                 const Prune way = prune_of(prune);
                 const auto* q = array<const float>(directions, 0);
                 const py::gil_scoped_release release;
                 const FloatMode mode; // the threads of the job inherit it
                 return std::make_unique<KCenter>(x, look.frame, std::move(look.w), std::move(look.rho),
                                                  look.extremes.loss, s, w, capacity, way, q,
                                                  direction_count, threads, poll);
             }),
             py::arg("rows"), py::arg("look"), py::arg("squared"), py::arg("weight"), py::arg("capacity"),
             py::arg("prune"), py::arg("directions"), py::arg("direction_count"), py::arg("threads"),
             py::arg("guests") = 0)
        .def_property_readonly("count", &KCenter::count)
        .def("append",
             [](KCenter& k, uintptr_t rows, int64_t count) {
                 const auto* r = array<const int64_t>(rows, count);
                 k.check_rows(r, count);
                 const FloatMode mode;
                 k.append(r, count);
             })
        .def("append_guests",
             [](KCenter& k, uintptr_t own, int64_t count) {
                 const auto* rows = array<const int64_t>(own, count);
                 k.check_guests(rows, count);
                 const FloatMode mode;
                 k.append_guests(rows, count);
             })
        .def("edge",
             [](KCenter& k, int64_t wanted) {
                 if (wanted < 1) throw std::invalid_argument("wanted must be at least 1, got " + std::to_string(wanted));
                 return k.edge(wanted);
             },
             py::call_guard<py::gil_scoped_release, FloatMode>())
        .def("reach",
             [](KCenter& k, double edge, int64_t most) {
                 if (most < 1) throw std::invalid_argument("most must be at least 1, got " + std::to_string(most));
                 KCenter::Reached found = k.reach(edge, most);
                 return std::make_tuple(std::move(found.rows), found.inside, found.rest.key, found.rest.row,
                                        found.distances);
             },
             py::call_guard<py::gil_scoped_release, FloatMode>())
        .def("refresh",
             [](KCenter& k, uintptr_t rows, int64_t count) {
                 const auto* r = array<const int64_t>(rows, rows ? count : 0);
                 if (r) k.check_rows(r, count);
                 return k.refresh(r, count);
             },
             py::call_guard<py::gil_scoped_release, FloatMode>())
        .def("resolve",
             [](KCenter& k, uintptr_t rows, int64_t count, bool limited, double key, int64_t row, int64_t quota,
                int64_t block) {
                 const auto* r = array<const int64_t>(rows, count);
                 k.check_rows(r, count);
                 if (block < 1) throw std::invalid_argument("block must be at least 1, got " + std::to_string(block));
                 const Rank outside{key, row};
                 Picks picks = k.resolve(r, count, limited ? &outside : nullptr, quota, block);
                 return std::make_pair(std::move(picks.rows), std::move(picks.squared));
             },
             py::call_guard<py::gil_scoped_release, FloatMode>());

    m.def("knn",
          [](const Rows& query, const Rows& bank, Look& of_query, Look& of_bank, int64_t k, int threads,
             uintptr_t squared, uintptr_t rows) {
              const Matrix q = matrix_of(query), b = matrix_of(bank);
              of_query.check(query);
              of_bank.check(bank);
              if (of_query.centre != of_bank.centre || of_query.frame.scale() != of_bank.frame.scale() || q.dim != b.dim)
                  throw std::invalid_argument("query and bank were not looked over in one frame");
              if (&of_query.frame.kernel() != &of_bank.frame.kernel())
                  throw std::invalid_argument("query and bank were looked over for different instruction sets");
              if (k < 1 || k > b.rows || b.rows > INT32_MAX)
                  throw std::invalid_argument("k must lie in 1..bank rows, got " + std::to_string(k));
              const int64_t places = q.rows > 0 ? 1 : 0; // [Q][k]
              knn(q, b, of_bank.frame, {of_query.w.data(), of_query.rho.data()},
                  {of_bank.w.data(), of_bank.rho.data()}, of_bank.extremes.loss, k, at_least_one(threads), poll,
                  array<double>(squared, places), array<int64_t>(rows, places));
          },
          py::call_guard<py::gil_scoped_release, FloatMode>());

    py::class_<Prepared>(m, "Prepared", py::module_local(), "A bank measured and packed once; see csrc/cpu/prepared.h.")
        .def(py::init([](const Rows& bank, Look& look) {
                 look.check(bank);
                 if (std::get<2>(bank) < 1 || std::get<2>(bank) > INT32_MAX)
                     throw std::invalid_argument("a bank must have 1 to 2^31 - 1 rows");
                 return std::make_unique<Prepared>(std::move(look).known());
             }),
             py::arg("bank"), py::arg("look"))
        .def("shorten",
             [](Prepared& p, uintptr_t directions, int64_t few, int64_t all, std::pair<double, double> of_few,
                std::pair<double, double> of_all, int threads) {
                 if (few < 1 || all < few || all > p.bank().rows.dim)
                     throw std::invalid_argument("directions must be 1 <= few <= all <= columns");
                 p.shorten(array<const double>(directions, 1), few, all, {of_few.first, of_few.second},
                           {of_all.first, of_all.second}, at_least_one(threads), poll);
             },
             py::arg("directions"), py::arg("few"), py::arg("all"), py::arg("of_few"), py::arg("of_all"),
             py::arg("threads"), py::call_guard<py::gil_scoped_release, FloatMode>())
        .def("pack", [](Prepared& p, int threads) { p.pack(at_least_one(threads), poll); }, py::arg("threads"),
             py::call_guard<py::gil_scoped_release, FloatMode>())
        .def("look", [](const Prepared& p, const Rows& rows, int threads) { return in_frame(rows, {}, p.bank().frame, threads); },
             py::arg("rows"), py::arg("threads"), "Queries looked over in the frame of the bank.")
        .def_property_readonly("bytes", &Prepared::bytes)
        .def("knn",
             [](Prepared& p, const Rows& query, Look& look, int64_t k, const std::string& prune, int threads,
                uintptr_t squared, uintptr_t rows) {
                 look.check(query);
                 if (!(look.frame == p.bank().frame))
                     throw std::invalid_argument("the queries were not looked over in the frame of the bank");
                 if (k < 1 || k > p.bank().rows.rows)
                     throw std::invalid_argument("k must lie in 1..bank rows, got " + std::to_string(k));
                 const int64_t places = std::get<2>(query) > 0 ? 1 : 0; // [Q][k]
                 Known known = std::move(look).known();
                 const Work work = p.knn(known, k, way_of(prune), at_least_one(threads), poll,
                                         array<double>(squared, places), array<int64_t>(rows, places));
                 return std::make_tuple(work.plain, work.partial, work.longer, work.settled);
             },
             py::arg("query"), py::arg("look"), py::arg("k"), py::arg("prune"), py::arg("threads"), py::arg("squared"),
             py::arg("rows"), py::call_guard<py::gil_scoped_release, FloatMode>());
}
