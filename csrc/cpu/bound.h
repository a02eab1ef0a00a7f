// How far the tile's value may be from the truth, and the threshold that follows.
//
// z: a row in the frame, in real numbers. q: the packed row the tile multiplies. rho >= |z - q| is known for every
// row (measured when it is looked over, plus the frame's own rounding), and rho_y <= beta |z_y| + alpha for every
// point: floats lose in proportion to their size, integers alike. Then, with Cauchy and Schwarz,
//
//     |q_x.q_y - z_x.z_y| <= |q_x| rho_y + rho_x |z_y| <= (|z_x| + rho_x) (beta |z_y| + alpha) + rho_x |z_y|
//
// and the float32 sum over the depth, started from -|y|^2 / 2 or with it added last, is off by at most
// gamma (|q_x| |q_y| + |z_y|^2 / 2) with gamma = (roundings * depth + 8) 2^-24 (Higham 2002, section 3.1). Together:
//
//     |v - (z_x.z_y - |z_y|^2 / 2)| <= error(x, |z_y|).
//
// A point that is no farther than m from x has |z_y| <= |z_x| + m. So `threshold` needs the lane only: whatever
// point is nearer than m shows v >= threshold. `upper` turns a value into a squared distance that is never below the
// true one. All in float64; the float32 threshold is rounded down.
#pragma once
#include <cfloat>
#include <cmath>
#include <cstdint>

namespace pcf {

// What packing loses of the points of a job.
struct Loss {
    double alpha, beta; // rho <= alpha + beta |z|
};

struct Bound {
    double alpha = 0, beta = 0;
    double gamma = 0;
    double flushed = 0; // products below the normal floats, which AMX takes for zero
    double scale2 = 1; // of the frame, squared
    double loss = 0;   // what canonical squares may lose to underflow, in the units of the frame

    Bound() = default;
    Bound(const Loss& points, double roundings, int64_t depth, int64_t dim, double scale)
        : alpha(points.alpha), beta(points.beta) {
        gamma = (roundings * double(depth) + 8) * 0x1p-24 * 1.01;
        flushed = double(depth + 8) * 0x1p-124;
        scale2 = scale * scale;
        loss = double(dim) * 0x1p-140;
    }
    double error(double norm, double rho, double reach) const { // norm >= |z_x|, reach >= |z_y|
        const double q = norm + rho, lost = beta * reach + alpha; // >= |q_x|, rho_y
        const double value = q * lost + rho * reach + gamma * (q * (reach + lost) + reach * reach);
        return value * (1 + 0x1p-30) + 0x1p-22 * norm * norm + flushed;
    }
    // |z_x|^2 as float32, rounded to nearest; a canonical squared distance (raw units, may be inf).
    float threshold(float norm2, float rho, double squared) const {
        const double m2 = squared * scale2 * (1 + 1e-9) + loss;
        if (!(m2 < 1e300)) return -FLT_MAX;
        const double norm = norm_of(norm2);
        const double value = (double(norm2) - m2) / 2 - error(norm, rho, norm + std::sqrt(m2) * (1 + 0x1p-40));
        if (value < -FLT_MAX) return -FLT_MAX;
        const float rounded = float(value);
        return double(rounded) > value ? std::nextafter(rounded, -FLT_MAX) : rounded;
    }
    // A canonical squared distance that the pair is not above, from its value.
    double upper(float norm2, float rho, float value, float point_norm2) const {
        const double slack = error(norm_of(norm2), rho, norm_of(point_norm2));
        const double m2 = double(norm2) - 2 * (double(value) - slack);
        return (m2 > 0 ? m2 : 0) / scale2 * (1 + 1e-9) + loss / scale2;
    }
    static double norm_of(float norm2) { return std::sqrt(double(norm2) * (1 + 0x1p-22)) + 0x1p-74; }
};

} // namespace pcf
