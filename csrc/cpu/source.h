// A matrix of rows in the caller's memory, and the frame in which they are compared.
#pragma once
#include "kernel.h"

#include <cstdint>
#include <memory>
#include <vector>

namespace pcf {

enum class Type { f16, bf16, f32, f64 };

struct Matrix {
    const void* data;
    Type type;
    int64_t rows, dim;
    int64_t row_stride, column_stride; // in elements
};

// 64-byte aligned memory, not initialised.
template <class T>
class Aligned {
  public:
    Aligned() = default;
    explicit Aligned(int64_t count) : memory_(new char[size_t(count) * sizeof(T) + 64]), count_(count) {}
    T* get() const {
        const auto address = reinterpret_cast<uintptr_t>(memory_.get());
        return reinterpret_cast<T*>((address + 63) & ~uintptr_t(63));
    }
    T& operator[](int64_t i) const { return get()[i]; }
    int64_t size() const { return count_; }

  private:
    std::unique_ptr<char[]> memory_;
    int64_t count_ = 0;
};

// float32 rows (x - centre) * scale, rounded once; the scale is a power of two.
class Frame {
  public:
    Frame(const TileKernel& kernel, const double* centre, double scale, int64_t dim);
    // Row of x, padded with zeros to depth(). `spare` holds dim() values.
    void row(const Matrix& x, int64_t i, float* out, float* spare) const;
    int64_t dim() const { return dim_; }
    int64_t depth() const { return depth_; }
    double scale() const { return scale_; }
    const TileKernel& kernel() const { return *kernel_; }

  private:
    const TileKernel* kernel_;
    int64_t dim_, depth_;
    double scale_;
    std::vector<double> centre_;
    std::vector<float> centre_f32_; // the same, where it is exact
};

// Canonical squared distances between rows of two matrices of one width. One object a thread.
class Canonical {
  public:
    Canonical(const TileKernel& kernel, const Matrix& x, const Matrix& y);
    double squared(int64_t i, int64_t j); // between row i of x and row j of y

  private:
    const double* doubles(const Matrix& m, int64_t i, std::vector<double>& out, int64_t& held);
    const TileKernel* kernel_;
    Matrix x_, y_;
    bool direct_;
    std::vector<double> scratch_, row_x_, row_y_;
    std::vector<float> row_f32_;
    int64_t held_x_ = -1, held_y_ = -1;
};

} // namespace pcf
