// What the emulator finds in global memory: each mistake beside the version without it. `out` has a place for each
// thread of the grid, and behind these as many for the kernels to work in.
#include "../gpu.h"
#include "wrong.h"

#include "../../bindings_cuda.h"

namespace py = pybind11;

namespace pcf {
namespace {

PCF_DEVICE int number() { return int(blockIdx.x * blockDim.x + threadIdx.x); }
PCF_DEVICE int total() { return int(gridDim.x * blockDim.x); }

// Each thread leaves its number, and the block that is last to take a ticket adds them up.
//   1, 2: no fence before the ticket, or behind it; 3: no barrier before it; 4: one thread fences for the block;
//   5: everyone adds to the sum by an atomic, and leaves no number; 6: the same without the first fence.
__global__ void ticket_kernel(int* out, int how) {
    int* const left = out + total();
    int* const ticket = left + total();
    int* last = shared<int>();
    if (how >= 5) atomicAdd(left, number());
    else left[number()] = number();
    if (how != 1 && how != 4 && how != 6) __threadfence();
    if (how != 3) __syncthreads();
    if (how == 4 && threadIdx.x == 0) __threadfence();
    if (threadIdx.x == 0) *last = atomicAdd(ticket, 1) == int(gridDim.x) - 1;
    __syncthreads();
    if (!*last) return;
    if (how != 2) __threadfence();
    int sum = 0;
    for (int i = int(threadIdx.x); i < total(); i += int(blockDim.x)) sum += how >= 5 ? 0 : __ldcg(left + i);
    sum = warp_sum(sum);
    if (lane() == 0) atomicAdd(ticket + 1, sum);
    __syncthreads();
    out[threadIdx.x] = how >= 5 ? __ldcg(left) : ticket[1];
}

// Each thread hands its number to the next through global memory, with a barrier between or without.
__global__ void handing_kernel(int* out, int barrier) {
    const int me = int(threadIdx.x), count = int(blockDim.x);
    int* const values = out + total() + int(blockIdx.x) * count;
    values[me] = number();
    if (barrier == 1) __syncthreads();
    if (barrier == 2) __syncwarp();
    out[number()] = values[barrier == 2 ? me / 32 * 32 + (me + 1) % 32 : (me + 1) % count];
}

// Blocks that take work from a counter until none is left. 1: they read it first; 2: they peek at it first.
__global__ void queue_kernel(int* out, int how) {
    int* const counter = out + 2 * total();
    int* job = shared<int>();
    for (;;) {
        __syncthreads();
        if (threadIdx.x == 0) {
            const int seen = how == 1 ? *counter : how == 2 ? peek(counter) : 0;
            *job = seen < int(gridDim.x) ? atomicAdd(counter, 1) : seen;
        }
        __syncthreads();
        if (*job >= int(gridDim.x)) return;
        const int place = *job * int(blockDim.x) + int(threadIdx.x);
        out[place] = place;
    }
}

// Blocks with a place for each thread. 1: the last writes where the first does; 2: the first thread of a block reads
// what the block before has written.
__global__ void places_kernel(int* out, int how) {
    const bool last = how == 1 && number() == total() - 1;
    out[last ? 0 : number()] = number();
    if (how == 2 && threadIdx.x == 0 && blockIdx.x > 0) out[number() + total()] = out[number() - 1];
}

// 1: reads one place behind the last; 2: takes part in an atomic there; 3: writes one before the first; 4: reads far off.
__global__ void outside_kernel(int* out, int how) {
    int* const end = out + 2 * total() + 2;
    out[number()] = number();
    if (number() != 0) return;
    if (how == 1) out[0] = end[0];
    if (how == 2) atomicAdd(end, 1);
    if (how == 3) out[-1] = 0;
    if (how == 4) out[0] = end[1 << 20];
}

void run_global(const std::string& name, int blocks, int threads, int how, uintptr_t out) {
    const py::gil_scoped_release release;
    const auto go = [&](void (*kernel)(int*, int), const char* called) {
        check(launch(kernel, unsigned(blocks), unsigned(threads), sizeof(int), stream_t(), array<int>(out, 1), how)
                  .in(called));
    };
    if (name == "ticket") return go(ticket_kernel, "ticket_kernel");
    if (name == "handing") return go(handing_kernel, "handing_kernel");
    if (name == "queue") return go(queue_kernel, "queue_kernel");
    if (name == "places") return go(places_kernel, "places_kernel");
    if (name == "outside") return go(outside_kernel, "outside_kernel");
    throw std::invalid_argument("no test's kernel is called " + name);
}

} // namespace

void bind_wrong_global(py::module_& m) {
    m.def("test_global", &run_global, py::arg("name"), py::arg("blocks"), py::arg("threads"), py::arg("how"),
          py::arg("out"), "Run one of the kernels of csrc/cuda/emulator/wrong_global.cu.");
    m.def("watch_global", &emulated::watch_global, py::arg("on"),
          "Whether kernels' accesses to global memory are watched; forgets the arrays. See csrc/cuda/emulator/global.h.");
    m.def(
        "add_global",
        [](uintptr_t address, size_t bytes, size_t element) {
            emulated::add_global(reinterpret_cast<const void*>(address), bytes, element);
        },
        py::arg("address"), py::arg("bytes"), py::arg("element"), "An array that kernels may touch.");
}

} // namespace pcf
