// Rows in device code: the frame, the error bound, and the canonical float64 distance that decides everything.
//
// A frame is a centre [dim] float32 and five float64 numbers: two factors of the scale, which may itself be too large
// for float32, and between them the bound's relative, norm and absolute parts (kernels/rounding.py).
#pragma once
#include "gpu.h"

namespace pcf {

struct DeviceFrame {
    const float* centre;  // [dim]
    const double* params; // scale, relative, norm, absolute, scale
};

// The factors of the scale, loaded once a thread.
struct Scale {
    double first, second;
    PCF_DEVICE explicit Scale(const DeviceFrame& frame) : first(frame.params[0]), second(frame.params[4]) {}
    PCF_DEVICE double squared() const { return __dmul_rn(__dmul_rn(first, second), __dmul_rn(first, second)); }
};

// Values as the fast arithmetic sees them: (x - centre) * scale in float32, float64 values rounded once.
PCF_DEVICE float framed(double x, float centre, const Scale& scale) {
    return float(__dmul_rn(__dmul_rn(__dsub_rn(x, double(centre)), scale.first), scale.second));
}
PCF_DEVICE float framed(float x, float centre, const Scale& scale) {
    return __fmul_rn(__fmul_rn(__fsub_rn(x, centre), float(scale.first)), float(scale.second));
}
PCF_DEVICE float framed(Half x, float centre, const Scale& scale) { return framed(to_float(x), centre, scale); }
PCF_DEVICE float framed(Brain x, float centre, const Scale& scale) { return framed(to_float(x), centre, scale); }

// ErrorBound.widen in the frame's units: the largest true squared distance behind a fast one, and the other way round.
PCF_DEVICE double widen(double squared, float norm, const double* params) {
    const double relative = params[1];
    if (!(relative > 0)) return squared;
    const double positive = squared > 0 ? squared : (squared != squared ? squared : 0.0);
    const double sum = __dadd_rn(__dadd_rn(positive, __dmul_rn(params[2], double(norm))), params[3]);
    return __dmul_rn(sum, __dadd_rn(1.0, relative));
}

// The sum of term(0) .. term(dim - 1), float64 and not negative, in the order of exact.halving_sum, by one warp; every
// lane gets it. Lanes may call term for a column more than once, and for fewer than all; the columns exist.
//
// With W(j) = ceil(dim / 2^j) the reference adds, at step j, place i + W(j) to place i, if there is such a place below
// W(j - 1). K is the first step that leaves at most 32 places. Lane i sums the tree below place i of that step: its
// leaves are the columns i + the sum of some of the W(j), taken in the order of a counter of K bits, the bit of step 1
// lowest. A place that does not exist counts as +0, which changes no sum of squares.
//
// The first Inner steps are summed in registers, so that 2^Inner terms are on their way at a time.
template <int Inner = 2, class Term>
PCF_DEVICE double canonical_sum(int dim, Term term PCF_SITE) {
    constexpr int kTerms = 1 << Inner, kOuter = 16 - Inner; // 16: 2^21 columns
    const auto width = [dim](int step) { return int((int64_t(dim) + (int64_t(1) << step) - 1) >> step); };
    int steps = 0;
    PCF_LOOP
    while (width(steps) > 32) ++steps;
    const int inner = steps < Inner ? steps : Inner;
    const int groups = 1 << (steps - inner);
    double waiting[kOuter]; // sums of left halves; in local memory, and used only where there are several groups
    double total = 0;
    PCF_LOOP
    for (int group = 0; group < groups; ++group) {
        int place = lane();
        bool there = place < width(steps);
        PCF_LOOP
        for (int j = steps; j > inner; --j)
            if (group >> (j - inner - 1) & 1) {
                place += width(j);
                there = there && place < width(j - 1);
            }
        double sums[kTerms];
        bool here[kTerms];
        PCF_UNROLL
        for (int i = 0; i < kTerms; ++i) {
            int column = place;
            here[i] = there && i < 1 << inner;
            PCF_UNROLL
            for (int j = Inner; j > 0; --j)
                if (i >> (j - 1) & 1) {
                    column += width(j);
                    here[i] = here[i] && column < width(j - 1);
                }
            sums[i] = term(here[i] ? column : 0); // asked for all the same: a branch would hold up the others
        }
        PCF_UNROLL
        for (int i = 0; i < kTerms; ++i) sums[i] = here[i] ? sums[i] : 0.0;
        PCF_UNROLL
        for (int apart = 1; apart < kTerms; apart <<= 1) {
            PCF_UNROLL
            for (int i = 0; i < kTerms; i += 2 * apart) sums[i] = __dadd_rn(sums[i], sums[i + apart]);
        }
        total = sums[0];
        int level = 0;
        PCF_LOOP
        for (; group >> level & 1; ++level) total = __dadd_rn(waiting[level], total);
        if (group + 1 < groups) waiting[level] = total;
    }
    PCF_LOOP
    for (int held = width(steps); held > 1;) {
        const int half = (held + 1) / 2;
        const double other = __shfl_down_sync(kAll, total, unsigned(half), 32 PCF_AT);
        if (lane() + half < held) total = __dadd_rn(total, other);
        held = half;
    }
    return __shfl_sync(kAll, total, 0, 32 PCF_AT);
}

// exact.squared_distance of one pair of rows, by one warp; every lane gets it. Strides are between columns.
template <class X, class Y>
PCF_DEVICE double canonical_warp(const X* x, const Y* y, int dim, int64_t x_stride, int64_t y_stride PCF_SITE) {
    return canonical_sum(
        dim,
        [=](int column) {
            const double apart = __dsub_rn(to_double(x[column * x_stride]), to_double(y[column * y_stride]));
            return __dmul_rn(apart, apart);
        } PCF_AT);
}

PCF_DEVICE double canonical_warp(const void* x, const void* y, int dim, int64_t x_stride, int64_t y_stride,
                                 Type x_type, Type y_type PCF_SITE) {
    if (x_type == y_type) {
        const auto of = [&](auto kind) {
            using T = decltype(kind);
            return canonical_warp(static_cast<const T*>(x), static_cast<const T*>(y), dim, x_stride, y_stride PCF_AT);
        };
        switch (x_type) {
        case Type::f16: return of(Half{});
        case Type::bf16: return of(Brain{});
        case Type::f32: return of(float{});
        default: return of(double{});
        }
    }
    return canonical_sum<0>( // mixed types are rare: not worth twelve more copies
        dim,
        [=](int column) {
            const double apart =
                __dsub_rn(load_double(x, x_type, column * x_stride), load_double(y, y_type, column * y_stride));
            return __dmul_rn(apart, apart);
        } PCF_AT);
}

} // namespace pcf
