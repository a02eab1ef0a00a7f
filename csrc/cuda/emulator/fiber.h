// Stacks to switch between: the threads of an emulated block.
#pragma once
#include <cstddef>
#include <memory>

#if defined(__x86_64__) && !defined(PCF_UCONTEXT)
#define PCF_SWITCH 1 // of our own: the system's sets the signal mask each time
#else
#include <ucontext.h>
#endif

namespace pcf::emulated {

// Where a suspended stack goes on.
struct Context {
#ifdef PCF_SWITCH
    void* stack_pointer = nullptr;
#else
    ucontext_t context;
#endif
};

void switch_to(Context& save, Context& next);

// Room for `count` stacks, each with a page below it that no one may touch.
class Stacks {
  public:
    explicit Stacks(int count);
    ~Stacks();
    Stacks(const Stacks&) = delete;
    Stacks& operator=(const Stacks&) = delete;
    void begin(int i, Context& out, void (*entry)()); // entry never returns
    bool hold(const void* p) const { return size_t(static_cast<const char*>(p) - memory_) < bytes_; }

  private:
    char* memory_;
    size_t bytes_;
};

} // namespace pcf::emulated
