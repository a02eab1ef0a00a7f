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
