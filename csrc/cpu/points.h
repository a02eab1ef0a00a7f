// Measured rows, and packed points for the tiles.
#pragma once
#include "bound.h"
#include "source.h"
#include "team.h"

#include <limits>

namespace pcf {

// Of every row in the frame: w, rounded to nearest, and rho, rounded up (bound.h).
struct Measured {
    float* w;
    float* rho;
};

struct Extremes {
    double norm2;  // largest |z|^2; infinite if any row is not finite
    Loss loss;
    double coarse; // mean of rho / |z|
};

Extremes measure(Team& team, const Matrix& x, const Frame& frame, Measured out);

// Largest squared norm in the frame that the tiles stand: products stay within float32, or integers within theirs.
double most_norm2(const TileKernel& kernel);

// One row after the other: its w and rho, and what has been met so far.
class Meter {
  public:
    explicit Meter(const Frame& frame) : frame_(&frame), row_(frame.depth()), spare_(frame.dim()) {}
    void take(const Matrix& x, int64_t i, float& w, float& rho);
    const float* row() const { return row_.get(); } // the last one, in the frame
    double norm2() const { return norm2_; }
    double ratios() const { return ratios_; } // sum of rho / |z|
    Loss loss() const;

  private:
    const Frame* frame_;
    Aligned<float> row_, spare_;
    double norm2_ = 0, alpha_ = 0, beta_ = 0, ratios_ = 0;
};

// Rows packed as points, in blocks.
class Points {
  public:
    Points(const Frame& frame, int64_t capacity);
    int64_t per_block() const { return kernel_->points; }
    int64_t blocks(int64_t points) const { return (points + kernel_->points - 1) / kernel_->points; }
    const char* block(int64_t b) const { return packed_.get() + b * block_bytes_; }
    const float* half(int64_t b) const { return half_.get() + b * stride_; }
    int64_t block_bytes() const { return block_bytes_; }
    // Make places first..count ready; places that are not filled never show a value.
    void open(int64_t first, int64_t count);
    void put(int64_t place, const float* row, float w); // row [depth] in the frame
    void copy(int64_t place, const Points& from, int64_t other);

  private:
    const TileKernel* kernel_;
    int64_t depth_, block_bytes_, stride_;
    Aligned<char> packed_;
    Aligned<float> half_;
};

// What packing reads and a tile writes; one object a thread.
struct Scratch {
    explicit Scratch(const Frame& frame)
        : rows(frame.kernel().lanes * frame.depth()), spare(frame.dim()),
          values(int64_t(frame.kernel().points) * frame.kernel().lanes), masks(frame.kernel().points) {}
    Aligned<float> rows;  // [lanes][depth]
    Aligned<float> spare; // [dim]
    Aligned<float> values; // [points][lanes]
    Aligned<uint32_t> masks;
};

// Lanes packed for one sweep: groups of kernel.lanes rows with their thresholds.
class Lanes {
  public:
    Lanes(const Frame& frame, int64_t groups);
    int64_t groups() const { return groups_; }
    int64_t rows() const { return groups_ * frame_->kernel().lanes; }
    char* group(int64_t g) const { return packed_.get() + g * group_bytes_; }
    float* thresholds() const { return threshold_.get(); } // [rows]
    // Pack rows ids[0..count) of x into groups from `first` on; the lanes that are left get zeros.
    void pack(const Matrix& x, const int64_t* ids, int64_t count, int64_t first, const Scratch& scratch) const;

  private:
    const Frame* frame_;
    int64_t groups_, group_bytes_;
    Aligned<char> packed_;
    Aligned<float> threshold_;
};

constexpr float kNever = std::numeric_limits<float>::infinity(); // a threshold that no value reaches

// hit(lane, point, value) for every value at or above its lane's threshold at the time; groups first..last against
// points of blocks lo..hi. A hit may raise thresholds; values below the new ones may still be reported.
template <class Hit>
void sweep(const TileKernel& kernel, int64_t depth, const Lanes& lanes, int64_t first, int64_t last,
           const Points& points, int64_t lo, int64_t hi, const Scratch& scratch, Hit&& hit) {
    const float* values = scratch.values.get();
    uint32_t* masks = scratch.masks.get();
    for (int64_t b = lo; b < hi; ++b)
        for (int64_t g = first; g < last; ++g) {
            if (!kernel.tile(lanes.group(g), points.block(b), depth, points.half(b),
                             lanes.thresholds() + g * kernel.lanes, masks, scratch.values.get()))
                continue;
            for (int p = 0; p < kernel.points; ++p)
                for (uint32_t mask = masks[p]; mask != 0; mask &= mask - 1) {
                    const int l = __builtin_ctz(mask);
                    hit(g * kernel.lanes + l, b * kernel.points + p, values[p * kernel.lanes + l]);
                }
        }
}

// Begins and ends the kernel's state for the tiles of one scope.
class TileScope {
  public:
    explicit TileScope(const TileKernel& kernel) : kernel_(kernel) { kernel_.begin(); }
    ~TileScope() { kernel_.end(); }
    TileScope(const TileScope&) = delete;
    TileScope& operator=(const TileScope&) = delete;

  private:
    const TileKernel& kernel_;
};

} // namespace pcf
