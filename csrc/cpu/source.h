// A matrix of rows in the caller's memory, and the frame in which they are compared.
#pragma once
#include "kernel.h"
#include "type.h"

#include <cstdint>
#include <memory>
#include <vector>

namespace pcf {

struct Matrix {
    const void* data;
    Type type;
    int64_t rows, dim;
    int64_t row_stride, column_stride; // in elements
    // Rows from number `rows` on: [*][dim], of one type with the others, that came from elsewhere.
    const void* guests = nullptr;
};

// Where a row is, and how far apart its columns are, in elements.
struct RowPlace {
    const char* at;
    int64_t step;
};
RowPlace place_of(const Matrix& m, int64_t i);

// 64-byte aligned memory, not initialised.
template <class T>
class Aligned {
  public:
    Aligned() = default;
    explicit Aligned(int64_t count) : memory_(new char[size_t(count) * sizeof(T) + 64]) {
        const auto address = reinterpret_cast<uintptr_t>(memory_.get());
        data_ = reinterpret_cast<T*>((address + 63) & ~uintptr_t(63));
    }
    T* get() const { return data_; }
    T& operator[](int64_t i) const { return data_[i]; }

  private:
    std::unique_ptr<char[]> memory_;
    T* data_ = nullptr;
};

// float32 rows (x - centre) * scale, rounded once; the scale is a power of two.
class Frame {
  public:
    Frame(const TileKernel& kernel, const double* centre, double scale, int64_t dim);
    // Row of x, padded with zeros to depth(). `spare` holds dim() values.
    void row(const Matrix& x, int64_t i, float* out, float* spare) const;
    bool operator==(const Frame& o) const {
        return kernel_ == o.kernel_ && dim_ == o.dim_ && scale_ == o.scale_ && centre_ == o.centre_;
    }
    int64_t dim() const { return dim_; }
    int64_t depth() const { return depth_; }
    double scale() const { return scale_; }
    const TileKernel& kernel() const { return *kernel_; }

  private:
    const TileKernel* kernel_;
    int64_t dim_, depth_;
    double scale_;
    bool plain_ = false; // float32 arithmetic will do
    std::vector<double> centre_;
    std::vector<float> centre_f32_;
};

// Canonical squared distances between rows of two matrices of one width. One object a thread.
class Canonical {
  public:
    Canonical(const TileKernel& kernel, const Matrix& x, const Matrix& y);
    double squared(int64_t i, int64_t j); // between row i of x and row j of y
    void prefetch(int64_t j) const {      // the head of row j of y; the processor follows a row once it is begun
        const char* row = place_of(y_, j).at;
        for (int64_t b = 0; b < y_head_; b += 64) __builtin_prefetch(row + b);
    }

  private:
    const double* doubles(const Matrix& m, int64_t i, std::vector<double>& out, int64_t& held);
    const TileKernel* kernel_;
    Matrix x_, y_;
    bool direct_;
    int64_t y_head_; // in bytes
    std::vector<double> scratch_, row_x_, row_y_;
    std::vector<float> row_f32_;
    int64_t held_x_ = -1, held_y_ = -1;
};

} // namespace pcf
