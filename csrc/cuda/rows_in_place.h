// Whether rows can be read 16 bytes at a time as the caller has them. For the host.
#pragma once
#include "status.h"

namespace pcf {

inline bool in_place(const DeviceMatrix& x) {
    const int per_load = x.type == Type::f64 ? 2 : x.type == Type::f32 ? 4 : 8;
    return x.column_stride == 1 && x.row_stride % per_load == 0 && x.dim % per_load == 0 &&
           reinterpret_cast<uintptr_t>(x.data) % 16 == 0;
}

} // namespace pcf
