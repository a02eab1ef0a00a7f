// Tensor cores, emulated at their worst: what the error bounds of TF32 rest on is to be met by the least accurate
// device that they allow.
#include "state.h"

#include <algorithm>
#include <limits>

namespace pcf::emulated {
namespace {

struct Brought {
    float* d;
    const uint32_t* a;
    const uint32_t* b;
};

float cut(uint32_t bits) { // to TF32: the low 13 bits are not looked at
    bits &= 0xffffe000u;
    float out;
    std::memcpy(&out, &bits, 4);
    return out;
}

int exponent(double x) { // of a number that is neither zero nor subnormal
    uint64_t bits;
    std::memcpy(&bits, &x, 8);
    return int(bits >> 52 & 0x7ff) - 1023;
}

double power(int e) {
    const uint64_t bits = uint64_t(e + 1023) << 52;
    double out;
    std::memcpy(&out, &bits, 8);
    return out;
}

float toward_zero(double x) {
    const float near = float(x);
    if (!(std::fabs(double(near)) > std::fabs(x))) return near;
    return std::nextafterf(near, 0.0f);
}

// acc + sum of four exact products: all five are cut below bit 24 of the largest, added exactly, and the sum cut to
// float32 (Fasi, Higham, Mikaitis and Pranesh 2021: no guard bits, as on Volta; later cards keep one or more).
float add_four(float acc, const double* products) {
    double addends[5] = {double(acc), products[0], products[1], products[2], products[3]};
    int largest = std::numeric_limits<int>::min();
    bool finite = true;
    for (double v : addends) {
        finite = finite && std::isfinite(v);
        if (v != 0) largest = std::max(largest, exponent(v));
    }
    if (!finite) return float(addends[0] + addends[1] + addends[2] + addends[3] + addends[4]);
    if (largest == std::numeric_limits<int>::min()) return 0.0f;
    const double unit = power(largest - 23), inverse = power(23 - largest);
    int64_t sum = 0;
    for (double v : addends) sum += int64_t(v * inverse);
    return toward_zero(double(sum) * unit);
}

void multiply(void* const* lanes, const void*) {
    double a[16][8], b[8][8];
    const auto of = [&](int l) { return static_cast<const Brought*>(lanes[l]); };
    for (int l = 0; l < 32; ++l) {
        const int g = l / 4, t = l % 4;
        for (int i = 0; i < 4; ++i) a[g + 8 * (i % 2)][t + 4 * (i / 2)] = double(cut(of(l)->a[i]));
        for (int i = 0; i < 2; ++i) b[t + 4 * i][g] = double(cut(of(l)->b[i]));
    }
    for (int l = 0; l < 32; ++l)
        for (int i = 0; i < 4; ++i) {
            const int row = l / 4 + 8 * (i / 2), column = 2 * (l % 4) + i % 2;
            for (int k = 0; k < 8; k += 4) {
                double products[4];
                for (int j = 0; j < 4; ++j) products[j] = a[row][k + j] * b[k + j][column];
                of(l)->d[i] = add_four(of(l)->d[i], products);
            }
        }
}

} // namespace

void mma_tf32(float* d, const uint32_t* a, const uint32_t* b, Site site) {
    if (code() < 80) fail(who(e.current) + " asks for tensor cores in code that has none");
    Brought mine{d, a, b};
    collective(site, "mma_tf32", 0xffffffffu, &mine, multiply, nullptr);
}

} // namespace pcf::emulated
