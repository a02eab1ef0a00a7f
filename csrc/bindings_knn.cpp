// The k-NN on devices for Python: an object that holds the arrays and sizes of a search, checked once, and calls that
// enqueue its pieces. That the memory is there is the caller's word.
#include "bindings_arguments.h"
#include "bindings_cuda.h"
#include "cuda/knn.h"

#include <algorithm>

namespace py = pybind11;

namespace pcf {
namespace {

// A search over one bank, in buffers that serve one piece of queries after the other.
struct KnnSearch {
    cuda::Knn knn{};
    int device;
    int64_t most_queries; // there is room for
};

Mode mode_of(const std::string& name, Type type) {
    if (name == "ieee") return Mode::expanded;
    if (name == "tf32x3") return Mode::tf32x3;
    if (name == "half" && (type == Type::f16 || type == Type::bf16))
        return type == Type::f16 ? Mode::half : Mode::brain;
    throw std::invalid_argument("KnnSearch: mode must be ieee, tf32x3 or, for float16 and bfloat16 rows, half, got " +
                                name);
}

KnnSearch make_search(const py::kwargs& given) {
    using namespace cuda; // the list of arrays is written in its terms
    constexpr int64_t kMost = 1 << 30; // rows of a piece: their numbers are int32, and so are those past the end
    Arguments a("KnnSearch", given);
    KnnSearch search;
    search.device = a.take<int>("device");
    Knn& s = search.knn;
    s.bank = device_matrix(a.take<Rows>("bank"));
    if (s.bank.rows < 1 || s.bank.rows > int64_t(kNoRow)) a.wrong("too many bank rows, or none");
    s.k = a.within("k", 1, std::min<int64_t>(kMostNeighbours, s.bank.rows));
    s.slots = a.within("slots", s.k, kMostSlots);
    s.mode = mode_of(a.take<std::string>("mode"), s.bank.type);
    s.pitch = a.within("pitch", of_halves(s.mode) ? (s.bank.dim + 1) / 2 : s.bank.dim, kMostColumns + kAligned);
    if (s.pitch % kAligned != 0) a.wrong("pitch must be a multiple of 8");
    s.query_in_place = a.take<bool>("query_in_place");
    s.bank_in_place = a.take<bool>("bank_in_place");
    if (s.bank_in_place && !lies_packed(s, s.bank)) a.wrong("the bank cannot be read in place");
    const int64_t queries = search.most_queries = a.within("queries", 1, kMost);
    s.chunk = a.within("chunk", 1, kMost);
    s.splits = a.within("splits", 1, 1 << 15);
    s.rescuers = a.within("rescuers", 1, 1 << 20);
#define PCF_TAKE(type, name, length) s.name = a.memory<type>(#name, length);
    PCF_KNN_ARRAYS(PCF_TAKE)
#undef PCF_TAKE
    if (reinterpret_cast<uintptr_t>(s.packed) % 16 || reinterpret_cast<uintptr_t>(s.packed_bank) % 16)
        a.wrong("packed rows must begin at a multiple of 16 bytes");
    a.end();
    return search;
}

cuda::Knn piece(const KnnSearch& search, const Rows& query, uintptr_t squared, uintptr_t rows) {
    cuda::Knn knn = search.knn;
    knn.query = device_matrix(query);
    if (knn.query.rows < 1 || knn.query.rows > search.most_queries)
        throw std::invalid_argument("query rows must lie in 1.." + std::to_string(search.most_queries) + ", got " +
                                    std::to_string(knn.query.rows));
    if (knn.query.dim != knn.bank.dim) throw std::invalid_argument("query and bank must have equal width");
    if (of_halves(knn.mode) && knn.query.type != knn.bank.type)
        throw std::invalid_argument("in mode half query and bank must be of one type");
    if (knn.query_in_place && !lies_packed(knn, knn.query))
        throw std::invalid_argument("the queries cannot be read in place");
    knn.squared = array<double>(squared, 1);
    knn.rows = array<int64_t>(rows, 1);
    return knn;
}

} // namespace

void bind_knn(py::module_& m) {
    m.def("knn_limits", [] {
        py::dict out;
        out["queries"] = cuda::knn_tile();
        out["neighbours"] = cuda::kMostNeighbours;
        out["slots"] = cuda::kMostSlots;
        out["aligned"] = cuda::kAligned;
        out["crowded"] = cuda::kCrowded;
        out["rows"] = int64_t(cuda::kNoRow);
        return out;
    });
    m.def(
        "knn_load",
        [](int device) {
            const py::gil_scoped_release release; // a driver may compile
            check(cuda::knn_load(device));
        },
        py::arg("device"), "Load all kernels of a search, so that one can be captured in a graph.");
    // Local: the emulated module registers this type too, in the same process.
    py::class_<KnnSearch>(m, "KnnSearch", py::module_local(),
                          "Arrays and sizes of a search: the fields of Knn; queries, of a piece at most; mode: "
                          "ieee, tf32x3 or half; device. An array is given as (address, type, elements).")
        .def(py::init(&make_search))
        .def(
            "some",
            [](const KnnSearch& search, const Rows& query, uintptr_t squared, uintptr_t rows, bool packed_already,
               uintptr_t stream) {
                const cuda::Knn knn = piece(search, query, squared, rows);
                if (packed_already && knn.chunk < knn.bank.rows)
                    throw std::invalid_argument("only a whole bank can be packed already");
                const py::gil_scoped_release release;
                check(cuda::knn_some(knn, packed_already, search.device, stream_of(stream)));
            },
            py::arg("query"), py::arg("squared"), py::arg("rows"), py::arg("packed_already"), py::arg("stream"))
        .def(
            "rescue",
            [](const KnnSearch& search, const Rows& query, uintptr_t squared, uintptr_t rows, uintptr_t surplus,
               uintptr_t stream) {
                cuda::Knn knn = piece(search, query, squared, rows);
                knn.surplus = array<const unsigned char>(surplus, 0);
                const py::gil_scoped_release release;
                check(cuda::knn_rescue(knn, search.device, stream_of(stream)));
            },
            py::arg("query"), py::arg("squared"), py::arg("rows"), py::arg("surplus"), py::arg("stream"));
}

} // namespace pcf
