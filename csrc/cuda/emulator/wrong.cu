// Small kernels that show what the emulator finds: each mistake beside the version without it. One block of 64 threads
// or more unless said otherwise; `out` has a place for each thread.
#include "../mma.h"
#include "../rows.h"
#include "wrong.h"

#include "../../bindings_cuda.h"

namespace py = pybind11;

namespace pcf {
namespace {

// Each thread hands its number to the next: right with a barrier between.
__global__ void neighbour_kernel(int* out, int barrier) {
    int* values = shared<int>();
    const int me = int(threadIdx.x), next = (me + 1) % int(blockDim.x);
    values[me] = me;
    if (barrier == 1) __syncthreads();
    if (barrier == 2) __syncwarp();
    out[me] = values[next];
}

// The same within a warp: __syncwarp is enough.
__global__ void warp_neighbour_kernel(int* out, int barrier) {
    int* values = shared<int>();
    const int me = int(threadIdx.x);
    values[me] = me;
    if (barrier) __syncwarp();
    out[me] = values[me / 32 * 32 + (me + 1) % 32];
}

// A buffer used twice: right with a barrier before the second writing.
__global__ void reuse_kernel(int* out, int barrier) {
    int* values = shared<int>();
    const int me = int(threadIdx.x), count = int(blockDim.x);
    values[me] = me;
    __syncthreads();
    const int first = values[count - 1 - me];
    if (barrier) __syncthreads();
    values[me] = 2 * me;
    __syncthreads();
    out[me] = first + values[count - 1 - me];
}

// Bytes side by side belong to different threads: no mistake. What one thread leaves out is.
__global__ void bytes_kernel(int* out, int skipped) {
    uint8_t* values = shared<uint8_t>();
    const int me = int(threadIdx.x);
    if (me != skipped) values[me] = uint8_t(me);
    __syncthreads();
    out[me] = values[int(blockDim.x) - 1 - me];
}

__global__ void beyond_kernel(int* out, int offset) {
    int* values = shared<int>();
    const int me = int(threadIdx.x);
    values[me] = me;
    values[me + offset] = me;
    out[me] = values[me];
}

__global__ void diverging_kernel(int* out, int how) {
    const int me = int(threadIdx.x);
    if (how == 1 && me == 5) return; // ends while others wait
    if (how == 2) {
        if (me < 32)
            __syncthreads();
        else
            __syncthreads();
    } else if (how == 3 && me >= 32) {
        __syncwarp(); // its warp goes on without a barrier of the block, and ends
        return;
    } else {
        __syncthreads();
    }
    out[me] = me;
}

__global__ void diverging_warp_kernel(int* out, int how) {
    const int me = int(threadIdx.x);
    int value = me;
    if (how == 1 && lane() == 7) {
        out[me] = 0;
        return;
    }
    if (how == 2 && lane() < 16)
        value = __shfl_xor_sync(kAll, value, 1);
    else
        value = __shfl_xor_sync(kAll, value, 1);
    if (how == 3) value = __shfl_xor_sync(0xffffu, value, 1);
    if (how == 4 && lane() < 16)
        value = warp_max(value);
    else if (how == 4)
        value = warp_max(value);
    out[me] = value;
}

// Counts with atomics, read by all: a barrier is missing unless asked for; or mixed with a plain write.
__global__ void atomic_kernel(int* out, int how) {
    int* sum = shared<int>();
    if (threadIdx.x == 0) *sum = 0;
    if (how != 1) __syncthreads();
    atomicAdd(sum, 1);
    if (how == 2) *sum = 7;
    if (how != 3) __syncthreads();
    out[threadIdx.x] = *sum;
}

// Four numbers a thread by cp.async, two groups; read after a wait for `groups` left and a barrier, or without either.
__global__ void copying_kernel(const int* in, int* out, int how) {
    int* values = shared<int>();
    const int me = int(threadIdx.x), count = int(blockDim.x);
    if (how == 4) {
        cp_async16(values + 4 * me + 1, in, true);
        return;
    }
    cp_async16(values + 4 * me, in + 4 * me, me != 3); // thread 3 brings zeros
    cp_async_commit();
    cp_async4(values + 4 * count + me, in + me, true);
    cp_async_commit();
    if (how == 0) cp_async_wait<0>();
    if (how == 1 || how == 3) cp_async_wait<1>();
    if (how != 2) __syncthreads();
    const int from = count - 1 - me;
    int sum = values[4 * from] + values[4 * from + 3];
    if (how == 0 || how == 1) sum += values[4 * count + from]; // in the second group
    out[me] = sum;
}

__global__ void misaligned_kernel(const float* in, float* out, int offset) {
    if (threadIdx.x == 0) *reinterpret_cast<float4*>(out) = *reinterpret_cast<const float4*>(in + offset);
}

// All shuffles, votes and scans at once: tests work out the same sums.
__global__ void collectives_kernel(const int* in, int64_t* out) {
    const int me = int(threadIdx.x), value = in[me];
    int64_t* row = out + int64_t(me) * 14;
    row[0] = __shfl_sync(kAll, value, 5);
    row[1] = __shfl_sync(kAll, value, 3, 8);
    row[2] = __shfl_up_sync(kAll, value, 3u);
    row[3] = __shfl_down_sync(kAll, value, 2u, 16);
    row[4] = __shfl_xor_sync(kAll, value, 9);
    row[5] = __ballot_sync(kAll, value % 3 == 0);
    row[6] = __any_sync(kAll, value == 17);
    row[7] = __all_sync(kAll, value >= 0);
    row[8] = __match_any_sync(kAll, value % 5);
    row[9] = warp_max(int64_t(value) << 33);
    row[10] = warp_min(float(value)) == float(int(warp_min(float(value))));
    row[11] = warp_sum(value);
    row[12] = warp_scan(value);
    row[13] = __syncthreads_count(value % 2) * 4 + __syncthreads_or(value == 40) * 2 + __syncthreads_and(value < 1000);
}

// The order in which blocks and threads come.
__global__ void order_kernel(int* next, int* out) { out[blockIdx.x * blockDim.x + threadIdx.x] = atomicAdd(next, 1); }

// One warp a pair: the canonical squared distance of row i of x and row i of y, as each lane has it.
__global__ void canonical_kernel(DeviceMatrix x, DeviceMatrix y, double* out) {
    const int64_t row = blockIdx.x;
    const auto at = [&](const DeviceMatrix& m) {
        return static_cast<const char*>(m.data) + row * m.row_stride * bytes_of(m.type);
    };
    out[row * 32 + lane()] =
        canonical_warp(at(x), at(y), int(x.dim), x.column_stride, y.column_stride, x.type, y.type);
}

// out[16, 8] += a [16, 8] b [8, 8], in one of two ways: once in TF32, or in three products of halves.
__global__ void mma_kernel(const float* a, const float* b, float* out, int thrice) {
    const int g = lane() / 4, t = lane() % 4;
    const float of_a[4] = {a[g * 8 + t], a[(g + 8) * 8 + t], a[g * 8 + t + 4], a[(g + 8) * 8 + t + 4]};
    const float of_b[2] = {b[t * 8 + g], b[(t + 4) * 8 + g]};
    float d[4] = {out[g * 8 + 2 * t], out[g * 8 + 2 * t + 1], out[(g + 8) * 8 + 2 * t], out[(g + 8) * 8 + 2 * t + 1]};
    uint32_t ah[4], al[4], bh[2], bl[2];
    for (int i = 0; i < 4; ++i) split_tf32(of_a[i], ah[i], al[i]);
    for (int i = 0; i < 2; ++i) split_tf32(of_b[i], bh[i], bl[i]);
    if (thrice) {
        mma_tf32(d, al, bh);
        mma_tf32(d, ah, bl);
    }
    mma_tf32(d, ah, bh);
    out[g * 8 + 2 * t] = d[0];
    out[g * 8 + 2 * t + 1] = d[1];
    out[(g + 8) * 8 + 2 * t] = d[2];
    out[(g + 8) * 8 + 2 * t + 1] = d[3];
}

// out [16, 8] += a [16, 16] b [8, 16]^T, of halves.
template <class T>
__global__ void mma_half_kernel(const uint32_t* a, const uint32_t* b, float* out) {
    const int g = lane() / 4, t = lane() % 4;
    const uint32_t of_a[4] = {a[g * 8 + t], a[(g + 8) * 8 + t], a[g * 8 + t + 4], a[(g + 8) * 8 + t + 4]};
    const uint32_t of_b[2] = {b[g * 8 + t], b[g * 8 + t + 4]};
    const auto place = [&](int i) { return (g + 8 * (i / 2)) * 8 + 2 * t + i % 2; };
    float d[4];
    for (int i = 0; i < 4; ++i) d[i] = out[place(i)];
    mma_half<T>(d, of_a, of_b);
    for (int i = 0; i < 4; ++i) out[place(i)] = d[i];
}

int* ints(uintptr_t address) { return array<int>(address, 1); }

void run_wrong(const std::string& name, int threads, int how, uintptr_t in, uintptr_t out) {
    const py::gil_scoped_release release;
    const size_t words = sizeof(int) * size_t(threads);
    const auto go = [&](void (*kernel)(int*, int), size_t bytes) {
        check(launch(kernel, 1, unsigned(threads), bytes, stream_t(), ints(out), how).in("a test's kernel"));
    };
    if (name == "neighbour") return go(neighbour_kernel, words);
    if (name == "warp_neighbour") return go(warp_neighbour_kernel, words);
    if (name == "reuse") return go(reuse_kernel, words);
    if (name == "bytes") return go(bytes_kernel, size_t(threads));
    if (name == "beyond") return go(beyond_kernel, words);
    if (name == "diverging") return go(diverging_kernel, 0);
    if (name == "diverging_warp") return go(diverging_warp_kernel, 0);
    if (name == "atomic") return go(atomic_kernel, sizeof(int));
    if (name == "shared") return go(atomic_kernel, size_t(how)); // how much shared memory a block may have
    Status status;
    if (name == "copying")
        status = launch(copying_kernel, 1, unsigned(threads), 5 * words, stream_t(), ints(in), ints(out), how);
    else if (name == "misaligned")
        status = launch(misaligned_kernel, 1, unsigned(threads), 0, stream_t(), array<float>(in, 1),
                        array<float>(out, 1), how);
    else if (name == "collectives")
        status = launch(collectives_kernel, 1, unsigned(threads), 0, stream_t(), ints(in), array<int64_t>(out, 1));
    else if (name == "order")
        status = launch(order_kernel, unsigned(how), unsigned(threads), 0, stream_t(), ints(in), ints(out));
    else
        throw std::invalid_argument("no test's kernel is called " + name);
    check(status.in("a test's kernel"));
}

} // namespace

void bind_wrong(py::module_& m) {
    m.def("test_kernel", &run_wrong, py::arg("name"), py::arg("threads"), py::arg("how"), py::arg("in_"),
          py::arg("out"), "Run one of the kernels of csrc/cuda/emulator/wrong.cu.");
    m.def(
        "test_canonical",
        [](const Rows& x, const Rows& y, uintptr_t out) {
            const DeviceMatrix a = device_matrix(x), b = device_matrix(y);
            check(launch(canonical_kernel, unsigned(a.rows), 32, 0, stream_t(), a, b, array<double>(out, a.rows)));
        },
        py::arg("x"), py::arg("y"), py::arg("out"), "Canonical squared distances of paired rows, as [rows, 32] lanes.");
    m.def(
        "test_mma",
        [](uintptr_t a, uintptr_t b, uintptr_t out, int thrice) {
            check(launch(mma_kernel, 1, 32, 0, stream_t(), array<float>(a, 1), array<float>(b, 1), array<float>(out, 1),
                         thrice));
        },
        py::arg("a"), py::arg("b"), py::arg("out"), py::arg("thrice"), "One product of tensor cores, in place.");
    m.def(
        "test_mma_half",
        [](uintptr_t a, uintptr_t b, uintptr_t out, bool brain) {
            const auto go = [&](void (*kernel)(const uint32_t*, const uint32_t*, float*)) {
                check(launch(kernel, 1, 32, 0, stream_t(), array<uint32_t>(a, 1), array<uint32_t>(b, 1),
                             array<float>(out, 1)));
            };
            if (brain) go(mma_half_kernel<Brain>);
            else go(mma_half_kernel<Half>);
        },
        py::arg("a"), py::arg("b"), py::arg("out"), py::arg("brain"), "One product of halves, in place.");
    m.def("test_half", [](int bits, bool brain) {
        return brain ? to_float(Brain{uint16_t(bits)}) : to_float(Half{uint16_t(bits)});
    });
}

} // namespace pcf
