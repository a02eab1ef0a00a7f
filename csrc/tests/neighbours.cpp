// k nearest neighbours against brute force.
#include "battery.h"
#include "cpu/knn.h"

#include <algorithm>
#include <chrono>
#include <functional>
#include <stdexcept>
#include <thread>

namespace battery {
namespace {

Found brute_force(const std::vector<double>& query, const std::vector<double>& bank, int64_t dim, int64_t k) {
    Found found;
    const int64_t m = int64_t(bank.size()) / dim;
    for (size_t q = 0; q < query.size(); q += size_t(dim)) {
        std::vector<std::pair<double, int64_t>> all;
        for (int64_t j = 0; j < m; ++j) all.emplace_back(naive_squared(&query[q], &bank[size_t(j * dim)], dim), j);
        std::partial_sort(all.begin(), all.begin() + k, all.end());
        for (int64_t i = 0; i < k; ++i) {
            found.squared.push_back(all[size_t(i)].first);
            found.rows.push_back(all[size_t(i)].second);
        }
    }
    return found;
}

Found search(const TileKernel& kernel, const Matrix& query, const Matrix& bank, const double* centre, int64_t k,
             int threads, const std::function<void()>& poll = nullptr) {
    const Frame frame(kernel, centre, scale_for(kernel, centre, {query, bank}), bank.dim);
    Look of_query(query, frame), of_bank(bank, frame);
    // Filled with what is no answer, exactly as large as it must be.
    Found found{std::vector<double>(size_t(query.rows * k), -7), std::vector<int64_t>(size_t(query.rows * k), -7)};
    knn(query, bank, frame, of_query.measured(), of_bank.measured(), of_bank.extremes.loss, k, threads, poll,
        found.squared.data(), found.rows.data());
    return found;
}

std::vector<double> doubles(const std::vector<float>& x) { return {x.begin(), x.end()}; }

void all_kinds() {
    int64_t runs = 0;
    for (const char* kind : kKinds)
        for (int64_t dim : {1, 31, 128}) {
            if (kSlowest && kind[0] != 'e' && kind[0] != 'g') continue;
            const int64_t m = kSlow ? 130 : 400, n = 37;
            const std::vector<float> bank = rows_of(kind, m, dim, 21), all = rows_of(kind, n + m, dim, 22);
            std::vector<float> query(all.begin(), all.begin() + n * dim);
            std::copy(bank.begin() + 40 * dim, bank.begin() + 55 * dim, query.begin()); // some are bank rows
            for (int64_t k : {int64_t(1), int64_t(5), int64_t(64), m}) {
                const Found expected = brute_force(doubles(query), doubles(bank), dim, k);
                for (const TileKernel* kernel : kernels())
                    for (int threads : {1, 3}) {
                        CHECK(search(*kernel, matrix_of(query, n, dim), matrix_of(bank, m, dim), nullptr, k, threads) ==
                                  expected,
                              std::string(kernel->name) + ", " + kind + ", dim " + std::to_string(dim) +
                                  ", k = " + std::to_string(k) + ": neighbours");
                        ++runs;
                    }
            }
        }
    std::printf("neighbours: %lld runs\n", static_cast<long long>(runs));
}

// Numbers of queries and bank rows around those of a group and a block.
void sizes() {
    const int64_t dim = 3;
    const std::vector<float> rows = rows_of("integers", 140, dim, 5), others = rows_of("integers", 140, dim, 6);
    for (int64_t n : {1, 7, 8, 9, 15, 16, 17, 31, 32, 33, 65})
        for (int64_t m : {1, 5, 6, 7, 11, 12, 13, 31, 32, 33, 64, 65, 97}) {
            if (kSlowest && n % 8 != 1) continue;
            const int64_t k = n % 2 ? m : (m + 1) / 2;
            const std::vector<float> query(rows.begin(), rows.begin() + n * dim);
            const std::vector<float> bank(others.begin(), others.begin() + m * dim);
            const Found expected = brute_force(doubles(query), doubles(bank), dim, k);
            for (const TileKernel* kernel : kernels())
                CHECK(search(*kernel, matrix_of(query, n, dim), matrix_of(bank, m, dim), nullptr, k, 1) == expected,
                      std::string(kernel->name) + ": " + std::to_string(n) + " queries, " + std::to_string(m) + " rows");
        }
    for (const TileKernel* kernel : kernels())
        CHECK(search(*kernel, matrix_of(rows, 0, dim), matrix_of(others, 9, dim), nullptr, 2, 2).rows.empty(),
              "no queries");
}

// One row thousands of times: far more hits than there is room for, and the lowest rows must come first.
void copies() {
    const int64_t m = kSlow ? 700 : 5000, dim = 16;
    std::vector<float> bank = rows_of("gaussian", m, dim, 1);
    for (int64_t j = 0; j < m; ++j)
        if (j % 7) std::copy_n(bank.begin(), dim, bank.begin() + j * dim);
    const std::vector<float> query = rows_of("gaussian", 3, dim, 1);
    for (int64_t k : {int64_t(1), int64_t(64), m}) {
        const Found expected = brute_force(doubles(query), doubles(bank), dim, k);
        for (const TileKernel* kernel : kernels())
            CHECK(search(*kernel, matrix_of(query, 3, dim), matrix_of(bank, m, dim), nullptr, k, 2) == expected,
                  std::string(kernel->name) + ": many equal rows");
    }
}

void types(const TileKernel& kernel) {
    const int64_t n = 35, m = 70, dim = 37;
    const std::vector<float> x = rows_of("far from the origin", n, dim, 8), y = rows_of("far from the origin", m, dim, 9);
    for (Type a : {Type::f16, Type::bf16, Type::f32, Type::f64})
        for (Type b : {Type::f16, Type::bf16, Type::f32, Type::f64}) {
            const Copy query(x, n, dim, a, 2, 3), bank(y, m, dim, b, 1, a == b ? 0 : 7);
            const std::vector<double> centre(bank.values.begin(), bank.values.begin() + dim);
            CHECK(search(kernel, query.matrix, bank.matrix, centre.data(), 5, 2) ==
                      brute_force(query.values, bank.values, dim, 5),
                  std::string(kernel.name) + ": neighbours of mixed types");
        }
    // Every row the same memory, and columns too.
    const Matrix one{x.data(), Type::f32, m, dim, 0, 1}, value{x.data(), Type::f32, m, dim, 0, 0};
    for (const Matrix& bank : {one, value}) {
        const Found found = search(kernel, matrix_of(y, 1, dim), bank, nullptr, 3, 1);
        CHECK(found.rows == (std::vector<int64_t>{0, 1, 2}), "rows that share memory");
    }
}

void interrupted(const TileKernel& kernel) {
    int polled = 0;
    for (int64_t n = 1000; polled == 0; n *= 2) { // until a job lasts long enough to be polled
        const std::vector<float> x = rows_of("gaussian", n, 64, 1);
        try {
            search(kernel, matrix_of(x, n, 64), matrix_of(x, n, 64), nullptr, 9, 2, [&] {
                ++polled;
                throw std::runtime_error("stop");
            });
        } catch (const std::runtime_error&) {
        }
    }
    CHECK(polled == 1, "poll was called again after it had thrown");
}

} // namespace

void neighbours() {
    all_kinds();
    sizes();
    copies();
    for (const TileKernel* kernel : kernels()) types(*kernel);
    interrupted(*kernels().front()); // the slowest
    std::vector<std::thread> others;
    const std::vector<float> x = rows_of("near pairs", 300, 24, 2);
    const Found expected = brute_force(doubles(x), doubles(x), 24, 4);
    for (int i = 0; i < 4; ++i)
        others.emplace_back([&, i] {
            for (const TileKernel* kernel : kernels())
                CHECK(search(*kernel, matrix_of(x, 300, 24), matrix_of(x, 300, 24), nullptr, 4, 1 + i % 3) == expected,
                      "neighbours of jobs side by side");
        });
    for (auto& other : others) other.join();
    std::printf("neighbours: sizes, equal rows, types, interruption, 4 jobs side by side\n");
}

} // namespace battery
