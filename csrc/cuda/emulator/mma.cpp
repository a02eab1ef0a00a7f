// Tensor cores, emulated at their worst: what the error bounds of tf32x3 and half rest on is to be met by the least
// accurate device that they allow.
#include "../gpu.h"
#include "state.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
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

// How many bits products and sums keep, and addends of the largest among them: as the bound assumes, or fewer.
struct Bits {
    int addends, sums, products, subnormal; // the last: whether subnormal factors are taken as they are
};

Bits bits(const char* variable) {
    Bits found{24, 24, 22, 1};
    if (const char* set = std::getenv(variable))
        std::sscanf(set, "%d %d %d %d", &found.addends, &found.sums, &found.products, &found.subnormal);
    return found;
}

double cut_to(double x, int bits) {
    uint64_t all;
    std::memcpy(&all, &x, 8);
    all &= ~uint64_t(0) << (53 - bits);
    std::memcpy(&x, &all, 8);
    return x;
}

float toward_zero(double x) {
    const float near = float(x);
    if (!(std::fabs(double(near)) > std::fabs(x))) return near;
    return std::nextafterf(near, 0.0f);
}

// acc + sum of four exact products: all five are cut below bit 24 of the largest, added exactly, and the sum cut to
// float32 (Fasi, Higham, Mikaitis and Pranesh 2021: no guard bits, as on Volta; later cards keep one or more).
float add_four(float acc, const double* products, const Bits& bits) {
    double addends[5] = {double(acc), products[0], products[1], products[2], products[3]};
    int largest = std::numeric_limits<int>::min();
    bool finite = true;
    for (double v : addends) {
        finite = finite && std::isfinite(v);
        if (v != 0) largest = std::max(largest, exponent(v));
    }
    if (!finite) return float(addends[0] + addends[1] + addends[2] + addends[3] + addends[4]);
    if (largest == std::numeric_limits<int>::min()) return 0.0f;
    const double unit = power(largest - bits.addends + 1), inverse = power(bits.addends - 1 - largest);
    int64_t sum = 0;
    for (double v : addends) sum += int64_t(v * inverse);
    return toward_zero(cut_to(double(sum) * unit, bits.sums));
}

// Every lane's four elements of d += a b, four columns at a time.
template <int Depth>
void add_products(void* const* lanes, const double (&a)[16][Depth], const double (&b)[Depth][8], const Bits& kept) {
    for (int l = 0; l < 32; ++l)
        for (int i = 0; i < 4; ++i) {
            const int row = l / 4 + 8 * (i / 2), column = 2 * (l % 4) + i % 2;
            float& d = static_cast<const Brought*>(lanes[l])->d[i];
            for (int k = 0; k < Depth; k += 4) {
                double products[4];
                for (int j = 0; j < 4; ++j) products[j] = cut_to(a[row][k + j] * b[k + j][column], kept.products);
                d = add_four(d, products, kept);
            }
        }
}

void multiply_tf32(void* const* lanes, const void*) {
    double a[16][8], b[8][8];
    for (int l = 0; l < 32; ++l) {
        const auto* of = static_cast<const Brought*>(lanes[l]);
        const int g = l / 4, t = l % 4;
        for (int i = 0; i < 4; ++i) a[g + 8 * (i % 2)][t + 4 * (i / 2)] = double(cut(of->a[i]));
        for (int i = 0; i < 2; ++i) b[t + 4 * i][g] = double(cut(of->b[i]));
    }
    add_products(lanes, a, b, bits("PATCHCORE_FAST_CUDA_EMULATED_MMA"));
}

void multiply_half(void* const* lanes, const void* brain) {
    const Bits kept = bits("PATCHCORE_FAST_CUDA_EMULATED_MMA_HALF");
    const bool is_brain = *static_cast<const bool*>(brain);
    const auto value = [&](uint32_t pair, int which) {
        const auto half = uint16_t(which ? pair >> 16 : pair);
        if (!kept.subnormal && (half & (is_brain ? 0x7f80 : 0x7c00)) == 0) return 0.0;
        return is_brain ? to_double(Brain{half}) : to_double(Half{half});
    };
    double a[16][16], b[16][8];
    for (int l = 0; l < 32; ++l) {
        const auto* of = static_cast<const Brought*>(lanes[l]);
        const int g = l / 4, t = l % 4;
        for (int e = 0; e < 2; ++e) {
            for (int i = 0; i < 4; ++i) a[g + 8 * (i % 2)][2 * t + e + 8 * (i / 2)] = value(of->a[i], e);
            for (int i = 0; i < 2; ++i) b[2 * t + e + 8 * i][g] = value(of->b[i], e);
        }
    }
    add_products(lanes, a, b, kept);
}

void need_tensor_cores() {
    if (code() < 80) fail(who(e.current) + " asks for tensor cores in code that has none");
}

} // namespace

void mma_tf32(float* d, const uint32_t* a, const uint32_t* b, Site site) {
    need_tensor_cores();
    Brought mine{d, a, b};
    collective(site, "mma_tf32", 0xffffffffu, &mine, multiply_tf32, nullptr);
}

void mma_half(float* d, const uint32_t* a, const uint32_t* b, bool brain, Site site) {
    need_tensor_cores();
    Brought mine{d, a, b};
    collective(site, brain ? "mma_half of bfloat16" : "mma_half of float16", 0xffffffffu, &mine, multiply_half, &brain);
}

} // namespace pcf::emulated
