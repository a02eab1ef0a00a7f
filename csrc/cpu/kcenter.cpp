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

KCenter::KCenter(const Matrix& x, Frame frame, std::vector<float> w, std::vector<float> rho, const Loss& loss,
                 double* squared, const double* weight, int64_t capacity, Prune prune, const float* directions,
                 int64_t direction_count, int threads, std::function<void()> poll)
    : x_(x), frame_(std::move(frame)), kernel_(frame_.kernel()),
      bound_(loss, kernel_.roundings, frame_.depth(), frame_.dim(), frame_.scale()), guests_(frame_), w_(std::move(w)),
      rho_(std::move(rho)), squared_(squared), weight_(weight), seen_(size_t(x.rows)), nearest_(size_t(x.rows), -1),
      picks_(frame_, capacity), prune_(prune), panel_groups_(panel_groups(frame_)), team_(threads, std::move(poll)) {
    pick_row_.reserve(size_t(capacity));
    if (x.guests) {
        w_.resize(size_t(x.rows + capacity));
        rho_.resize(size_t(x.rows + capacity));
    }
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

void KCenter::check_guests(const int64_t* own, int64_t count) const {
    if (!x_.guests) throw std::invalid_argument("the job was made without guests");
    for (int64_t i = 0; i < count; ++i)
        if (own[i] != -1) check_rows(own + i, 1);
}

void KCenter::append(const int64_t* rows, int64_t count) {
    open(count);
    const Scratch& scratch = workers_[0]->scratch;
    for (int64_t i = 0; i < count; ++i) {
        frame_.row(x_, rows[i], scratch.rows.get(), scratch.spare.get());
        put(rows[i], scratch.rows.get());
        squared_[rows[i]] = -1.0;
    }
    if (sketch_) sketch_picks(count_ - count);
}

void KCenter::append_guests(const int64_t* own, int64_t count) {
    open(count);
    for (int64_t i = 0; i < count; ++i) {
        const int64_t row = x_.rows + count_;
        guests_.take(x_, row, w_[size_t(row)], rho_[size_t(row)]);
        if (!(guests_.norm2() <= most_norm2(kernel_))) throw std::domain_error("a row is too long for the frame, or not finite");
        put(row, guests_.row());
        if (own[i] >= 0) squared_[own[i]] = -1.0;
    }
    const Loss loss = guests_.loss();
    bound_.alpha = std::max(bound_.alpha, loss.alpha);
    bound_.beta = std::max(bound_.beta, loss.beta);
    if (sketch_) sketch_picks(count_ - count);
}

// Room for so many picks more.
void KCenter::open(int64_t count) {
    if (count_ + count > int64_t(pick_row_.capacity())) throw std::length_error("more picks than were asked for");
    picks_.open(count_, count_ + count);
    if (sketch_) sketch_->points.open(count_, count_ + count);
}

void KCenter::put(int64_t row, const float* in_frame) {
    picks_.put(count_, in_frame, w_[size_t(row)]);
    pick_row_.push_back(row);
    ++count_;
}

KCenter::View KCenter::full_view(const Points& points) const { return {&frame_, &points, &bound_, true}; }

float KCenter::threshold_of(const View& view, int64_t row, double squared) const {
    return view.bound->threshold(w_[size_t(row)], view.whole ? rho_[size_t(row)] : 0.0f, squared);
}

double KCenter::key(int64_t row) const {
    const double squared = squared_[row];
    if (!weight_ || squared < 0) return squared;
    return weight_[row] > 0 ? weight_[row] * squared : 0.0;
}

double KCenter::edge(int64_t wanted) {
    constexpr int kShift = 48; // sign, exponent and four bits of the mantissa
    const int64_t parts = team_.size(), step = (x_.rows + parts - 1) / parts;
    std::vector<std::vector<int32_t>> found(static_cast<size_t>(parts));
    const auto each = [&](int64_t part, const auto& visit) {
        for (int64_t i = part * step; i < std::min(x_.rows, (part + 1) * step); ++i) {
            const double k = key(i);
            if (k >= 0) visit(k);
        }
    };
    team_.run(parts, [&](int64_t part, int) {
        auto& mine = found[size_t(part)];
        mine.resize(1 << (64 - kShift));
        each(part, [&](double k) { ++mine[bits(k) >> kShift]; });
    });
    const auto above = [&](int64_t bucket) {
        int64_t sum = 0;
        for (const auto& mine : found) sum += mine[size_t(bucket)];
        return sum;
    };
    int64_t bucket = (1 << (64 - kShift)) - 1;
    for (; bucket >= 0; --bucket) {
        const int64_t here = above(bucket);
        if (wanted <= here) break;
        wanted -= here;
    }
    if (bucket < 0) return 0.0;
    std::vector<std::vector<double>> levels(static_cast<size_t>(parts));
    team_.run(parts, [&](int64_t part, int) {
        auto& mine = levels[size_t(part)];
        mine.reserve(size_t(found[size_t(part)][size_t(bucket)]));
        each(part, [&](double k) {
            if (int64_t(bits(k) >> kShift) == bucket) mine.push_back(k);
        });
    });
    std::vector<double> level;
    level.reserve(size_t(above(bucket)));
    for (const auto& mine : levels) level.insert(level.end(), mine.begin(), mine.end());
    std::nth_element(level.begin(), level.begin() + (wanted - 1), level.end(), std::greater<double>());
    return level[size_t(wanted - 1)];
}

KCenter::Reached KCenter::reach(double edge, int64_t most) {
    Reached out;
    gather(x_.rows, [&](int64_t i) { return squared_[i] >= 0 && key(i) >= edge; }, nullptr, out.rows);
    out.distances = refresh(out.rows.data(), int64_t(out.rows.size()));
    const auto below = [&](int64_t r) { return key(r) < edge; };
    out.rows.erase(std::remove_if(out.rows.begin(), out.rows.end(), below), out.rows.end());
    out.inside = int64_t(out.rows.size());
    out.rest = {};
    if (out.inside > most) {
        std::nth_element(out.rows.begin(), out.rows.begin() + most, out.rows.end(), [&](int64_t a, int64_t b) {
            return Rank{key(a), a}.before({key(b), b});
        });
        out.rest = {key(out.rows[size_t(most)]), out.rows[size_t(most)]};
        out.rows.resize(size_t(most));
        std::sort(out.rows.begin(), out.rows.end());
    }
    return out;
}

} // namespace pcf
