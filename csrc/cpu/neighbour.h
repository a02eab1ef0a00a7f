// What searches keep of bank rows: those that are settled, and those that a tile reported.
#pragma once
#include <cstdint>

namespace pcf {

struct Neighbour {
    double squared;
    int64_t row;
    bool operator<(const Neighbour& o) const { return squared != o.squared ? squared < o.squared : row < o.row; }
};

struct Entry {
    float value;
    int32_t row;
    bool operator<(const Entry& o) const { return value != o.value ? value > o.value : row < o.row; } // likeliest first
};

inline int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }

} // namespace pcf
