// What the parts of the emulator share: the block that runs.
#pragma once
#include "../emulated.h"
#include "fiber.h"
#include "global.h"
#include "shadow.h"

#include <mutex>
#include <string>
#include <vector>

namespace pcf::emulated {

constexpr int kMostThreads = 1024, kWarps = kMostThreads / 32;
constexpr size_t kShared = 256 << 10, kGuard = 64 << 10; // shared memory, and how far beyond it an access is noticed

enum class State { ready, at_barrier, at_collective, ended };

struct Copy {
    void* to;
    const void* from;
    int bytes;
    int group;
};

struct Thread {
    Context context;
    State state;
    Site site; // where it waits, or waited last
    const char* operation;
    void* brought;
    int predicate;
    int group; // cp.async: groups committed
    std::vector<Copy> copies;
};

struct Warp {
    uint32_t ready, arrived, epoch;
};

struct Emulator {
    std::mutex mutex; // one launch at a time
    Stacks stacks{kMostThreads};
    std::vector<Thread> threads{size_t(kMostThreads)};
    Warp warps[kWarps];
    std::vector<char> arena = std::vector<char>(kGuard + kShared + kGuard + 128);
    char* shared = // 128-byte aligned, as gpu.h promises
        reinterpret_cast<char*>((reinterpret_cast<uintptr_t>(arena.data()) + kGuard + 127) & ~uintptr_t(127));
    size_t shared_bytes = 0;
    Shadow shadow;
    GlobalMemory global;
    const void *place = nullptr, *other_place = nullptr; // in the code, of what failed
    Context scheduler;
    void (*body)(void*) = nullptr;
    void* argument = nullptr;
    int count = 0;        // threads of a block
    int current = -1;     // the fiber that runs
    int ended = 0, waiting = 0, voted = 0;
    uint32_t epoch = 1;
    bool failed = false;
    std::string message, other; // what failed, and who else had a part in it
    uint64_t random = 1, launches = 0;
    std::string seed;

    uint64_t draw() { // splitmix64
        uint64_t z = random += 0x9e3779b97f4a7c15u;
        z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
        z = (z ^ z >> 27) * 0x94d049bb133111ebu;
        return z ^ z >> 31;
    }
};

extern Emulator& e;

std::string at(const Site& site);
std::string who(int thread);
std::string since(const Thread& thread); // where it last met others

// " (select.cu:88, in pcf::edge_kernel)": the line where a call returns to, and the function around it.
std::string source_of(const void* place);
// Whether an address is a stack, of a fiber or of the thread that launches, or lies in this module: no array.
bool is_own(const void* p);
void begin_own(); // on the thread that launches

// Ends the launch, with this message. The other fibers are left where they are: they own nothing.
[[noreturn]] void fail(const std::string& message);

} // namespace pcf::emulated
