// Where it is known whether the kernels are compiled by nvcc, or by a C++ compiler for the emulator: here, and in mma.h
// what tensor cores do.
//
// Kernels are ordinary CUDA C++ within limits that let both run them (emulated.h says what the emulator checks):
//   * all shared memory is dynamic: shared<T>() and offsets from there;
//   * warp collectives take all 32 lanes; blocks are whole warps;
//   * what only some compute capabilities have is reached through the functions here.
#pragma once
#include "status.h"

#ifdef PCF_EMULATED
#include "emulated.h"
#else
#include "context.h"
#include <cuda_runtime.h>
#endif

#include <climits>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>

#ifdef PCF_EMULATED
#define PCF_DEVICE inline __attribute__((always_inline))
#define PCF_HOST_DEVICE inline __attribute__((always_inline))
// Where a collective stands in the source, for messages and to tell a barrier from another.
#define PCF_SITE , ::pcf::emulated::Site site = ::pcf::emulated::Site::here()
#define PCF_AT , site
#define PCF_UNROLL
#define PCF_LOOP
#else
#define PCF_DEVICE __device__ __forceinline__
#define PCF_HOST_DEVICE __host__ __device__ __forceinline__
#define PCF_SITE
#define PCF_AT
#define PCF_UNROLL _Pragma("unroll")
#define PCF_LOOP _Pragma("unroll 1") // what runs a few times only is not worth the code
#endif

