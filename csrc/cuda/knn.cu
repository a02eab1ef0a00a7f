// The entry points of the k-NN: what is enqueued for a piece of queries, in which order. Nothing is allocated, and
// nothing waits for the device.
#include "device.h"
#include "frame.h"
#include "gpu.h"
#include "knn.h"
#include "tile_inner.h"

#include <algorithm>

namespace pcf {
namespace cuda {
namespace {

// Norms, and with `out` rows.
Status pack_rows(const Knn& knn, const DeviceMatrix& x, float* norm, float* out, int device, stream_t stream) {
    const bool raw = of_halves(knn.mode);
    const int pitch = raw ? 2 * knn.pitch : knn.pitch;
    const Packing packing{x, nullptr, x.rows, 0, knn.centre, knn.params, norm, out, raw, pitch};
    return pack(packing, device, stream);
}

} // namespace

int64_t knn_tile() { return kTile; }

Status knn_some(const Knn& knn, bool packed_already, int device, stream_t stream) {
    const DeviceGuard guard(device);
    if (const Status failed = guard.status()) return failed;
    if (on_tensor_cores(knn.mode))
        if (const Status failed = tensor_cores_run("search_kernel")) return failed;
    float* const packed = knn.query_in_place ? nullptr : knn.packed;
    float* const packed_bank = knn.bank_in_place ? nullptr : knn.packed_bank;
    if (const Status failed = pack_rows(knn, knn.query, knn.packed_norm, packed, device, stream)) return failed;
    for (int64_t first = 0; first < knn.bank.rows; first += knn.chunk) {
        DeviceMatrix rows = knn.bank;
        rows.rows = std::min(knn.chunk, knn.bank.rows - first);
        rows.data = static_cast<const char*>(rows.data) + first * rows.row_stride * bytes_of(rows.type);
        if (!packed_already)
            if (const Status failed = pack_rows(knn, rows, knn.norm + first, packed_bank, device, stream))
                return failed;
        if (const Status failed = search(knn, rows, first, stream)) return failed;
    }
    return settle(knn, device, stream);
}

Status knn_rescue(const Knn& knn, int device, stream_t stream) {
    const DeviceGuard guard(device);
    if (const Status failed = guard.status()) return failed;
    return rescue(knn, stream);
}

Status knn_load(int device) {
    const DeviceGuard guard(device);
    if (const Status failed = guard.status()) return failed;
    for (const auto part : {load_frame, load_search, load_settle, load_rescue})
        if (const Status failed = part()) return failed;
    return {};
}

} // namespace cuda
} // namespace pcf
