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

Status pack_rows(const Knn& knn, const DeviceMatrix& x, float* norm, float* out, int device, stream_t stream) {
    const Packing packing{x, nullptr, x.rows, 0, knn.centre, knn.params, norm, out, knn.pitch};
    return pack(packing, device, stream);
}

} // namespace

int64_t knn_tile() { return kTile; }

Status knn_some(const Knn& knn, bool tensor_cores, bool packed_already, int device, stream_t stream) {
    const DeviceGuard guard(device);
    if (const Status failed = guard.status()) return failed;
    if (tensor_cores)
        if (const Status failed = tf32_runs("search_kernel")) return failed;
    if (const Status failed = pack_rows(knn, knn.query, knn.packed_norm, knn.packed, device, stream)) return failed;
    for (int64_t first = 0; first < knn.bank.rows; first += knn.chunk) {
        DeviceMatrix rows = knn.bank;
        rows.rows = std::min(knn.chunk, knn.bank.rows - first);
        rows.data = static_cast<const char*>(rows.data) + first * rows.row_stride * bytes_of(rows.type);
        if (!packed_already)
            if (const Status failed = pack_rows(knn, rows, knn.norm + first, knn.packed_bank, device, stream))
                return failed;
        if (const Status failed = search(knn, first, rows.rows, tensor_cores, stream)) return failed;
    }
    return settle(knn, stream);
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
