// Banks that are prepared once, against the search that is not.
#include "battery.h"
#include "cpu/knn.h"
#include "cpu/prepared.h"

#include <algorithm>
#include <thread>

namespace battery {
namespace {

Found room_for(int64_t count) { return {std::vector<double>(size_t(count), -7), std::vector<int64_t>(size_t(count), -7)}; }

Known known(const Matrix& x, const Frame& frame) {
    Look look(x, frame);
    return {x, frame, std::move(look.w), std::move(look.rho), look.extremes.loss};
}

// Short rows along the first columns, which are orthonormal as they stand.
void shorten(Prepared& bank, int64_t dim, int64_t few, int64_t all) {
    std::vector<double> directions(size_t(dim * all));
    for (int64_t j = 0; j < all; ++j) directions[size_t(j * all + j)] = 1;
    bank.shorten(directions.data(), few, all, {1e-6, 0x1p-140}, {1e-6, 0x1p-140}, 2, nullptr);
}

Found search(Prepared& bank, const Matrix& query, int64_t k, Way way, int threads, Work* work = nullptr) {
    Known rows = known(query, bank.bank().frame);
    Found found = room_for(query.rows * k);
    const Work done = bank.knn(rows, k, way, threads, nullptr, found.squared.data(), found.rows.data());
    if (work) *work = done;
    return found;
}

void all_kinds() {
    int64_t runs = 0;
    for (const char* kind : kKinds)
        for (int64_t dim : {2, 40}) {
            if (kSlowest && kind[0] != 'e' && kind[0] != 'g') continue;
            const int64_t m = kSlow ? 300 : 700, n = 37;
            const std::vector<float> rows = rows_of(kind, m, dim, 31);
            std::vector<float> others = rows_of(kind, n, dim, 32);
            std::copy_n(rows.begin(), 9 * dim, others.begin()); // some are bank rows
            const Matrix bank = matrix_of(rows, m, dim), query = matrix_of(others, n, dim);
            for (const TileKernel* kernel : kernels()) {
                const double scale = scale_for(*kernel, nullptr, {bank, query});
                const Frame frame(*kernel, nullptr, scale, dim);
                Look of_query(query, frame), of_bank(bank, frame);
                Prepared prepared(known(bank, frame));
                if (runs % 2) prepared.pack(2, nullptr);
                shorten(prepared, dim, dim / 2, dim - dim / 4);
                CHECK(prepared.bytes() > 0, "nothing is held");
                for (int64_t k : {int64_t(1), int64_t(9), int64_t(64)}) {
                    Found expected = room_for(n * k);
                    knn(query, bank, frame, of_query.measured(), of_bank.measured(), of_bank.extremes.loss, k, 1, nullptr,
                        expected.squared.data(), expected.rows.data());
                    for (Way way : {Way::automatic, Way::plain, Way::partial})
                        CHECK(search(prepared, query, k, way, 1 + int(runs % 3), nullptr) == expected,
                              std::string(kernel->name) + ", " + kind + ", dim " + std::to_string(dim) + ", k = " +
                                  std::to_string(k) + ": neighbours in a prepared bank");
                    ++runs;
                }
            }
        }
    std::printf("prepared: %lld runs\n", static_cast<long long>(runs));
}

// Most of the spread lies along the short rows: few pairs are settled. Jobs side by side, while short rows are made.
void side_by_side() {
    const int64_t m = kSlow ? 600 : 3000, n = 90, dim = 48;
    std::vector<float> rows = rows_of("gaussian", m, dim, 5), others = rows_of("gaussian", n, dim, 6);
    for (auto* x : {&rows, &others})
        for (size_t i = 0; i < x->size(); ++i) (*x)[i] *= i % size_t(dim) < 8 ? 1.0f : 0.01f;
    const Matrix bank = matrix_of(rows, m, dim), query = matrix_of(others, n, dim);
    for (const TileKernel* kernel : kernels()) {
        Prepared prepared(known(bank, Frame(*kernel, nullptr, scale_for(*kernel, nullptr, {bank, query}), dim)));
        const Found expected = search(prepared, query, 3, Way::plain, 1);
        std::vector<std::thread> jobs;
        for (int i = 0; i < 3; ++i)
            jobs.emplace_back([&] {
                for (int round = 0; round < 3; ++round)
                    CHECK(search(prepared, query, 3, Way::automatic, 2) == expected, "neighbours of jobs side by side");
            });
        shorten(prepared, dim, 12, 20);
        for (auto& job : jobs) job.join();
        Work work;
        CHECK(search(prepared, query, 3, Way::partial, 2, &work) == expected, "neighbours along few columns");
        CHECK(work.plain == 0 && work.partial >= m * n && work.settled * 20 < m * n,
              std::string(kernel->name) + ": short rows exclude too little");
    }
    std::printf("prepared: few pairs settled, 3 jobs side by side\n");
}

// Products along directions and squared differences, within their roundings of plain loops.
void parts() {
    const int64_t dim = 37, blocks = 3;
    const std::vector<float> x = rows_of("mixed sizes", 4, dim, 7), y = rows_of("gaussian", 8 * blocks, dim, 8);
    std::vector<double> rows(x.begin(), x.end()), directions(size_t(blocks * dim * 8));
    for (int64_t j = 0; j < 8 * blocks; ++j)
        for (int64_t i = 0; i < dim; ++i) directions[size_t((j / 8 * dim + i) * 8 + j % 8)] = double(y[size_t(j * dim + i)]);
    for (const TileKernel* kernel : kernels()) {
        std::vector<double> along(size_t(4 * blocks * 8), -7);
        kernel->project(rows.data(), dim, directions.data(), blocks, along.data());
        for (int64_t r = 0; r < 4; ++r)
            for (int64_t j = 0; j < 8 * blocks; ++j) {
                double sum = 0, size = 0;
                for (int64_t i = 0; i < dim; ++i) {
                    const double term = rows[size_t(r * dim + i)] * double(y[size_t(j * dim + i)]);
                    sum += term;
                    size += std::fabs(term);
                }
                CHECK(std::fabs(along[size_t(r * 8 * blocks + j)] - sum) <= 2 * double(dim) * 0x1p-53 * size,
                      std::string(kernel->name) + ": products along directions");
            }
        const double found = double(kernel->apart(y.data(), y.data() + 32, 32));
        const std::vector<double> a(y.begin(), y.begin() + 32), b(y.begin() + 32, y.begin() + 64);
        const double true_sum = naive_squared(a.data(), b.data(), 32);
        CHECK(std::fabs(found - true_sum) <= (32.0 / 16 + 6) * 0x1p-24 * true_sum, std::string(kernel->name) + ": apart");
    }
}

} // namespace

void prepared() {
    parts();
    all_kinds();
    side_by_side();
}

} // namespace battery
