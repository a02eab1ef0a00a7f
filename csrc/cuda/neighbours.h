// What settling and rescuing have in common.
#pragma once
#include "knn.h"
#include "rows.h"
#include "slots.h"

namespace pcf {
namespace cuda {

// The canonical squared distance of a query and a bank row, by one warp.
PCF_DEVICE double settled(const Knn& knn, int64_t query, int64_t row PCF_SITE) {
    const DeviceMatrix &x = knn.query, &y = knn.bank;
    const char* one = static_cast<const char*>(x.data) + query * x.row_stride * bytes_of(x.type);
    const char* other = static_cast<const char*>(y.data) + row * y.row_stride * bytes_of(y.type);
    return canonical_warp(one, other, int(y.dim), x.column_stride, y.column_stride, x.type, y.type PCF_AT);
}

} // namespace cuda
} // namespace pcf
