// Frame and selection for Python. Addresses are checked for null and alignment, sizes for sense; that the memory is
// there is the caller's word.
#include "bindings_cuda.h"
#include "cuda/frame.h"
#include "cuda/layout.h"
#include "cuda/select.h"
#ifdef PCF_EMULATED
#include "cuda/emulator/wrong.h"
#endif

namespace py = pybind11;

namespace pcf {
namespace {

void look_over(const Rows& x, uintptr_t largest, uintptr_t broken, int device, uintptr_t stream) {
    const DeviceMatrix matrix = device_matrix(x);
    auto* size = array<int64_t>(largest, 1);
    auto* flag = array<int32_t>(broken, 1);
    const py::gil_scoped_release release;
    check(look(matrix, size, flag, device, stream_of(stream)));
}

void pack_rows(const Rows& x, uintptr_t rows, int64_t count, int64_t first, uintptr_t centre, uintptr_t params,
               uintptr_t norm, uintptr_t out, int64_t pitch, int device, uintptr_t stream, bool raw) {
    Packing p{};
    p.x = device_matrix(x);
    p.rows = array<const int64_t>(rows, 0);
    p.count = count;
    p.first = first;
    p.centre = array<const float>(centre, 1);
    p.params = array<const double>(params, 1);
    p.norm = array<float>(norm, count);
    p.raw = raw;
    p.out = raw ? static_cast<void*>(array<uint16_t>(out, 0)) : array<float>(out, 0);
    if (raw && p.x.type != Type::f16 && p.x.type != Type::bf16)
        throw std::invalid_argument("only float16 and bfloat16 rows are packed as they are");
    p.pitch = pitch;
    if (!p.rows && count > p.x.rows)
        throw std::invalid_argument("count must be at most the rows, got " + std::to_string(count));
    if (first < 0) throw std::invalid_argument("first must be >= 0, got " + std::to_string(first));
    if (p.out && pitch < p.x.dim)
        throw std::invalid_argument("pitch must be at least the columns, got " + std::to_string(pitch));
    const py::gil_scoped_release release;
    check(pack(p, device, stream_of(stream)));
}

void select_rows(uintptr_t key, uintptr_t seen, int64_t rows, int64_t span, uintptr_t control, uintptr_t counters,
                 uintptr_t ages, uintptr_t candidates, int32_t room, uintptr_t stale, bool eager, int levels,
                 uintptr_t stream) {
    if (rows < 1 || rows > kLastRow - (1 << 16)) throw std::invalid_argument("too many rows, or none");
    if (span < 1 || (rows + span - 1) / span > INT32_MAX) throw std::invalid_argument("span must be at least 1");
    if (levels < 1 || levels > kLevelCount)
        throw std::invalid_argument("levels must lie in 1.." + std::to_string(kLevelCount));
    if (room < 0) throw std::invalid_argument("room must be >= 0");
    Selection s{};
    s.key = array<const double>(key, rows);
    s.seen = array<const int32_t>(seen, rows);
    s.rows = rows;
    s.span = span;
    s.blocks = int32_t((rows + span - 1) / span);
    s.control = array<int64_t>(control, 1);
    s.counters = array<int32_t>(counters, 1);
    s.ages = array<int32_t>(ages, 1);
    s.candidates = array<int32_t>(candidates, room);
    s.stale = array<int32_t>(stale, rows);
    s.listed = room;
    s.eager = eager;
    const py::gil_scoped_release release;
    check(select(s, levels, stream_of(stream)));
}

// kEdgeRow -> EDGE_ROW
std::string python_name(const char* name) {
    std::string out;
    for (const char* c = name + 1; *c; ++c) {
        if (*c >= 'A' && *c <= 'Z' && !out.empty()) out += '_';
        out += *c >= 'a' && *c <= 'z' ? char(*c - 'a' + 'A') : *c;
    }
    return out;
}

py::dict layout() {
    py::dict out;
#define PCF_TELL_PLACE(name, place) out[py::str(python_name(#name))] = int(name);
#define PCF_TELL_NUMBER(type, name, value) out[py::str(python_name(#name))] = name;
    PCF_CONTROL(PCF_TELL_PLACE)
    PCF_COUNTERS(PCF_TELL_PLACE)
    PCF_NUMBERS(PCF_TELL_NUMBER)
#undef PCF_TELL_PLACE
#undef PCF_TELL_NUMBER
    out["COUNTERS"] = kCounters;
    py::list levels;
    for (const Level& level : kLevels) levels.append(py::make_tuple(level.shift, level.width));
    out["LEVELS"] = py::tuple(levels);
    return out;
}

} // namespace

void bind_frame(py::module_& m) {
    m.def("kcenter_layout", &layout, "The numbers of layout.h by the names that Python gives them.");
    m.def("look", &look_over, py::arg("x"), py::arg("largest"), py::arg("broken"), py::arg("device"),
          py::arg("stream"));
    m.def("pack", &pack_rows, py::arg("x"), py::arg("rows"), py::arg("count"), py::arg("first"), py::arg("centre"),
          py::arg("params"), py::arg("norm"), py::arg("out"), py::arg("pitch"), py::arg("device"), py::arg("stream"),
          py::arg("raw") = false);
    m.def("select", &select_rows, py::arg("key"), py::arg("seen"), py::arg("rows"), py::arg("span"), py::arg("control"),
          py::arg("counters"), py::arg("ages"), py::arg("candidates"), py::arg("room"), py::arg("stale"),
          py::arg("eager"), py::arg("levels"), py::arg("stream"));
#ifdef PCF_EMULATED
    bind_wrong(m);
    bind_wrong_global(m);
#endif
}

} // namespace pcf
