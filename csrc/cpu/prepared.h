// A bank that is searched again and again: measured and packed once, with short rows that exclude most of it.
//
// With Q [r][D] orthonormal rows, the short row of z is s = (Q z, |z - Q^T Q z|). Distances of short rows are never
// above those of the rows: along Q they are the same, and beside it |r_x - r_y| >= ||r_x| - |r_y||. So the tiles search
// in r + 1 dimensions, and what they report is settled in float64 between the rows. A computed short row is off by no
// more than share |z| + tiny; what a distance m between rows may be between short rows then is in `threshold`.
//
// Where too many rows are left the plain search is cheaper. Both ways are timed on a part of the queries now and then,
// and the rest go the cheaper one. The result is the same.
#pragma once
#include "points.h"

#include <functional>
#include <memory>
#include <mutex>
#include <vector>

namespace pcf {

enum class Way { automatic, plain, partial };

// Rows in a frame with what was measured of them.
struct Known {
    Matrix rows;
    Frame frame;
    std::vector<float> w, rho;
    Loss loss;
    Measured measured() { return {w.data(), rho.data()}; }
};

struct Slack {
    double share, tiny;
};

// Pairs of a query and a bank row that were looked at, and how.
struct Work {
    int64_t plain = 0, partial = 0, settled = 0; // in full, along short rows, in float64 after that
};

constexpr int64_t kShortMost = 64; // neighbours up to which short rows are tried

class Prepared {
  public:
    explicit Prepared(Known bank) : bank_(std::move(bank)) {}
    // Short rows of the bank, packed; they need not outlive the call.
    void shorten(Known rows, Slack slack, int threads, const std::function<void()>& poll);
    // The rows themselves, packed, unless they are.
    void pack(int threads, const std::function<void()>& poll);
    bool has_short() const { return short_points_ != nullptr; }
    const Known& bank() const { return bank_; }
    const Known& short_rows() const { return *short_; }
    int64_t bytes() const;
    // As knn() of knn.h. short_query: short rows of the queries, null where the bank has none. May run in several threads.
    Work knn(Known& query, const Known* short_query, int64_t k, Way way, int threads,
             const std::function<void()>& poll, double* squared, int64_t* rows);

  private:
    struct Job;
    struct Worker;
    struct Meter { // for numbers of neighbours of one size
        double cost[2] = {0, 0}; // nanoseconds a pair, plainly and along short rows; 0: not known
        int64_t calls = 0, due = 0, interval = 8;
    };
    void plain(Job& job, int64_t from, int64_t count);
    void partial(Job& job, int64_t from, int64_t count);
    bool task(const Job& job, Worker& w, int64_t from, int64_t count) const;
    void settle(const Job& job, Worker& w, int64_t lane, int64_t query) const;
    float threshold(const Known& short_query, int64_t query, double squared) const;

    Known bank_;
    std::unique_ptr<Points> points_, short_points_;
    std::unique_ptr<Known> short_;
    Slack slack_{0, 0};
    Bound short_bound_;
    double loss_ = 0; // of canonical squares, in the units of the frame
    mutable std::mutex mutex_; // of points_ and meters_
    Meter meters_[8];
};

} // namespace pcf
