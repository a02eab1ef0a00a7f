// How far the tile's value may be from the truth, and the threshold that follows.
//
// z: a row in the frame, in real numbers. q: the packed row that the tile multiplies, e = z - q what packing loses,
// rho >= |e|, measured for every row. A tile computes
//
//     v = q_x.q_y - w_y / 2,     w = |z|^2 - 2 e.z = |q|^2 - |e|^2
//
// with w known of every row. Since q_x.q_y = z_x.z_y - e_x.z_y - q_x.e_y, and z_y, q_x lie within d = |x - y| of z_x,
// z_y (q_x up to e_x), it is, in exact arithmetic,
//
//     v = (w_x - d^2) / 2 + r,     |r| <= (rho_x + rho_y) d + rho_x rho_y:
//
// what packing does along a row is put right by w, and the rest shrinks with the distance. To r come the float32
// roundings: of the frame, delta |z| a row, and of the sum over the depth, started from -w_y / 2 or with it added
// last, gamma (|q_x| |q_y| + |z_y|^2 / 2), gamma = (roundings * depth + 8) 2^-24 (Jeannerod and Rump 2013: n u for inner products, whatever n). Of the
// points rho_y <= alpha + beta |z_y| is known (floats lose in proportion to their size, integers alike), and a point
// no farther than m has |z_y| <= |z_x| + m: so `threshold` needs the lane only. Whatever point is nearer than m shows
// v >= threshold. `upper` turns a value into a distance that is never below the true one. All in float64; the float32
// threshold is rounded down.
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
    double delta = 0x1p-23, gamma = 0;
    double flushed = 0; // products below the normal floats, which AMX takes for zero
    double scale2 = 1;  // of the frame, squared
    double loss = 0;    // what canonical squares may lose to underflow, in the units of the frame

    Bound() = default;
    Bound(const Loss& points, double roundings, int64_t depth, int64_t dim, double scale)
        : alpha(points.alpha), beta(points.beta) {
        gamma = (roundings * double(depth) + 8) * 0x1p-24 * 1.01;
        flushed = double(depth + 8) * 0x1p-124;
        scale2 = scale * scale;
        loss = double(dim) * 0x1p-140;
    }
    // |v - (w_x - d^2) / 2| for norm >= |z_x|, reach >= |z_y|, distance >= d.
    double error(double norm, double rho, double reach, double distance) const {
        const double lost = alpha + beta * reach, q = norm + rho; // >= rho_y, |q_x|
        const double packing = (rho + lost) * distance + rho * lost;
        const double frame = delta * (norm * (reach + lost) + reach * q);
        const double sums = gamma * (q * (reach + lost) + reach * reach);
        return (packing + frame + sums) * (1 + 0x1p-30) + 0x1p-22 * norm * norm + flushed * (1 + norm + reach);
    }
    // w as float32, rounded to nearest; a canonical squared distance (raw units, may be inf).
    float threshold(float w, float rho, double squared) const {
        const double m2 = squared * scale2 * (1 + 1e-9) + loss;
        if (!(m2 < 1e300)) return -FLT_MAX;
        const double norm = norm_of(w, rho), m = std::sqrt(m2) * (1 + 0x1p-40);
        const double value = (double(w) - m2) / 2 - error(norm, rho, norm + m, m);
        if (value < -FLT_MAX) return -FLT_MAX;
        const float rounded = float(value);
        return double(rounded) > value ? std::nextafter(rounded, -FLT_MAX) : rounded;
    }
    // A canonical squared distance that the pair is not above, from its value. d^2 <= w_x - 2 v + 2 (a d + b).
    double upper(float w, float rho, float value, float point_w) const {
        const double norm = norm_of(w, rho), reach = norm_of_point(point_w);
        const double a = (rho + alpha + beta * reach) * (1 + 0x1p-20), b = error(norm, rho, reach, 0);
        const double square = a * a + double(w) - 2 * double(value) + 2 * b;
        const double d = a + std::sqrt(square > 0 ? square : 0);
        return d * d / scale2 * (1 + 1e-9) + loss / scale2;
    }
    // An upper bound of |z|: |q|^2 = w + |e|^2.
    static double norm_of(float w, float rho) {
        const double q2 = (double(w) > 0 ? double(w) * (1 + 0x1p-22) : 0) + double(rho) * rho;
        return std::sqrt(q2) + rho + 0x1p-74;
    }
    // The same without rho: w >= |z|^2 - 2 (alpha + beta |z|) |z|.
    double norm_of_point(float w) const {
        const double share = 1 - 2 * beta, w2 = double(w) > 0 ? double(w) * (1 + 0x1p-22) : 0;
        return (alpha + std::sqrt(alpha * alpha + share * w2)) / share * (1 + 0x1p-40) + 0x1p-74;
    }
};

} // namespace pcf
