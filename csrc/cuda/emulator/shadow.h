// The emulator's memory of who touched each byte of a block's shared memory, and when.
#pragma once
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace pcf::emulated {

// When and by whom: `epoch` counts the block's barriers, `warp_epoch` the warp's.
struct Moment {
    int thread;
    uint32_t epoch, warp_epoch;
};

enum class Access { read, write, atomic, peek, start_copy }; // peek: gpu.h

class Shadow {
  public:
    void reset(size_t bytes);
    // What is wrong with this access, in words; empty if nothing is. Byte offsets from the start of shared memory.
    const char* touch(size_t at, size_t bytes, Access access, const Moment& now, int& other);

  private:
    // Whoever reads or writes after the last barrier: one thread, several lanes of a warp, or several warps.
    struct Party {
        uint32_t epoch, warp_epoch; // epoch 0: nobody
        uint16_t warp, thread;
        bool before(const Moment& now) const;
        void join(const Moment& now);
    };
    struct Cell {
        Party writer, reader;
        bool written, copying, atomic, split;
    };
    static const char* touch(Cell& cell, Access access, const Moment& now, int& other);

    std::vector<Cell> words_, bytes_; // bytes_ stands for a word that is `split`
};

} // namespace pcf::emulated
