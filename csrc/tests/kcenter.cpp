// KCenter under a plain copy of the driver, against greedy as it is defined.
#include "battery.h"
#include "cpu/kcenter.h"

#include <algorithm>
#include <chrono>
#include <stdexcept>
#include <thread>

namespace battery {
namespace {

struct Options {
    std::vector<double> initial;  // squared distances; empty: infinite
    std::vector<double> weight;   // squared; empty: none
    std::vector<int64_t> selected;
    int64_t batch = 64, block = 16;
    bool lazy = true;
    int threads = 1;
    Prune prune = Prune::automatic;
    std::function<void()> poll;
};

std::vector<double> starting(const Options& options, int64_t n) {
    return options.initial.empty() ? std::vector<double>(size_t(n), INFINITY) : options.initial;
}

// Farthest first, one pick after the other, from naive distances.
Picks greedy(const std::vector<float>& x, int64_t n, int64_t dim, int64_t quota, const Options& options) {
    std::vector<double> squared = starting(options, n);
    const auto pick = [&](int64_t row) {
        for (int64_t i = 0; i < n; ++i)
            if (squared[size_t(i)] >= 0)
                squared[size_t(i)] = std::min(squared[size_t(i)], naive_squared(x, dim, i, row));
        squared[size_t(row)] = -1;
    };
    for (int64_t row : options.selected) pick(row);
    Picks picks;
    while (int64_t(picks.rows.size()) < quota) {
        int64_t best = -1;
        double largest = -1;
        for (int64_t i = 0; i < n; ++i) {
            double key = squared[size_t(i)];
            if (key >= 0 && !options.weight.empty())
                key = options.weight[size_t(i)] > 0 ? key * options.weight[size_t(i)] : 0;
            if (key > largest) best = i, largest = key;
        }
        picks.rows.push_back(best);
        picks.squared.push_back(squared[size_t(best)]);
        pick(best);
    }
    return picks;
}

// Orthonormal float32 rows [count][dim], of no use in particular: a bound by them must hold all the same.
std::vector<float> directions(int64_t count, int64_t dim) {
    Random random{uint64_t(dim)};
    std::vector<std::vector<double>> rows;
    while (int64_t(rows.size()) < count) {
        std::vector<double> row(static_cast<size_t>(dim));
        for (double& v : row) v = random.normal();
        for (int again = 0; again < 2; ++again)
            for (const auto& other : rows) {
                double dot = 0;
                for (size_t k = 0; k < row.size(); ++k) dot += row[k] * other[k];
                for (size_t k = 0; k < row.size(); ++k) row[k] -= dot * other[k];
            }
        double norm2 = 0;
        for (double v : row) norm2 += v * v;
        for (double& v : row) v /= std::sqrt(norm2);
        rows.push_back(row);
    }
    std::vector<float> out;
    for (const auto& row : rows) out.insert(out.end(), row.begin(), row.end());
    return out;
}

struct Engine {
    Engine(const TileKernel& kernel, const Matrix& x, const double* centre, int64_t quota, const Options& options)
        : squared(starting(options, x.rows)), frame(kernel, centre, scale_for(kernel, centre, {x}), x.dim),
          look(x, frame, options.threads), along(kernel.bytes == 4 ? x.dim / 2 : 0), rows(directions(along, x.dim)),
          leaves(x, frame, look.w, look.rho, look.extremes.loss, squared.data(),
                 options.weight.empty() ? nullptr : options.weight.data(), quota + int64_t(options.selected.size()),
                 options.prune, along > 0 ? rows.data() : nullptr, along, options.threads, options.poll) {
        leaves.append(options.selected.data(), int64_t(options.selected.size()));
    }
    std::vector<double> squared;
    Frame frame;
    Look look;
    int64_t along;
    std::vector<float> rows;
    KCenter leaves;
};

// kernels/kcenter/traversal.py, without its adaptation.
Picks drive(KCenter& leaves, int64_t n, int64_t quota, const Options& options) {
    Picks picks;
    while (int64_t(picks.rows.size()) < quota) {
        if (!options.lazy) leaves.refresh(nullptr, 0);
        KCenter::Reached found;
        double edge = 0;
        for (int64_t wanted = 2 * options.batch; found.rows.empty(); wanted *= 4) {
            edge = leaves.edge(wanted);
            if (edge == INFINITY) {
                leaves.refresh(nullptr, 0);
                edge = leaves.edge(options.batch);
            }
            found = leaves.reach(edge, 2 * options.batch);
            CHECK(std::is_sorted(found.rows.begin(), found.rows.end()), "candidates do not ascend");
            CHECK(std::min(found.inside, 2 * options.batch) == int64_t(found.rows.size()), "number of candidates");
            for (int64_t row : found.rows) CHECK(leaves.key(row) >= edge, "a candidate below the edge");
            if (edge == 0) break;
        }
        const Rank behind{edge, n};
        const Rank* outside = found.inside > int64_t(found.rows.size()) ? &found.rest : edge > 0 ? &behind : nullptr;
        const int64_t left = quota - int64_t(picks.rows.size());
        const Picks more = leaves.resolve(found.rows.data(), int64_t(found.rows.size()), outside, left, options.block);
        picks.rows.insert(picks.rows.end(), more.rows.begin(), more.rows.end());
        picks.squared.insert(picks.squared.end(), more.squared.begin(), more.squared.end());
        CHECK(leaves.count() == int64_t(picks.rows.size() + options.selected.size()), "count of picks");
    }
    return picks;
}

bool same(const Picks& a, const Picks& b) { return a.rows == b.rows && a.squared == b.squared; }

Options with_everything(int64_t n, uint64_t seed) {
    Random random(seed);
    Options options;
    for (int64_t i = 0; i < n; ++i) {
        options.initial.push_back(random.below(3) ? 40 * random.uniform() : INFINITY);
        options.weight.push_back(random.below(6) ? std::ldexp(random.uniform(), int(random.below(12)) - 6) : 0);
        if (i % 9 == 4) options.selected.push_back(i);
    }
    return options;
}

struct Tuning {
    int64_t batch, block;
    bool lazy;
    int threads;
    Prune prune;
};
constexpr Tuning kTunings[] = {{64, 16, true, 1, Prune::automatic}, {9, 4, true, 2, Prune::triangle},
                               {12, 512, true, 1, Prune::partial},  {40, 512, false, 3, Prune::triangle},
                               {7, 9, false, 2, Prune::partial},    {30, 64, true, 2, Prune::none}};

void all_kinds() {
    int64_t runs = 0;
    for (const char* kind : kKinds)
        for (int64_t dim : {2, 33, 128})
            for (bool with_options : {false, true}) {
                if (kSlowest && kind[0] != 'e' && kind[0] != 'g') continue;
                const int64_t n = kSlow ? 80 : 180;
                const std::vector<float> x = rows_of(kind, n, dim, uint64_t(dim) + 3);
                Options options = with_options ? with_everything(n, uint64_t(dim)) : Options();
                const int64_t quota = n - int64_t(options.selected.size());
                const Picks expected = greedy(x, n, dim, quota, options);
                for (const TileKernel* kernel : kernels())
                    for (const Tuning& t : kTunings) {
                        if (kSlow && (&t - kTunings + dim + with_options) % 3 != 0) continue; // each with some
                        options.batch = t.batch, options.block = t.block;
                        options.lazy = t.lazy, options.threads = t.threads, options.prune = t.prune;
                        Engine engine(*kernel, matrix_of(x, n, dim), nullptr, quota, options);
                        CHECK(same(drive(engine.leaves, n, quota, options), expected),
                              std::string(kernel->name) + ", " + kind + ", dim " + std::to_string(dim) + ": picks");
                        ++runs;
                    }
            }
    std::printf("kcenter: %lld runs\n", static_cast<long long>(runs));
}

// Other types, strides and a centre: the same picks as from what those types hold.
void types(const TileKernel& kernel) {
    const int64_t n = 80, dim = 37;
    const std::vector<float> x = rows_of("far from the origin", n, dim, 8);
    for (Type type : {Type::f16, Type::bf16, Type::f32, Type::f64})
        for (int64_t stride : {1, 3}) {
            const Copy copy(x, n, dim, type, stride, 5);
            const std::vector<float> held(copy.values.begin(), copy.values.end());
            const std::vector<double> centre(copy.values.begin(), copy.values.begin() + dim);
            Options options;
            options.threads = 2;
            Engine engine(kernel, copy.matrix, centre.data(), n, options);
            const Picks found = drive(engine.leaves, n, n, options);
            if (type != Type::f64) { // whose values are finer than float32
                CHECK(same(found, greedy(held, n, dim, n, options)), std::string(kernel.name) + ": picks of another type");
                continue;
            }
            for (size_t p = 1; p < found.rows.size(); ++p) {
                double nearest = INFINITY;
                for (size_t q = 0; q < p; ++q)
                    nearest = std::min(nearest, naive_squared(&copy.values[size_t(found.rows[p] * dim)],
                                                              &copy.values[size_t(found.rows[q] * dim)], dim));
                CHECK(found.squared[p] == nearest && nearest <= found.squared[p - 1], "float64 picks");
            }
        }
}

void edges(const TileKernel& kernel) {
    const int64_t n = 50, dim = 5;
    const std::vector<float> x = rows_of("gaussian", n, dim, 1);
    Options options;
    Engine engine(kernel, matrix_of(x, n, dim), nullptr, 3, options);
    KCenter& leaves = engine.leaves;
    for (int64_t bad : {int64_t(-1), n}) try {
            leaves.check_rows(&bad, 1);
            CHECK(false, "a row that does not exist passed");
        } catch (const std::out_of_range&) {
        }
    const int64_t four[] = {0, 1, 2, 3};
    try {
        leaves.append(four, 4);
        CHECK(false, "more picks than there is room for");
    } catch (const std::length_error&) {
    }
    leaves.append(four, 2);
    CHECK(leaves.key(0) == -1 && leaves.key(2) == INFINITY && leaves.edge(48) == INFINITY, "keys before refreshing");
    CHECK(leaves.edge(49) == 0, "an edge of more rows than there are");
    CHECK(leaves.refresh(nullptr, 0) == 2 * 48 && leaves.refresh(nullptr, 0) == 0, "distances computed");
    for (int64_t i = 2; i < n; ++i) {
        const double nearest = std::min(naive_squared(x, dim, i, 0), naive_squared(x, dim, i, 1));
        CHECK(leaves.key(i) == nearest, "a refreshed key");
        CHECK(leaves.reach(nearest, 100).inside >= 1, "no candidates");
    }
    std::vector<double> keys;
    for (int64_t i = 2; i < n; ++i) keys.push_back(leaves.key(i));
    std::sort(keys.begin(), keys.end(), std::greater<double>());
    for (int64_t wanted = 1; wanted <= 48; ++wanted) CHECK(leaves.edge(wanted) == keys[size_t(wanted - 1)], "an edge");
    CHECK(leaves.resolve(four, 0, nullptr, 1, 8).rows.empty(), "picks among no rows");
}

// What poll throws ends the call, and what is left can still be destroyed.
void interrupted(const TileKernel& kernel) {
    const std::vector<float> x = rows_of("gaussian", 4000, 8, 1);
    Options options;
    bool stop = false;
    options.threads = 2;
    options.poll = [&] {
        if (stop) throw std::runtime_error("stop");
    };
    Engine engine(kernel, matrix_of(x, 4000, 8), nullptr, 20, options);
    const int64_t first = 0;
    engine.leaves.append(&first, 1);
    stop = true;
    std::this_thread::sleep_for(std::chrono::milliseconds(70)); // poll is due at the end of the first task
    try {
        engine.leaves.refresh(nullptr, 0);
        CHECK(false, "refresh went on although poll threw");
    } catch (const std::runtime_error& e) {
        CHECK(std::string(e.what()) == "stop", "another exception than poll's");
    }
    stop = false;
    std::vector<int64_t> all;
    for (int64_t i = 0; i < 4000; ++i) all.push_back(i);
    engine.leaves.refresh(all.data(), 4000);
    CHECK(engine.leaves.key(7) == naive_squared(x, 8, 7, 0), "a refresh after one that was ended");
}

} // namespace

void kcenter() {
    all_kinds();
    for (const TileKernel* kernel : kernels()) {
        types(*kernel);
        edges(*kernel);
        interrupted(*kernel);
    }
    std::vector<std::thread> others; // jobs side by side, each with threads of its own
    const std::vector<float> x = rows_of("gaussian", 300, 24, 2);
    const Picks expected = greedy(x, 300, 24, 100, Options());
    for (int i = 0; i < 4; ++i)
        others.emplace_back([&, i] {
            for (const TileKernel* kernel : kernels()) {
                Options options;
                options.threads = 1 + i % 3;
                Engine engine(*kernel, matrix_of(x, 300, 24), nullptr, 100, options);
                CHECK(same(drive(engine.leaves, 300, 100, options), expected), "picks of jobs side by side");
            }
        });
    for (auto& other : others) other.join();
    std::printf("kcenter: types, edges, interruption, 4 jobs side by side\n");
}

} // namespace battery
