// k-center for Python: an object that holds the arrays and sizes of a run, checked once, and calls that enqueue its
// passes. That the memory is there is the caller's word.
#include "bindings_arguments.h"
#include "bindings_cuda.h"
#include "cuda/kcenter.h"
#include "cuda/rows_in_place.h"

namespace py = pybind11;

namespace pcf {
namespace {

Mode mode_of(const std::string& name, const DeviceMatrix& x) {
    if (name == "ffma") return Mode::ffma;
    if (name == "ieee") return Mode::expanded;
    if (name == "tf32x3") return Mode::tf32x3;
    if (name == "half" && (x.type == Type::f16 || x.type == Type::bf16))
        return x.type == Type::f16 ? Mode::half : Mode::brain;
    throw std::invalid_argument("mode must be ffma, ieee, tf32x3 or, for float16 and bfloat16 rows, half, got " + name);
}

KCenterPass pass_of(const py::kwargs& given) {
    constexpr int64_t kMostRows = kLastRow - (1 << 16); // row numbers are int32, and so are those just past the end
    Arguments a("KCenterPass", given);
    KCenterPass p{};
    p.x = device_matrix(a.take<Rows>("x"));
    if (p.x.rows < 1 || p.x.rows > kMostRows) a.wrong("too many rows, or none");
    p.rows = device_matrix(a.take<Rows>("rows"));
    if (p.rows.rows != p.x.rows || p.rows.dim < p.x.dim || p.rows.dim >= p.x.dim + 16)
        a.wrong("rows must be those of x, with up to 15 columns more");
    p.picked_from = device_matrix(a.take<Rows>("picked_from"));
    if (p.picked_from.dim != p.x.dim || p.picked_from.type != p.x.type)
        a.wrong("picked_from must have the columns and the type of x");
    p.mode = mode_of(a.take<std::string>("mode"), p.rows);
    p.tracked = a.take<bool>("tracked");
    p.plain = a.take<bool>("plain");
    if (p.plain && p.rows.type == Type::f64) a.wrong("float64 rows are not plain");
    if (of_halves(p.mode) && !(p.plain && in_place(p.rows)))
        a.wrong("mode half takes plain rows only, whose columns are a multiple of 8 and lie 16-byte aligned");
    p.has_initial = a.take<bool>("has_initial");
    p.weighted = a.take<bool>("weighted");
    p.eager = a.take<bool>("eager");
    p.block = a.within("block", kLeastBlock, kMostBlock);
    if (p.block & (p.block - 1)) a.wrong("block must be a power of two");
    p.room = a.within("room", 64, kMostRoom);
    if (p.room % 64 || p.room < p.block)
        a.wrong("room must be a multiple of 64, and no less than block");
    p.listed = a.within("listed", p.room, kLastRow);
    p.target = a.within("target", 1, p.room);
    p.processors = a.within("processors", 1, 1 << 16);
    p.parts = a.within("parts", parts_of(p.processors), parts_of(p.processors));
    p.span = a.take<int64_t>("span");
    if (p.span != span_of(p.x.rows, p.processors)) a.wrong("span is not kcenter_sizes'");
    const int64_t capacity = a.take<int64_t>("capacity");
    if (capacity < 0 || capacity > p.picked_from.rows) a.wrong("more picks than rows");
    p.pitch = a.take<int64_t>("pitch");
    if (p.pitch % 16 || p.pitch < p.x.dim || p.pitch >= p.x.dim + 16)
        a.wrong("pitch must be the columns, rounded up to a multiple of 16");
#define PCF_TAKE(type, name, length) p.name = a.memory<type>(#name, length);
    PCF_KCENTER_ARRAYS(PCF_TAKE)
#undef PCF_TAKE
    const char* kept = p.mode == Mode::half ? "float16" : p.mode == Mode::brain ? "bfloat16" : "float32";
    p.picks = a.memory<unsigned char>("picks", capacity * p.pitch, kept);
    if (reinterpret_cast<uintptr_t>(p.picks) % 16) a.wrong("picks must be 16-byte aligned");
    a.end();
    return p;
}

std::vector<std::string> arrays() {
#define PCF_NAME(type, name, length) #name,
    return {PCF_KCENTER_ARRAYS(PCF_NAME)};
#undef PCF_NAME
}

py::dict sizes(int64_t rows, int processors) {
    if (rows < 1 || processors < 1) throw std::invalid_argument("rows and processors must be at least 1");
    py::dict out;
    out["parts"] = parts_of(processors);
    out["tile_rows"] = kTileRows;
    out["span"] = span_of(rows, processors);
    return out;
}

} // namespace

void bind_kcenter(py::module_& m) {
    // Local: the emulated module registers these types too, in the same process.
    py::class_<KCenterPass>(m, "KCenterPass", py::module_local(),
                            "Arrays and sizes of a run: the fields of KCenterPass, and capacity. An array is given as "
                            "(address, type, elements).")
        .def(py::init(&pass_of));
    m.def("kcenter_arrays", &arrays, "Names of the arrays that a run must bring: kcenter_arrays.h.");
    m.def("kcenter_sizes", &sizes, py::arg("rows"), py::arg("processors"),
          "What a run must bring: part [2, parts, tile_rows] float32, part_near [parts, tile_rows] int32, "
          "ages [ceil(rows / span), AGE_BINS] int32.");
    m.def(
        "kcenter_pass",
        [](const KCenterPass& p, int levels, int device, uintptr_t stream) {
            if (levels < 1 || levels > kLevelCount)
                throw std::invalid_argument("levels must lie in 1.." + std::to_string(kLevelCount));
            const py::gil_scoped_release release;
            check(kcenter_pass(p, levels, device, stream_of(stream)));
        },
        py::arg("p"), py::arg("levels"), py::arg("device"), py::arg("stream"));
    const auto part = [&m](const char* name, Status (*enqueue)(const KCenterPass&, int, stream_t)) {
        m.def(
            name,
            [enqueue](const KCenterPass& p, int device, uintptr_t stream) {
                const py::gil_scoped_release release;
                check(enqueue(p, device, stream_of(stream)));
            },
            py::arg("p"), py::arg("device"), py::arg("stream"));
    };
    part("kcenter_refresh_all", &kcenter_refresh_all);
    part("kcenter_refresh_listed", &kcenter_refresh_listed);
    part("kcenter_settle_listed", &kcenter_settle_listed);
}

} // namespace pcf
