#include "source.h"

#include <algorithm>
#include <cstring>

namespace pcf {
namespace {

float widen_bf16(uint16_t bits) {
    const uint32_t word = uint32_t(bits) << 16;
    float value;
    std::memcpy(&value, &word, sizeof value);
    return value;
}

int64_t bytes_of(Type type) { return type == Type::f64 ? 8 : type == Type::f32 ? 4 : 2; }

// Row i as float32; exact for every type but float64. Points into the matrix where that is possible.
const float* floats(const Matrix& m, int64_t i, const TileKernel& kernel, float* out) {
    const auto [at, step] = place_of(m, i);
    switch (m.type) {
    case Type::f32: {
        const auto* p = reinterpret_cast<const float*>(at);
        if (step == 1) return p;
        for (int64_t k = 0; k < m.dim; ++k) out[k] = p[k * step];
        return out;
    }
    case Type::f16: {
        const auto* p = reinterpret_cast<const uint16_t*>(at);
        if (step == 1)
            kernel.widen_f16(p, m.dim, out);
        else
            for (int64_t k = 0; k < m.dim; ++k) kernel.widen_f16(p + k * step, 1, out + k);
        return out;
    }
    case Type::bf16: {
        const auto* p = reinterpret_cast<const uint16_t*>(at);
        for (int64_t k = 0; k < m.dim; ++k) out[k] = widen_bf16(p[k * step]);
        return out;
    }
    case Type::f64: {
        const auto* p = reinterpret_cast<const double*>(at);
        for (int64_t k = 0; k < m.dim; ++k) out[k] = float(p[k * step]);
        return out;
    }
    }
    return out;
}

} // namespace

RowPlace place_of(const Matrix& m, int64_t i) {
    const int64_t bytes = bytes_of(m.type);
    if (i >= m.rows) return {static_cast<const char*>(m.guests) + (i - m.rows) * m.dim * bytes, 1};
    return {static_cast<const char*>(m.data) + i * m.row_stride * bytes, m.column_stride};
}

Frame::Frame(const TileKernel& kernel, const double* centre, double scale, int64_t dim)
    : kernel_(&kernel), dim_(dim), depth_((dim + kernel.step - 1) / kernel.step * kernel.step), scale_(scale) {
    // In float32 where that rounds once: the centre is a float32, and the scale leaves no value subnormal that counts.
    plain_ = scale >= 0x1p-60 && scale <= 0x1p60;
    centre_f32_.resize(size_t(dim));
    if (!centre) return;
    centre_.assign(centre, centre + dim);
    for (int64_t k = 0; k < dim; ++k) {
        centre_f32_[size_t(k)] = float(centre[k]);
        plain_ = plain_ && double(centre_f32_[size_t(k)]) == centre[k];
    }
}

void Frame::row(const Matrix& x, int64_t i, float* out, float* spare) const {
    const double* centre = centre_.empty() ? nullptr : centre_.data();
    if (plain_ && x.type != Type::f64) {
        kernel_->subtract(floats(x, i, *kernel_, spare), centre_f32_.data(), float(scale_), dim_, out);
    } else if (x.type == Type::f64) {
        const auto [at, step] = place_of(x, i);
        const auto* p = reinterpret_cast<const double*>(at);
        for (int64_t k = 0; k < dim_; ++k)
            out[k] = float((p[k * step] - (centre ? centre[k] : 0.0)) * scale_);
    } else {
        const float* from = floats(x, i, *kernel_, spare);
        for (int64_t k = 0; k < dim_; ++k) out[k] = float((double(from[k]) - (centre ? centre[k] : 0.0)) * scale_);
    }
    for (int64_t k = dim_; k < depth_; ++k) out[k] = 0.0f;
}

Canonical::Canonical(const TileKernel& kernel, const Matrix& x, const Matrix& y)
    : kernel_(&kernel), x_(x), y_(y),
      direct_(x.type == y.type && x.column_stride == 1 && y.column_stride == 1 &&
              (x.type == Type::f32 || x.type == Type::f64)),
      y_head_(y.column_stride == 1 ? std::min<int64_t>(1024, y.dim * bytes_of(y.type)) : 0),
      scratch_(size_t(x.dim)), row_x_(direct_ ? 0 : size_t(x.dim)), row_y_(direct_ ? 0 : size_t(x.dim)),
      row_f32_(direct_ ? 0 : size_t(x.dim)) {}

double Canonical::squared(int64_t i, int64_t j) {
    if (direct_ && x_.type == Type::f32)
        return kernel_->squared_f32(reinterpret_cast<const float*>(place_of(x_, i).at),
                                    reinterpret_cast<const float*>(place_of(y_, j).at), x_.dim, scratch_.data());
    if (direct_)
        return kernel_->squared_f64(reinterpret_cast<const double*>(place_of(x_, i).at),
                                    reinterpret_cast<const double*>(place_of(y_, j).at), x_.dim, scratch_.data());
    const double* a = doubles(x_, i, row_x_, held_x_);
    const double* b = doubles(y_, j, row_y_, held_y_);
    return kernel_->squared_f64(a, b, x_.dim, scratch_.data());
}

const double* Canonical::doubles(const Matrix& m, int64_t i, std::vector<double>& out, int64_t& held) {
    if (held == i) return out.data();
    held = i;
    if (m.type == Type::f64) {
        const auto [at, step] = place_of(m, i);
        const auto* p = reinterpret_cast<const double*>(at);
        for (int64_t k = 0; k < m.dim; ++k) out[size_t(k)] = p[k * step];
        return out.data();
    }
    const float* from = floats(m, i, *kernel_, row_f32_.data());
    for (int64_t k = 0; k < m.dim; ++k) out[size_t(k)] = double(from[k]);
    return out.data();
}

} // namespace pcf
