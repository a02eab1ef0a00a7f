#include "points.h"

#include <cstring>
#include <algorithm>
#include <limits>

namespace pcf {
namespace {

constexpr int64_t kMeasureRows = 512;
constexpr double kFlushed = 0x1p-125; // what float32 and bfloat16 may flush to zero, a column

float rounded_up(double value) {
    const float rounded = float(value);
    return double(rounded) < value ? std::nextafter(rounded, FLT_MAX) : rounded;
}

} // namespace

double most_norm2(const TileKernel& kernel) {
    return kernel.longest > 0 ? kernel.longest * kernel.longest : 0x1p120;
}

void Meter::take(const Matrix& x, int64_t i, float& w, float& rho) {
    const TileKernel& kernel = frame_->kernel();
    const bool integers = kernel.longest > 0;
    const double tiny = std::sqrt(double(frame_->dim())) * kFlushed;
    frame_->row(x, i, row_.get(), spare_.get());
    double norm2[3];
    kernel.measure(row_.get(), frame_->depth(), norm2);
    if (!(norm2[0] <= norm2_))
        norm2_ = norm2[0] - norm2[0] == 0 ? norm2[0] : std::numeric_limits<double>::infinity();
    const double norm = std::sqrt(norm2[0]), lost = std::sqrt(norm2[2]) * (1 + 0x1p-40);
    if (integers) alpha_ = std::max(alpha_, lost);
    if (norm > 0) {
        if (!integers) beta_ = std::max(beta_, (lost - tiny) / norm);
        ratios_ += lost / norm;
    }
    w = float(norm2[1] - norm2[2]);
    rho = rounded_up(lost + tiny);
}

Loss Meter::loss() const {
    const double tiny = std::sqrt(double(frame_->dim())) * kFlushed;
    return {(alpha_ + 2 * tiny) * (1 + 0x1p-20), beta_ * (1 + 0x1p-20)};
}

Extremes measure(Team& team, const Matrix& x, const Frame& frame, Measured out) {
    std::vector<Meter> meters;
    for (int i = 0; i < team.size(); ++i) meters.emplace_back(frame);
    team.run((x.rows + kMeasureRows - 1) / kMeasureRows, [&](int64_t task, int worker) {
        Meter meter = std::move(meters[size_t(worker)]); // what it counts stays in this thread's cache
        const int64_t end = std::min(x.rows, (task + 1) * kMeasureRows);
        for (int64_t i = task * kMeasureRows; i < end; ++i) meter.take(x, i, out.w[i], out.rho[i]);
        meters[size_t(worker)] = std::move(meter);
    });
    Extremes all{0, {0, 0}, 0};
    for (const auto& meter : meters) {
        all.norm2 = std::max(all.norm2, meter.norm2());
        all.loss.alpha = std::max(all.loss.alpha, meter.loss().alpha);
        all.loss.beta = std::max(all.loss.beta, meter.loss().beta);
        all.coarse += meter.ratios() / double(std::max<int64_t>(1, x.rows));
    }
    return all;
}

Points::Points(const Frame& frame, int64_t capacity)
    : kernel_(&frame.kernel()), depth_(frame.depth()), block_bytes_(kernel_->points * depth_ * kernel_->bytes),
      stride_((kernel_->points + 15) / 16 * 16), packed_(blocks(capacity) * block_bytes_),
      half_(blocks(capacity) * stride_) {}

void Points::open(int64_t first, int64_t count) {
    // Blocks that begin among these places: emptied, so that a part-filled block is never read as it was.
    for (int64_t b = blocks(first); b < blocks(count); ++b) {
        std::memset(packed_.get() + b * block_bytes_, 0, size_t(block_bytes_));
        std::fill_n(half_.get() + b * stride_, stride_, -std::numeric_limits<float>::infinity());
    }
}

void Points::put(int64_t place, const float* row, float w) {
    const int64_t b = place / kernel_->points, slot = place % kernel_->points;
    kernel_->pack_point(row, depth_, packed_.get() + b * block_bytes_, int(slot));
    half_[b * stride_ + slot] = -0.5f * w;
}

void Points::copy(int64_t place, const Points& from, int64_t other) {
    const int64_t n = kernel_->points;
    kernel_->copy_point(from.block(other / n), int(other % n), depth_, packed_.get() + place / n * block_bytes_,
                        int(place % n));
    half_[place / n * stride_ + place % n] = from.half(other / n)[other % n];
}

Lanes::Lanes(const Frame& frame, int64_t groups)
    : frame_(&frame), groups_(groups),
      group_bytes_((frame.kernel().lanes * frame.depth() * frame.kernel().bytes + 63) / 64 * 64),
      packed_(groups * group_bytes_), threshold_(groups * frame.kernel().lanes) {}

void Lanes::pack(const Matrix& x, const int64_t* ids, int64_t count, int64_t first, const Scratch& scratch) const {
    const int64_t lanes = frame_->kernel().lanes, depth = frame_->depth();
    for (int64_t done = 0, g = first; done < count; done += lanes, ++g) {
        for (int64_t l = 0; l < lanes; ++l) {
            if (done + l < count)
                frame_->row(x, ids[done + l], scratch.rows.get() + l * depth, scratch.spare.get());
            else
                std::memset(scratch.rows.get() + l * depth, 0, size_t(depth) * sizeof(float));
        }
        frame_->kernel().pack_lanes(scratch.rows.get(), depth, group(g));
    }
}

} // namespace pcf
