// The emulator: a block's threads as fibers, its barriers and warp collectives. See emulated.h for what it promises.
#include "state.h"

#include <algorithm>
#include <cstdlib>
#include <numeric>

uint3 threadIdx, blockIdx;
dim3 blockDim, gridDim;

namespace pcf::emulated {
namespace {

constexpr int kInvalidValue = 1, kInvalidConfiguration = 9, kLaunchFailure = 719; // cudaError_t

Emulator& emulator() {
    static Emulator only;
    return only;
}

void suspend() { switch_to(e.threads[size_t(e.current)].context, e.scheduler); }

} // namespace

Emulator& e = emulator();

std::string at(const Site& site) {
    const char* slash = std::strrchr(site.file, '/');
    return std::string(slash ? slash + 1 : site.file) + ":" + std::to_string(site.line);
}

std::string who(int thread) {
    return "thread " + std::to_string(thread) + " of block " +
           std::to_string((uint64_t(blockIdx.z) * gridDim.y + blockIdx.y) * gridDim.x + blockIdx.x);
}

std::string since(const Thread& t) {
    return t.site.line ? std::string(t.operation) + " at " + at(t.site) : "its start";
}

[[noreturn]] void fail(const std::string& message) {
    e.failed = true;
    e.message = message;
    suspend();
    std::abort();
}

namespace {

std::string doing(const Thread& t) {
    if (t.state == State::ended) return "has ended";
    return "waits in " + std::string(t.operation) + " at " + at(t.site);
}

void move_to(int thread) {
    e.current = thread;
    const unsigned t = unsigned(thread), xy = blockDim.x * blockDim.y;
    threadIdx = {t % blockDim.x, t % xy / blockDim.x, t / xy};
}

void thread_main() {
    e.body(e.argument);
    Thread& t = e.threads[size_t(e.current)];
    t.state = State::ended;
    e.warps[e.current / 32].ready &= ~(1u << e.current % 32);
    ++e.ended;
    suspend();
    std::abort();
}

// Lanes of a warp in a random order, until none can go on without the others.
void run_warp(int w) {
    Warp& warp = e.warps[w];
    while (warp.ready && !e.failed) {
        const uint64_t drawn = e.draw();
        const unsigned factor = unsigned(drawn) | 1u, shift = unsigned(drawn >> 32); // an odd factor permutes 0..31
        for (unsigned i = 0; i < 32 && !e.failed; ++i) {
            const unsigned l = (i * factor + shift) % 32;
            if (!(warp.ready >> l & 1)) continue;
            move_to(w * 32 + int(l));
            switch_to(e.scheduler, e.threads[size_t(e.current)].context);
        }
    }
}

// All stand still. Open the barrier if all wait at one and the same, else say who does not.
void open_barrier() {
    const auto waits = [](const Thread& t) { return t.state != State::ended; };
    const auto end = e.threads.begin() + e.count;
    const auto one = std::find_if(e.threads.begin(), end, waits);
    const auto elsewhere = [&](const Thread& t) {
        return t.site.line != one->site.line || std::strcmp(t.site.file, one->site.file);
    };
    const auto odd = std::find_if(e.threads.begin(), end,
                                  [&](const Thread& t) { return t.state != State::at_barrier || elsewhere(t); });
    if (odd != end) {
        // If `one` itself is odd (it waits for its warp), name it with somebody who has come elsewhere or ended.
        const auto other = std::find_if(e.threads.begin(), end,
                                        [&](const Thread& t) { return t.state != one->state || elsewhere(t); });
        const auto& second = other != end ? *other : *odd;
        e.failed = true;
        e.message = "divergent barrier: " + who(int(one - e.threads.begin())) + " " + doing(*one) + ", thread " +
                    std::to_string(&second - e.threads.data()) + " " + doing(second);
        return;
    }
    e.voted = 0;
    for (int i = 0; i < e.count; ++i) {
        e.voted += e.threads[size_t(i)].predicate;
        e.threads[size_t(i)].state = State::ready;
    }
    for (int w = 0; w < e.count / 32; ++w) {
        e.warps[w].ready = 0xffffffffu;
        ++e.warps[w].epoch;
    }
    ++e.epoch;
}

void run_block() {
    std::memset(e.shared, 0xff, e.shared_bytes);
    e.shadow.reset(e.shared_bytes);
    e.ended = 0;
    e.epoch = 1;
    for (int i = 0; i < e.count; ++i) {
        Thread& t = e.threads[size_t(i)];
        t.state = State::ready;
        t.site = {"", 0};
        t.operation = "";
        t.group = 0;
        t.copies.clear();
        e.stacks.begin(i, t.context, thread_main);
    }
    int order[kWarps];
    for (int w = 0; w < e.count / 32; ++w) {
        order[w] = w;
        e.warps[w] = {0xffffffffu, 0, 1};
    }
    while (!e.failed) {
        for (int w = e.count / 32 - 1; w > 0; --w) std::swap(order[w], order[e.draw() % uint64_t(w + 1)]);
        for (int w = 0; w < e.count / 32; ++w) run_warp(order[w]);
        if (e.failed || e.ended == e.count) break;
        open_barrier();
    }
    e.current = -1;
}

const char* setting(const char* name, const char* otherwise) {
    const char* value = std::getenv(name);
    return value && *value ? value : otherwise;
}

} // namespace

int arch() { return std::atoi(setting("PATCHCORE_FAST_CUDA_EMULATED_ARCH", "80")); }
int code() { return std::min(arch(), std::atoi(setting("PATCHCORE_FAST_CUDA_EMULATED_CODE", "1000"))); }

int shared_limit() {
    const int a = arch(), kilobytes = a < 80 ? 64 : a == 80 || a == 87 ? 163 : a == 90 || a / 10 == 10 ? 227 : 99;
    return kilobytes << 10;
}

void* shared_memory() { return e.shared; }
const std::string& message() { return e.message; }

int run(dim3 grid, dim3 block, size_t shared_bytes, void (*body)(void*), void* argument) {
    const std::lock_guard<std::mutex> lock(e.mutex);
    const auto refuse = [](int code, const std::string& why) {
        e.message = why;
        return code;
    };
    const uint64_t threads = uint64_t(block.x) * block.y * block.z;
    if (threads == 0 || threads > kMostThreads || block.z > 64)
        return refuse(kInvalidConfiguration, "a block of " + std::to_string(threads) + " threads");
    if (threads % 32 != 0) return refuse(kInvalidConfiguration, "a block is not whole warps");
    if (grid.x == 0 || grid.y == 0 || grid.z == 0 || grid.x > 0x7fffffffu || grid.y > 65535 || grid.z > 65535)
        return refuse(kInvalidConfiguration, "an impossible grid");
    if (shared_bytes > size_t(shared_limit()))
        return refuse(kInvalidValue, std::to_string(shared_bytes) + " bytes of shared memory");
    if (const std::string seed = setting("PATCHCORE_FAST_CUDA_SEED", "0"); seed != e.seed) {
        e.seed = seed;
        e.launches = 0;
    }
    e.random = std::strtoull(e.seed.c_str(), nullptr, 10) * 0x2545f4914f6cdd1du + e.launches++;
    blockDim = block;
    gridDim = grid;
    e.count = int(threads);
    e.body = body;
    e.argument = argument;
    e.shared_bytes = shared_bytes;
    e.failed = false;
    e.place = e.other_place = nullptr;
    e.other.clear();
    if (e.global.watched()) {
        e.global.begin_launch();
        begin_own();
    }
    std::vector<uint64_t> order(uint64_t(grid.x) * grid.y * grid.z);
    std::iota(order.begin(), order.end(), uint64_t(0));
    for (uint64_t i = order.size() - 1; i > 0; --i) std::swap(order[i], order[e.draw() % (i + 1)]);
    for (const uint64_t b : order) {
        const uint64_t xy = uint64_t(grid.x) * grid.y;
        blockIdx = {unsigned(b % grid.x), unsigned(b % xy / grid.x), unsigned(b / xy)};
        e.global.begin_block(uint32_t(b), e.count);
        run_block();
        if (!e.failed) continue;
        e.message += source_of(e.place) + e.other + source_of(e.other_place);
        return kLaunchFailure;
    }
    return 0;
}

int barrier(Site site, const char* name, int predicate) {
    Thread& t = e.threads[size_t(e.current)];
    t.state = State::at_barrier;
    t.site = site;
    t.operation = name;
    t.predicate = predicate;
    e.warps[e.current / 32].ready &= ~(1u << e.current % 32);
    suspend();
    return e.voted;
}

void collective(Site site, const char* name, unsigned mask, void* mine, void (*act)(void* const*, const void*),
                const void* extra) {
    if (mask != 0xffffffffu) fail(who(e.current) + ": " + name + " at " + at(site) + " without all lanes of the warp");
    Thread& t = e.threads[size_t(e.current)];
    const int first = e.current / 32 * 32, l = e.current % 32;
    Warp& warp = e.warps[e.current / 32];
    t.site = site;
    t.operation = name;
    t.brought = mine;
    warp.arrived |= 1u << l;
    if (warp.arrived != 0xffffffffu) {
        t.state = State::at_collective;
        warp.ready &= ~(1u << l);
        suspend();
        return;
    }
    void* lanes[32];
    for (int i = 0; i < 32; ++i) {
        Thread& other = e.threads[size_t(first + i)];
        const bool same_file = std::strcmp(other.site.file, site.file) == 0;
        if (!same_file || other.site.line != site.line || std::strcmp(other.operation, name))
            fail("divergent warp: " + who(e.current) + " came to " + name + " at " + at(site) + ", thread " +
                 std::to_string(first + i) + " " + doing(other));
        lanes[i] = other.brought;
        other.state = State::ready;
    }
    warp.arrived = 0;
    warp.ready = 0xffffffffu;
    act(lanes, extra);
}

void sync_warp(Site site, unsigned mask) {
    collective(site, "__syncwarp", mask, nullptr, [](void* const*, const void*) { ++e.warps[e.current / 32].epoch; },
               nullptr);
}

unsigned ballot(Site site, const char* name, unsigned mask, bool predicate) {
    unsigned mine = predicate;
    collective(
        site, name, mask, &mine,
        [](void* const* lanes, const void*) {
            unsigned all = 0;
            for (int l = 0; l < 32; ++l) all |= *static_cast<unsigned*>(lanes[l]) << l;
            for (int l = 0; l < 32; ++l) *static_cast<unsigned*>(lanes[l]) = all;
        },
        nullptr);
    return mine;
}

// As in the CUDA programming guide: segments of `width` lanes, no value from another segment.
int shuffle_source(Shuffle how, int lane, int operand, int width) {
    const int start = lane / width * width, last = start + width - 1;
    switch (how) {
    case Shuffle::index: return start + (operand & (width - 1));
    case Shuffle::up: return lane - operand < start ? -1 : lane - operand;
    case Shuffle::down: return lane + operand > last ? -1 : lane + operand;
    default: return (lane ^ operand) > last ? -1 : lane ^ operand;
    }
}

} // namespace pcf::emulated
