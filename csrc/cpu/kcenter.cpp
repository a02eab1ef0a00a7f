#include "kcenter_parts.h"

#include <algorithm>
#include <cstring>
#include <stdexcept>
#include <string>

namespace pcf {
namespace {

constexpr int64_t kPanelBytes = 32 << 10; // packed lanes that stay in the first-level cache beside a block of points
constexpr int64_t kPanelLanes = 256;

int64_t panel_groups(const Frame& frame) {
    const int64_t lanes = frame.kernel().lanes, bytes = lanes * frame.depth() * frame.kernel().bytes;
    return std::max<int64_t>(1, std::min(kPanelBytes / bytes, kPanelLanes / lanes));
}

uint64_t bits(double key) { // of keys >= 0 the bits are in the order of the values
    uint64_t out;
    std::memcpy(&out, &key, sizeof out);
    return out;
}

} // namespace

KCenter::KCenter(const Matrix& x, Frame frame, std::vector<float> norm2, std::vector<float> rho, const Loss& loss,
                 double* squared, const double* weight, int64_t capacity, Prune prune, const float* directions,
                 int64_t direction_count, int threads, std::function<void()> poll)
    : x_(x), frame_(std::move(frame)), kernel_(frame_.kernel()),
      bound_(loss, kernel_.roundings, frame_.depth(), frame_.dim(), frame_.scale()), norm2_(std::move(norm2)),
      rho_(std::move(rho)), squared_(squared), weight_(weight), seen_(size_t(x.rows)), nearest_(size_t(x.rows), -1),
      picks_(frame_, capacity), prune_(prune), panel_groups_(panel_groups(frame_)), team_(threads, std::move(poll)) {
    pick_row_.reserve(size_t(capacity));
    if (directions) sketch_ = std::make_unique<Sketch>(frame_, directions, direction_count, capacity);
    for (int i = 0; i < team_.size(); ++i)
        workers_.push_back(std::make_unique<Worker>(x_, frame_, sketch_.get(), panel_groups_));
}

KCenter::~KCenter() = default;

void KCenter::check_rows(const int64_t* rows, int64_t count) const {
    for (int64_t i = 0; i < count; ++i)
        if (rows[i] < 0 || rows[i] >= x_.rows)
            throw std::out_of_range("rows must lie in 0.." + std::to_string(x_.rows - 1) + ", got " +
                                    std::to_string(rows[i]));
}

void KCenter::append(const int64_t* rows, int64_t count) {
    if (count_ + count > int64_t(pick_row_.capacity())) throw std::length_error("more picks than were asked for");
    picks_.open(count_, count_ + count);
    if (sketch_) sketch_->points.open(count_, count_ + count);
    const Scratch& scratch = workers_[0]->scratch;
    for (int64_t i = 0; i < count; ++i) {
        frame_.row(x_, rows[i], scratch.rows.get(), scratch.spare.get());
        picks_.put(count_ + i, scratch.rows.get(), norm2_[size_t(rows[i])]);
        pick_row_.push_back(rows[i]);
        squared_[rows[i]] = -1.0;
    }
    count_ += count;
    if (sketch_) sketch_picks(count_ - count);
}

KCenter::View KCenter::full_view(const Points& points) const { return {&frame_, &points, &bound_, -1.0, true}; }

float KCenter::threshold_of(const View& view, int64_t row, double squared) const {
    const float norm2 = norm2_[size_t(row)];
    const float rho = view.rho < 0 ? rho_[size_t(row)] : float(view.rho * Bound::norm_of(norm2) * (1 + 0x1p-20));
    return view.bound->threshold(norm2, rho, squared);
}

double KCenter::key(int64_t row) const {
    const double squared = squared_[row];
    if (!weight_ || squared < 0) return squared;
    return weight_[row] > 0 ? weight_[row] * squared : 0.0;
}

double KCenter::edge(int64_t wanted) const {
    constexpr int kShift = 48; // sign, exponent and four bits of the mantissa
    std::vector<int64_t> above(1 << (64 - kShift));
    for (int64_t i = 0; i < x_.rows; ++i) {
        const double k = key(i);
        if (k >= 0) ++above[bits(k) >> kShift];
    }
    int64_t bucket = int64_t(above.size()) - 1;
    for (; bucket >= 0 && wanted > above[size_t(bucket)]; --bucket) wanted -= above[size_t(bucket)];
    if (bucket < 0) return 0.0;
    std::vector<double> level;
    level.reserve(size_t(above[size_t(bucket)]));
    for (int64_t i = 0; i < x_.rows; ++i) {
        const double k = key(i);
        if (k >= 0 && int64_t(bits(k) >> kShift) == bucket) level.push_back(k);
    }
    std::nth_element(level.begin(), level.begin() + (wanted - 1), level.end(), std::greater<double>());
    return level[size_t(wanted - 1)];
}

int64_t KCenter::pool(double edge, int64_t* rows, int64_t room) const {
    int64_t found = 0;
    for (int64_t i = 0; i < x_.rows; ++i)
        if (squared_[i] >= 0 && key(i) >= edge) {
            if (found < room) rows[found] = i;
            ++found;
        }
    return found;
}

} // namespace pcf
