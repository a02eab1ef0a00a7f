// What CUDA C++ means on a CPU, for tests where no GPU is: gpu.h includes this in place of CUDA's own header.
//
// Each thread of a block is a fiber. It runs until a barrier or a warp collective; which thread runs next, and which
// block, is drawn by PATCHCORE_FAST_CUDA_SEED. Blocks run one after another. The emulator ends the launch with an error
// where a thread
//   * waits at another barrier or collective than its fellows, or has ended while they wait;
//   * reads shared memory that nothing has written in this block, or goes beyond what was asked for;
//   * touches what another has written, or writes what another has read, with no __syncthreads between them (or
//     __syncwarp, within a warp): as a hazard, whether or not a value comes out wrong;
//   * reads what cp.async has brought before waiting for it, or uses a misaligned address;
//   * where global memory is watched: touches what another thread has written, or writes what another has read, with
//     nothing that orders the two, in its block or in another one (emulator/global.h), or goes beyond all arrays.
// The compiler reports the accesses: kernels are compiled with -fsanitize=thread and linked with emulator/hooks.cpp,
// which has functions of the names that this option calls, instead of with the sanitizer. Not seen: calls
// of memcpy with a size that is not constant, and blocks that wait for one another, which never end.
// PATCHCORE_FAST_CUDA_EMULATED_ARCH (75, 80, 86, ...; 80) is the compute capability it shows to the host and obeys;
// PATCHCORE_FAST_CUDA_EMULATED_CODE, if less, the one its code was compiled for, as PTX is that a driver compiles for a
// newer card. Tensor-core products in code for less than 8.0 end the launch with an error.
// PATCHCORE_FAST_CUDA_EMULATED_MMA="ADDENDS SUMS PRODUCTS" ("24 24 22") is how many bits tensor cores keep in TF32, and
// PATCHCORE_FAST_CUDA_EMULATED_MMA_HALF="ADDENDS SUMS PRODUCTS SUBNORMAL" ("24 24 22 1") of halves, and whether
// subnormal ones are taken as they are (0: as zeros).
// Global memory is watched between watch_global(true) and watch_global(false); the caller names its arrays. Slower then.
#pragma once
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string>
#include <type_traits>

#define __global__
#define __device__
#define __host__
#define __constant__ const
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(...)
#define __align__(n) alignas(n)
#define __shared__ shared_memory_must_be_dynamic_see_gpu_h

struct uint3 {
    unsigned x, y, z;
};
struct dim3 {
    unsigned x, y, z;
    constexpr dim3(unsigned a = 1, unsigned b = 1, unsigned c = 1) : x(a), y(b), z(c) {}
};
extern uint3 threadIdx, blockIdx;
extern dim3 blockDim, gridDim;

#define PCF_VECTOR(T, name, align)                                                                                     \
    struct alignas(2 * sizeof(T)) name##2 {                                                                            \
        T x, y;                                                                                                        \
    };                                                                                                                 \
    struct alignas(align) name##4 {                                                                                    \
        T x, y, z, w;                                                                                                  \
    };                                                                                                                 \
    inline name##2 make_##name##2(T x, T y) { return {x, y}; }                                                         \
    inline name##4 make_##name##4(T x, T y, T z, T w) { return {x, y, z, w}; }
PCF_VECTOR(float, float, 16)
PCF_VECTOR(double, double, 16)
PCF_VECTOR(int, int, 16)
PCF_VECTOR(unsigned, uint, 16)
#undef PCF_VECTOR

