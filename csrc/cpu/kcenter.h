// Leaves of k-center greedy: every row's canonical squared distance to its nearest pick, as of the picks it has seen.
//
// The driver (kernels/kcenter/traversal.py) says which rows to bring up to date and which may be picked from. A row's
// value is exact for the picks it has seen, so it is an upper bound for the others.
#pragma once
#include "points.h"

namespace pcf {

struct Rank { // place in the greedy order: the larger key first, then the lower row
    double key;
    int64_t row;
    bool before(const Rank& other) const { return key != other.key ? key > other.key : row < other.row; }
};

struct Picks {
    std::vector<int64_t> rows;
    std::vector<double> squared;
};

// How rows are compared with picks (refresh.cpp). The picks do not depend on it.
enum class Prune { none, triangle, partial, automatic };

struct Sketch;

class KCenter {
  public:
    // directions [count][D] orthonormal rows for Prune::partial, or null.
    // squared [N]: starting squared distances, kept up to date here (-1 for picked rows). weight [N], squared, or null.
    KCenter(const Matrix& x, Frame frame, std::vector<float> w, std::vector<float> rho, const Loss& loss,
            double* squared, const double* weight, int64_t capacity, Prune prune, const float* directions,
            int64_t direction_count, int threads, std::function<void()> poll);
    ~KCenter();

    int64_t count() const { return count_; }
    void check_rows(const int64_t* rows, int64_t count) const; // throws std::out_of_range
    void check_guests(const int64_t* own, int64_t count) const; // throws std::invalid_argument, std::out_of_range
    void append(const int64_t* rows, int64_t count);
    // Picks of whom the caller has put the rows into x.guests, at places count() and on. own [count]: the row number of
    // each that is a row of x as well, -1 for others. Throws std::domain_error for a row that the frame cannot hold.
    void append_guests(const int64_t* own, int64_t count);
    double key(int64_t row) const;
    double edge(int64_t wanted); // the wanted-th largest key of the rows not picked, 0 if there are fewer
    // Rows up to date whose key is >= edge, ascending; the first `most` in rank of them where there are more, and then
    // the first of the others in `rest`.
    struct Reached {
        std::vector<int64_t> rows;
        int64_t inside; // before any were left out
        Rank rest;
        int64_t distances;
    };
    Reached reach(double edge, int64_t most);
    int64_t refresh(const int64_t* rows, int64_t count); // null: all; returns the distances computed
    // Picks among rows (ascending, up to date) that rank before `outside` (null: nothing is outside) and all others.
    Picks resolve(const int64_t* rows, int64_t count, const Rank* outside, int64_t quota, int64_t block);

  private:
    struct Worker;
    struct View;
    template <class Passes>
    void gather(int64_t total, const Passes& passes, const int64_t* ids, std::vector<int64_t>& out);
    void in_full(Worker& worker, const int64_t* rows, int64_t count, bool triangle);
    bool near_centres(Worker& worker, const int64_t* rows, int64_t count, int64_t lo);
    void by_sketch(Worker& worker, const int64_t* rows, int64_t count);
    void search(Worker& worker, const View& view, const Lanes& lanes, int64_t first, const int64_t* rows, int64_t count,
                int64_t lo, int64_t hi, const int32_t* ids);
    void project(Worker& worker, const int64_t* rows, int64_t count);
    void sketch_picks(int64_t first);
    void open(int64_t count);
    void put(int64_t row, const float* in_frame);
    void settle(Worker& worker, const View& view, int64_t lane, int64_t row, float& threshold);
    void absorb(const Lanes& lanes, const int64_t* rows, int64_t count);
    int64_t first_unseen(const int64_t* rows, int64_t count) const;
    View full_view(const Points& points) const;
    float threshold_of(const View& view, int64_t row, double squared) const;
    struct Block;
    void greedy(Block& block, const Rank* limit, int64_t quota);

    Matrix x_;
    Frame frame_;
    const TileKernel& kernel_;
    Bound bound_;
    Meter guests_; // what their rows lose in the frame
    std::vector<float> w_, rho_;
    double* squared_;
    const double* weight_;
    std::vector<int32_t> seen_, nearest_;
    Points picks_;
    std::unique_ptr<Sketch> sketch_;
    Prune prune_;
    std::vector<int64_t> pick_row_;
    int64_t count_ = 0;
    int64_t panel_groups_;
    Team team_;
    std::vector<std::unique_ptr<Worker>> workers_;
    std::vector<int64_t> order_, sorted_;
};

} // namespace pcf
