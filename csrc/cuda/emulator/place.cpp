// Where in the sources a line of code stands, and what memory is nobody's array.
#include "state.h"

#include <cstdio>
#include <dlfcn.h>
#include <link.h>
#include <pthread.h>
#include <sstream>
#include <unordered_map>

namespace pcf::emulated {
namespace {

struct Range {
    uintptr_t begin = 0, end = 0;
    bool has(const void* p) const { return reinterpret_cast<uintptr_t>(p) - begin < end - begin; }
};

// This module's code, constants and variables.
const Range& module_range() {
    static const Range found = [] {
        Range range;
        dl_iterate_phdr(
            [](dl_phdr_info* info, size_t, void* out) {
                Range here{~uintptr_t(0), 0};
                for (int i = 0; i < info->dlpi_phnum; ++i) {
                    if (info->dlpi_phdr[i].p_type != PT_LOAD) continue;
                    const uintptr_t begin = info->dlpi_addr + info->dlpi_phdr[i].p_vaddr;
                    here.begin = std::min(here.begin, begin);
                    here.end = std::max(here.end, begin + info->dlpi_phdr[i].p_memsz);
                }
                if (!here.has(&threadIdx)) return 0;
                *static_cast<Range*>(out) = here;
                return 1;
            },
            &range);
        return range;
    }();
    return found;
}

Range host_stack;

std::string look_up(const void* place) {
    Dl_info info;
    if (!dladdr(place, &info) || !info.dli_fname) return "";
    char address[32];
    std::snprintf(address, sizeof(address), "0x%zx",
                  size_t(static_cast<const char*>(place) - static_cast<const char*>(info.dli_fbase)) - 1);
    const std::string tool = std::string("addr2line -Cfie '") + info.dli_fname + "' " + address;
    std::string said;
    if (FILE* lines = popen((tool + " 2>/dev/null").c_str(), "r")) {
        char text[512];
        while (const size_t count = std::fread(text, 1, sizeof(text), lines)) said.append(text, count);
        pclose(lines);
    }
    // A function and a line, innermost first, then those around it. The innermost may be what stands for CUDA's own.
    std::string line, around, one, other;
    std::istringstream lines(said);
    while (std::getline(lines, one) && std::getline(lines, other)) {
        around = one;
        if (line.empty() && other.find("/emulated.h:") == std::string::npos) line = other;
    }
    if (line.empty() || line[0] == '?') return " (" + tool + ")";
    for (const char* space : {"(anonymous namespace)::", "pcf::", "cuda::"})
        for (size_t at; (at = around.find(space)) != std::string::npos;) around.erase(at, std::strlen(space));
    if (around.compare(0, 5, "void ") == 0) around.erase(0, 5); // of a template
    line.erase(0, line.rfind('/') + 1);
    return " (" + line.substr(0, line.find(' ')) + ", in " + around.substr(0, around.find('(')) + ")";
}

} // namespace

std::string source_of(const void* place) {
    static std::unordered_map<const void*, std::string> known; // a program is started for each
    if (!place) return "";
    const auto [found, made] = known.try_emplace(place);
    if (made) found->second = look_up(place);
    return found->second;
}

void begin_own() {
    thread_local Range mine;
    if (mine.end == 0) {
        pthread_attr_t attributes;
        void* address = nullptr;
        size_t bytes = 0;
        if (pthread_getattr_np(pthread_self(), &attributes) == 0) {
            pthread_attr_getstack(&attributes, &address, &bytes);
            pthread_attr_destroy(&attributes);
        }
        mine = {reinterpret_cast<uintptr_t>(address), reinterpret_cast<uintptr_t>(address) + bytes};
    }
    host_stack = mine;
}

bool is_own(const void* p) { return e.stacks.hold(p) || host_stack.has(p) || module_range().has(p); }

} // namespace pcf::emulated
