// IEEE arithmetic while a job runs: round to nearest, subnormals kept. Other libraries (and torch.set_flush_denormal)
// may have told the calling thread otherwise; its own setting comes back at the end. Threads made meanwhile inherit it.
#pragma once
#include <cstdint>

#if defined(__x86_64__)
#include <xmmintrin.h>
#endif

namespace pcf {

class FloatMode {
  public:
#if defined(__x86_64__)
    FloatMode() : saved_(_mm_getcsr()) { _mm_setcsr(0x1f80); }
    ~FloatMode() { _mm_setcsr(saved_); }
#elif defined(__aarch64__)
    FloatMode() {
        __asm__ volatile("mrs %0, fpcr" : "=r"(saved_));
        __asm__ volatile("msr fpcr, %0" : : "r"(uint64_t(0)));
    }
    ~FloatMode() { __asm__ volatile("msr fpcr, %0" : : "r"(saved_)); }
#else
    FloatMode() {}
#endif
    FloatMode(const FloatMode&) = delete;
    FloatMode& operator=(const FloatMode&) = delete;

  private:
#if defined(__x86_64__)
    unsigned saved_;
#elif defined(__aarch64__)
    uint64_t saved_;
#endif
};

} // namespace pcf
