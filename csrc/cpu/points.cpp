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
        double norm2 = 0, alpha = 0, beta = 0, ratios = 0;
    };
    std::vector<Worker> workers(size_t(team.size()));
    for (auto& w : workers) {
        w.row = Aligned<float>(frame.depth());
        w.spare = Aligned<float>(frame.dim());
    }
    const TileKernel& kernel = frame.kernel();
    const bool integers = kernel.longest > 0;
    const double tiny = std::sqrt(double(frame.dim())) * 0x1p-125; // what float32 and bfloat16 may flush to zero
    team.run((x.rows + kMeasureRows - 1) / kMeasureRows, [&](int64_t task, int worker) {
        Worker w = std::move(workers[size_t(worker)]);
        const int64_t end = std::min(x.rows, (task + 1) * kMeasureRows);
        for (int64_t i = task * kMeasureRows; i < end; ++i) {
            frame.row(x, i, w.row.get(), w.spare.get());
            double norm2[3];
            kernel.measure(w.row.get(), frame.depth(), norm2);
            if (!(norm2[0] <= w.norm2))
                w.norm2 = norm2[0] - norm2[0] == 0 ? norm2[0] : std::numeric_limits<double>::infinity();
            const double norm = std::sqrt(norm2[0]), lost = std::sqrt(norm2[2]) * (1 + 0x1p-40);
            if (integers) w.alpha = std::max(w.alpha, lost);
            if (norm > 0) {
                if (!integers) w.beta = std::max(w.beta, (lost - tiny) / norm);
                w.ratios += lost / norm;
            }
            out.w[i] = float(norm2[1] - norm2[2]);
            out.rho[i] = rounded_up(lost + tiny);
        }
        workers[size_t(worker)] = std::move(w);
    });
    Extremes all{0, {0, 0}, 0};
    for (const auto& w : workers) {
        all.norm2 = std::max(all.norm2, w.norm2);
        all.loss.alpha = std::max(all.loss.alpha, w.alpha);
        all.loss.beta = std::max(all.loss.beta, w.beta);
        all.coarse += w.ratios / double(std::max<int64_t>(1, x.rows));
    }
    all.loss.alpha = (all.loss.alpha + 2 * tiny) * (1 + 0x1p-20);
    all.loss.beta *= 1 + 0x1p-20;
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
