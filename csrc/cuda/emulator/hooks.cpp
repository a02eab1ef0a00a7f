// What code compiled with -fsanitize=thread calls, where the emulator answers in the sanitizer's place.
#include "../emulated.h"

// Aligned to their size, but for the functions that are named unaligned.
#define PCF_ACCESS(kind, writes, bytes)                                                                                \
    extern "C" void __tsan_##kind##bytes(void* p) {                                                                    \
        pcf::emulated::note_plain(p, bytes, writes, bytes, __builtin_return_address(0));                               \
    }                                                                                                                  \
    extern "C" void __tsan_unaligned_##kind##bytes(void* p) {                                                          \
        pcf::emulated::note_plain(p, bytes, writes, 1, __builtin_return_address(0));                                   \
    }
#define PCF_ACCESSES(bytes) PCF_ACCESS(read, false, bytes) PCF_ACCESS(write, true, bytes)
PCF_ACCESSES(1)
PCF_ACCESSES(2)
PCF_ACCESSES(4)
PCF_ACCESSES(8)
PCF_ACCESSES(16)
extern "C" void __tsan_read_range(void* p, size_t bytes) {
    pcf::emulated::note_plain(p, bytes, false, 1, __builtin_return_address(0));
}
extern "C" void __tsan_write_range(void* p, size_t bytes) {
    pcf::emulated::note_plain(p, bytes, true, 1, __builtin_return_address(0));
}
extern "C" void __tsan_init() {}
extern "C" void __tsan_func_entry(void*) {}
extern "C" void __tsan_func_exit() {}
extern "C" void __tsan_vptr_update(void**, void*) {}
extern "C" void __tsan_vptr_read(void**) {}

// Atomics of host code in the same files (guards of static variables, reference counts): done, and not watched.
#define PCF_ATOMICS(bits, T)                                                                                           \
    extern "C" T __tsan_atomic##bits##_load(const volatile T* p, int) { return __atomic_load_n(p, __ATOMIC_SEQ_CST); } \
    extern "C" void __tsan_atomic##bits##_store(volatile T* p, T v, int) { __atomic_store_n(p, v, __ATOMIC_SEQ_CST); } \
    extern "C" T __tsan_atomic##bits##_fetch_add(volatile T* p, T v, int) {                                            \
        return __atomic_fetch_add(p, v, __ATOMIC_SEQ_CST);                                                             \
    }
PCF_ATOMICS(8, uint8_t)
PCF_ATOMICS(32, uint32_t)
PCF_ATOMICS(64, uint64_t)
