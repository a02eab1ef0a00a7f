// The core without Python: every kernel that runs here, against arithmetic written in the plainest way.
//
//   battery             everything
//   battery tiles team  some parts
//
// CI runs it under AddressSanitizer, UndefinedBehaviorSanitizer and ThreadSanitizer.
#include "battery.h"

#include <chrono>
#include <cstring>
#include <mutex>

namespace battery {
namespace {

std::mutex mutex;
int failures = 0;

} // namespace

void fail(const char* file, int line, const std::string& what) {
    const std::lock_guard<std::mutex> lock(mutex);
    if (++failures > 30) return;
    const char* slash = std::strrchr(file, '/');
    std::printf("FAILED %s:%d: %s\n", slash ? slash + 1 : file, line, what.c_str());
}

} // namespace battery

int main(int argc, char** argv) {
    struct Part {
        const char* name;
        void (*run)();
    };
    constexpr Part parts[] = {{"tiles", battery::tiles},
                              {"bounds", battery::bounds},
                              {"kcenter", battery::kcenter},
                              {"neighbours", battery::neighbours},
                              {"prepared", battery::prepared},
                              {"team", battery::team}};
    battery::kernels();
    int ran = 0;
    for (const Part& part : parts) {
        bool wanted = argc == 1;
        for (int i = 1; i < argc; ++i) wanted = wanted || std::strcmp(argv[i], part.name) == 0;
        if (!wanted) continue;
        const auto begin = std::chrono::steady_clock::now();
        try {
            part.run();
        } catch (const std::exception& e) {
            battery::fail(part.name, 0, std::string("ended by an exception: ") + e.what());
        }
        const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - begin;
        std::printf("%s: %.1f s\n", part.name, seconds.count());
        ++ran;
    }
    if (ran == 0) {
        std::printf("no such part: want tiles, bounds, kcenter, neighbours, prepared, team\n");
        return 2;
    }
    if (battery::failures)
        std::printf("%d checks FAILED\n", battery::failures);
    else
        std::printf("all checks passed\n");
    return battery::failures ? 1 : 0;
}
