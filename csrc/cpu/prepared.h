// A bank that is searched again and again: measured and packed once, with short rows that exclude most of it.
//
// With Q [D][r] orthonormal, the short row of z is s = (z Q, |z - z Q Q^T|). Distances of short rows are never above
// those of the rows: along Q they are the same, and beside it |r_x - r_y| >= ||r_x| - |r_y||. So the tiles search in
// r + 1 dimensions; what they report is compared along more directions, in float32, and what that leaves is settled in
// float64 between the rows. A computed short row is off by no more than share |z| + tiny (kernels/short_rows.py); how
// far apart two of them may be whose rows are m apart is `between`.
//
// Where too many rows are left the plain search is cheaper. Both ways are timed on a part of the queries now and then,
// and the rest go the cheaper one. The result is the same.
#pragma once
#include "short_rows.h"

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

// Pairs of a query and a bank row that were looked at, and how.
struct Work {
    int64_t plain = 0, partial = 0; // in all columns, by short rows
    int64_t longer = 0, settled = 0;  // of those: along more directions, in float64
};

constexpr int64_t kShortMost = 64; // neighbours up to which short rows are tried

class Prepared {
  public:
    explicit Prepared(Known bank) : bank_(std::move(bank)) {}
    // Before the first search, or never: the rows themselves, packed, which is else done in pieces in every search.
    void pack(int threads, const std::function<void()>& poll);
    // At any time. directions [D][all]: short rows are along the first few of them, the longer ones along all.
    void shorten(const double* directions, int64_t few, int64_t all, Slack of_few, Slack of_all, int threads,
                 const std::function<void()>& poll);
    const Known& bank() const { return bank_; }
    int64_t bytes() const;
    // As knn() of knn.h, of queries in the frame of the bank. May run in several threads.
    Work knn(Known& query, int64_t k, Way way, int threads, const std::function<void()>& poll, double* squared,
             int64_t* rows);

  private:
    struct Job;
    struct Worker;
    struct Meter { // for numbers of neighbours of one size
        double cost[2] = {0, 0}; // nanoseconds a pair, plainly and along short rows; 0: not known
        int64_t calls = 0, due = 8, interval = 8;
    };
    void plain(Job& job, int64_t from, int64_t count);
    void partial(Job& job, int64_t from, int64_t count);
    bool task(const Job& job, Worker& w, int64_t from, int64_t count) const;
    void settle(const Job& job, Worker& w, int64_t lane, int64_t query) const;
    void tighten(const ShortBank& by, Worker& w, int64_t lane, double squared) const;

    Known bank_;
    std::unique_ptr<Points> points_;
    std::shared_ptr<const ShortBank> short_;
    mutable std::mutex mutex_; // of short_ and meters_
    Meter meters_[8];
};

} // namespace pcf
