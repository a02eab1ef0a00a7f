// The error bound (cpu/bound.h): no pair is ever lost, and how much larger the bound is than the errors that occur.
#include "battery.h"

#include <algorithm>
#include <cfloat>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace battery {
namespace {

struct Seen {
    double tightest = 0; // largest error that occurred, as a share of what the bound allows
    double relative = 0; // largest error allowed, as a share of the largest |x|^2
    int64_t pairs = 0;
};

// Every lane of x against every point of y, both in the frame: values, then the bound against the true products.
void compare(const TileKernel& kernel, const Matrix& x, const Matrix& y, const double* centre, double scale,
             const std::string& where, Seen& seen) {
    const int64_t dim = x.dim;
    const auto exact = [&](const Matrix& m, int64_t i, int64_t k) { // float32 or float64 rows only
        const int64_t at = i * m.row_stride + k * m.column_stride;
        const long double raw =
            m.type == Type::f32 ? static_cast<const float*>(m.data)[at] : static_cast<const double*>(m.data)[at];
        return (raw - (centre ? centre[k] : 0.0L)) * scale;
    };
    if (kernel.longest > 0) scale = scale_for(kernel, centre, {x, y}) * std::min(1.0, scale);
    const Frame frame(kernel, centre, scale, dim);
    Look of_x(x, frame), of_y(y, frame);
    CHECK(of_x.extremes.norm2 < 0x1p110 && of_y.extremes.norm2 < 0x1p110, where + ": the test itself overflows");
    const Bound bound(of_y.extremes.loss, kernel.roundings, frame.depth(), dim, scale);

    const Scratch scratch(frame);
    const Lanes lanes(frame, (x.rows + kernel.lanes - 1) / kernel.lanes);
    std::vector<int64_t> ids;
    for (int64_t i = 0; i < x.rows; ++i) ids.push_back(i);
    lanes.pack(x, ids.data(), x.rows, 0, scratch);
    for (int64_t l = 0; l < lanes.rows(); ++l) lanes.thresholds()[l] = l < x.rows ? -FLT_MAX : kNever;
    Points points(frame, y.rows);
    points.open(0, y.rows);
    for (int64_t j = 0; j < y.rows; ++j) {
        frame.row(y, j, scratch.rows.get(), scratch.spare.get());
        points.put(j, scratch.rows.get(), of_y.w[size_t(j)]);
    }
    Canonical canonical(kernel, x, y);
    int64_t pairs = 0;
    const TileScope scope(kernel);
    sweep(kernel, frame.depth(), lanes, 0, lanes.groups(), points, 0, points.blocks(y.rows), scratch,
          [&](int64_t i, int64_t j, float value) {
              ++pairs;
              const float w = of_x.w[size_t(i)], rho = of_x.rho[size_t(i)];
              const double squared = canonical.squared(i, j);
              for (double reach : {squared, std::nextafter(squared, DBL_MAX), squared * 1.5, squared * 1e6 + 1e-300})
                  CHECK(value >= bound.threshold(w, rho, reach), where + ": a pair is lost");
              CHECK(bound.upper(w, rho, value, of_y.w[size_t(j)]) >= squared, where + ": upper is too low");
              long double distance2 = 0, yy = 0;
              for (int64_t k = 0; k < dim; ++k) {
                  const long double a = exact(x, i, k), b = exact(y, j, k);
                  distance2 += (a - b) * (a - b), yy += b * b;
              }
              const double error = std::fabs(double(value - (w - distance2) / 2));
              const double allowed = bound.loss / 2 + bound.error(Bound::norm_of(w, rho), rho, double(std::sqrt(yy)),
                                                                  double(std::sqrt(distance2)));
              seen.tightest = std::max(seen.tightest, error / allowed);
              if (!centre && of_x.extremes.norm2 > 1e-20)
                  seen.relative = std::max(seen.relative, allowed / of_x.extremes.norm2);
          });
    CHECK(pairs == x.rows * y.rows, where + ": a value below -FLT_MAX, or not a number");
    seen.pairs += pairs;
}

// Points that are hard for lanes x: others of the kind, the rows themselves, and rows a hair away.
std::vector<float> hard_points(const std::vector<float>& x, const std::string& kind, int64_t m, int64_t dim) {
    Random random(uint64_t(dim) + 17);
    std::vector<float> y = rows_of(kind, m, dim, 1000 + uint64_t(dim));
    const int64_t n = int64_t(x.size()) / dim;
    for (int64_t j = 0; j < m; j += 2) {
        const float* from = x.data() + random.below(n) * dim;
        for (int64_t k = 0; k < dim; ++k)
            y[size_t(j * dim + k)] = j % 4 ? from[k] : float(from[k] * (1 + 0x1p-12 * random.normal()));
    }
    return y;
}

void all_kinds(const TileKernel& kernel, bool flush) {
    Seen all;
    for (const char* kind : kKinds) {
        Seen seen;
        for (int64_t dim : {1, 2, 3, 17, 32, 33, 128, 300, 1024}) {
            if (kSlow && dim > 128) continue;
            const int64_t n = kSlow ? 12 : 40, m = kSlow ? 16 : 40;
            const std::vector<float> x = rows_of(kind, n, dim, uint64_t(dim)), y = hard_points(x, kind, m, dim);
            const std::string where = std::string(kernel.name) + ", " + kind + ", dim " + std::to_string(dim) +
                                      (flush ? ", denormals flushed" : "");
            compare(kernel, matrix_of(x, n, dim), matrix_of(y, m, dim), nullptr, 1.0, where, seen);
            // In a frame: centred, scaled up or down, from float64.
            std::vector<double> centre(x.begin(), x.begin() + dim);
            const Copy wide(x, n, dim, Type::f64, 2, 1), other(y, m, dim, Type::f64, 1, 0);
            compare(kernel, wide.matrix, other.matrix, centre.data(), 1.0, where + ", centred", seen);
            if (dim <= 128) {
                compare(kernel, wide.matrix, other.matrix, nullptr, 0x1p20, where + ", scaled up", seen);
                compare(kernel, wide.matrix, other.matrix, centre.data(), 0x1p-30, where + ", scaled down", seen);
            }
        }
        if (!flush)
            std::printf("bound of %-8s %-20s %7lld pairs, errors up to %.4f of the bound, it up to %.2g of |x|^2\n",
                        kernel.name, kind, static_cast<long long>(seen.pairs), seen.tightest, seen.relative);
        all.tightest = std::max(all.tightest, seen.tightest);
        CHECK(seen.tightest <= 1, std::string(kernel.name) + ", " + kind + ": an error above the bound");
        // Neither luck nor uselessness: the errors that occur are a fair share of a bound that is a small one.
        if (std::string(kind) == "gaussian") {
            CHECK(seen.tightest > 0.002, std::string(kernel.name) + ": the bound is far too wide");
            CHECK(seen.relative < (kernel.bytes == 2 ? 0.05 : 1e-3), std::string(kernel.name) + ": the bound is useless");
        }
        all.pairs += seen.pairs;
    }
    std::printf("bound of %s%s: %lld pairs, errors up to %.4f of the bound\n", kernel.name,
                flush ? ", denormals flushed" : "", static_cast<long long>(all.pairs), all.tightest);
}

} // namespace

void bounds() {
    for (const TileKernel* kernel : kernels()) {
        all_kinds(*kernel, false);
#if defined(__x86_64__)
        // As under torch.set_flush_denormal(True): denormals read as zero and are written as zero.
        const unsigned before = _mm_getcsr();
        _mm_setcsr(before | 0x8040);
        all_kinds(*kernel, true);
        _mm_setcsr(before);
#endif
    }
    // Nothing known of a lane, or too much for float64: every value is let through.
    const Bound bound(Loss{0, 0x1p-8}, 1.0, 128, 128, 1.0);
    for (double squared : {double(INFINITY), 1e301, DBL_MAX})
        CHECK(bound.threshold(1.0f, 0.0f, squared) == -FLT_MAX, "an infinite distance has a threshold");
}

} // namespace battery
