// What Python's side hands over, checked: rows and arrays as addresses.
#pragma once
#include "type.h"

#include <cstdint>
#include <stdexcept>
#include <string>
#include <tuple>

#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

namespace pcf {

constexpr int64_t kMostColumns = 1 << 21; // as kernels/checks.py

inline Type type_of(const std::string& name) {
    if (name == "float16") return Type::f16;
    if (name == "bfloat16") return Type::bf16;
    if (name == "float32") return Type::f32;
    if (name == "float64") return Type::f64;
    throw std::invalid_argument("type must be float16, bfloat16, float32 or float64, got " + name);
}

// (address, type, rows, columns, row stride, column stride); strides in elements.
using Rows = std::tuple<uintptr_t, std::string, int64_t, int64_t, int64_t, int64_t>;

template <class M>
M matrix_from(const Rows& rows) {
    const auto& [address, type, n, dim, row_stride, column_stride] = rows;
    if (n < 0 || dim < 1) throw std::invalid_argument("rows must be >= 0 and columns >= 1");
    if (dim > kMostColumns) throw std::invalid_argument("columns must be at most " + std::to_string(kMostColumns));
    if (n > 0 && address == 0) throw std::invalid_argument("the address of the rows is null");
    const Type t = type_of(type);
    const uintptr_t bytes = t == Type::f64 ? 8 : t == Type::f32 ? 4 : 2;
    if (address % bytes != 0) throw std::invalid_argument("the address of the rows is not aligned for " + type);
    return {reinterpret_cast<const void*>(address), t, n, dim, row_stride, column_stride};
}

// `count` values at an address; null only where there are none.
template <class T>
T* array(uintptr_t address, int64_t count) {
    if (count < 0) throw std::invalid_argument("a count must be >= 0, got " + std::to_string(count));
    if (count > 0 && address == 0) throw std::invalid_argument("an address is null");
    if (address % alignof(T) != 0) throw std::invalid_argument("an address is not aligned for its type");
    return reinterpret_cast<T*>(address);
}

} // namespace pcf
