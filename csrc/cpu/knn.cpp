#include "knn.h"

#include <algorithm>

namespace pcf {
namespace {

constexpr int64_t kBankBytes = 128 << 20;  // packed bank rows held at a time
constexpr int64_t kStateBytes = 64 << 20;  // of queries searched at a time
constexpr int64_t kTaskBytes = 256 << 10;  // packed queries of a task, and bank rows they meet before the next: both
                                           // stay in the second-level cache
constexpr int64_t kPanelBytes = 32 << 10;  // packed queries that stay in the first-level cache
constexpr int64_t kSpare = 32;

int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }

struct Neighbour {
    double squared;
    int64_t row;
    bool operator<(const Neighbour& o) const { return squared != o.squared ? squared < o.squared : row < o.row; }
};

struct Entry {
    float value;
    int32_t row;
};

struct Worker {
    Worker(const Frame& frame, int64_t groups, const Matrix& query, const Matrix& bank)
        : lanes(frame, groups), scratch(frame), canonical(frame.kernel(), query, bank) {}
    Lanes lanes;
    Scratch scratch;
    Canonical canonical;
    std::vector<double> upper;
};

class Search {
  public:
    Search(const Matrix& query, const Matrix& bank, const Frame& frame, const Measured& of_query,
           const Measured& of_bank, double beta, int64_t k, int threads, std::function<void()> poll)
        : query_(query), bank_(bank), frame_(frame), kernel_(frame.kernel()), of_query_(of_query), of_bank_(of_bank),
          bound_(kernel_.roundings, frame.depth(), frame.dim(), frame.scale()), k_(k), room_(2 * k + kSpare),
          team_(threads, std::move(poll)) {
        bound_.beta = beta;
        const int64_t row_bytes = frame.depth() * kernel_.bytes, per_group = kernel_.lanes;
        const auto groups_in = [&](int64_t bytes) { return std::max<int64_t>(1, bytes / (row_bytes * per_group)); };
        const int64_t most = std::max(per_group, kStateBytes / (room_ * int64_t(sizeof(Entry))));
        queries_ = std::min(divide_up(query.rows, per_group), most / per_group) * per_group;
        panel_ = groups_in(kPanelBytes);
        // Small tasks keep all threads busy to the end.
        task_ = std::min(groups_in(kTaskBytes), std::max<int64_t>(1, queries_ / per_group / (4 * team_.size())));
        chunk_ = std::max<int64_t>(1, kTaskBytes / (row_bytes * kernel_.points));
        bank_rows_ = std::min(bank.rows, std::max<int64_t>(1, kBankBytes / (row_bytes * kernel_.points)) * kernel_.points);
        entries_.resize(size_t(queries_ * room_));
        held_.resize(size_t(queries_));
        threshold_.resize(size_t(queries_));
        reach_.resize(size_t(queries_));
        settled_.resize(size_t(queries_));
        for (int i = 0; i < team_.size(); ++i)
            workers_.push_back(std::make_unique<Worker>(frame, task_, query, bank));
    }

