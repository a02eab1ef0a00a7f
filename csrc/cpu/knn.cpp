#include "knn.h"

#include "neighbour.h"

#include <algorithm>
#include <stdexcept>

#include <unistd.h>

namespace pcf {
namespace {

constexpr int64_t kBankBytes = 16 << 20;   // packed bank rows held at a time
constexpr int64_t kStateBytes = 8 << 20;   // of queries searched at a time
constexpr int64_t kPanelBytes = 32 << 10;  // packed queries that stay in the first-level cache
constexpr int64_t kSpare = 32;
// Bank rows that give the first threshold: at most so many, and about an eighth of a small bank; the largest k it pays for.
constexpr int64_t kSeedRows = 1024, kSeedMost = 64;

// Of the second-level cache packed queries of a task take three eighths, and the bank rows they meet before the next an
// eighth: the fewer the tasks, the less often the bank comes from further away.
int64_t second_level_bytes() {
    int64_t bytes = 0;
#ifdef _SC_LEVEL2_CACHE_SIZE
    bytes = sysconf(_SC_LEVEL2_CACHE_SIZE);
#endif
    return bytes > 0 ? bytes : 1 << 20;
}

struct ByValue {
    bool operator()(const Entry& a, const Entry& b) const { return a.value > b.value; }
};

struct Worker {
    Worker(const Frame& frame, int64_t groups, const Matrix& query, const Matrix& bank)
        : lanes(frame, groups), scratch(frame), canonical(frame.kernel(), query, bank),
          top(kSeedMost * frame.kernel().lanes) {}
    Lanes lanes;
    Scratch scratch;
    Canonical canonical;
    Aligned<float> top; // [k][lanes]
};

class Search {
  public:
    Search(const Matrix& query, const Matrix& bank, const Frame& frame, const Measured& of_query,
           const Measured& of_bank, const Loss& loss, int64_t k, int threads, std::function<void()> poll,
           const Points* packed)
        : query_(query), bank_(bank), frame_(frame), kernel_(frame.kernel()), of_query_(of_query), of_bank_(of_bank),
          bound_(loss, kernel_.roundings, frame.depth(), frame.dim(), frame.scale()), k_(k), room_(2 * k + kSpare), packed_(packed), lowest_(kernel_.lanes),
          team_(threads, std::move(poll)) {
        const int64_t second_level = second_level_bytes();
        const int64_t row_bytes = frame.depth() * kernel_.bytes, per_group = kernel_.lanes;
        const auto groups_in = [&](int64_t bytes) { return std::max<int64_t>(1, bytes / (row_bytes * per_group)); };
        const int64_t most = std::max(per_group, kStateBytes / (room_ * int64_t(sizeof(Entry))));
        queries_ = std::min(divide_up(query.rows, per_group), most / per_group) * per_group;
        panel_ = groups_in(kPanelBytes);
        // Small tasks keep all threads busy to the end.
        task_ = std::min(groups_in(3 * second_level / 8), std::max<int64_t>(1, queries_ / per_group / (4 * team_.size())));
        chunk_ = std::max<int64_t>(1, second_level / 8 / (row_bytes * kernel_.points));
        bank_rows_ = packed ? bank.rows : std::min(bank.rows, std::max<int64_t>(1, kBankBytes / (row_bytes * kernel_.points)) * kernel_.points);
        std::fill_n(lowest_.get(), kernel_.lanes, -FLT_MAX);
        entries_ = Aligned<Entry>(queries_ * room_);
        held_.resize(size_t(queries_));
        threshold_.resize(size_t(queries_));
        reach_.resize(size_t(queries_));
        settled_.resize(size_t(queries_));
        for (int i = 0; i < team_.size(); ++i)
            workers_.push_back(std::make_unique<Worker>(frame, task_, query, bank));
    }

    void run(double* squared, int64_t* rows) {
        Points own(frame_, packed_ ? 0 : bank_rows_);
        const Points& points = packed_ ? *packed_ : own;
        for (int64_t q = 0; q < query_.rows; q += queries_) {
            const int64_t count = std::min(queries_, query_.rows - q);
            std::fill(held_.begin(), held_.end(), 0);
            std::fill(threshold_.begin(), threshold_.end(), -FLT_MAX);
            std::fill(reach_.begin(), reach_.end(), std::numeric_limits<double>::infinity());
            for (auto& s : settled_) s.clear();
            for (int64_t b = 0; b < bank_.rows; b += bank_rows_) {
                if (!packed_ && (q == 0 || bank_rows_ < bank_.rows)) fill(own, b, std::min(bank_rows_, bank_.rows - b));
                const int64_t step = task_ * kernel_.lanes;
                const bool last = b + bank_rows_ >= bank_.rows;
                team_.run(divide_up(count, step), [&](int64_t task, int worker) {
                    const int64_t from = task * step, some = std::min(step, count - from);
                    meet(*workers_[size_t(worker)], points, q, from, some, b, std::min(bank_rows_, bank_.rows - b));
                    if (last) finish(*workers_[size_t(worker)], q, from, some, squared, rows);
                });
            }
        }
    }

