// Rows on the device looked over, and brought into the frame. Both read every element once: a warp takes a run along
// the dimension in which neighbours lie side by side in memory.
#include "frame.h"

#include "gpu.h"
#include "rows.h"

#include <algorithm>
#include <type_traits>

namespace pcf {
namespace {

constexpr int kThreads = 256;
constexpr int kRun = 1024;          // elements that a warp looks at before it takes the next run
constexpr int kBlocksPerMultiprocessor = 8;
constexpr float kInfinity = HUGE_VALF;

PCF_DEVICE double to_value(double x) { return x; }
template <class T>
PCF_DEVICE float to_value(T x) {
    return to_float(x);
}

// Elements outer * outer_stride + inner * inner_stride.
template <class T>
__global__ void __launch_bounds__(kThreads)
    look_kernel(const T* x, int64_t outer, int64_t inner, int64_t outer_stride, int64_t inner_stride, int64_t* largest,
                int32_t* broken) {
    // In float32 where that holds the values: float64 arithmetic is slow on most cards.
    using Value = std::conditional_t<std::is_same_v<T, double>, double, float>;
    const int64_t runs = (inner + kRun - 1) / kRun;
    Value most = 0;
    bool odd = false;
    const int64_t step = int64_t(gridDim.x) * warps();
    for (int64_t job = int64_t(blockIdx.x) * warps() + warp(); job < outer * runs; job += step) {
        const int64_t i = job / runs, first = job % runs * kRun;
        const int64_t last = inner < first + kRun ? inner : first + kRun;
        const T* at = x + i * outer_stride;
        for (int64_t j = first + lane(); j < last; j += kWarp) {
            const Value value = Value(to_value(at[j * inner_stride]));
            const Value size = value == value ? std::fabs(value) : Value(kInfinity);
            most = size > most ? size : most;
            odd = odd || value != std::floor(value);
        }
    }
    most = warp_max(most);
    const bool any = __any_sync(kAll, odd) != 0;
    // Float64 values that are not negative have the order of their bits. Most warps find what others have said.
    if (lane() == 0) {
        const int64_t bits = __double_as_longlong(double(most));
        if (bits > peek(reinterpret_cast<const long long*>(largest))) atomic_max(largest, bits);
        if (any && peek(broken) == 0) atomicOr(broken, 1);
    }
}

struct Pack {
    int64_t row_stride, column_stride;
    int dim;
    const int64_t* rows;
    int64_t count, first;
    DeviceFrame frame;
    float* norm;
    void* out;
    bool raw;
    int64_t pitch;
};

// Where a packed row goes: values in the frame, or as they are.
template <class T>
struct Packed {
    float* framed;
    T* raw;
    PCF_DEVICE Packed(const Pack& p, int64_t place) {
        const int64_t at = (p.first + place) * p.pitch;
        framed = p.out && !p.raw ? static_cast<float*>(p.out) + at : nullptr;
        raw = p.out && p.raw ? static_cast<T*>(p.out) + at : nullptr;
    }
    PCF_DEVICE void put(int64_t column, float in_frame, T as_it_is) const {
        if (framed) framed[column] = in_frame;
        if (raw) raw[column] = as_it_is;
    }
};

// One warp a row: for rows that are contiguous, or nearly.
template <class T>
__global__ void __launch_bounds__(kThreads) pack_rows_kernel(const T* x, Pack p) {
    const Scale scale(p.frame);
    for (int64_t place = int64_t(blockIdx.x) * warps() + warp(); place < p.count;
         place += int64_t(gridDim.x) * warps()) {
        const T* at = x + (p.rows ? p.rows[place] : place) * p.row_stride;
        const Packed<T> to(p, place);
        double norm = 0;
        for (int column = lane(); column < p.dim; column += kWarp) {
            const T given = at[column * p.column_stride];
            const float value = framed(given, p.frame.centre[column], scale);
            norm = __fma_rn(double(value), double(value), norm);
            to.put(column, value, given);
        }
        if (p.out)
            for (int64_t column = p.dim + lane(); column < p.pitch; column += kWarp) to.put(column, 0.0f, T{});
        norm = warp_sum(norm);
        if (lane() == 0) p.norm[p.first + place] = float(norm);
    }
}

// One thread a row: for columns that are contiguous.
template <class T>
__global__ void __launch_bounds__(kThreads) pack_columns_kernel(const T* x, Pack p) {
    const Scale scale(p.frame);
    for (int64_t place = int64_t(blockIdx.x) * kThreads + threadIdx.x; place < p.count;
         place += int64_t(gridDim.x) * kThreads) {
        const T* at = x + (p.rows ? p.rows[place] : place) * p.row_stride;
        const Packed<T> to(p, place);
        double norm = 0;
        for (int column = 0; column < p.dim; ++column) {
            const T given = at[column * p.column_stride];
            const float value = framed(given, p.frame.centre[column], scale);
            norm = __fma_rn(double(value), double(value), norm);
            to.put(column, value, given);
        }
        if (p.out)
            for (int64_t column = p.dim; column < p.pitch; ++column) to.put(column, 0.0f, T{});
        p.norm[p.first + place] = float(norm);
    }
}

bool by_columns(const DeviceMatrix& x) { return std::abs(x.row_stride) < std::abs(x.column_stride); }

int blocks_for(int64_t warps_wanted, int device) {
    const int64_t most = int64_t(multiprocessors(device)) * kBlocksPerMultiprocessor;
    const int64_t wanted = (warps_wanted + kThreads / kWarp - 1) / (kThreads / kWarp);
    return int(std::max<int64_t>(1, std::min(wanted, most)));
}

} // namespace

Status look(const DeviceMatrix& x, int64_t* largest, int32_t* broken, int device, stream_t stream) {
    if (x.rows == 0) return {};
    const DeviceGuard guard(device);
    if (guard.status()) return guard.status();
    const bool across = by_columns(x);
    const int64_t outer = across ? x.dim : x.rows, inner = across ? x.rows : x.dim;
    const int64_t outer_stride = across ? x.column_stride : x.row_stride;
    const int64_t inner_stride = across ? x.row_stride : x.column_stride;
    const int blocks = blocks_for(outer * ((inner + kRun - 1) / kRun), device);
    return with_type(x.type, [&](auto kind) -> Status {
        using T = decltype(kind);
        PCF_LAUNCH(look_kernel<T>, blocks, kThreads, 0, stream, static_cast<const T*>(x.data), outer, inner,
                   outer_stride, inner_stride, largest, broken);
        return {};
    });
}

Status pack(const Packing& p, int device, stream_t stream) {
    if (p.count == 0) return {};
    const DeviceGuard guard(device);
    if (guard.status()) return guard.status();
    const Pack pack{p.x.row_stride, p.x.column_stride, int(p.x.dim), p.rows, p.count, p.first, {p.centre, p.params},
                    p.norm, p.out, p.raw, p.pitch};
    return with_type(p.x.type, [&](auto kind) -> Status {
        using T = decltype(kind);
        const auto* x = static_cast<const T*>(p.x.data);
        if (by_columns(p.x))
            PCF_LAUNCH(pack_columns_kernel<T>, blocks_for((p.count + kWarp - 1) / kWarp, device), kThreads, 0, stream,
                       x, pack);
        else
            PCF_LAUNCH(pack_rows_kernel<T>, blocks_for(p.count, device), kThreads, 0, stream, x, pack);
        return {};
    });
}

Status load_frame() {
    for (const Type type : {Type::f16, Type::bf16, Type::f32, Type::f64}) {
        const Status status = with_type(type, [](auto kind) -> Status {
            using T = decltype(kind);
            PCF_LOAD(look_kernel<T>);
            PCF_LOAD(pack_rows_kernel<T>);
            PCF_LOAD(pack_columns_kernel<T>);
            return {};
        });
        if (status) return status;
    }
    return {};
}

} // namespace pcf
