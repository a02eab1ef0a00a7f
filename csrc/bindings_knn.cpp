// The k-NN on devices for Python: the buffers of a search as addresses, checked for null and alignment, and sizes for
// sense; that the memory is there is the caller's word.
#include "bindings_cuda.h"
#include "cuda/knn.h"

#include <algorithm>

namespace py = pybind11;

namespace pcf {
namespace {

// A search over one bank, in buffers that serve one piece of queries after the other.
struct KnnSearch {
    cuda::Knn knn{};
    bool tensor_cores;
    int device;
    int64_t most_queries; // there is room for
};

template <class T>
void between(const char* name, T value, T least, T most) {
    if (value < least || value > most)
        throw std::invalid_argument(std::string(name) + " must lie in " + std::to_string(least) + ".." +
                                    std::to_string(most) + ", got " + std::to_string(value));
}

KnnSearch make_search(const Rows& bank, int k, int slots, int64_t pitch, int64_t queries, int64_t chunk, int splits,
                      int rescuers, bool tensor_cores, uintptr_t centre, uintptr_t params, uintptr_t packed,
                      uintptr_t packed_norm, uintptr_t packed_bank, uintptr_t norm, uintptr_t kept, uintptr_t reach,
                      uintptr_t crowded, uintptr_t count, uintptr_t part_exact, uintptr_t part_row, int device) {
    constexpr int64_t kMost = 1 << 30; // rows of a piece: their numbers are int32, and so are those past the end
    KnnSearch search;
    search.tensor_cores = tensor_cores;
    search.device = device;
    search.most_queries = queries;
    cuda::Knn& knn = search.knn;
    knn.bank = device_matrix(bank);
    between<int64_t>("bank rows", knn.bank.rows, 1, cuda::kNoRow);
    between<int64_t>("k", k, 1, std::min<int64_t>(cuda::kMostNeighbours, knn.bank.rows));
    between("slots", slots, k, cuda::kMostSlots);
    between<int64_t>("pitch", pitch, knn.bank.dim, kMostColumns + cuda::kAligned);
    if (pitch % cuda::kAligned != 0) throw std::invalid_argument("pitch must be a multiple of 8");
    between<int64_t>("queries", queries, 1, kMost);
    between<int64_t>("chunk", chunk, 1, kMost);
    between("splits", splits, 1, 1 << 15);
    between("rescuers", rescuers, 1, 1 << 20);
    knn.k = k;
    knn.slots = slots;
    knn.pitch = int(pitch);
    knn.splits = splits;
    knn.chunk = chunk;
    knn.rescuers = rescuers;
    knn.centre = array<const float>(centre, 1);
    knn.params = array<const double>(params, 1);
    if (packed % 16 != 0 || packed_bank % 16 != 0)
        throw std::invalid_argument("packed rows must begin at a multiple of 16 bytes");
    knn.packed = array<float>(packed, 1);
    knn.packed_norm = array<float>(packed_norm, 1);
    knn.packed_bank = array<float>(packed_bank, 1);
    knn.norm = array<float>(norm, 1);
    knn.kept = array<cuda::Key>(kept, 1);
    knn.reach = array<double>(reach, 1);
    knn.crowded = array<int64_t>(crowded, 1);
    knn.count = array<int>(count, 1);
    knn.part_exact = array<double>(part_exact, 1);
    knn.part_row = array<uint32_t>(part_row, 1);
    return search;
}

cuda::Knn piece(const KnnSearch& search, const Rows& query, uintptr_t squared, uintptr_t rows) {
    cuda::Knn knn = search.knn;
    knn.query = device_matrix(query);
    between<int64_t>("query rows", knn.query.rows, 1, search.most_queries);
    if (knn.query.dim != knn.bank.dim) throw std::invalid_argument("query and bank must have equal width");
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
    py::class_<KnnSearch>(m, "KnnSearch", py::module_local())
        .def(py::init(&make_search), py::kw_only(), py::arg("bank"), py::arg("k"), py::arg("slots"), py::arg("pitch"),
             py::arg("queries"), py::arg("chunk"), py::arg("splits"), py::arg("rescuers"), py::arg("tensor_cores"),
             py::arg("centre"), py::arg("params"), py::arg("packed"), py::arg("packed_norm"), py::arg("packed_bank"),
             py::arg("norm"), py::arg("kept"), py::arg("reach"), py::arg("crowded"), py::arg("count"),
             py::arg("part_exact"), py::arg("part_row"), py::arg("device"))
        .def(
            "some",
            [](const KnnSearch& search, const Rows& query, uintptr_t squared, uintptr_t rows, bool packed_already,
               uintptr_t stream) {
                const cuda::Knn knn = piece(search, query, squared, rows);
                if (packed_already && knn.chunk < knn.bank.rows)
                    throw std::invalid_argument("only a whole bank can be packed already");
                const py::gil_scoped_release release;
                check(cuda::knn_some(knn, search.tensor_cores, packed_already, search.device, stream_of(stream)));
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
