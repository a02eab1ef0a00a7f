// What Python hands over by name, checked: numbers within their range, arrays by type and length.
#pragma once
#include "bindings_common.h"

#include <type_traits>

namespace pcf {

// torch's name of the type that holds values of T. It has few that are unsigned: integers are told by size.
template <class T>
constexpr const char* type_name() {
    static_assert(std::is_arithmetic_v<T> && (sizeof(T) == 4 || sizeof(T) == 8));
    if (std::is_floating_point_v<T>) return sizeof(T) == 4 ? "float32" : "float64";
    return sizeof(T) == 4 ? "int32" : "int64";
}

// Arguments by name; each must be given, and none that is not asked for.
class Arguments {
  public:
    Arguments(const char* of, const pybind11::kwargs& given) : of_(of), given_(given) {}
    [[noreturn]] void wrong(const std::string& what) const {
        throw std::invalid_argument(std::string(of_) + ": " + what);
    }
    template <class T>
    T take(const char* name) {
        ++taken_;
        if (!given_.contains(name)) wrong(std::string("no ") + name);
        return given_[name].cast<T>();
    }
    int64_t within(const char* name, int64_t least, int64_t most) {
        const auto value = take<int64_t>(name);
        if (value < least || value > most)
            wrong(std::string(name) + " must lie in " + std::to_string(least) + ".." + std::to_string(most) + ", got " +
                  std::to_string(value));
        return value;
    }
    // (address, type, elements)
    template <class T>
    T* memory(const char* name, int64_t least) {
        return memory<T>(name, least, type_name<std::remove_const_t<T>>());
    }
    // As an array of T, whatever its type is called.
    template <class T>
    T* memory(const char* name, int64_t least, const char* wanted) {
        const auto [address, type, length] = take<std::tuple<uintptr_t, std::string, int64_t>>(name);
        if (type != wanted) wrong(std::string(name) + " must be " + wanted + ", got " + type);
        if (length < least)
            wrong(std::string(name) + " must have at least " + std::to_string(least) + " elements, got " +
                  std::to_string(length));
        return array<T>(address, least);
    }
    void end() const {
        if (pybind11::len(given_) != size_t(taken_)) wrong("arguments that it does not know");
    }

  private:
    const char* of_;
    const pybind11::kwargs& given_;
    int taken_ = 0;
};

} // namespace pcf
