// Which rows a pass looks at; see kernels/backends/triton_kernels/select.py, whose buffers these are.
#pragma once
#include "status.h"

namespace pcf {

struct Selection {
    const double* key;   // [rows], -1 where picked
    const int32_t* seen; // [rows] picks that a row has been compared with
    int64_t rows;
    int64_t span;       // rows that a block takes in counting and scattering
    int32_t blocks;     // ceil(rows / span)
    int64_t* control;   // layout.h
    int32_t* counters;  // layout.h, zero when a pass begins
    int32_t* ages;      // [blocks, kAgeBins]
    int32_t* candidates; // [listed]
    int32_t* stale;     // [rows]
    int32_t listed;
    bool eager; // refresh all rows, whether they can become candidates or not
};

// The edge, by `levels` histograms; the candidates that are fresh; the rows to refresh, oldest first.
Status select(const Selection& selection, int levels, stream_t stream);

} // namespace pcf