namespace pcf {

constexpr unsigned kAll = 0xffffffffu;
constexpr int kWarp = 32;

// --- Threads and shared memory ---

PCF_DEVICE int lane() { return int(threadIdx.x) & 31; }
PCF_DEVICE int warp() { return int(threadIdx.x) >> 5; }
PCF_DEVICE int warps() { return int(blockDim.x) >> 5; }

// The block's dynamic shared memory, 128-byte aligned.
template <class T>
PCF_DEVICE T* shared() {
#ifdef PCF_EMULATED
    return static_cast<T*>(emulated::shared_memory());
#else
    extern __shared__ __align__(128) unsigned char pcf_shared[];
    return reinterpret_cast<T*>(pcf_shared);
#endif
}

// --- Storage types ---

struct Half {
    uint16_t bits;
};
struct Brain { // bfloat16
    uint16_t bits;
};

PCF_HOST_DEVICE float bits_to_float(uint32_t bits) {
#ifdef __CUDA_ARCH__
    return __uint_as_float(bits);
#else
    float out;
    std::memcpy(&out, &bits, 4);
    return out;
#endif
}

PCF_HOST_DEVICE uint32_t float_to_bits(float x) {
#ifdef __CUDA_ARCH__
    return __float_as_uint(x);
#else
    uint32_t out;
    std::memcpy(&out, &x, 4);
    return out;
#endif
}

PCF_HOST_DEVICE float to_float(float x) { return x; }
PCF_HOST_DEVICE float to_float(double x) { return float(x); }
PCF_HOST_DEVICE float to_float(Brain x) { return bits_to_float(uint32_t(x.bits) << 16); }
PCF_HOST_DEVICE float to_float(Half x) {
#ifdef __CUDA_ARCH__
    float out;
    asm("cvt.f32.f16 %0, %1;" : "=f"(out) : "h"(x.bits));
    return out;
#else
    // All but the sign 13 places up; the product puts the exponent right and makes subnormals normal.
    const uint32_t sign = uint32_t(x.bits & 0x8000u) << 16, rest = x.bits & 0x7fffu;
    if (rest >= 0x7c00u) return bits_to_float(sign | 0x7f800000u | (rest & 0x3ffu) << 13);
    return bits_to_float(sign | float_to_bits(bits_to_float(rest << 13) * 0x1p112f));
#endif
}
PCF_HOST_DEVICE double to_double(double x) { return x; }
template <class T>
PCF_HOST_DEVICE double to_double(T x) {
    return double(to_float(x));
}

PCF_DEVICE float load_float(const void* p, Type type, int64_t i) {
    switch (type) {
    case Type::f16: return to_float(static_cast<const Half*>(p)[i]);
    case Type::bf16: return to_float(static_cast<const Brain*>(p)[i]);
    case Type::f32: return static_cast<const float*>(p)[i];
    default: return float(static_cast<const double*>(p)[i]);
    }
}

PCF_DEVICE double load_double(const void* p, Type type, int64_t i) {
    return type == Type::f64 ? static_cast<const double*>(p)[i] : double(load_float(p, type, i));
}

PCF_HOST_DEVICE int bytes_of(Type type) { return type == Type::f64 ? 8 : type == Type::f32 ? 4 : 2; }

// On the host: call f with a value of the storage type, so that a template of it can be launched.
template <class F>
auto with_type(Type type, F&& f) {
    switch (type) {
    case Type::f16: return f(Half{});
    case Type::bf16: return f(Brain{});
    case Type::f32: return f(float{});
    default: return f(double{});
    }
}

// --- Reductions over a warp; every lane gets the result ---

template <class T, class Combine>
PCF_DEVICE T warp_reduce(T value, Combine combine PCF_SITE) {
    PCF_UNROLL
    for (int step = 16; step > 0; step >>= 1) value = combine(value, __shfl_xor_sync(kAll, value, step, 32 PCF_AT));
    return value;
}

struct Greater {
    template <class T>
    PCF_DEVICE T operator()(T a, T b) const { return a > b ? a : b; }
};
struct Less {
    template <class T>
    PCF_DEVICE T operator()(T a, T b) const { return a < b ? a : b; }
};
struct Plus {
    template <class T>
    PCF_DEVICE T operator()(T a, T b) const { return a + b; }
};

template <class T>
PCF_DEVICE T warp_max(T value PCF_SITE) { return warp_reduce(value, Greater() PCF_AT); }
template <class T>
PCF_DEVICE T warp_min(T value PCF_SITE) { return warp_reduce(value, Less() PCF_AT); }
template <class T>
PCF_DEVICE T warp_sum(T value PCF_SITE) { return warp_reduce(value, Plus() PCF_AT); }

// Sum of the lanes below and this one.
PCF_DEVICE int warp_scan(int value PCF_SITE) {
    PCF_UNROLL
    for (int step = 1; step < 32; step <<= 1) {
        const int other = __shfl_up_sync(kAll, value, step, 32 PCF_AT);
        if (lane() >= step) value += other;
    }
    return value;
}

// --- Atomics on int64, which CUDA knows by other names ---

PCF_DEVICE int64_t atomic_add(int64_t* p, int64_t value) {
    return int64_t(atomicAdd(reinterpret_cast<unsigned long long*>(p), static_cast<unsigned long long>(value)));
}
PCF_DEVICE int64_t atomic_max(int64_t* p, int64_t value) {
    return int64_t(atomicMax(reinterpret_cast<long long*>(p), static_cast<long long>(value)));
}
PCF_DEVICE int64_t atomic_min(int64_t* p, int64_t value) {
    return int64_t(atomicMin(reinterpret_cast<long long*>(p), static_cast<long long>(value)));
}

// What others may change by atomics meanwhile, as it was at some time: nothing that is decided by it may depend on when.
// Past the first-level cache, where it might be old for ever.
template <class T>
PCF_DEVICE T peek(const T* p) {
#ifdef PCF_EMULATED
    return emulated::peek(p);
#else
    return __ldcg(p);
#endif
}

// --- Copies from global to shared memory that a thread need not wait for (from sm_80 on; a plain copy below) ---

// Both addresses must be multiples of the size; nothing is read where not valid, and zeros are written. 16 bytes pass
// the first-level cache unless they are to be kept there: most tiles are not read twice by a multiprocessor.
template <int Bytes, bool Keep = Bytes != 16>
PCF_DEVICE void cp_async(void* to, const void* from, bool valid) {
#if defined(PCF_EMULATED)
    emulated::cp_async(to, from, Bytes, valid);
#elif defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
    const unsigned at = unsigned(__cvta_generic_to_shared(to));
    const int read = valid ? Bytes : 0;
    if constexpr (!Keep)
        asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(at), "l"(from), "r"(read) : "memory");
    else
        asm volatile("cp.async.ca.shared.global [%0], [%1], %2, %3;" ::"r"(at), "l"(from), "n"(Bytes), "r"(read)
                     : "memory");
#else
    if (Bytes == 16)
        *static_cast<uint4*>(to) = valid ? *static_cast<const uint4*>(from) : make_uint4(0, 0, 0, 0);
    else
        *static_cast<uint32_t*>(to) = valid ? *static_cast<const uint32_t*>(from) : 0;
#endif
}
PCF_DEVICE void cp_async16(void* to, const void* from, bool valid) { cp_async<16>(to, from, valid); }
PCF_DEVICE void cp_async16_keep(void* to, const void* from, bool valid) { cp_async<16, true>(to, from, valid); }
PCF_DEVICE void cp_async4(void* to, const void* from, bool valid) { cp_async<4>(to, from, valid); }