  private:
    // Bank rows first.. as points.
    void fill(Points& points, int64_t first, int64_t count) {
        points.open(0, count);
        team_.run(points.blocks(count), [&](int64_t block, int worker) {
            const Scratch& scratch = workers_[size_t(worker)]->scratch;
            const int64_t end = std::min(count, (block + 1) * kernel_.points);
            for (int64_t i = block * kernel_.points; i < end; ++i) {
                frame_.row(bank_, first + i, scratch.rows.get(), scratch.spare.get());
                points.put(i, scratch.rows.get(), of_bank_.w[first + i]);
            }
        });
    }

    // Queries from.. of the block that begins at q against `points` bank rows from b on.
    void meet(Worker& w, const Points& bank, int64_t q, int64_t from, int64_t count, int64_t b, int64_t points) {
        const int64_t per_group = kernel_.lanes, groups = divide_up(count, per_group);
        std::vector<int64_t> ids(static_cast<size_t>(count));
        for (int64_t i = 0; i < count; ++i) ids[size_t(i)] = q + from + i;
        w.lanes.pack(query_, ids.data(), count, 0, w.scratch);
        float* threshold = w.lanes.thresholds();
        for (int64_t l = 0; l < groups * per_group; ++l) threshold[l] = l < count ? threshold_[size_t(from + l)] : kNever;
        const TileScope scope(kernel_);
        const int64_t seeds = std::min({points, kSeedRows, std::max(points / 8, 16 * k_)});
        if (b == 0 && k_ <= kSeedMost) seed(w, bank, q, from, count, seeds);
        Entry* entries = entries_.get() + from * room_;
        int64_t* held = held_.data() + from;
        const int64_t room = room_;
        for (int64_t lo = 0; lo < bank.blocks(points); lo += chunk_)
            for (int64_t g = 0; g < groups; g += panel_)
                sweep(kernel_, frame_.depth(), w.lanes, g, std::min(groups, g + panel_), bank, lo,
                      std::min(bank.blocks(points), lo + chunk_), w.scratch,
                      [=, &w](int64_t l, int64_t point, float value) {
                          if (value < threshold[l]) return;
                          entries[l * room + held[l]++] = {value, int32_t(b + point)};
                          if (held[l] == room) compact(w, q, from + l, threshold[l]);
                      });
        for (int64_t l = 0; l < count; ++l) threshold_[size_t(from + l)] = threshold[l];
    }

    // First thresholds, from the values of some bank rows alone: vectors of lanes instead of a list a lane.
    void seed(Worker& w, const Points& bank, int64_t q, int64_t from, int64_t count, int64_t points) {
        points -= points % kernel_.points; // the places of a part-filled block hold no values
        if (points < k_) return;
        const int64_t per_group = kernel_.lanes;
        const float longest = *std::max_element(of_bank_.w, of_bank_.w + points);
        float* threshold = w.lanes.thresholds();
        for (int64_t g = 0; g * per_group < count; ++g) {
            std::fill_n(w.top.get(), k_ * per_group, -FLT_MAX);
            for (int64_t b = 0; b < bank.blocks(points); ++b) {
                // No value is below the lowest float, so the tile reports them all.
                kernel_.tile(w.lanes.group(g), bank.block(b), frame_.depth(), bank.half(b), lowest_.get(),
                             w.scratch.masks.get(), w.scratch.values.get());
                kernel_.insert(w.scratch.values.get(), k_, w.top.get());
            }
            for (int64_t l = g * per_group; l < std::min(count, (g + 1) * per_group); ++l) {
                const float value = w.top[(k_ - 1) * per_group + l - g * per_group];
                const int64_t i = q + from + l;
                if (value > -FLT_MAX)
                    tighten(q, from + l, bound_.upper(of_query_.w[i], of_query_.rho[i], value, longest), threshold[l]);
            }
        }
    }

