// The float32 tile on fused multiply-adds. Included inside the anonymous namespace of a tile_*.cpp, which defines
//   V, kWidth, load, store, broadcast, fma, at_least (mask of a >= b), larger, smaller, kVectors, kPoints.
// kVectors * kPoints accumulators stay in registers: per depth step kVectors loads of lanes and kPoints broadcasts
// feed kVectors * kPoints multiply-adds.

constexpr int kLanes = kVectors * kWidth;

#ifndef PCF_OWN_PACK_LANES
void pack_lanes(const float* rows, int64_t depth, void* group) {
    float* out = static_cast<float*>(group); // [depth][kLanes]
    for (int64_t k = 0; k < depth; ++k)
        for (int l = 0; l < kLanes; ++l) out[k * kLanes + l] = rows[l * depth + k];
}
#endif

void pack_point(const float* row, int64_t depth, void* block, int slot) {
    float* out = static_cast<float*>(block) + slot; // [depth][kPoints]
    for (int64_t k = 0; k < depth; ++k) out[k * kPoints] = row[k];
}

void copy_point(const void* from, int slot, int64_t depth, void* block, int place) {
    const float* in = static_cast<const float*>(from) + slot;
    float* out = static_cast<float*>(block) + place;
    for (int64_t k = 0; k < depth; ++k) out[k * kPoints] = in[k * kPoints];
}

bool tile(const void* group, const void* block, int64_t depth, const float* half, const float* threshold,
          uint32_t* masks, float* values) {
    const float* lane = static_cast<const float*>(group);
    const float* point = static_cast<const float*>(block);
    V sum[kPoints][kVectors];
#pragma GCC unroll 16
    for (int p = 0; p < kPoints; ++p)
#pragma GCC unroll 4
        for (int j = 0; j < kVectors; ++j) sum[p][j] = broadcast(half + p);
    for (int64_t k = 0; k < depth; ++k, lane += kLanes, point += kPoints) {
        V x[kVectors];
#pragma GCC unroll 4
        for (int j = 0; j < kVectors; ++j) x[j] = load(lane + j * kWidth);
#pragma GCC unroll 16
        for (int p = 0; p < kPoints; ++p) {
            const V y = broadcast(point + p);
#pragma GCC unroll 4
            for (int j = 0; j < kVectors; ++j) sum[p][j] = fma(x[j], y, sum[p][j]);
        }
    }
    V limit[kVectors];
#pragma GCC unroll 4
    for (int j = 0; j < kVectors; ++j) limit[j] = load(threshold + j * kWidth);
    uint32_t any = 0;
#pragma GCC unroll 16
    for (int p = 0; p < kPoints; ++p) {
        uint32_t mask = 0;
#pragma GCC unroll 4
        for (int j = 0; j < kVectors; ++j) mask |= at_least(sum[p][j], limit[j]) << (j * kWidth);
        masks[p] = mask;
        any |= mask;
    }
    if (any == 0) return false;
#pragma GCC unroll 16
    for (int p = 0; p < kPoints; ++p)
#pragma GCC unroll 4
        for (int j = 0; j < kVectors; ++j) store(values + p * kLanes + j * kWidth, sum[p][j]);
    return true;
}

#include "tile_insert.h"

void no_state() {}

void measure(const float* row, int64_t depth, double* norm2) {
    double part[8] = {};
    for (int64_t k = 0; k < depth; k += 8)
        for (int j = 0; j < 8; ++j) part[j] += double(row[k + j]) * double(row[k + j]);
    norm2[0] = norm2[1] = ((part[0] + part[4]) + (part[1] + part[5])) + ((part[2] + part[6]) + (part[3] + part[7]));
    norm2[2] = 0; // float32 rows are packed as they are
}
