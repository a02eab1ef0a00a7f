// Packing, tiles, measures and canonical distances of every kernel against double loops.
#include "battery.h"

#include <cfloat>

namespace battery {
namespace {

constexpr int64_t kDims[] = {1, 2, 3, 7, 8, 9, 31, 32, 33, 64, 65, 100, 128, 129, 300};

// Rows and points of small integers: products and sums are exact in every kernel, so the values must be equal, and
// with them the places to which rows were packed.
void integers(const TileKernel& kernel, int64_t dim) {
    Random random(uint64_t(dim) * 7 + 1);
    const Frame frame(kernel, nullptr, 1.0, dim);
    const int64_t n = 2 * kernel.lanes - 1, m = 2 * kernel.points + 1; // a lane left over, a block begun
    const std::vector<float> x = rows_of("integers", n, dim, uint64_t(dim)), y = rows_of("integers", m, dim, 99);
    std::vector<int64_t> ids;
    for (int64_t i = 0; i < n; ++i) ids.push_back(n - 1 - i);
    const Scratch scratch(frame);
    const Lanes lanes(frame, 3); // packed from the second group on
    lanes.pack(matrix_of(x, n, dim), ids.data(), n, 1, scratch);
    Points points(frame, m);
    points.open(0, m);
    const auto norm2 = [&](int64_t j) {
        double sum = 0;
        for (int64_t k = 0; k < dim; ++k) sum += double(y[size_t(j * dim + k)]) * double(y[size_t(j * dim + k)]);
        return sum;
    };
    std::vector<float> row(static_cast<size_t>(dim));
    for (int64_t j = 0; j < m; ++j) {
        frame.row(matrix_of(y, m, dim), j, scratch.rows.get(), scratch.spare.get());
        points.put(j, scratch.rows.get(), float(norm2(j)));
    }
    CHECK(reinterpret_cast<uintptr_t>(lanes.group(1)) % 64 == 0, "group not aligned");
    CHECK(reinterpret_cast<uintptr_t>(points.block(0)) % 64 == 0, "first block not aligned");

    std::vector<double> expected(size_t(n * m));
    for (int64_t i = 0; i < n; ++i)
        for (int64_t j = 0; j < m; ++j) {
            double v = -norm2(j) / 2;
            for (int64_t k = 0; k < dim; ++k)
                v += double(x[size_t(ids[size_t(i)] * dim + k)]) * double(y[size_t(j * dim + k)]);
            expected[size_t(i * m + j)] = v;
        }
    for (int64_t l = 0; l < lanes.rows(); ++l) { // thresholds that some value meets exactly; the last lane never
        const int64_t i = l - kernel.lanes;
        const bool open = i >= 0 && i < n && i % 5 != 4;
        lanes.thresholds()[l] = open ? float(expected[size_t(i * m + random.below(m))]) : kNever;
    }
    std::vector<char> met(size_t(n * m));
    const TileScope scope(kernel);
    sweep(kernel, frame.depth(), lanes, 1, 3, points, 0, points.blocks(m), scratch,
          [&](int64_t l, int64_t point, float value) {
              const int64_t i = l - kernel.lanes;
              CHECK(i >= 0 && i < n && point < m, "a lane or point that does not exist was met");
              if (i < 0 || i >= n || point >= m) return;
              met[size_t(i * m + point)] = 1;
              CHECK(double(value) == expected[size_t(i * m + point)],
                    std::string(kernel.name) + ": value, dim " + std::to_string(dim));
          });
    for (int64_t i = 0; i < n; ++i)
        for (int64_t j = 0; j < m; ++j) {
            const bool reached = expected[size_t(i * m + j)] >= double(lanes.thresholds()[kernel.lanes + i]);
            CHECK(met[size_t(i * m + j)] == char(reached), std::string(kernel.name) + ": mask, dim " + std::to_string(dim));
        }
    // Nothing met: no value is promised, but every mask is written and empty.
    std::fill_n(lanes.thresholds(), lanes.rows(), kNever);
    std::fill_n(scratch.masks.get(), kernel.points, ~0u);
    CHECK(!kernel.tile(lanes.group(1), points.block(0), frame.depth(), points.half(0), lanes.thresholds(),
                       scratch.masks.get(), scratch.values.get()),
          "a tile without hits said otherwise");
    for (int p = 0; p < kernel.points; ++p) CHECK(scratch.masks[p] == 0, "a mask was left as it was");
}

void measures(const TileKernel& kernel, int64_t dim) {
    for (const char* kind : kKinds) {
        const int64_t n = 20;
        const std::vector<float> x = rows_of(kind, n, dim, 5);
        const double scale = scale_for(kernel, nullptr, {matrix_of(x, n, dim)});
        const Frame frame(kernel, nullptr, scale, dim);
        Look look(matrix_of(x, n, dim), frame, 2);
        double largest = 0;
        for (int64_t i = 0; i < n; ++i) {
            double norm2 = 0;
            for (int64_t k = 0; k < dim; ++k) {
                const double z = double(x[size_t(i * dim + k)]) * scale;
                norm2 += z * z;
            }
            largest = std::max(largest, norm2);
            const double norm = std::sqrt(norm2), rho = look.rho[size_t(i)];
            const std::string where = std::string(kernel.name) + ", " + kind;
            // w = |z|^2 - 2 e.z for the rounding error e, of which no more than |e| <= rho is known here.
            const double gap = std::fabs(double(look.w[size_t(i)]) - norm2);
            CHECK(gap <= (kernel.bytes == 2 ? 2 * rho * norm : 0) + 1e-7 * norm2 + 1e-45, where + ": w");
            // A packed value is off by no more than half a unit of float32, of bfloat16 or of the integers.
            const double unit = kernel.longest > 0 || kernel.bytes == 4 ? 0x1p-22 : 0x1.01p-8;
            const double most = unit * norm + std::sqrt(double(dim)) * (kernel.longest > 0 ? 0.51 : 0x1p-124);
            CHECK(rho >= 0 && rho <= most, where + ": rho");
            const Loss loss = look.extremes.loss;
            CHECK(rho <= (loss.alpha + loss.beta * norm) * (1 + 1e-6), where + ": a point that loses more than said");
        }
        CHECK(std::fabs(look.extremes.norm2 - largest) <= 1e-12 * largest, std::string(kind) + ": largest norm");
    }
    std::vector<float> x = rows_of("gaussian", 600, dim, 1);
    for (float bad : {NAN, INFINITY, -INFINITY}) {
        x[size_t(555 * dim)] = bad; // in the second task
        CHECK(!(Look(matrix_of(x, 600, dim), Frame(kernel, nullptr, 1.0, dim), 2).extremes.norm2 < INFINITY),
              "rows that are not finite passed");
    }
}

void distances(const TileKernel& kernel, int64_t dim) {
    const std::vector<float> x = rows_of("gaussian", 12, dim, 3), y = rows_of("mixed sizes", 9, dim, 4);
    for (Type a : {Type::f16, Type::bf16, Type::f32, Type::f64})
        for (Type b : {Type::f16, Type::bf16, Type::f32, Type::f64})
            for (int64_t stride : {1, 3}) {
                const Copy one(x, 12, dim, a, stride, 2), other(y, 9, dim, b, 1, 0);
                Canonical canonical(kernel, one.matrix, other.matrix);
                for (int64_t i = 0; i < 12; ++i)
                    for (int64_t j = 0; j < 9; ++j)
                        CHECK(canonical.squared(i, j) == naive_squared(&one.values[size_t(i * dim)],
                                                                       &other.values[size_t(j * dim)], dim),
                              std::string(kernel.name) + ": canonical distance, dim " + std::to_string(dim));
            }
}

} // namespace

void tiles() {
    for (const TileKernel* kernel : kernels()) {
        for (int64_t dim : kDims) {
            integers(*kernel, dim);
            distances(*kernel, dim);
        }
        for (int64_t dim : {1, 33, 128}) measures(*kernel, dim);
        std::printf("tiles of %s: %d lanes x %d points, %zu widths\n", kernel->name, kernel->lanes, kernel->points,
                    std::size(kDims));
    }
}

} // namespace battery
