#include "battery.h"

#include <cstring>
#include <limits>
#include <mutex>
#include <stdexcept>

namespace battery {

const std::vector<const TileKernel*>& kernels() {
    static const std::vector<const TileKernel*> all = [] {
        std::vector<const TileKernel*> found;
        for (Isa isa : all_isas) {
            const std::string refusal = isa_refusal(isa);
            std::printf("%-9s %s\n", isa_name(isa), refusal.empty() ? "runs here" : refusal.c_str());
            if (refusal.empty()) found.push_back(&kernel_of(isa));
        }
        if (isa_refusal(Isa::avx2).empty()) found.push_back(&kernel_named("avx2i"));
        return found;
    }();
    return all;
}

std::vector<float> rows_of(const std::string& kind, int64_t n, int64_t dim, uint64_t seed) {
    Random random(seed);
    std::vector<float> x(size_t(n * dim));
    for (int64_t i = 0; i < n; ++i) {
        float* row = x.data() + i * dim;
        const bool again = i > 0 && (kind == "equal rows" ? random.below(4) != 0 : kind == "near pairs" && i % 2);
        if (again) std::memcpy(row, x.data() + random.below(i) * dim, size_t(dim) * sizeof(float));
        const double size = kind == "mixed sizes"    ? std::ldexp(1.0, int(random.below(80)) - 72)
                            : kind == "tiny and one" ? (i == n / 2 ? 1.0 : 1e-20)
                            : kind == "denormals"    ? 1e-39
                            : kind == "outliers"     ? (random.below(20) ? 1.0 : 1e6)
                                                     : 1.0;
        const double along = 4 * random.uniform();
        for (int64_t k = 0; k < dim; ++k) {
            if (kind == "integers")
                row[k] = float(random.below(9) - 4);
            else if (kind == "bfloat16 ties") // half way between two bfloat16 values, or next to that
                row[k] = std::nextafter(float(1 + (2 * random.below(128) + 1) * 0x1p-9), float(random.below(3)) * 2);
            else if (kind == "zero rows" && random.below(3) == 0)
                row[k] = 0;
            else if (kind == "one line")
                row[k] = float(along + 1e-6 * random.normal());
            else if (again)
                row[k] = kind == "equal rows" ? row[k] : float(row[k] * (1 + 1e-4 * random.normal()));
            else
                row[k] = float(size * random.normal() + (kind == "far from the origin" ? 300 : 0));
        }
        if (kind == "zero rows" && i % 4 == 0) std::fill_n(row, dim, 0.0f);
    }
    return x;
}

namespace {

uint16_t to_bf16(float value) { // towards zero: any will do
    uint32_t word;
    std::memcpy(&word, &value, sizeof word);
    return uint16_t(word >> 16);
}

double from_bf16(uint16_t bits) {
    const uint32_t word = uint32_t(bits) << 16;
    float value;
    std::memcpy(&value, &word, sizeof value);
    return value;
}

uint16_t to_f16(float value) { // towards zero, no infinities
    const double size = std::min(std::fabs(double(value)), 65504.0);
    const uint16_t sign = std::signbit(value) ? 0x8000 : 0;
    if (size < 0x1p-14) return uint16_t(sign | uint16_t(size * 0x1p24));
    int exponent;
    const double fraction = std::frexp(size, &exponent); // 0.5 <= fraction < 1
    return uint16_t(sign | uint16_t((exponent + 14) << 10) | uint16_t((fraction * 2 - 1) * 1024));
}

double from_f16(uint16_t bits) {
    const int exponent = bits >> 10 & 31, fraction = bits & 1023;
    const double size = exponent ? std::ldexp(1024 + fraction, exponent - 25) : std::ldexp(fraction, -24);
    return bits & 0x8000 ? -size : size;
}

} // namespace

Copy::Copy(const std::vector<float>& rows, int64_t n, int64_t dim, Type type, int64_t column_stride, int64_t gap)
    : values(size_t(n * dim)) {
    const int64_t bytes = type == Type::f64 ? 8 : type == Type::f32 ? 4 : 2;
    const int64_t stride = (dim - 1) * column_stride + 1 + gap; // the last row ends where the memory ends
    memory_.assign(size_t(((n - 1) * stride + (dim - 1) * column_stride + 1) * bytes), char(0xff)); // NaN in every type
    for (int64_t i = 0; i < n; ++i)
        for (int64_t k = 0; k < dim; ++k) {
            char* to = memory_.data() + (i * stride + k * column_stride) * bytes;
            const float value = rows[size_t(i * dim + k)];
            double& held = values[size_t(i * dim + k)];
            const uint16_t half = type == Type::f16 ? to_f16(value) : to_bf16(value);
            const double wide = double(value) * (1 + 0x1p-40);
            switch (type) {
            case Type::f16: held = from_f16(half), std::memcpy(to, &half, 2); break;
            case Type::bf16: held = from_bf16(half), std::memcpy(to, &half, 2); break;
            case Type::f32: held = value, std::memcpy(to, &value, 4); break;
            case Type::f64: held = wide, std::memcpy(to, &wide, 8); break;
            }
        }
    matrix = {memory_.data(), type, n, dim, stride, column_stride};
}

Matrix matrix_of(const std::vector<float>& rows, int64_t n, int64_t dim) {
    return {rows.data(), Type::f32, n, dim, dim, 1};
}

double naive_squared(const double* x, const double* y, int64_t dim) {
    std::vector<double> v(static_cast<size_t>(dim));
    for (int64_t k = 0; k < dim; ++k) v[size_t(k)] = (x[k] - y[k]) * (x[k] - y[k]);
    while (dim > 1) {
        const int64_t half = (dim + 1) / 2;
        for (int64_t k = half; k < dim; ++k) v[size_t(k - half)] += v[size_t(k)];
        dim = half;
    }
    return v[0];
}

double naive_squared(const std::vector<float>& rows, int64_t dim, int64_t i, int64_t j) {
    const std::vector<double> x(rows.begin() + i * dim, rows.begin() + (i + 1) * dim);
    const std::vector<double> y(rows.begin() + j * dim, rows.begin() + (j + 1) * dim);
    return naive_squared(x.data(), y.data(), dim);
}

Look::Look(const Matrix& x, const Frame& frame, int threads) : w(size_t(x.rows)), rho(size_t(x.rows)) {
    Team team(threads, nullptr);
    extremes = measure(team, x, frame, measured());
}

double scale_for(const TileKernel& kernel, const double* centre, const std::vector<Matrix>& matrices) {
    double norm2 = 0;
    for (const Matrix& m : matrices)
        norm2 = std::max(norm2, Look(m, Frame(portable_kernel(), centre, 1.0, m.dim)).extremes.norm2);
    if (!(kernel.longest > 0 && norm2 > 0)) return 1.0;
    return std::exp2(std::min(100.0, std::floor(std::log2(kernel.longest / std::sqrt(norm2) * (1 - 1e-6)))));
}

} // namespace battery
