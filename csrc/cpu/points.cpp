#include "points.h"

#include <cstring>
#include <algorithm>
#include <limits>

namespace pcf {
namespace {

constexpr int64_t kMeasureRows = 512;

float rounded_up(double value) {
    const float rounded = float(value);
    return double(rounded) < value ? std::nextafter(rounded, FLT_MAX) : rounded;
}

} // namespace

Extremes measure(Team& team, const Matrix& x, const Frame& frame, Measured out) {
    struct Worker {
        Aligned<float> row, spare;
        double norm2 = 0, beta = 0;
    };
    std::vector<Worker> workers(size_t(team.size()));
    for (auto& w : workers) {
        w.row = Aligned<float>(frame.depth());
        w.spare = Aligned<float>(frame.dim());
    }
    const double tiny = std::sqrt(double(frame.dim())) * 0x1p-125;
    team.run((x.rows + kMeasureRows - 1) / kMeasureRows, [&](int64_t task, int worker) {
        Worker& w = workers[size_t(worker)];
        const int64_t end = std::min(x.rows, (task + 1) * kMeasureRows);
        double largest = w.norm2, beta = w.beta;
        for (int64_t i = task * kMeasureRows; i < end; ++i) {
            frame.row(x, i, w.row.get(), w.spare.get());
            double norm2 = 0, residual = 0;
            frame.kernel().measure(w.row.get(), frame.depth(), &norm2, &residual);
            if (!(norm2 <= largest)) largest = norm2 - norm2 == 0 ? norm2 : std::numeric_limits<double>::infinity();
            // The packed row's error, and that of the row itself in the frame.
            const double norm = std::sqrt(norm2) * (1 + 0x1p-40);
            const double rho = std::sqrt(residual) * (1 + 0x1p-40) + 0x1p-23 * norm + tiny;
            const double ratio = norm > 0 ? (rho - tiny) / norm : 0;
            if (ratio > beta) beta = ratio;
            out.norm2[i] = float(norm2);
            out.rho[i] = rounded_up(rho);
        }
        w.norm2 = largest;
        w.beta = beta;
    });
    Extremes all{0, 0};
    for (const auto& w : workers) {
        all.norm2 = std::max(all.norm2, w.norm2);
        all.beta = std::max(all.beta, w.beta * (1 + 0x1p-20));
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

void Points::put(int64_t place, const float* row, double norm2) {
    const int64_t b = place / kernel_->points, slot = place % kernel_->points;
    kernel_->pack_point(row, depth_, packed_.get() + b * block_bytes_, int(slot));
    half_[b * stride_ + slot] = float(-0.5 * norm2);
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
