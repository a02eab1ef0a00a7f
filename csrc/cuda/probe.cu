// See probe.h.
#include "probe.h"

#include "device.h"
#include "mma.h"

namespace pcf {
namespace {

PCF_DEVICE uint32_t pair(const uint16_t* at) { return at[0] | uint32_t(at[1]) << 16; }

// Products on tensor cores whose sums show every bit that is lost: a warp a tile, one instruction. T: float, for TF32,
// Half or Brain.
template <class T>
__global__ void __launch_bounds__(kWarp)
    products_kernel(const void* all_x, const void* all_y, const float* start, float* out) {
    constexpr bool tf32 = sizeof(T) == 4;
    constexpr int depth = tf32 ? 8 : 16;
    const int g = lane() / 4, t = lane() % 4;
    const T* x = static_cast<const T*>(all_x) + blockIdx.x * kProbeRows * depth;
    const T* y = static_cast<const T*>(all_y) + blockIdx.x * kProbeOthers * depth;
    // The register that holds columns t of the first half of a row, or of the second: one value, or two.
    const auto of = [&](const T* rows, int row, int half) {
        const T* at = rows + row * depth + half * depth / 2 + t * depth / 8;
        if constexpr (tf32) return float_to_bits(*at);
        else return pair(reinterpret_cast<const uint16_t*>(at));
    };
    const uint32_t a[4] = {of(x, g, 0), of(x, g + 8, 0), of(x, g, 1), of(x, g + 8, 1)};
    const uint32_t b[2] = {of(y, g, 0), of(y, g, 1)};
    float d[4];
    const int64_t tile = int64_t(blockIdx.x) * kProbeRows * kProbeOthers;
    const auto place = [&](int i) { return tile + (g + 8 * (i / 2)) * kProbeOthers + 2 * t + i % 2; };
    PCF_UNROLL
    for (int i = 0; i < 4; ++i) d[i] = start[place(i)];
    if constexpr (tf32) mma_tf32(d, a, b);
    else mma_half<T>(d, a, b);
    PCF_UNROLL
    for (int i = 0; i < 4; ++i) out[place(i)] = d[i];
}

} // namespace

Status tensor_core_products(const void* x, const void* y, Type type, const float* start, float* out, int tiles,
                            int device, stream_t stream) {
    const DeviceGuard guard(device);
    if (const Status status = guard.status()) return status;
    if (const Status status = tensor_cores_run("products_kernel")) return status;
    return with_type(type, [&](auto kind) -> Status {
        using T = std::conditional_t<sizeof(kind) == 8, float, decltype(kind)>; // float64: refused by the caller
        PCF_LAUNCH(products_kernel<T>, dim3(unsigned(tiles)), kWarp, 0, stream, x, y, start, out);
        return {};
    });
}

} // namespace pcf