// The copies since the last commit become a group.
PCF_DEVICE void cp_async_commit() {
#if defined(PCF_EMULATED)
    emulated::cp_async_commit();
#elif defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
    asm volatile("cp.async.commit_group;" ::: "memory");
#endif
}

// Until all of this thread's groups but the last N have arrived; other threads see them after a barrier.
template <int N>
PCF_DEVICE void cp_async_wait() {
#if defined(PCF_EMULATED)
    emulated::cp_async_wait(N);
#elif defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
    asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory");
#endif
}

// --- Launching, from the host ---

#ifdef PCF_EMULATED

inline int multiprocessors(int) { return emulated::kMultiprocessors; }
inline int arch(int) { return emulated::arch(); }
inline int shared_limit(int) { return emulated::shared_limit(); }

struct DeviceGuard {
    explicit DeviceGuard(int) {}
    Status status() const { return {}; }
};

template <class... P>
Status load(void (*)(P...), int* code = nullptr) {
    if (code) *code = emulated::code();
    return {};
}

// The types of the arguments are the kernel's: a kernel is a copyable list of them and code.
template <class... P, class... A>
Status launch(void (*kernel)(P...), dim3 grid, dim3 block, size_t bytes, stream_t, A... args) {
    auto body = [=] { kernel(static_cast<P>(args)...); };
    return {emulated::run(grid, block, bytes, [](void* f) { (*static_cast<decltype(body)*>(f))(); }, &body), ""};
}

inline Status clear_async(void* p, size_t bytes, stream_t) {
    std::memset(p, 0, bytes);
    return {};
}

#else

inline int attribute(cudaDeviceAttr which, int device) {
    int value = 0;
    return cudaDeviceGetAttribute(&value, which, device) == cudaSuccess ? value : 0;
}

inline int multiprocessors(int device) { return attribute(cudaDevAttrMultiProcessorCount, device); }
// 86 for compute capability 8.6
inline int arch(int device) {
    return 10 * attribute(cudaDevAttrComputeCapabilityMajor, device) +
           attribute(cudaDevAttrComputeCapabilityMinor, device);
}
// Dynamic shared memory that a block may have at most, in bytes.
inline int shared_limit(int device) { return attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin, device); }

// Loads a kernel on the current device, which its first launch would do: drivers for CUDA 12.2 and older cannot while
// the stream is captured. `code`: the compute capability that it was compiled for, which is less than the card's where
// the driver made its machine code from PTX of another: `ptxVersion` stays that of the PTX, `binaryVersion` does not.
template <class... P>
Status load(void (*kernel)(P...), int* code = nullptr) {
    cudaFuncAttributes attributes;
    const cudaError_t error = cudaFuncGetAttributes(&attributes, reinterpret_cast<const void*>(kernel));
    if (error != cudaSuccess) cudaGetLastError();
    else if (code) *code = attributes.ptxVersion;
    return {int(error), ""};
}

template <class... P, class... A>
Status launch(void (*kernel)(P...), dim3 grid, dim3 block, size_t bytes, stream_t stream, A... args) {
    const void* function = reinterpret_cast<const void*>(kernel);
    cudaError_t error = cudaSuccess;
    if (bytes > 48 * 1024)
        error = cudaFuncSetAttribute(function, cudaFuncAttributeMaxDynamicSharedMemorySize, int(bytes));
    if (error == cudaSuccess) {
        const auto call = [&](P... values) {
            void* addresses[] = {const_cast<void*>(static_cast<const void*>(&values))..., nullptr};
            return cudaLaunchKernel(function, grid, block, addresses, bytes, stream);
        };
        error = call(static_cast<P>(args)...);
    }
    if (error != cudaSuccess) cudaGetLastError();
    return {int(error), ""};
}

inline Status clear_async(void* p, size_t bytes, stream_t stream) {
    const cudaError_t error = cudaMemsetAsync(p, 0, bytes, stream);
    if (error != cudaSuccess) cudaGetLastError();
    return Status{int(error), ""}.in("clearing");
}

#endif

#define PCF_LOAD(kernel)                                                                                               \
    do {                                                                                                               \
        if (const ::pcf::Status pcf_status = ::pcf::load(kernel).in(#kernel)) return pcf_status;                       \
    } while (false)

// Launch, and leave the entry point where that fails: PCF_LAUNCH(kernel, grid, block, bytes, stream, arguments...), a
// kernel with template arguments in parentheses.
#define PCF_LAUNCH(kernel, ...)                                                                                        \
    do {                                                                                                               \
        if (const ::pcf::Status pcf_status = ::pcf::launch(kernel, __VA_ARGS__).in(#kernel)) return pcf_status;        \
    } while (false)

} // namespace pcf
