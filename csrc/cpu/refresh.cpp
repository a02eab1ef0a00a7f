// Bringing rows up to date: panels of rows against the picks they have not seen, by one of three ways.
//
// plain     every pick is compared.
// triangle  rows are grouped by their nearest pick c. A pick q with d(c, q) >= 2 d(x, c) is not nearer to x than c is,
//           so the few centres of a panel are compared with the picks first, and the panel meets only what is left.
// partial   rows are compared along their leading directions (sketch.h); what that does not rule out is settled.
//
// Which of them pays depends on the data and on how far the run has come. A panel now and then is timed on each; the
// others take the cheapest. The result is the same.
#include "kcenter_parts.h"

#include <algorithm>
#include <chrono>

namespace pcf {
namespace {

constexpr int64_t kWorthPruning = 128;  // picks a panel has not seen, below which it is compared plainly
constexpr int64_t kMostCentres = 32;    // of a panel, for the triangle inequality
constexpr int64_t kChunk = 8;           // blocks of points between looks at how a sketch does
constexpr int64_t kProbe = 16;          // panels between probes of a way that is not far behind

double nanoseconds() {
    return double(std::chrono::duration_cast<std::chrono::nanoseconds>(
                      std::chrono::steady_clock::now().time_since_epoch()).count());
}

} // namespace

int64_t KCenter::refresh(const int64_t* rows, int64_t count) {
    const int64_t total = rows ? count : x_.rows;
    gather(total, [&](int64_t r) { return seen_[size_t(r)] < count_ && squared_[r] > 0; }, rows, order_);
    const int64_t n = int64_t(order_.size());
    // Rows of like age share a panel, and among them rows of one nearest pick: two stable counting sorts.
    sorted_.resize(order_.size());
    const auto sort_by = [&](const std::vector<int32_t>& key, int32_t shift) {
        std::vector<int64_t> start(size_t(count_) + 2);
        for (int64_t r : order_) ++start[size_t(key[size_t(r)] + shift) + 1];
        for (size_t s = 1; s < start.size(); ++s) start[s] += start[s - 1];
        for (int64_t r : order_) sorted_[size_t(start[size_t(key[size_t(r)] + shift)]++)] = r;
        order_.swap(sorted_);
    };
    if (prune_ == Prune::automatic || prune_ == Prune::triangle) sort_by(nearest_, 1);
    sort_by(seen_, 0);
    int64_t distances = 0;
    for (int64_t r : order_) distances += count_ - seen_[size_t(r)];

    // Another pass, other numbers of picks: what was cheapest before need not be.
    for (auto& w : workers_)
        for (auto& m : w->meter) m = {};
    const int64_t step = panel_groups_ * kernel_.lanes;
    team_.run((n + step - 1) / step, [&](int64_t task, int worker) {
        Worker& w = *workers_[size_t(worker)];
        const int64_t* ids = order_.data() + task * step;
        const int64_t some = std::min(step, n - task * step);
        const TileScope scope(kernel_);
        const int64_t pending = count_ - seen_[size_t(ids[0])];
        const bool open = prune_ == Prune::automatic && pending >= kWorthPruning;
        const Prune way = open || prune_ != Prune::automatic ? w.choose(prune_, sketch_ != nullptr) : Prune::none;
        const double begun = nanoseconds();
        if (way == Prune::partial)
            by_sketch(w, ids, some);
        else
            in_full(w, ids, some, way == Prune::triangle);
        if (open) w.charge(way, (nanoseconds() - begun) / double(some * pending));
        for (int64_t i = 0; i < some; ++i) seen_[size_t(ids[i])] = int32_t(count_);
    });
    return distances;
}

Prune KCenter::Worker::choose(Prune asked, bool has_sketch) {
    if (asked != Prune::automatic) return asked == Prune::partial && !has_sketch ? Prune::none : asked;
    ++panels;
    Prune best = Prune::none;
    for (Prune way : {Prune::none, Prune::triangle, Prune::partial})
        if (meter[int(way)].cost < meter[int(best)].cost) best = way;
    for (Prune way : {Prune::none, Prune::triangle, Prune::partial}) {
        const Meter& m = meter[int(way)];
        if (way == Prune::partial && !has_sketch) continue;
        if (panels >= m.due && (m.cost == Meter().cost || way != best)) return way;
    }
    return best;
}

void KCenter::Worker::charge(Prune way, double cost) {
    Meter& m = meter[int(way)];
    m.cost = m.cost == Meter().cost ? cost : 0.8 * m.cost + 0.2 * cost;
    // What loses is tried more and more rarely.
    const double best = std::min({meter[0].cost, meter[1].cost, meter[2].cost});
    m.interval = m.cost > 1.1 * best ? 2 * m.interval : kProbe;
    m.due = panels + m.interval;
}

void KCenter::in_full(Worker& w, const int64_t* rows, int64_t count, bool triangle) {
    const int64_t lo = first_unseen(rows, count);
    const bool few = triangle && near_centres(w, rows, count, lo);
    w.lanes.pack(x_, rows, count, 0, w.scratch);
    if (few)
        search(w, full_view(w.few), w.lanes, 0, rows, count, 0, w.few.blocks(int64_t(w.few_ids.size())),
               w.few_ids.data());
    else
        search(w, full_view(picks_), w.lanes, 0, rows, count, lo / picks_.per_block(), picks_.blocks(count_), nullptr);
}

// Picks that a row of the panel may be nearer to than to its own, packed in w.few. False where that is most of them.
bool KCenter::near_centres(Worker& w, const int64_t* rows, int64_t count, int64_t lo) {
    w.centres.clear();
    w.widest.clear();
    for (int64_t i = 0; i < count; ++i) {
        const int32_t c = nearest_[size_t(rows[i])];
        if (c < 0) return false;
        const double squared = squared_[rows[i]];
        if (w.centres.empty() || w.centres.back() != pick_row_[size_t(c)]) {
            if (int64_t(w.centres.size()) == kMostCentres) return false;
            w.centres.push_back(pick_row_[size_t(c)]);
            w.widest.push_back(squared);
        }
        w.widest.back() = std::max(w.widest.back(), squared);
    }
    const int64_t centres = int64_t(w.centres.size()), per_group = kernel_.lanes;
    const int64_t groups = (centres + per_group - 1) / per_group, per_block = picks_.per_block();
    w.centre_lanes.pack(x_, w.centres.data(), centres, 0, w.scratch);
    float* threshold = w.centre_lanes.thresholds();
    for (int64_t l = 0; l < groups * per_group; ++l) {
        threshold[l] = kNever;
        if (l >= centres) continue;
        const int64_t r = w.centres[size_t(l)];
        // Canonical distances are rounded: the little more keeps the inequality true of them.
        threshold[l] = bound_.threshold(w_[size_t(r)], rho_[size_t(r)], 4 * w.widest[size_t(l)] * (1 + 1e-9));
    }
    w.few_ids.clear();
    for (int64_t b = lo / per_block; b < picks_.blocks(count_); ++b) {
        uint32_t any[32] = {};
        for (int64_t g = 0; g < groups; ++g) {
            kernel_.tile(w.centre_lanes.group(g), picks_.block(b), frame_.depth(), picks_.half(b),
                         threshold + g * per_group, w.scratch.masks.get(), w.scratch.values.get());
            for (int64_t p = 0; p < per_block; ++p) any[p] |= w.scratch.masks[p];
        }
        for (int64_t p = 0; p < per_block; ++p)
            if (any[p] && b * per_block + p < count_) w.few_ids.push_back(int32_t(b * per_block + p));
    }
    const int64_t few = int64_t(w.few_ids.size());
    if (few > w.few_room || 4 * few > 3 * (count_ - lo)) return false;
    w.few.open((w.few.blocks(few) - 1) * per_block, few); // the last block may stay part-filled
    for (int64_t i = 0; i < few; ++i) w.few.copy(i, picks_, w.few_ids[size_t(i)]);
    return true;
}

void KCenter::by_sketch(Worker& w, const int64_t* rows, int64_t count) {
    const Sketch& sketch = *sketch_;
    const int64_t hi = sketch.points.blocks(count_);
    w.lanes.pack(x_, rows, count, 0, w.scratch);
    project(w, rows, count);
    const View view{&sketch.frame, &sketch.points, &sketch.bound, false};
    w.settled = 0;
    int64_t b = first_unseen(rows, count) / sketch.points.per_block();
    const int64_t first = b;
    for (; b < hi; b += kChunk) {
        const int64_t end = std::min(hi, b + kChunk);
        search(w, view, w.sketch_lanes, 0, rows, count, b, end, nullptr);
        // One canonical distance costs about as much as ten to fifty of the tile's.
        if (w.settled * 64 > (end - first) * sketch.points.per_block() * count + 64 * count) break;
    }
    if (b + kChunk < hi) {
        search(w, full_view(picks_), w.lanes, 0, rows, count, (b + kChunk) * sketch.points.per_block() / picks_.per_block(),
               picks_.blocks(count_), nullptr);
    }
}

// Short rows of a packed panel.
void KCenter::project(Worker& w, const int64_t* rows, int64_t count) {
    const int64_t per_group = kernel_.lanes;
    float w2[32];
    for (int64_t done = 0, g = 0; done < count; done += per_group, ++g) {
        for (int64_t l = 0; l < per_group; ++l)
            w2[l] = done + l < count ? w_[size_t(rows[done + l])] : 0.0f;
        sketch_->project(w.lanes.group(g), w2, w.scratch, reinterpret_cast<float*>(w.sketch_lanes.group(g)));
    }
}

// Short rows of the picks from `first` on.
void KCenter::sketch_picks(int64_t first) {
    Worker& w = *workers_[0];
    const TileScope scope(kernel_);
    const int64_t lanes = kernel_.lanes;
    float* row = w.scratch.rows.get();
    for (int64_t i = first; i < count_; i += lanes) {
        const int64_t* rows = pick_row_.data() + i;
        const int64_t some = std::min(lanes, count_ - i);
        w.lanes.pack(x_, rows, some, 0, w.scratch);
        project(w, rows, some);
        const float* group = reinterpret_cast<const float*>(w.sketch_lanes.group(0)); // [depth][lanes]
        for (int64_t l = 0; l < some; ++l) {
            for (int64_t j = 0; j < sketch_->frame.depth(); ++j) row[j] = group[j * lanes + l];
            sketch_->points.put(i + l, row, w_[size_t(rows[l])]);
        }
    }
}

void KCenter::absorb(const Lanes& lanes, const int64_t* rows, int64_t count) {
    const int64_t step = panel_groups_ * kernel_.lanes;
    team_.run((count + step - 1) / step, [&](int64_t task, int worker) {
        const TileScope scope(kernel_);
        const int64_t* ids = rows + task * step;
        const int64_t some = std::min(step, count - task * step);
        search(*workers_[size_t(worker)], full_view(picks_), lanes, task * panel_groups_, ids, some,
               first_unseen(ids, some) / picks_.per_block(), picks_.blocks(count_), nullptr);
        for (int64_t i = 0; i < some; ++i) seen_[size_t(ids[i])] = int32_t(count_);
    });
}

int64_t KCenter::first_unseen(const int64_t* rows, int64_t count) const {
    int64_t lo = count_;
    for (int64_t i = 0; i < count; ++i)
        if (squared_[rows[i]] > 0) lo = std::min<int64_t>(lo, seen_[size_t(rows[i])]);
    return lo;
}

// A panel of rows, packed in groups first.. of lanes, against the points in blocks lo..hi.
void KCenter::search(Worker& w, const View& view, const Lanes& lanes, int64_t first, const int64_t* rows, int64_t count,
                     int64_t lo, int64_t hi, const int32_t* ids) {
    const int64_t per_group = kernel_.lanes, groups = (count + per_group - 1) / per_group;
    float* threshold = lanes.thresholds() + first * per_group;
    for (int64_t l = 0; l < groups * per_group; ++l) {
        threshold[l] = kNever;
        if (l >= count || squared_[rows[l]] <= 0) continue; // no lane, picked, or nothing can be nearer
        threshold[l] = threshold_of(view, rows[l], squared_[rows[l]]);
        w.held[size_t(l)] = 0;
        w.best[size_t(l)] = -FLT_MAX;
        w.reach[size_t(l)] = squared_[rows[l]];
    }
    sweep(kernel_, view.frame->depth(), lanes, first, first + groups, *view.points, lo, hi, w.scratch,
          [&](int64_t at, int64_t point, float value) {
              const int64_t l = at - first * per_group, r = rows[l];
              if (ids) point = ids[point];
              if (point < seen_[size_t(r)] || value < threshold[l]) return;
              if (w.held[size_t(l)] == kHits) {
                  settle(w, view, l, r, threshold[l]);
                  if (value < threshold[l]) return;
              }
              w.hits[size_t(l * kHits + w.held[size_t(l)]++)] = {int32_t(point), value};
              if (!view.whole || value <= w.best[size_t(l)]) return;
              w.best[size_t(l)] = value;
              const float pick_w = w_[size_t(pick_row_[size_t(point)])];
              const double upper = bound_.upper(w_[size_t(r)], rho_[size_t(r)], value, pick_w);
              if (upper >= w.reach[size_t(l)]) return;
              w.reach[size_t(l)] = upper;
              threshold[l] = threshold_of(view, r, upper);
          });
    for (int64_t l = 0; l < count; ++l)
        if (squared_[rows[l]] > 0 && w.held[size_t(l)] > 0) settle(w, view, l, rows[l], threshold[l]);
}

// Canonical distances to the points held, the likeliest first; what falls below the threshold on the way is dropped.
void KCenter::settle(Worker& w, const View& view, int64_t lane, int64_t row, float& threshold) {
    auto* hits = w.hits.data() + lane * kHits;
    const int32_t held = w.held[size_t(lane)];
    std::sort(hits, hits + held, [](const Worker::Hit& a, const Worker::Hit& b) {
        return a.value != b.value ? a.value > b.value : a.point < b.point;
    });
    for (int32_t i = 0; i < held && hits[i].value >= threshold; ++i) {
        if (i + 1 < held) w.canonical.prefetch(pick_row_[size_t(hits[i + 1].point)]);
        const double squared = w.canonical.squared(row, pick_row_[size_t(hits[i].point)]);
        ++w.settled;
        if (squared >= squared_[row]) continue;
        squared_[row] = squared;
        nearest_[size_t(row)] = hits[i].point;
        w.reach[size_t(lane)] = std::min(w.reach[size_t(lane)], squared);
        threshold = squared == 0 ? kNever : threshold_of(view, row, w.reach[size_t(lane)]);
    }
    w.held[size_t(lane)] = 0;
    w.best[size_t(lane)] = -FLT_MAX;
}

} // namespace pcf
