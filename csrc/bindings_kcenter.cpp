// k-center for Python: an object that holds the addresses and sizes of a run, checked once, and calls that enqueue its
// passes. That the memory is there is the caller's word.
#include "bindings_cuda.h"
#include "cuda/kcenter.h"

namespace py = pybind11;

namespace pcf {
namespace {

[[noreturn]] void wrong(const std::string& what) { throw std::invalid_argument("KCenterPass: " + what); }

// Arguments by name; each must be given, and none that is not asked for.
class Arguments {
  public:
    explicit Arguments(const py::kwargs& given) : given_(given) {}
    template <class T>
    T take(const char* name) {
        ++taken_;
        if (!given_.contains(name)) throw std::invalid_argument(std::string("KCenterPass: no ") + name);
        return given_[name].cast<T>();
    }
    int within(const char* name, int64_t least, int64_t most) {
        const auto value = take<int64_t>(name);
        if (value < least || value > most)
            throw std::invalid_argument(std::string("KCenterPass: ") + name + " must lie in " + std::to_string(least) +
                                        ".." + std::to_string(most) + ", got " + std::to_string(value));
        return int(value);
    }
    template <class T>
    T* memory(const char* name) { return array<T>(take<uintptr_t>(name), 1); }
    void end() const {
        if (py::len(given_) != size_t(taken_)) wrong("arguments that it does not know");
    }

  private:
    const py::kwargs& given_;
    int taken_ = 0;
};

Mode mode_of(const std::string& name) {
    if (name == "ffma") return Mode::ffma;
    if (name == "tf32x3") return Mode::tf32x3;
    throw std::invalid_argument("mode must be ffma or tf32x3, got " + name);
}

KCenterPass pass_of(const py::kwargs& given) {
    constexpr int64_t kMostRows = kLastRow - (1 << 16); // row numbers are int32, and so are those just past the end
    Arguments a(given);
    KCenterPass p{};
    p.x = device_matrix(a.take<Rows>("x"));
    if (p.x.rows < 1 || p.x.rows > kMostRows) wrong("too many rows, or none");
    p.mode = mode_of(a.take<std::string>("mode"));
    p.tracked = a.take<bool>("tracked");
    p.plain = a.take<bool>("plain");
    if (p.plain && p.x.type == Type::f64) wrong("float64 rows are not plain");
    p.has_initial = a.take<bool>("has_initial");
    p.weighted = a.take<bool>("weighted");
    p.eager = a.take<bool>("eager");
    p.block = a.within("block", kLeastBlock, kMostBlock);
    if (p.block & (p.block - 1)) wrong("block must be a power of two");
    p.room = a.within("room", 64, kMostRoom);
    if (p.room % 64 || p.room < p.block)
        wrong("room must be a multiple of 64, and no less than block");
    p.target = a.within("target", 1, p.room);
    p.processors = a.within("processors", 1, 1 << 16);
    p.parts = a.within("parts", parts_of(p.processors), parts_of(p.processors));
    p.span = a.take<int64_t>("span");
    if (p.span != span_of(p.x.rows, p.processors)) wrong("span is not kcenter_sizes'");
    const int64_t capacity = a.take<int64_t>("capacity");
    if (capacity < 0 || capacity > p.x.rows) wrong("more picks than rows");
    p.pitch = a.take<int64_t>("pitch");
    if (p.pitch % 16 || p.pitch < p.x.dim || p.pitch >= p.x.dim + 16)
        wrong("pitch must be the columns, rounded up to a multiple of 16");
    p.control = a.memory<int64_t>("control");
    p.counters = a.memory<int32_t>("counters");
    p.block_row = a.memory<int32_t>("block_row");
    p.block_exact = a.memory<double>("block_exact");
    p.block_weight = a.memory<double>("block_weight");
    p.squared = a.memory<double>("squared");
    p.pairs = a.memory<int32_t>("pairs");
    p.candidates = a.memory<int32_t>("candidates");
    p.doubt = a.memory<int32_t>("doubt");
    p.settled = a.memory<double>("settled");
    p.picks = array<float>(a.take<uintptr_t>("picks"), capacity);
    if (reinterpret_cast<uintptr_t>(p.picks) % 16) wrong("picks must be 16-byte aligned");
    p.pick_norm = array<float>(a.take<uintptr_t>("pick_norm"), capacity);
    p.pick_row = array<int64_t>(a.take<uintptr_t>("pick_row"), capacity);
    p.norm = a.memory<float>("norm");
    p.stale = a.memory<int32_t>("stale");
    p.part = a.memory<float>("part");
    p.part_near = a.memory<int32_t>("part_near");
    p.ages = a.memory<int32_t>("ages");
    p.seen = a.memory<int32_t>("seen");
    p.value = a.memory<float>("value");
    p.near = a.memory<int32_t>("near");
    p.second = a.memory<float>("second");
    p.key = a.memory<double>("key");
    p.initial = a.memory<const double>("initial");
    p.weight = a.memory<const double>("weight");
    p.centre = a.memory<const float>("centre");
    p.params = a.memory<const double>("params");
    a.end();
    return p;
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
                            "Addresses and sizes of a run: the fields of kcenter.h, and capacity.")
        .def(py::init(&pass_of));
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
    m.def(
        "kcenter_refresh_all",
        [](const KCenterPass& p, int device, uintptr_t stream) {
            const py::gil_scoped_release release;
            check(kcenter_refresh_all(p, device, stream_of(stream)));
        },
        py::arg("p"), py::arg("device"), py::arg("stream"));
}

} // namespace pcf
