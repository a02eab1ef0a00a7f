#include "prepared.h"

#include "knn.h"
#include "neighbour.h"

#include <algorithm>
#include <chrono>
#include <stdexcept>

namespace pcf {
namespace {

constexpr int64_t kTaskGroups = 32;       // most lane groups of a task
constexpr int64_t kPanelGroups = 8;       // of these, that stay in the first-level cache
constexpr int64_t kChunkBytes = 256 << 10; // packed short rows that meet all panels before the next come
constexpr int64_t kSampleRows = 256, kSampleShare = 16; // bank rows that give the first bound: a sixteenth, or these
constexpr int64_t kRoom = 32;             // places of a query beyond 2 k
constexpr int64_t kDear = 48, kLonger = 16; // what a pair costs in float64 and along more directions, in ones of short rows
// A way is timed on a sixteenth of the queries, or so many: fewer do not show what reading the bank costs.
constexpr int64_t kProbe = 16, kProbeLeast = 1024;
constexpr int64_t kRarest = 1 << 10;      // calls between probes of a way that keeps losing

// Frobenius norm of V^T V - 1, of the first few columns of directions [dim][all].
double skew(const double* directions, int64_t dim, int64_t all, int64_t few) {
    double sum = 0;
    for (int64_t i = 0; i < few; ++i)
        for (int64_t j = 0; j <= i; ++j) {
            double dot = i == j ? -1 : 0;
            for (int64_t k = 0; k < dim; ++k) dot += directions[k * all + i] * directions[k * all + j];
            sum += dot * dot * (i == j ? 1 : 2);
        }
    return std::sqrt(sum);
}

int64_t cost(const Work& work) { return work.settled * kDear + work.longer * kLonger; }

double nanoseconds() {
    return double(std::chrono::duration_cast<std::chrono::nanoseconds>(
                      std::chrono::steady_clock::now().time_since_epoch()).count());
}

void fill(Team& team, Points& points, const Known& from) {
    const Frame& frame = from.frame;
    points.open(0, from.rows.rows);
    std::vector<std::unique_ptr<Scratch>> scratch;
    for (int i = 0; i < team.size(); ++i) scratch.push_back(std::make_unique<Scratch>(frame));
    const int64_t step = points.per_block() * divide_up(64, points.per_block()); // a block is one thread's
    team.run(divide_up(from.rows.rows, step), [&](int64_t task, int worker) {
        const Scratch& s = *scratch[size_t(worker)];
        for (int64_t i = task * step; i < std::min(from.rows.rows, (task + 1) * step); ++i) {
            frame.row(from.rows, i, s.rows.get(), s.spare.get());
            points.put(i, s.rows.get(), from.w[size_t(i)]);
        }
    });
}

} // namespace

struct Prepared::Job {
    Known& query;
    int64_t k;
    int threads;
    const std::function<void()>& poll;
    double* squared;
    int64_t* rows;
    std::shared_ptr<const ShortBank> by; // null: none were made yet
    Work work;
};

struct Prepared::Worker {
    Worker(const Known& bank, const ShortBank& by, const Job& job, int64_t groups)
        : shortener(bank.frame, by.blocks), meter(by.frame), lanes(by.frame, groups), scratch(by.frame),
          canonical(bank.frame.kernel(), job.query.rows, bank.rows), room(2 * job.k + kRoom),
          shorter(lanes.rows() * (by.few + 1)), longer(lanes.rows() * by.width), w(size_t(lanes.rows())),
          rho(size_t(lanes.rows())), reach(size_t(lanes.rows())), entries(size_t(lanes.rows() * room)),
          held(size_t(lanes.rows())), nearest(size_t(lanes.rows())) {}
    Shortener shortener;
    pcf::Meter meter;
    Lanes lanes;
    Scratch scratch;
    Canonical canonical;
    int64_t room;
    Aligned<float> shorter, longer;              // of the queries: [lanes][few + 1], [lanes][width]
    std::vector<float> w, rho;                   // of their short rows
    std::vector<float> reach;                    // longer rows whose squared distance is above it are too far
    std::vector<Entry> entries;                  // [lanes][room]
    std::vector<int64_t> held;                   // entries of a lane
    std::vector<std::vector<Neighbour>> nearest; // ascending, at most k
    Work work;
};

void Prepared::shorten(const double* directions, int64_t few, int64_t all, Slack of_few, Slack of_all, int threads,
                       const std::function<void()>& poll) {
    for (const Slack& slack : {of_few, of_all})
        if (!(slack.share < 0.25 && slack.tiny >= 0 && slack.tiny < 1))
            throw std::invalid_argument("short rows must be close to what they stand for");
    const int64_t dim = bank_.rows.dim;
    if (!(skew(directions, dim, all, few) <= of_few.share && skew(directions, dim, all, all) <= of_all.share))
        throw std::invalid_argument("the directions are farther from orthonormal than their slack allows");
    const int64_t rows = bank_.rows.rows, step = 64;
    auto made = std::make_shared<ShortBank>(bank_.frame, directions, few, all, of_few, of_all, rows);
    Aligned<float> shorter(rows * (few + 1));
    {
        Team team(threads, poll);
        std::vector<std::unique_ptr<Shortener>> shorteners;
        for (int i = 0; i < team.size(); ++i)
            shorteners.push_back(std::make_unique<Shortener>(bank_.frame, made->blocks));
        team.run(divide_up(rows, step), [&](int64_t task, int worker) {
            for (int64_t i = task * step; i < std::min(rows, (task + 1) * step); i += 4)
                shorteners[size_t(worker)]->take(*made, bank_.rows, i, std::min<int64_t>(4, rows - i),
                                                 shorter.get() + i * (few + 1), made->longer.get() + i * made->width);
        });
    }
    Known known{{shorter.get(), Type::f32, rows, few + 1, few + 1, 1}, made->frame, std::vector<float>(size_t(rows)),
                std::vector<float>(size_t(rows)), {0, 0}};
    Team team(threads, poll);
    known.loss = measure(team, known.rows, known.frame, known.measured()).loss;
    fill(team, made->points, known);
    const Frame& frame = made->frame;
    made->bound = Bound(known.loss, frame.kernel().roundings, frame.depth(), frame.dim(), 1.0);
    made->loss = Bound(bank_.loss, 0, 0, bank_.frame.dim(), 1.0).loss;
    const std::lock_guard<std::mutex> lock(mutex_);
    short_ = std::move(made);
}

void Prepared::pack(int threads, const std::function<void()>& poll) {
    auto points = std::make_unique<Points>(bank_.frame, bank_.rows.rows);
    Team team(threads, poll);
    fill(team, *points, bank_);
    points_ = std::move(points);
}

int64_t Prepared::bytes() const {
    const std::lock_guard<std::mutex> lock(mutex_);
    int64_t bytes = int64_t(bank_.w.size() + bank_.rho.size()) * 4;
    for (const Points* p : {static_cast<const Points*>(points_.get()), short_ ? &short_->points : nullptr})
        if (p) bytes += p->blocks(bank_.rows.rows) * p->block_bytes();
    if (short_) bytes += 4 * bank_.rows.rows * short_->width + 64 * short_->blocks * bank_.rows.dim;
    return bytes;
}

Work Prepared::knn(Known& query, int64_t k, Way way, int threads, const std::function<void()>& poll, double* squared,
                   int64_t* rows) {
    Job job{query, k, threads, poll, squared, rows, nullptr, {}};
    {
        const std::lock_guard<std::mutex> lock(mutex_);
        job.by = short_;
    }
    const int64_t total = query.rows.rows;
    if (!job.by || k > kShortMost || way == Way::plain) {
        plain(job, 0, total);
        return job.work;
    }
    if (way == Way::partial) {
        partial(job, 0, total);
        return job.work;
    }
    int size = 0;
    while (k >> size) ++size;
    Meter& shared = meters_[size];
    Meter meter;
    {
        const std::lock_guard<std::mutex> lock(mutex_);
        ++shared.calls;
        meter = shared;
    }
    const int64_t lanes = bank_.frame.kernel().lanes;
    const int64_t probe = std::max(divide_up(total, kProbe * lanes) * lanes, kProbeLeast);
    int64_t from = 0;
    const auto some = [&](bool by_short, int64_t count) {
        count = std::min(count, total - from);
        if (count == 0) return;
        const double begun = nanoseconds();
        by_short ? partial(job, from, count) : plain(job, from, count);
        const double cost = (nanoseconds() - begun) / (double(count) * double(bank_.rows.rows));
        from += count;
        double& held = meter.cost[by_short];
        // What else the machine does only makes it slower: down at once, up in steps.
        held = held == 0 || cost < held ? cost : 0.8 * held + 0.2 * cost;
    };
    for (bool by_short : {true, false})
        if (meter.cost[by_short] == 0) some(by_short, probe);
    if (meter.calls >= meter.due && from == 0) { // what loses is tried more and more rarely
        some(meter.cost[1] > meter.cost[0], probe);
        const bool close = std::max(meter.cost[0], meter.cost[1]) < 1.1 * std::min(meter.cost[0], meter.cost[1]);
        meter.interval = close ? 4 : std::min(kRarest, 2 * meter.interval);
        meter.due = meter.calls + meter.interval;
    }
    if (from < total) some(meter.cost[1] != 0 && (meter.cost[0] == 0 || meter.cost[1] < meter.cost[0]), total);
    const std::lock_guard<std::mutex> lock(mutex_);
    const int64_t calls = shared.calls; // others may have come in between
    shared = meter;
    shared.calls = calls;
    return job.work;
}

void Prepared::plain(Job& job, int64_t from, int64_t count) {
    Matrix some = job.query.rows;
    some.data = place_of(some, from).at;
    some.rows = count;
    const Measured of_query{job.query.w.data() + from, job.query.rho.data() + from};
    pcf::knn(some, bank_.rows, bank_.frame, of_query, bank_.measured(), bank_.loss, job.k, job.threads, job.poll,
             job.squared + from * job.k, job.rows + from * job.k, points_.get());
    job.work.plain += count * bank_.rows.rows;
}

void Prepared::partial(Job& job, int64_t from, int64_t count) {
    const int64_t lanes = bank_.frame.kernel().lanes;
    Team team(job.threads, job.poll);
    const int64_t groups =
        std::clamp<int64_t>(divide_up(count, lanes) / (2 * team.size()), 1, kTaskGroups);
    std::vector<std::unique_ptr<Worker>> workers;
    for (int i = 0; i < team.size(); ++i) workers.push_back(std::make_unique<Worker>(bank_, *job.by, job, groups));
    const int64_t step = groups * lanes, tasks = divide_up(count, step);
    std::vector<char> done(static_cast<size_t>(tasks));
    team.run(tasks, [&](int64_t task, int worker) {
        const int64_t first = task * step;
        done[size_t(task)] = this->task(job, *workers[size_t(worker)], from + first, std::min(step, count - first));
    });
    for (const auto& w : workers) {
        job.work.partial += w->work.partial;
        job.work.longer += w->work.longer;
        job.work.settled += w->work.settled;
    }
    for (int64_t t = 0; t < tasks; ++t) { // what was given up, as few searches as there are runs of it
        if (done[size_t(t)]) continue;
        const int64_t first = t;
        while (t + 1 < tasks && !done[size_t(t) + 1]) ++t;
        plain(job, from + first * step, std::min(count, (t + 1) * step) - first * step);
    }
}

// Queries from.. of a job; false where so many rows are left that the plain search is cheaper.
bool Prepared::task(const Job& job, Worker& w, int64_t from, int64_t count) const {
    const ShortBank& by = *job.by;
    const Points& points = by.points;
    const TileKernel& kernel = bank_.frame.kernel();
    const int64_t lanes = kernel.lanes, groups = divide_up(count, lanes), depth = by.frame.depth();
    const int64_t blocks = points.blocks(bank_.rows.rows), k = job.k, room = w.room;
    const Matrix shorter{w.shorter.get(), Type::f32, count, by.few + 1, by.few + 1, 1};
    for (int64_t l = 0; l < count; l += 4)
        w.shortener.take(by, job.query.rows, from + l, std::min<int64_t>(4, count - l),
                         w.shorter.get() + l * (by.few + 1), w.longer.get() + l * by.width);
    std::vector<int64_t> ids(static_cast<size_t>(count));
    for (int64_t l = 0; l < count; ++l) {
        ids[size_t(l)] = l;
        w.meter.take(shorter, l, w.w[size_t(l)], w.rho[size_t(l)]);
    }
    w.lanes.pack(shorter, ids.data(), count, 0, w.scratch);
    float* threshold = w.lanes.thresholds();
    for (int64_t l = 0; l < groups * lanes; ++l) {
        threshold[l] = l < count ? -FLT_MAX : kNever;
        w.reach[size_t(l)] = FLT_MAX;
        w.held[size_t(l)] = 0;
        w.nearest[size_t(l)].clear();
    }
    const TileScope scope(kernel);
    Entry* entries = w.entries.data();
    int64_t* held = w.held.data();

    // The k of least bound among some rows, settled, are a first bound on the k-th distance.
    const int64_t share = std::max<int64_t>(1, std::min(kSampleShare, bank_.rows.rows / kSampleRows));
    const auto best_first = [&](int64_t l) {
        if (held[l] > k) std::nth_element(entries + l * room, entries + l * room + k, entries + l * room + held[l]);
        held[l] = std::min(held[l], k);
    };
    for (int64_t g = 0; g < groups; g += kPanelGroups)
        for (int64_t b = 0; b < blocks; b += share)
            sweep(kernel, depth, w.lanes, g, std::min(groups, g + kPanelGroups), points, b, b + 1, w.scratch,
                  [=](int64_t l, int64_t point, float value) {
                      if (value < threshold[l]) return;
                      entries[l * room + held[l]++] = {value, int32_t(point)};
                      if (held[l] < room) return;
                      best_first(l);
                      threshold[l] = std::max_element(entries + l * room, entries + l * room + k)->value;
                  });
    w.work.partial += divide_up(blocks, share) * kernel.points * count;
    for (int64_t l = 0; l < count; ++l) {
        best_first(l);
        threshold[l] = -FLT_MAX;
        settle(job, w, l, from + l);
    }

    const int64_t chunk = std::max<int64_t>(1, kChunkBytes / points.block_bytes());
    const int64_t before = cost(w.work);
    for (int64_t lo = 0; lo < blocks; lo += chunk) {
        const int64_t hi = std::min(blocks, lo + chunk);
        for (int64_t g = 0; g < groups; g += kPanelGroups)
            sweep(kernel, depth, w.lanes, g, std::min(groups, g + kPanelGroups), points, lo, hi, w.scratch,
                  [&](int64_t l, int64_t point, float value) {
                      if (value < threshold[l]) return;
                      entries[l * room + held[l]++] = {value, int32_t(point)};
                      if (held[l] == room) settle(job, w, l, from + l);
                  });
        w.work.partial += (hi - lo) * kernel.points * count;
        if (cost(w.work) - before > hi * kernel.points * count + (kDear + kLonger) * room * count) return false;
    }
    for (int64_t l = 0; l < count; ++l) {
        settle(job, w, l, from + l);
        const std::vector<Neighbour>& nearest = w.nearest[size_t(l)];
        if (int64_t(nearest.size()) < k) throw std::runtime_error("the rows changed during the search");
        for (int64_t j = 0; j < k; ++j) {
            job.squared[(from + l) * k + j] = nearest[size_t(j)].squared;
            job.rows[(from + l) * k + j] = nearest[size_t(j)].row;
        }
    }
    return true;
}

// Of what a lane holds: distances along more directions, then canonical ones, the least of those first, until the bounds
// of the others exclude them.
void Prepared::settle(const Job& job, Worker& w, int64_t lane, int64_t query) const {
    constexpr int64_t ahead = 4;
    const ShortBank& by = *job.by;
    Entry* entries = w.entries.data() + lane * w.room;
    const float threshold = w.lanes.thresholds()[lane];
    const float& reach = w.reach[size_t(lane)];
    std::vector<Neighbour>& nearest = w.nearest[size_t(lane)];
    const float* longer = w.longer.get() + lane * by.width;
    const auto fetch = [&](int64_t e) {
        const float* row = by.longer.get() + entries[e].row * by.width;
        for (int64_t i = 0; i < by.width; i += 16) __builtin_prefetch(row + i);
    };
    const int64_t held = std::partition(entries, entries + w.held[size_t(lane)],
                                        [=](const Entry& e) { return e.value >= threshold; }) - entries;
    w.held[size_t(lane)] = 0;
    for (int64_t e = 0; e < std::min(ahead, held); ++e) fetch(e);
    int64_t near = 0;
    for (int64_t e = 0; e < held; ++e) {
        if (e + ahead < held) fetch(e + ahead);
        const int32_t row = entries[e].row;
        const float apart = bank_.frame.kernel().apart(longer, by.longer.get() + row * by.width, by.width);
        if (apart > reach) continue;
        w.canonical.prefetch(row);
        entries[near++] = {-apart, row};
    }
    w.work.longer += held;
    std::sort(entries, entries + near);
    for (int64_t e = 0; e < near && -entries[e].value <= reach; ++e) {
        const int64_t row = entries[e].row;
        // Rows of the first bound come again.
        if (std::any_of(nearest.begin(), nearest.end(), [row](const Neighbour& n) { return n.row == row; })) continue;
        const Neighbour found{w.canonical.squared(query, row), row};
        ++w.work.settled;
        const bool full = int64_t(nearest.size()) == job.k;
        if (full && !(found < nearest.back())) continue;
        if (full) nearest.pop_back();
        nearest.insert(std::upper_bound(nearest.begin(), nearest.end(), found), found);
        if (int64_t(nearest.size()) == job.k) tighten(by, w, lane, nearest.back().squared);
    }
}

// No neighbour is farther than a canonical squared distance: what short and longer rows then show at least.
void Prepared::tighten(const ShortBank& by, Worker& w, int64_t lane, double squared) const {
    const double scale = bank_.frame.scale(), m2 = squared * scale * scale * (1 + 1e-9) + by.loss;
    if (!(m2 < 1e300)) return;
    const float norm2 = w.w[size_t(lane)], rho = w.rho[size_t(lane)];
    const double m = std::sqrt(m2) * (1 + 0x1p-40);
    const double norm = (Bound::norm_of(norm2, rho) + by.of_few.tiny) * (1 + 2 * by.of_few.share); // >= |z_x|
    const double few = ShortBank::between(m, norm, by.of_few), all = ShortBank::between(m, norm, by.of_all);
    w.lanes.thresholds()[lane] = by.bound.threshold(norm2, rho, few * few * (1 + 0x1p-40));
    // In float32 a term is rounded width / 16 + 6 times, and below the normal floats by up to 2^-149.
    const double most = all * all * (1 + (double(by.width) / 16 + 8) * 0x1p-23) + double(by.width) * 0x1p-148;
    if (most < FLT_MAX / 2) w.reach[size_t(lane)] = std::nextafter(float(most), FLT_MAX);
}

} // namespace pcf
