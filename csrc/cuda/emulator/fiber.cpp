// See fiber.h. A switch saves what the calling convention says a function must preserve, and nothing else.
#include "fiber.h"

#include <cstdint>
#include <cstring>
#include <new>
#include <sys/mman.h>
#include <unistd.h>

#ifdef PCF_SWITCH
extern "C" __attribute__((visibility("hidden"))) void pcf_switch_stack(void** save, void* next);
asm(R"(
.text
.globl pcf_switch_stack
.hidden pcf_switch_stack
.type pcf_switch_stack, @function
pcf_switch_stack:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
.size pcf_switch_stack, .-pcf_switch_stack
)");
#endif

namespace pcf::emulated {
namespace {

constexpr size_t kStack = 128 << 10;
constexpr int kSaved = 6; // registers that a switch pushes

size_t guard() { return size_t(sysconf(_SC_PAGESIZE)); }

} // namespace

Stacks::Stacks(int count) : bytes_(size_t(count) * kStack) {
    void* memory = mmap(nullptr, bytes_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED) throw std::bad_alloc();
    memory_ = static_cast<char*>(memory);
    for (int i = 0; i < count; ++i) mprotect(memory_ + size_t(i) * kStack, guard(), PROT_NONE);
}

Stacks::~Stacks() { munmap(memory_, bytes_); }

void switch_to(Context& save, Context& next) {
#ifdef PCF_SWITCH
    pcf_switch_stack(&save.stack_pointer, next.stack_pointer);
#else
    swapcontext(&save.context, &next.context);
#endif
}

void Stacks::begin(int i, Context& out, void (*entry)()) {
    // Tops at different places in a page: else all stacks would compete for the same few lines of the cache.
    const size_t shift = size_t(i % 32) * 192;
#ifdef PCF_SWITCH
    // What pcf_switch_stack pops: registers, then entry as the address to return to; above it, as after a call, the
    // address that entry would return to.
    auto* top = reinterpret_cast<uintptr_t*>(memory_ + size_t(i + 1) * kStack - shift - 64);
    uintptr_t* at = top - 1;
    *at = 0;
    *--at = reinterpret_cast<uintptr_t>(entry);
    for (int r = 0; r < kSaved; ++r) *--at = 0;
    out.stack_pointer = at;
#else
    getcontext(&out.context);
    out.context.uc_stack.ss_sp = memory_ + size_t(i) * kStack + guard();
    out.context.uc_stack.ss_size = kStack - guard() - shift;
    out.context.uc_link = nullptr;
    makecontext(&out.context, entry, 0);
#endif
}

} // namespace pcf::emulated
