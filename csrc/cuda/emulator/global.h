// The emulator's watch over global memory: which arrays there are, who touched them in this launch, and what orders it.
//
// Within a block a barrier orders two accesses, as in shared memory. Between blocks only this does: the one who touched
// the bytes first has a __threadfence behind that, and its block an atomic behind the fence (the release); the other's
// block has an atomic on the same address later, and a __threadfence behind that, before the access (the acquire).
// "Behind" is in the same thread, or across a barrier. The end of a launch orders everything. Two atomics need no order,
// nor do an atomic and a `peek`. What a third block passes on counts only if it does so by atomics on the same address.
#pragma once
#include "shadow.h"

#include <map>
#include <memory>
#include <unordered_map>

namespace pcf::emulated {

// Who touched some bytes last: a thread, or several of a block since their last barrier.
struct Touch {
    uint32_t block = 0, epoch = 0, warp_epoch = 0; // epoch 0: nobody
    uint32_t fences = 0;                           // that the thread, or any of them, had behind it before
    uint16_t warp = 0, thread = 0;                 // or kSeveral
    const void* place = nullptr;                   // in the code
    static constexpr uint16_t kSeveral = 0xffff;
};

class GlobalMemory {
  public:
    // Forgets all arrays; accesses are looked at where `on`.
    void watch(bool on);
    bool watched() const { return on_; }
    // An array, of elements that are told apart; those that lie there already and are not the same are gone.
    void add(uintptr_t at, size_t bytes, size_t element);
    void begin_launch();
    void begin_block(uint32_t block, int threads);
    void fence(const Moment& now);
    // What is wrong with this access, in words, null if nothing is, and who else had a part in it.
    const char* touch(uintptr_t at, size_t bytes, Access access, const Moment& now, const void* place, Touch& other);
    bool holds(uintptr_t at);           // whether an array does
    std::string where(uintptr_t at);    // in which array, or behind which

  private:
    struct Cell { // of an element
        uint32_t launch = 0;
        bool atomic = false; // all that changed it did so by atomics
        Touch writer, reader;           // of the block that runs, or that came last
        Touch lost_writer, lost_reader; // of some block that has ended without a fence: nothing can be ordered with it
    };
    struct Array {
        size_t bytes, element;
        std::vector<std::unique_ptr<Cell[]>> pages;
    };
    struct History { // the fences of a block
        std::vector<std::vector<uint32_t>> of; // [thread] epochs
        std::vector<uint32_t> epochs;          // in which there were any, ascending
    };
    struct Sync { // an atomic
        uint32_t block, epoch, fences; // fences: that the thread had behind it before
        int thread;
    };
    struct Acquire {
        Sync at;
        const std::vector<Sync>* releases;
        size_t count; // of them, those before
    };
    using Lists = std::unordered_map<const Cell*, std::vector<Touch>>; // of blocks that have ended, with fences

    const char* touch(Cell& cell, Access access, const Moment& now, const void* place, Touch& other);
    void join(Cell& cell, Touch& last, Touch& lost, Lists& lists, const Moment& now, const void* place);
    bool in_order(const Cell& cell, const Touch& last, const Touch& lost, const Lists& lists, const Moment& now,
                  Touch& other) const;
    bool before(const Touch& touch, const Moment& now) const;
    bool released(const Touch& touch, const Sync& release) const;
    bool acquired(const Sync& acquire, const Moment& now) const;
    void synchronise(uintptr_t at, const Moment& now);
    uint32_t fences_of(int thread) const;
    Cell& cell_of(Array& array, size_t element);
    std::map<uintptr_t, Array>::iterator find(uintptr_t at);

    bool on_ = false;
    std::map<uintptr_t, Array> arrays_;
    std::map<uintptr_t, Array>::iterator found_ = arrays_.end(); // by the last search
    uint32_t launch_ = 0, block_ = 0;
    int threads_ = 0;
    std::unordered_map<uint32_t, History> histories_;
    History* mine_ = nullptr; // of the block that runs; null before its first fence
    std::unordered_map<uintptr_t, std::vector<Sync>> releases_;
    std::vector<Acquire> acquires_; // of the block that runs
    Lists readers_, writers_;
};

} // namespace pcf::emulated
