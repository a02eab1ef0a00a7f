// What the parts of the battery share: checks, random rows, naive arithmetic and what is measured of a matrix.
#pragma once
#include "cpu/isa.h"
#include "cpu/points.h"

#include <cmath>
#include <cstdio>
#include <string>
#include <vector>

namespace battery {

using namespace pcf;

// A failed check is printed and counted; main() returns non-zero. The first few of a kind are enough to read.
void fail(const char* file, int line, const std::string& what);
#define CHECK(condition, what)                                         \
    do {                                                               \
        if (!(condition)) battery::fail(__FILE__, __LINE__, (what));   \
    } while (0)

const std::vector<const TileKernel*>& kernels(); // those that run here

// Under a sanitizer everything is several times slower: fewer rounds, the same kinds.
#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
constexpr bool kSlow = true;
#else
constexpr bool kSlow = false;
#endif
#if defined(__SANITIZE_THREAD__)
constexpr bool kSlowest = true; // what the kinds of rows differ in is no matter of threads
#else
constexpr bool kSlowest = false;
#endif

class Random { // splitmix64
  public:
    explicit Random(uint64_t seed) : state_(seed) {}
    uint64_t bits() {
        uint64_t z = (state_ += 0x9e3779b97f4a7c15u);
        z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
        z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
        return z ^ (z >> 31);
    }
    int64_t below(int64_t n) { return int64_t(bits() % uint64_t(n)); }
    double uniform() { return double(bits() >> 11) * 0x1p-53; }
    double normal() { return std::sqrt(-2 * std::log(1 - uniform())) * std::cos(6.283185307179586 * uniform()); }

  private:
    uint64_t state_;
};

constexpr const char* kKinds[] = {"gaussian",  "integers",   "equal rows",   "near pairs",   "far from the origin",
                                  "outliers",  "mixed sizes", "tiny and one", "bfloat16 ties", "denormals",
                                  "zero rows", "one line"};
// [n][dim]; every value is a finite float32.
std::vector<float> rows_of(const std::string& kind, int64_t n, int64_t dim, uint64_t seed);

// A copy in another type with room between rows and columns; what lies between is NaN.
struct Copy {
    Copy(const std::vector<float>& rows, int64_t n, int64_t dim, Type type, int64_t column_stride, int64_t gap);
    Matrix matrix;
    std::vector<double> values; // [n][dim], as the type holds them
  private:
    std::vector<char> memory_;
};

Matrix matrix_of(const std::vector<float>& rows, int64_t n, int64_t dim);

// The definition of kernels/exact.py, written again: differences, squares, summed by halving.
double naive_squared(const double* x, const double* y, int64_t dim);
double naive_squared(const std::vector<float>& rows, int64_t dim, int64_t i, int64_t j);

struct Look {
    Look(const Matrix& x, const Frame& frame, int threads = 1);
    std::vector<float> w, rho;
    Extremes extremes;
    Measured measured() { return {w.data(), rho.data()}; }
};

// What a search found.
struct Found {
    std::vector<double> squared;
    std::vector<int64_t> rows;
    bool operator==(const Found& o) const { return squared == o.squared && rows == o.rows; }
};

// A scale for the frame of a job: for kernels of integers the largest power of two that they allow, else 1.
double scale_for(const TileKernel& kernel, const double* centre, const std::vector<Matrix>& matrices);

// The parts; each prints a line a thing it ran.
void tiles();
void bounds();
void kcenter();
void neighbours();
void prepared();
void team();

} // namespace battery
