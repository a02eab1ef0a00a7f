// Memory as the emulator watches it: plain accesses, atomics, and copies that arrive later.
#include "state.h"

#include <algorithm>

namespace pcf::emulated {
namespace {

Moment moment() { return {e.current, e.epoch, e.warps[e.current / 32].epoch}; }

void note_global(const void* p, size_t bytes, Access access, const void* caller) {
    const auto at = reinterpret_cast<uintptr_t>(p);
    if (is_own(p) && !e.global.holds(at)) return;
    Touch other;
    const char* wrong = e.global.touch(at, bytes, access, moment(), caller, other);
    if (!wrong) return;
    std::string message = who(e.current) + " " + wrong + ": " + std::to_string(bytes) + " bytes " +
                          e.global.where(at) + ", after " + since(e.threads[size_t(e.current)]);
    if (other.epoch) {
        const bool one = other.thread != Touch::kSeveral;
        e.other = "; the other is " + (one ? "thread " + std::to_string(other.thread) : "several threads") +
                  " of block " + std::to_string(other.block);
    }
    e.place = caller;
    e.other_place = other.epoch ? other.place : nullptr;
    fail(message);
}

// An access by the thread that runs; what the host does is not looked at.
void note(const void* p, size_t bytes, Access access, const void* caller) {
    if (e.current < 0) return;
    const size_t offset = size_t(static_cast<const char*>(p) - e.shared) + kGuard;
    if (offset >= kGuard + kShared + kGuard) {
        if (e.global.watched()) note_global(p, bytes, access, caller);
        return;
    }
    const size_t where = offset - kGuard;
    int other = -1;
    const char* wrong = offset < kGuard || where + bytes > e.shared_bytes
                            ? "goes beyond its shared memory"
                            : e.shadow.touch(where, bytes, access, moment(), other);
    if (!wrong) return;
    const Thread& t = e.threads[size_t(e.current)];
    std::string message = who(e.current) + " " + wrong + ": " + std::to_string(bytes) + " bytes at " +
                          std::to_string(int64_t(where)) + " of " + std::to_string(e.shared_bytes) + ", after " +
                          since(t);
    if (other >= 0) e.other = "; the other is thread " + std::to_string(other);
    e.place = caller;
    fail(message);
}

void arrive(const Copy& copy) {
    if (copy.from)
        std::memcpy(copy.to, copy.from, size_t(copy.bytes));
    else
        std::memset(copy.to, 0, size_t(copy.bytes));
}

} // namespace

void note_plain(const void* p, size_t bytes, bool writes, size_t alignment, const void* caller) {
    if (reinterpret_cast<uintptr_t>(p) % alignment && e.current >= 0)
        fail(who(e.current) + " has a misaligned address for " + std::to_string(bytes) + " bytes, after " +
             since(e.threads[size_t(e.current)]));
    note(p, bytes, writes ? Access::write : Access::read, caller);
}

void note_atomic(const void* p, size_t bytes, const void* caller) {
    if (reinterpret_cast<uintptr_t>(p) % bytes) fail(who(e.current) + " has a misaligned address in an atomic");
    note(p, bytes, Access::atomic, caller);
}

void note_peek(const void* p, size_t bytes, const void* caller) { note(p, bytes, Access::peek, caller); }

void fence() {
    if (e.global.watched()) e.global.fence(moment());
}

void watch_global(bool on) {
    const std::lock_guard<std::mutex> lock(e.mutex);
    e.global.watch(on);
}

void add_global(const void* p, size_t bytes, size_t element) {
    const std::lock_guard<std::mutex> lock(e.mutex);
    e.global.add(reinterpret_cast<uintptr_t>(p), bytes, element);
}

void cp_async(void* to, const void* from, int bytes, bool valid) {
    if ((reinterpret_cast<uintptr_t>(to) | (valid ? reinterpret_cast<uintptr_t>(from) : 0)) % size_t(bytes))
        fail(who(e.current) + " has a misaligned address in cp.async");
    const size_t offset = size_t(static_cast<char*>(to) - e.shared);
    if (offset >= kShared) fail(who(e.current) + " copies by cp.async to what is not shared memory");
    if (valid && e.global.watched()) note_global(from, size_t(bytes), Access::read, __builtin_return_address(0));
    Thread& t = e.threads[size_t(e.current)];
    const Copy copy{to, valid ? from : nullptr, bytes, t.group};
    if (code() < 80) {
        note(to, size_t(bytes), Access::write, __builtin_return_address(0));
        arrive(copy);
        return;
    }
    // It may arrive at any time from here to the wait: now, or then.
    note(to, size_t(bytes), Access::start_copy, __builtin_return_address(0));
    if (e.draw() & 1) arrive(copy);
    t.copies.push_back(copy);
}

void cp_async_commit() { ++e.threads[size_t(e.current)].group; }

void cp_async_wait(int groups) {
    Thread& t = e.threads[size_t(e.current)];
    const auto pending = [&](const Copy& copy) {
        if (copy.group >= t.group - groups) return true;
        note(copy.to, size_t(copy.bytes), Access::write, __builtin_return_address(0));
        arrive(copy);
        return false;
    };
    t.copies.erase(std::remove_if(t.copies.begin(), t.copies.end(), [&](const Copy& c) { return !pending(c); }),
                   t.copies.end());
}

} // namespace pcf::emulated