namespace pcf::emulated {

constexpr int kMultiprocessors = 2;

struct Site {
    const char* file;
    int line;
    static constexpr Site here(const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
        return {file, line};
    }
};

int arch(); // of the card
int code(); // of what runs on it
int shared_limit();
void* shared_memory();
const std::string& message(); // of the last launch that failed
int run(dim3 grid, dim3 block, size_t shared_bytes, void (*body)(void*), void* argument); // a cudaError_t

int barrier(Site site, const char* name, int predicate); // how many threads brought a predicate that is not zero
// All lanes hand in something; the last to come runs `act` on what all 32 have brought.
void collective(Site site, const char* name, unsigned mask, void* mine, void (*act)(void* const*, const void*),
                const void* extra);
void sync_warp(Site site, unsigned mask);
void cp_async(void* to, const void* from, int bytes, bool valid);
void cp_async_commit();
void cp_async_wait(int groups);
void mma_tf32(float* d, const uint32_t* a, const uint32_t* b, Site site);
void mma_half(float* d, const uint32_t* a, const uint32_t* b, bool brain, Site site); // float16, or bfloat16
void note_plain(const void* p, size_t bytes, bool writes, size_t alignment, const void* caller);
void note_atomic(const void* p, size_t bytes, const void* caller);
void note_peek(const void* p, size_t bytes, const void* caller);
void fence();
void watch_global(bool on);                                        // forgets the arrays
void add_global(const void* p, size_t bytes, size_t element); // an array whose elements have so many bytes

// Lane to read from, or -1 for the lane's own value.
enum class Shuffle { index, up, down, exclusive };
int shuffle_source(Shuffle how, int lane, int operand, int width);

template <class T>
struct Shuffled {
    T value, result;
    int operand, width;
    Shuffle how;
};

template <class T>
T shuffle(Site site, const char* name, unsigned mask, T value, Shuffle how, int operand, int width) {
    Shuffled<T> mine{value, value, operand, width, how};
    collective(
        site, name, mask, &mine,
        [](void* const* lanes, const void*) {
            for (int l = 0; l < 32; ++l) {
                auto* to = static_cast<Shuffled<T>*>(lanes[l]);
                const int from = shuffle_source(to->how, l, to->operand, to->width);
                if (from >= 0) to->result = static_cast<Shuffled<T>*>(lanes[from])->value;
            }
        },
        nullptr);
    return mine.result;
}

template <class T>
struct Voted {
    T value;
    unsigned result;
};

// Bit m of a lane's result: lane m's value equals the lane's own.
template <class T>
unsigned match(Site site, const char* name, unsigned mask, T value) {
    Voted<T> mine{value, 0};
    collective(
        site, name, mask, &mine,
        [](void* const* lanes, const void*) {
            for (int l = 0; l < 32; ++l)
                for (int m = 0; m < 32; ++m)
                    if (static_cast<Voted<T>*>(lanes[l])->value == static_cast<Voted<T>*>(lanes[m])->value)
                        static_cast<Voted<T>*>(lanes[l])->result |= 1u << m;
        },
        nullptr);
    return mine.result;
}
unsigned ballot(Site site, const char* name, unsigned mask, bool predicate);

} // namespace pcf::emulated

#define PCF_HERE pcf::emulated::Site site = pcf::emulated::Site::here()

inline void __syncthreads(PCF_HERE) { pcf::emulated::barrier(site, "__syncthreads", 0); }
inline int __syncthreads_count(int p, PCF_HERE) { return pcf::emulated::barrier(site, "__syncthreads_count", p != 0); }
inline int __syncthreads_or(int p, PCF_HERE) { return pcf::emulated::barrier(site, "__syncthreads_or", p != 0) > 0; }
inline int __syncthreads_and(int p, PCF_HERE) { return pcf::emulated::barrier(site, "__syncthreads_and", p == 0) == 0; }
inline void __syncwarp(unsigned mask = 0xffffffffu, PCF_HERE) { pcf::emulated::sync_warp(site, mask); }

template <class T>
T __shfl_sync(unsigned mask, T v, int lane, int width = 32, PCF_HERE) {
    return pcf::emulated::shuffle(site, "__shfl_sync", mask, v, pcf::emulated::Shuffle::index, lane, width);
}
template <class T>
T __shfl_up_sync(unsigned mask, T v, unsigned by, int width = 32, PCF_HERE) {
    return pcf::emulated::shuffle(site, "__shfl_up_sync", mask, v, pcf::emulated::Shuffle::up, int(by), width);
}
template <class T>
T __shfl_down_sync(unsigned mask, T v, unsigned by, int width = 32, PCF_HERE) {
    return pcf::emulated::shuffle(site, "__shfl_down_sync", mask, v, pcf::emulated::Shuffle::down, int(by), width);
}
template <class T>
T __shfl_xor_sync(unsigned mask, T v, int bits, int width = 32, PCF_HERE) {
    return pcf::emulated::shuffle(site, "__shfl_xor_sync", mask, v, pcf::emulated::Shuffle::exclusive, bits, width);
}
inline unsigned __ballot_sync(unsigned mask, int p, PCF_HERE) {
    return pcf::emulated::ballot(site, "__ballot_sync", mask, p != 0);
}
inline int __any_sync(unsigned mask, int p, PCF_HERE) {
    return pcf::emulated::ballot(site, "__any_sync", mask, p != 0) != 0;
}
inline int __all_sync(unsigned mask, int p, PCF_HERE) {
    return pcf::emulated::ballot(site, "__all_sync", mask, p != 0) == 0xffffffffu;
}
template <class T>
unsigned __match_any_sync(unsigned mask, T value, PCF_HERE) {
    return pcf::emulated::match(site, "__match_any_sync", mask, value);
}
#undef PCF_HERE

inline void __threadfence() { pcf::emulated::fence(); }
inline void __threadfence_block() {}