    // Drop what cannot be among the k nearest, the best k first; where that leaves little room, settle the rest.
    void compact(Worker& w, int64_t q, int64_t i, float& threshold) {
        Entry* entries = entries_.get() + i * room_;
        int64_t& held = held_[size_t(i)];
        const std::vector<Neighbour>& settled = settled_[size_t(i)];
        const int64_t wanted = k_ - int64_t(settled.size());
        if (wanted > 0 && held >= wanted) {
            std::nth_element(entries, entries + (wanted - 1), entries + held, ByValue());
            // None of the best is farther than the one of least value would be with the longest row.
            float longest = 0;
            for (int64_t e = 0; e < wanted; ++e) longest = std::max(longest, of_bank_.w[entries[e].row]);
            const double upper =
                bound_.upper(of_query_.w[q + i], of_query_.rho[q + i], entries[wanted - 1].value, longest);
            tighten(q, i, settled.empty() ? upper : std::max(upper, settled.back().squared), threshold);
        }
        int64_t kept = 0;
        for (int64_t e = 0; e < held; ++e)
            if (entries[e].value >= threshold) entries[kept++] = entries[e];
        held = kept;
        if (held > room_ - kSpare / 2) settle(w, q, i, threshold);
    }

    // Canonical distances of what is held; the k nearest stay.
    void settle(Worker& w, int64_t q, int64_t i, float& threshold) {
        const Entry* entries = entries_.get() + i * room_;
        std::vector<Neighbour>& nearest = settled_[size_t(i)];
        const int64_t held = held_[size_t(i)];
        for (int64_t e = 0; e < held; ++e) {
            if (e + 1 < held) w.canonical.prefetch(entries[e + 1].row);
            if (entries[e].value < threshold) continue;
            nearest.push_back({w.canonical.squared(q + i, entries[e].row), entries[e].row});
            if (int64_t(nearest.size()) == k_)
                tighten(q, i, std::max_element(nearest.begin(), nearest.end())->squared, threshold);
        }
        std::sort(nearest.begin(), nearest.end());
        if (int64_t(nearest.size()) > k_) nearest.resize(size_t(k_));
        if (int64_t(nearest.size()) == k_) tighten(q, i, nearest.back().squared, threshold);
        held_[size_t(i)] = 0;
    }

    void tighten(int64_t q, int64_t i, double squared, float& threshold) {
        if (squared >= reach_[size_t(i)]) return;
        reach_[size_t(i)] = squared;
        threshold = bound_.threshold(of_query_.w[q + i], of_query_.rho[q + i], squared);
    }

    void finish(Worker& w, int64_t q, int64_t from, int64_t count, double* squared, int64_t* rows) {
        for (int64_t i = from; i < from + count; ++i) {
            float threshold = threshold_[size_t(i)];
            std::vector<Neighbour>& nearest = settled_[size_t(i)];
            nearest.reserve(size_t(k_ + 8));
            compact(w, q, i, threshold);
            settle(w, q, i, threshold);
            if (int64_t(nearest.size()) < k_) throw std::runtime_error("the rows changed during the search");
            for (int64_t j = 0; j < k_; ++j) {
                squared[(q + i) * k_ + j] = nearest[size_t(j)].squared;
                rows[(q + i) * k_ + j] = nearest[size_t(j)].row;
            }
        }
    }

    Matrix query_, bank_;
    const Frame& frame_;
    const TileKernel& kernel_;
    Measured of_query_, of_bank_;
    Bound bound_;
    int64_t k_, room_;
    const Points* packed_;  // all bank rows, or null
    Aligned<float> lowest_; // [lanes] thresholds that every value reaches
    int64_t queries_, panel_, task_, chunk_, bank_rows_;
    Team team_;
    std::vector<std::unique_ptr<Worker>> workers_;
    // Of the queries searched at a time.
    Aligned<Entry> entries_; // [queries][room]
    std::vector<int64_t> held_;
    std::vector<float> threshold_;
    std::vector<double> reach_; // the k-th neighbour's squared distance is not above it
    std::vector<std::vector<Neighbour>> settled_; // ascending, at most k
};

} // namespace

void knn(const Matrix& query, const Matrix& bank, const Frame& frame, const Measured& of_query, const Measured& of_bank,
         const Loss& loss, int64_t k, int threads, std::function<void()> poll, double* squared, int64_t* rows,
         const Points* packed) {
    Search(query, bank, frame, of_query, of_bank, loss, k, threads, std::move(poll), packed).run(squared, rows);
}

} // namespace pcf
