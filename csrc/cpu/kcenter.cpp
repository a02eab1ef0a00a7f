#include "kcenter_worker.h"

#include <algorithm>
#include <cstring>
#include <stdexcept>
#include <string>

namespace pcf {
namespace {

constexpr int64_t kPanelBytes = 32 << 10;  // packed lanes that stay in the first-level cache beside a block of points

int64_t panel_groups(const Frame& frame) {
    const int64_t bytes = frame.kernel().lanes * frame.depth() * frame.kernel().bytes;
    return std::max<int64_t>(1, std::min<int64_t>(kPanelBytes / bytes, 16));
}

uint64_t bits(double key) { // of keys >= 0 the bits are in the order of the values
    uint64_t out;
    std::memcpy(&out, &key, sizeof out);
    return out;
}

} // namespace

KCenter::KCenter(const Matrix& x, Frame frame, std::vector<float> norm2, std::vector<float> rho, const Loss& loss,
                 double* squared, const double* weight, int64_t capacity, int threads, std::function<void()> poll)
    : x_(x), frame_(std::move(frame)), kernel_(frame_.kernel()),
      bound_(loss, kernel_.roundings, frame_.depth(), frame_.dim(), frame_.scale()), norm2_(std::move(norm2)),
      rho_(std::move(rho)), squared_(squared), weight_(weight), seen_(size_t(x.rows)), nearest_(size_t(x.rows), -1),
      picks_(frame_, capacity), panel_groups_(panel_groups(frame_)), team_(threads, std::move(poll)) {
    pick_row_.reserve(size_t(capacity));
    for (int i = 0; i < team_.size(); ++i) workers_.push_back(std::make_unique<Worker>(x_, frame_, panel_groups_));
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
    const Scratch& scratch = workers_[0]->scratch;
    for (int64_t i = 0; i < count; ++i) {
        frame_.row(x_, rows[i], scratch.rows.get(), scratch.spare.get());
        picks_.put(count_ + i, scratch.rows.get(), norm2_[size_t(rows[i])]);
        pick_row_.push_back(rows[i]);
        squared_[rows[i]] = -1.0;
    }
    count_ += count;
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

int64_t KCenter::refresh(const int64_t* rows, int64_t count) {
    // Rows of like age share a panel: a counting sort by the picks they have seen.
    std::vector<int64_t> start(size_t(count_) + 1);
    const int64_t total = rows ? count : x_.rows;
    const auto stale = [&](int64_t r) { return seen_[size_t(r)] < count_ && squared_[r] > 0; };
    int64_t distances = 0;
    for (int64_t i = 0; i < total; ++i) {
        const int64_t r = rows ? rows[i] : i;
        if (stale(r)) ++start[size_t(seen_[size_t(r)]) + 1];
    }
    for (size_t s = 1; s < start.size(); ++s) {
        distances += start[s] * (count_ - int64_t(s) + 1);
        start[s] += start[s - 1];
    }
    order_.resize(size_t(start.back()));
    for (int64_t i = 0; i < total; ++i) {
        const int64_t r = rows ? rows[i] : i;
        if (stale(r)) order_[size_t(start[size_t(seen_[size_t(r)])]++)] = r;
    }
    const int64_t n = int64_t(order_.size()), step = panel_groups_ * kernel_.lanes;
    team_.run((n + step - 1) / step, [&](int64_t task, int worker) {
        Worker& w = *workers_[size_t(worker)];
        const int64_t* ids = order_.data() + task * step;
        const int64_t some = std::min(step, n - task * step);
        const TileScope scope(kernel_);
        w.lanes.pack(x_, ids, some, 0, w.scratch);
        search(w, w.lanes, 0, ids, some);
    });
    return distances;
}

void KCenter::absorb(const Lanes& lanes, const int64_t* rows, int64_t count) {
    const int64_t step = panel_groups_ * kernel_.lanes;
    team_.run((count + step - 1) / step, [&](int64_t task, int worker) {
        const TileScope scope(kernel_);
        search(*workers_[size_t(worker)], lanes, task * panel_groups_, rows + task * step,
               std::min(step, count - task * step));
    });
}

// Bring a panel of rows, packed in groups first.. of lanes, up to every pick made.
void KCenter::search(Worker& w, const Lanes& lanes, int64_t first, const int64_t* rows, int64_t count) {
    const int64_t per_group = kernel_.lanes, groups = (count + per_group - 1) / per_group;
    float* threshold = lanes.thresholds() + first * per_group;
    int64_t lo = count_;
    for (int64_t l = 0; l < groups * per_group; ++l) {
        threshold[l] = kNever;
        if (l >= count) continue;
        const int64_t r = rows[l];
        if (squared_[r] <= 0) continue; // picked, or nothing can be nearer
        lo = std::min<int64_t>(lo, seen_[size_t(r)]);
        threshold[l] = bound_.threshold(norm2_[size_t(r)], rho_[size_t(r)], squared_[r]);
        w.held[size_t(l)] = 0;
        w.best[size_t(l)] = -FLT_MAX;
        w.reach[size_t(l)] = squared_[r];
    }
    sweep(kernel_, frame_.depth(), lanes, first, first + groups, picks_, lo / picks_.per_block(), picks_.blocks(count_),
          w.scratch, [&](int64_t at, int64_t point, float value) {
              const int64_t l = at - first * per_group, r = rows[l];
              if (point < seen_[size_t(r)] || value < threshold[l]) return;
              if (w.held[size_t(l)] == kHits) {
                  settle(w, l, r, threshold[l]);
                  if (value < threshold[l]) return;
              }
              w.hits[size_t(l * kHits + w.held[size_t(l)]++)] = {int32_t(point), value};
              if (value <= w.best[size_t(l)]) return;
              w.best[size_t(l)] = value;
              // The pick's norm, as its row's.
              const float norm2 = norm2_[size_t(pick_row_[size_t(point)])];
              const double upper = bound_.upper(norm2_[size_t(r)], rho_[size_t(r)], value, norm2);
              if (upper >= w.reach[size_t(l)]) return;
              w.reach[size_t(l)] = upper;
              threshold[l] = bound_.threshold(norm2_[size_t(r)], rho_[size_t(r)], upper);
          });
    for (int64_t l = 0; l < count; ++l) {
        const int64_t r = rows[l];
        if (squared_[r] > 0 && w.held[size_t(l)] > 0 && threshold[l] != kNever) settle(w, l, r, threshold[l]);
        seen_[size_t(r)] = int32_t(count_);
    }
}

// Canonical distances to the points held, the likeliest first; what falls below the threshold on the way is dropped.
void KCenter::settle(Worker& w, int64_t lane, int64_t row, float& threshold) {
    auto* hits = w.hits.data() + lane * kHits;
    const int32_t held = w.held[size_t(lane)];
    std::sort(hits, hits + held, [](const Worker::Hit& a, const Worker::Hit& b) {
        return a.value != b.value ? a.value > b.value : a.point < b.point;
    });
    for (int32_t i = 0; i < held && hits[i].value >= threshold; ++i) {
        if (i + 1 < held) w.canonical.prefetch(pick_row_[size_t(hits[i + 1].point)]);
        const double squared = w.canonical.squared(row, pick_row_[size_t(hits[i].point)]);
        if (squared >= squared_[row]) continue;
        squared_[row] = squared;
        nearest_[size_t(row)] = hits[i].point;
        w.reach[size_t(lane)] = std::min(w.reach[size_t(lane)], squared);
        threshold = squared == 0 ? kNever : bound_.threshold(norm2_[size_t(row)], rho_[size_t(row)], w.reach[size_t(lane)]);
    }
    w.held[size_t(lane)] = 0;
    w.best[size_t(lane)] = -FLT_MAX;
}

} // namespace pcf
