// Rows along a few directions: a lower bound on every distance, at a fraction of the depth.
//
// With Q [r][D] orthonormal rows, a = Q z and s = |z - Q^T a|, the row (a, s) has z's norm, and by Cauchy and Schwarz
//
//     z_x.z_y <= a_x.a_y + s_x s_y,
//
// so the tile's value of the short rows is never below that of the long ones: whatever is nearer than a threshold
// still shows. Leading principal directions leave the least in s. Q is orthonormal and a is summed up to rounding
// only; both go into the bound, and s is rounded up.
#pragma once
#include "points.h"

#include <algorithm>
#include <stdexcept>

namespace pcf {

struct Sketch {
    // For kernels that pack float32, whose group is [depth][lanes].
    Sketch(const Frame& full, const float* rows, int64_t count, int64_t capacity)
        : frame(full.kernel(), nullptr, full.scale(), count + 1), points(frame, capacity), directions(full, count),
          lowest(full.kernel().lanes), full_depth(full.depth()), count(count) {
        Aligned<float> row(full.depth());
        directions.open(0, count);
        for (int64_t j = 0; j < count; ++j) {
            std::fill_n(row.get(), full.depth(), 0.0f);
            std::copy_n(rows + j * full.dim(), full.dim(), row.get());
            directions.put(j, row.get(), 0.0);
        }
        std::fill_n(lowest.get(), full.kernel().lanes, -FLT_MAX);
        double skew = 0; // Frobenius norm of Q Q^T - 1, which is symmetric
        for (int64_t i = 0; i < count; ++i)
            for (int64_t j = i; j < count; ++j) {
                double part[8] = {};
                const float *a = rows + i * full.dim(), *b = rows + j * full.dim();
                for (int64_t k = 0; k < full.dim(); ++k) part[k & 7] += double(a[k]) * double(b[k]);
                double dot = i == j ? -1.0 : 0.0;
                for (double p : part) dot += p;
                skew += dot * dot * (i == j ? 1 : 2);
            }
        skew = std::sqrt(skew) * 1.01 + 0x1p-40;
        // What a may be off by, relative to |z|: the float32 sums of all directions together.
        const double sums = (full.kernel().roundings * double(full.depth()) + 8) * 0x1p-24 * std::sqrt(double(count)) * 1.02;
        if (!(skew < 0x1p-8 && sums < 0x1p-4))
            throw std::invalid_argument("directions must be orthonormal rows, and not too wide for float32 sums");
        excess = 4.5 * (skew + sums);
        bound = Bound({0, 0}, full.kernel().roundings, frame.depth(), frame.dim(), full.scale());
        bound.delta += 2 * excess; // a short row is off like one that the frame rounds more coarsely
        bound.gamma += 2 * skew;
    }

    // A group of full rows, their |z|^2 -> a group of short rows.
    void project(const char* full, const float* norm2, const Scratch& scratch, float* group) const {
        const TileKernel& kernel = frame.kernel();
        const int64_t lanes = kernel.lanes;
        double part[32] = {};
        for (int64_t j = 0; j < count; ++j) {
            const int64_t p = j % kernel.points;
            if (p == 0)
                kernel.tile(full, directions.block(j / kernel.points), full_depth, directions.half(j / kernel.points),
                            lowest.get(), scratch.masks.get(), scratch.values.get());
            for (int64_t l = 0; l < lanes; ++l) {
                const float a = scratch.values[p * lanes + l];
                group[j * lanes + l] = a;
                part[l] += double(a) * double(a);
            }
        }
        for (int64_t l = 0; l < lanes; ++l) {
            const double left = double(norm2[l]) * (1 + excess) - part[l];
            group[count * lanes + l] = float(std::sqrt(left > 0 ? left : 0) * (1 + 0x1p-20));
        }
        std::fill_n(group + (count + 1) * lanes, (frame.depth() - count - 1) * lanes, 0.0f);
    }

    Frame frame;
    Points points;     // short rows of the picks
    Points directions; // as points of the full frame
    Aligned<float> lowest;
    Bound bound;
    double excess;
    int64_t full_depth, count;
};

} // namespace pcf
