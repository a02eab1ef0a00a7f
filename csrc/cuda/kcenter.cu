// A pass, enqueued: 14 launches and a memset one behind the other, 21 where the cut must be exact; nothing is
// allocated, nothing waits.
#include "kcenter.h"
#include "device.h"
#include "gpu.h"
#include "select.h"

namespace pcf {
namespace {

Status usable(const KCenterPass& p) { return on_tensor_cores(p.mode) ? tensor_cores_run("update_kernel") : Status{}; }

Status begin(const KCenterPass& p, stream_t stream) {
    if (const Status status = usable(p)) return status;
    return clear_async(p.counters, sizeof(int32_t) * (kHistogram + kLevelCount * kBins), stream);
}

Selection selection_of(const KCenterPass& p) {
    return {p.key,     p.seen,  p.x.rows,     p.span,  int32_t((p.x.rows + p.span - 1) / p.span), p.control, p.counters,
            p.ages,    p.candidates, p.stale, p.listed, p.eager};
}

} // namespace

Status kcenter_pass(const KCenterPass& p, int levels, int device, stream_t stream) {
    const DeviceGuard guard(device);
    if (const Status status = guard.status()) return status;
    if (const Status status = begin(p, stream)) return status;
    if (const Status status = select(selection_of(p), levels, stream)) return status;
    if (const Status status = update(p, true, stream)) return status;
    if (const Status status = narrow(p, stream)) return status;
    if (const Status status = settle(p, stream)) return status;
    if (const Status status = trim(p, stream)) return status;
    return resolve(p, stream);
}

Status kcenter_refresh_all(const KCenterPass& p, int device, stream_t stream) {
    const DeviceGuard guard(device);
    if (const Status status = guard.status()) return status;
    if (const Status status = begin(p, stream)) return status;
    return update(p, false, stream);
}

Status kcenter_refresh_listed(const KCenterPass& p, int device, stream_t stream) {
    const DeviceGuard guard(device);
    if (const Status status = guard.status()) return status;
    if (const Status status = usable(p)) return status;
    return update(p, true, stream);
}

Status kcenter_settle_listed(const KCenterPass& p, int device, stream_t stream) {
    const DeviceGuard guard(device);
    if (const Status status = guard.status()) return status;
    return settle(p, stream);
}

} // namespace pcf
