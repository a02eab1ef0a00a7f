// Parts of a kernel that the compiler vectorises by itself. Included by each tile_*.cpp inside its anonymous
// namespace: shared inline functions would be merged by the linker into one instruction set's version.

template <class T>
double squared(const T* x, const T* y, int64_t dim, double* v) {
    if (dim == 1) {
        const double d = double(x[0]) - double(y[0]);
        return d * d;
    }
    int64_t half = (dim + 1) / 2;
    for (int64_t i = 0; i < dim - half; ++i) {
        const double a = double(x[i]) - double(y[i]);
        const double b = double(x[i + half]) - double(y[i + half]);
        v[i] = a * a + b * b;
    }
    if (dim & 1) {
        const double a = double(x[half - 1]) - double(y[half - 1]);
        v[half - 1] = a * a;
    }
    for (int64_t width = half; width > 1; width = half) {
        half = (width + 1) / 2;
        for (int64_t i = 0; i < width - half; ++i) v[i] += v[i + half];
    }
    return v[0];
}

double squared_f32(const float* x, const float* y, int64_t dim, double* v) { return squared(x, y, dim, v); }
double squared_f64(const double* x, const double* y, int64_t dim, double* v) { return squared(x, y, dim, v); }

void subtract(const float* x, const float* centre, float scale, int64_t dim, float* out) {
    for (int64_t i = 0; i < dim; ++i) out[i] = (x[i] - centre[i]) * scale;
}

// Vectors of the compiler's, as wide as its registers: wider ones it takes through memory.
#if defined(__AVX512F__)
constexpr int kWide = 64;
#elif defined(__AVX__)
constexpr int kWide = 32;
#else
constexpr int kWide = 16;
#endif
typedef double Doubles __attribute__((vector_size(kWide), aligned(8), may_alias));
typedef float Floats __attribute__((vector_size(kWide), aligned(4), may_alias));

void project(const double* rows, int64_t dim, const double* directions, int64_t blocks, double* along) {
    constexpr int width = kWide / 8, parts = 8 / width;
    for (int64_t b = 0; b < blocks; ++b, directions += 8 * dim) {
        Doubles sum[4][parts] = {};
        for (int64_t i = 0; i < dim; ++i)
#pragma GCC unroll 4
            for (int p = 0; p < parts; ++p) {
                const Doubles q = *reinterpret_cast<const Doubles*>(directions + 8 * i + p * width);
#pragma GCC unroll 4
                for (int r = 0; r < 4; ++r) sum[r][p] += rows[r * dim + i] * q;
            }
        for (int r = 0; r < 4; ++r)
            for (int p = 0; p < parts; ++p)
                *reinterpret_cast<Doubles*>(along + (r * blocks + b) * 8 + p * width) = sum[r][p];
    }
}

float apart(const float* x, const float* y, int64_t n) {
    constexpr int width = kWide / 4, parts = 16 / width;
    Floats sum[parts] = {};
    for (int64_t i = 0; i < n; i += 16)
#pragma GCC unroll 4
        for (int p = 0; p < parts; ++p) {
            const int64_t at = i + p * width;
            const Floats d = *reinterpret_cast<const Floats*>(x + at) - *reinterpret_cast<const Floats*>(y + at);
            sum[p] += d * d;
        }
    float part[4] = {};
    for (int j = 0; j < 16; ++j) part[j & 3] += sum[j / width][j % width];
    return (part[0] + part[1]) + (part[2] + part[3]);
}
