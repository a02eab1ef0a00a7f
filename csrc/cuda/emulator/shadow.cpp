// See shadow.h. Two accesses of different threads, one of them a write, are in order if a barrier of the block lies
// between them, or a barrier of the warp if both are in it.
#include "shadow.h"

#include <algorithm>

namespace pcf::emulated {
namespace {

constexpr uint16_t kSeveral = 0xffff;
constexpr size_t kWordBytes = 4;

} // namespace

// Whether all of the party came before this moment, or are the thread itself.
bool Shadow::Party::before(const Moment& now) const {
    if (epoch != now.epoch || thread == now.thread) return true;
    return warp == now.thread / 32 && warp_epoch < now.warp_epoch;
}

void Shadow::Party::join(const Moment& now) {
    const auto here = uint16_t(now.thread / 32), me = uint16_t(now.thread);
    if (epoch != now.epoch || (warp == here && warp_epoch != now.warp_epoch))
        *this = {now.epoch, now.warp_epoch, here, me};
    else if (warp != here)
        warp = thread = kSeveral;
    else if (thread != me)
        thread = kSeveral;
}

const char* Shadow::touch(Cell& cell, Access access, const Moment& now, int& other) {
    const bool reads = access == Access::read || access == Access::atomic || access == Access::peek;
    const bool together = access == Access::atomic && cell.atomic; // atomics with atomics
    other = -1;
    if (reads && !cell.written && !cell.copying) return "reads shared memory that nothing has written";
    if (cell.writer.thread != kSeveral) other = cell.writer.thread;
    if (cell.copying && (reads || cell.writer.thread != now.thread))
        return "touches what cp.async brings, with no wait for it";
    if (!together && !cell.writer.before(now))
        return reads ? "reads what another thread writes, with no barrier between them"
                     : "writes what another thread writes, with no barrier between them";
    if (access == Access::read || access == Access::peek) {
        cell.reader.join(now);
        return nullptr;
    }
    other = cell.reader.thread == kSeveral ? -1 : cell.reader.thread;
    if (!cell.reader.before(now)) return "writes what another thread reads, with no barrier between them";
    if (together)
        cell.writer.join(now);
    else
        cell.writer = {now.epoch, now.warp_epoch, uint16_t(now.thread / 32), uint16_t(now.thread)};
    cell.atomic = access == Access::atomic;
    cell.copying = access == Access::start_copy;
    cell.written = !cell.copying;
    return nullptr;
}

void Shadow::reset(size_t bytes) {
    const size_t words = (bytes + kWordBytes - 1) / kWordBytes;
    words_.assign(words, Cell{});
    bytes_.resize(std::max(bytes_.size(), words * kWordBytes));
}

const char* Shadow::touch(size_t at, size_t bytes, Access access, const Moment& now, int& other) {
    const size_t end = at + bytes;
    while (at < end) {
        Cell& word = words_[at / kWordBytes];
        const size_t upto = std::min(end, (at / kWordBytes + 1) * kWordBytes);
        if (!word.split && upto - at == kWordBytes) {
            if (const char* wrong = touch(word, access, now, other)) return wrong;
        } else {
            if (!word.split) {
                std::fill_n(&bytes_[at / kWordBytes * kWordBytes], kWordBytes, word);
                word.split = true;
            }
            for (size_t b = at; b < upto; ++b)
                if (const char* wrong = touch(bytes_[b], access, now, other)) return wrong;
        }
        at = upto;
    }
    return nullptr;
}

} // namespace pcf::emulated