// Not watched as plain accesses are: atomics do not race with one another. A call of its own, so that what it returns to
// is the line that asked for it.
#define PCF_UNWATCHED __attribute__((no_sanitize("thread"), noinline))
#define PCF_ATOMIC(name, expression)                                                                                   \
    template <class T>                                                                                                 \
    PCF_UNWATCHED T name(T* p, typename std::common_type<T>::type value) {                                             \
        pcf::emulated::note_atomic(p, sizeof(T), __builtin_return_address(0));                                         \
        const T old = *p;                                                                                              \
        *p = T(expression);                                                                                            \
        return old;                                                                                                    \
    }
PCF_ATOMIC(atomicAdd, old + value)
PCF_ATOMIC(atomicSub, old - value)
PCF_ATOMIC(atomicMin, value < old ? value : old)
PCF_ATOMIC(atomicMax, value > old ? value : old)
PCF_ATOMIC(atomicOr, old | value)
PCF_ATOMIC(atomicAnd, old & value)
PCF_ATOMIC(atomicExch, value)
#undef PCF_ATOMIC
template <class T>
PCF_UNWATCHED T atomicCAS(T* p, typename std::common_type<T>::type compare, typename std::common_type<T>::type value) {
    pcf::emulated::note_atomic(p, sizeof(T), __builtin_return_address(0));
    const T old = *p;
    if (old == compare) *p = value;
    return old;
}
namespace pcf::emulated {
template <class T>
PCF_UNWATCHED T peek(const T* p) {
    note_peek(p, sizeof(T), __builtin_return_address(0));
    return *p;
}
} // namespace pcf::emulated
#undef PCF_UNWATCHED

#define PCF_CAST(name, To, From)                                                                                       \
    inline To name(From x) {                                                                                           \
        To out;                                                                                                        \
        std::memcpy(&out, &x, sizeof(out));                                                                            \
        return out;                                                                                                    \
    }
PCF_CAST(__float_as_int, int, float)
PCF_CAST(__float_as_uint, unsigned, float)
PCF_CAST(__int_as_float, float, int)
PCF_CAST(__uint_as_float, float, unsigned)
PCF_CAST(__double_as_longlong, long long, double)
PCF_CAST(__longlong_as_double, double, long long)
#undef PCF_CAST

inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int __popcll(unsigned long long x) { return __builtin_popcountll(x); }
inline int __ffs(int x) { return __builtin_ffs(x); }
inline int __ffsll(long long x) { return __builtin_ffsll(x); }
inline int __clz(int x) { return x ? __builtin_clz(unsigned(x)) : 32; }
inline int __clzll(long long x) { return x ? __builtin_clzll(static_cast<unsigned long long>(x)) : 64; }

// Compiled with -ffp-contract=off: each of these rounds once, to nearest.
inline float __fadd_rn(float a, float b) { return a + b; }
inline float __fsub_rn(float a, float b) { return a - b; }
inline float __fmul_rn(float a, float b) { return a * b; }
inline float __fdiv_rn(float a, float b) { return a / b; }
inline float __fsqrt_rn(float a) { return std::sqrt(a); }
inline float __fmaf_rn(float a, float b, float c) { return __builtin_fmaf(a, b, c); }
inline double __dadd_rn(double a, double b) { return a + b; }
inline double __dsub_rn(double a, double b) { return a - b; }
inline double __dmul_rn(double a, double b) { return a * b; }
inline double __ddiv_rn(double a, double b) { return a / b; }
inline double __dsqrt_rn(double a) { return std::sqrt(a); }
inline double __fma_rn(double a, double b, double c) { return __builtin_fma(a, b, c); }
inline float __double2float_rn(double x) { return float(x); }
inline float __double2float_ru(double x) {
    const float near = float(x);
    return double(near) < x ? std::nextafterf(near, HUGE_VALF) : near;
}
inline float __double2float_rd(double x) {
    const float near = float(x);
    return double(near) > x ? std::nextafterf(near, -HUGE_VALF) : near;
}
template <class T>
T __ldg(const T* p) { return *p; }
template <class T>
T __ldcg(const T* p) { return *p; }
template <class T>
void __stcg(T* p, T value) { *p = value; }

#define PCF_LEAST(T)                                                                                                   \
    inline T min(T a, T b) { return b < a ? b : a; }                                                                   \
    inline T max(T a, T b) { return a < b ? b : a; }
PCF_LEAST(int)
PCF_LEAST(unsigned)
PCF_LEAST(long)
PCF_LEAST(unsigned long)
PCF_LEAST(long long)
PCF_LEAST(unsigned long long)
#undef PCF_LEAST
inline float min(float a, float b) { return std::fmin(a, b); }
inline float max(float a, float b) { return std::fmax(a, b); }
inline double min(double a, double b) { return std::fmin(a, b); }
inline double max(double a, double b) { return std::fmax(a, b); }