    void run(double* squared, int64_t* rows) {
        Points points(frame_, bank_rows_);
        for (int64_t q = 0; q < query_.rows; q += queries_) {
            const int64_t count = std::min(queries_, query_.rows - q);
            std::fill(held_.begin(), held_.end(), 0);
            std::fill(threshold_.begin(), threshold_.end(), -FLT_MAX);
            std::fill(reach_.begin(), reach_.end(), std::numeric_limits<double>::infinity());
            for (auto& s : settled_) s.clear();
            for (int64_t b = 0; b < bank_.rows; b += bank_rows_) {
                if (q == 0 || bank_rows_ < bank_.rows) fill(points, b, std::min(bank_rows_, bank_.rows - b));
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
                points.put(i, scratch.rows.get(), of_bank_.norm2[first + i]);
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
        for (int64_t lo = 0; lo < bank.blocks(points); lo += chunk_)
            for (int64_t g = 0; g < groups; g += panel_)
                sweep(kernel_, frame_.depth(), w.lanes, g, std::min(groups, g + panel_), bank, lo,
                      std::min(bank.blocks(points), lo + chunk_), w.scratch,
                      [&](int64_t l, int64_t point, float value) {
                          if (value < threshold[l]) return;
                          const int64_t i = from + l;
                          entries_[size_t(i * room_ + held_[size_t(i)]++)] = {value, int32_t(b + point)};
                          if (held_[size_t(i)] == room_) compact(w, q, i, threshold[l]);
                      });
        for (int64_t l = 0; l < count; ++l) threshold_[size_t(from + l)] = threshold[l];
    }

    // Drop what cannot be among the k nearest; where that leaves little room, settle the rest.
    void compact(Worker& w, int64_t q, int64_t i, float& threshold) {
        Entry* entries = entries_.data() + i * room_;
        int64_t& held = held_[size_t(i)];
        const float norm2 = of_query_.norm2[q + i], rho = of_query_.rho[q + i];
        w.upper.clear();
        for (const Neighbour& n : settled_[size_t(i)]) w.upper.push_back(n.squared);
        for (int64_t e = 0; e < held; ++e)
            w.upper.push_back(bound_.upper(norm2, rho, entries[e].value, of_bank_.norm2[entries[e].row]));
        if (int64_t(w.upper.size()) >= k_) {
            std::nth_element(w.upper.begin(), w.upper.begin() + (k_ - 1), w.upper.end());
            tighten(q, i, w.upper[size_t(k_ - 1)], threshold);
        }
        int64_t kept = 0;
        for (int64_t e = 0; e < held; ++e)
            if (entries[e].value >= threshold) entries[kept++] = entries[e];
        held = kept;
        if (held > room_ - kSpare / 2) settle(w, q, i, threshold);
    }

    // Canonical distances of all that is held; the k nearest stay.
    void settle(Worker& w, int64_t q, int64_t i, float& threshold) {
        Entry* entries = entries_.data() + i * room_;
        std::vector<Neighbour>& nearest = settled_[size_t(i)];
        for (int64_t e = 0; e < held_[size_t(i)]; ++e)
            nearest.push_back({w.canonical.squared(q + i, entries[e].row), entries[e].row});
        held_[size_t(i)] = 0;
        std::sort(nearest.begin(), nearest.end());
        if (int64_t(nearest.size()) > k_) nearest.resize(size_t(k_));
        if (int64_t(nearest.size()) == k_) tighten(q, i, nearest.back().squared, threshold);
    }

    void tighten(int64_t q, int64_t i, double squared, float& threshold) {
        if (squared >= reach_[size_t(i)]) return;
        reach_[size_t(i)] = squared;
        threshold = bound_.threshold(of_query_.norm2[q + i], of_query_.rho[q + i], squared);
    }

    void finish(Worker& w, int64_t q, int64_t from, int64_t count, double* squared, int64_t* rows) {
        for (int64_t i = from; i < from + count; ++i) {
            float threshold = threshold_[size_t(i)];
            compact(w, q, i, threshold);
            settle(w, q, i, threshold);
            for (int64_t j = 0; j < k_; ++j) {
                squared[(q + i) * k_ + j] = settled_[size_t(i)][size_t(j)].squared;
                rows[(q + i) * k_ + j] = settled_[size_t(i)][size_t(j)].row;
            }
        }
    }

    Matrix query_, bank_;
    const Frame& frame_;
    const TileKernel& kernel_;
    Measured of_query_, of_bank_;
    Bound bound_;
    int64_t k_, room_;
    int64_t queries_, panel_, task_, chunk_, bank_rows_;
    Team team_;
    std::vector<std::unique_ptr<Worker>> workers_;
    // Of the queries searched at a time.
    std::vector<Entry> entries_; // [queries][room]
    std::vector<int64_t> held_;
    std::vector<float> threshold_;
    std::vector<double> reach_; // the k-th neighbour's squared distance is not above it
    std::vector<std::vector<Neighbour>> settled_;
};

} // namespace

void knn(const Matrix& query, const Matrix& bank, const Frame& frame, const Measured& of_query, const Measured& of_bank,
         double beta, int64_t k, int threads, std::function<void()> poll, double* squared, int64_t* rows) {
    Search(query, bank, frame, of_query, of_bank, beta, k, threads, std::move(poll)).run(squared, rows);
}

} // namespace pcf
