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

// Vectors of the compiler's: as many registers as they take.
typedef double Doubles __attribute__((vector_size(64), aligned(8), may_alias));
typedef float Floats __attribute__((vector_size(64), aligned(4), may_alias));

void project(const double* rows, int64_t dim, const double* directions, int64_t blocks, double* along) {
    for (int64_t b = 0; b < blocks; ++b, directions += 8 * dim) {
        Doubles sum[4] = {};
        for (int64_t i = 0; i < dim; ++i) {
            const Doubles q = *reinterpret_cast<const Doubles*>(directions + 8 * i);
#pragma GCC unroll 4
            for (int r = 0; r < 4; ++r) sum[r] += rows[r * dim + i] * q;
        }
        for (int r = 0; r < 4; ++r) *reinterpret_cast<Doubles*>(along + (r * blocks + b) * 8) = sum[r];
    }
}

float apart(const float* x, const float* y, int64_t n) {
    Floats sum = {};
    for (int64_t i = 0; i < n; i += 16) {
        const Floats d = *reinterpret_cast<const Floats*>(x + i) - *reinterpret_cast<const Floats*>(y + i);
        sum += d * d;
    }
    float part[4] = {};
    for (int j = 0; j < 16; ++j) part[j & 3] += sum[j];
    return (part[0] + part[1]) + (part[2] + part[3]);
}
