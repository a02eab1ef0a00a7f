// Products as this device's tensor cores take them: Python judges whether tf32x3 and half may count on them
// (kernels/backends/device/tensor_cores.py).
#pragma once
#include "status.h"

namespace pcf {

// Of a tile: one mma.sync.m16n8k8 of TF32, or one m16n8k16 of float16 or bfloat16.
constexpr int kProbeRows = 16, kProbeOthers = 8;
constexpr int probe_depth(Type type) { return type == Type::f32 ? 8 : 16; }

// out = start + x y^T, tile by tile: x [tiles, 16, depth], y [tiles, 8, depth] float32 (as TF32), float16 or bfloat16;
// start and out [tiles, 16, 8].
Status tensor_core_products(const void* x, const void* y, Type type, const float* start, float* out, int tiles,
                            int device, stream_t stream);

} // namespace pcf
