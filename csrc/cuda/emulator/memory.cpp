// Shared memory as the emulator watches it: plain accesses, atomics, and copies that arrive later.
#include "state.h"

#include <algorithm>
#include <cstdio>
#include <dlfcn.h>

namespace pcf::emulated {
namespace {

// An access to shared memory by the thread that runs; anything else is not looked at.
void note(const void* p, size_t bytes, Access access, const void* caller) {
    const size_t offset = size_t(static_cast<const char*>(p) - e.shared) + kGuard;
    if (offset >= kGuard + kShared + kGuard || e.current < 0) return;
    const size_t where = offset - kGuard;
    int other = -1;
    const char* wrong = offset < kGuard || where + bytes > e.shared_bytes
                            ? "goes beyond its shared memory"
                            : e.shadow.touch(where, bytes, access,
                                             {e.current, e.epoch, e.warps[e.current / 32].epoch}, other);
    if (!wrong) return;
    const Thread& t = e.threads[size_t(e.current)];
    std::string message = who(e.current) + " " + wrong + ": " + std::to_string(bytes) + " bytes at " +
                          std::to_string(int64_t(where)) + " of " + std::to_string(e.shared_bytes) + ", after " +
                          since(t);
    if (other >= 0) message += "; the other is thread " + std::to_string(other);
    Dl_info info;
    if (caller && dladdr(caller, &info) && info.dli_fname) {
        char address[32];
        std::snprintf(address, sizeof(address), "0x%zx", size_t(static_cast<const char*>(caller) -
                                                                static_cast<const char*>(info.dli_fbase)) - 1);
        message += std::string(" (addr2line -Cfie ") + info.dli_fname + " " + address + ")";
    }
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

void note_atomic(const void* p, size_t bytes) {
    if (reinterpret_cast<uintptr_t>(p) % bytes) fail(who(e.current) + " has a misaligned address in an atomic");
    note(p, bytes, Access::atomic, nullptr);
}

void cp_async(void* to, const void* from, int bytes, bool valid) {
    if ((reinterpret_cast<uintptr_t>(to) | (valid ? reinterpret_cast<uintptr_t>(from) : 0)) % size_t(bytes))
        fail(who(e.current) + " has a misaligned address in cp.async");
    const size_t offset = size_t(static_cast<char*>(to) - e.shared);
    if (offset >= kShared) fail(who(e.current) + " copies by cp.async to what is not shared memory");
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
