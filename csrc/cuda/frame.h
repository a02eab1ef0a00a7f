// Rows on the device looked over, and brought into the frame.
#pragma once
#include "status.h"

namespace pcf {

// largest [1]: bits of the largest |x| as a float64, those of infinity where a value is NaN; broken [1]: 1 where a
// value is not an integer. Both are raised, not set: begin with zeros.
Status look(const DeviceMatrix& x, int64_t* largest, int32_t* broken, int device, stream_t stream);

struct Packing {
    DeviceMatrix x;
    const int64_t* rows; // [count] which rows, or null: 0 .. count - 1
    int64_t count;
    int64_t first;        // place of the first in `norm` and `out`
    const float* centre;  // [dim]
    const double* params; // [5], see rows.h
    float* norm;          // squared norms in the frame, summed in float64
    void* out;            // [*, pitch] float32, the rows in the frame, columns from dim on zero; or null
    bool raw;             // `out` is of the rows' own type instead, and has them as they are
    int64_t pitch;        // >= dim
};
Status pack(const Packing& packing, int device, stream_t stream);

Status load_frame(); // the kernels of both, on the current device: see load() in gpu.h

} // namespace pcf
