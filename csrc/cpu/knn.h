// Exact k nearest neighbours: tiles find what may be among them, float64 settles it.
#pragma once
#include "points.h"

namespace pcf {

// rows [Q][k] and squared [Q][k] canonical squared distances, ascending; ties to the lowest bank row. packed: all bank
// rows as points in this frame; null: they are packed as they are needed.
void knn(const Matrix& query, const Matrix& bank, const Frame& frame, const Measured& of_query, const Measured& of_bank,
         const Loss& loss, int64_t k, int threads, std::function<void()> poll, double* squared, int64_t* rows,
         const Points* packed = nullptr);

} // namespace pcf
