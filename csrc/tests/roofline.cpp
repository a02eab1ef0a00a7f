// What this machine can do at most, and what the parts of each kernel do here: JSON on the standard output.
//
//   roofline                  five rounds, 10 ms a measurement, on 1 thread and on as many as there are cores
//   roofline ROUNDS MS [THREADS]
//
// Rounds go over all measurements in turn, so that a slow spell of the machine hits all. A rate counts from the moment
// when every thread is ready until the last is done. Before anything is timed, each kernel's tile is held against
// plain loops on integers, where every kernel is exact.
#include "cpu/source.h"
#include "roofline.h"

#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <limits>
#include <string>
#include <thread>

using namespace pcf;

namespace {

double now() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

int64_t cache(int level, int64_t otherwise) { // some virtual machines do not say
    long bytes = 0;
#ifdef _SC_LEVEL1_DCACHE_SIZE
    bytes = sysconf(level == 1 ? _SC_LEVEL1_DCACHE_SIZE : level == 2 ? _SC_LEVEL2_CACHE_SIZE : _SC_LEVEL3_CACHE_SIZE);
#endif
    return bytes > 0 ? bytes : otherwise;
}

const int64_t kL1 = cache(1, 32 << 10), kL2 = cache(2, 1 << 20), kL3 = cache(3, 32 << 20);
constexpr int64_t kPanelBytes = 32 << 10; // packed lanes that the engine keeps in the first-level cache

struct Probe {
    std::string list, labels; // where it is printed, and its JSON members
    bool rate;                // else nanoseconds a piece
    int threads;
    double work; // of one turn of one thread: operations or bytes, or pieces
    std::function<void(int thread, int64_t turns)> run;
    int64_t turns;
    std::vector<double> found;

    Probe(const char* in, std::string what, bool is_rate, int team, double of_a_turn,
          std::function<void(int, int64_t)> body)
        : list(in), labels(std::move(what)), rate(is_rate), threads(team), work(of_a_turn), run(std::move(body)),
          turns(1) {}

    double seconds() const {
        std::atomic<int> ready{0};
        std::atomic<bool> go{false};
        std::vector<double> end(static_cast<size_t>(threads));
        const auto body = [&](int thread) {
            ++ready;
            while (!go.load()) {
            }
            run(thread, turns);
            end[size_t(thread)] = now();
        };
        std::vector<std::thread> others;
        for (int t = 1; t < threads; ++t) others.emplace_back(body, t);
        while (ready.load() < threads - 1) {
        }
        const double begin = now();
        go = true;
        body(0);
        for (auto& other : others) other.join();
        return *std::max_element(end.begin(), end.end()) - begin;
    }
    // On one thread: to start more costs time of its own. The shorter of two, as a pause would look like work.
    void calibrate(double wanted) {
        const auto alone = [&] {
            const double begin = now();
            run(0, turns);
            return now() - begin;
        };
        double taken = std::min(alone(), alone());
        while (taken < wanted / 2 && turns < int64_t(1) << 40) {
            turns *= 2;
            taken = std::min(alone(), alone());
        }
        turns = std::max<int64_t>(1, int64_t(double(turns) * wanted / std::max(taken, 1e-9)));
    }
    void measure() {
        const double taken = seconds();
        found.push_back(rate ? work * double(turns) * threads / taken / 1e9 : taken * 1e9 / (work * double(turns)));
    }
};

// Bytes that are ordinary values for every kernel: bfloat16 1.0 to 2.0, hence float32 of that size, and integers.
struct Arena {
    explicit Arena(int64_t bytes) : memory(bytes), size(bytes) {
        uint64_t word = 88172645463325252u;
        for (int64_t i = 0; i < bytes / 8; ++i) {
            word ^= word << 13, word ^= word >> 7, word ^= word << 17;
            const uint64_t value = (word & 0x807f807f807f807fu) | 0x3f803f803f803f80u;
            std::memcpy(memory.get() + 8 * i, &value, 8);
        }
    }
    Aligned<char> memory;
    int64_t size;
};

std::string text(const char* format, ...) __attribute__((format(printf, 1, 2)));
std::string text(const char* format, ...) {
    char line[256];
    va_list values;
    va_start(values, format);
    std::vsnprintf(line, sizeof line, format, values);
    va_end(values);
    return line;
}

// On small integers every kernel is exact: the tile must give what plain loops give.
bool right(const TileKernel& kernel, int64_t depth) {
    std::vector<float> x(size_t(kernel.lanes * depth)), y(size_t(kernel.points * depth));
    for (size_t i = 0; i < x.size(); ++i) x[i] = float(int(i * 7 % 13) - 6);
    for (size_t i = 0; i < y.size(); ++i) y[i] = float(int(i * 5 % 11) - 5);
    const Aligned<char> group(kernel.lanes * depth * kernel.bytes), block(kernel.points * depth * kernel.bytes);
    kernel.pack_lanes(x.data(), depth, group.get());
    for (int p = 0; p < kernel.points; ++p) kernel.pack_point(y.data() + p * depth, depth, block.get(), p);
    const Aligned<float> half(32), lowest(32), values(32 * 32);
    const Aligned<uint32_t> masks(32);
    std::fill_n(half.get(), 32, -3.0f);
    std::fill_n(lowest.get(), 32, -std::numeric_limits<float>::max());
    kernel.begin();
    kernel.tile(group.get(), block.get(), depth, half.get(), lowest.get(), masks.get(), values.get());
    kernel.end();
    for (int p = 0; p < kernel.points; ++p)
        for (int l = 0; l < kernel.lanes; ++l) {
            double sum = -3;
            for (int64_t k = 0; k < depth; ++k) sum += double(x[size_t(l * depth + k)]) * y[size_t(p * depth + k)];
            if (double(values[p * kernel.lanes + l]) != sum) return false;
        }
    return true;
}

struct Set {
    const char* name;
    int64_t bytes; // of packed points
};

void add_tiles(std::vector<Probe>& probes, const TileKernel& kernel, int64_t depth, int threads,
               const std::vector<Arena>& arenas) {
    const int64_t group = kernel.lanes * depth * kernel.bytes, block = kernel.points * depth * kernel.bytes;
    for (const Set set : {Set{"L1", kL1 / 4}, Set{"L2", kL2 / 2}, Set{"L3", 4 * kL2}}) {
        const bool near = std::strcmp(set.name, "L1") == 0;
        const int64_t blocks = std::max<int64_t>(1, set.bytes / block);
        const int64_t room = std::min(kPanelBytes, near ? kL1 * 3 / 4 - blocks * block : kL1 * 3 / 4);
        const int64_t groups = std::max<int64_t>(1, std::min<int64_t>(16, room / group));
        const bool panel_near = groups * group <= kL1 * 3 / 4;
        if (near && groups * group + blocks * block > kL1 * 7 / 8) continue; // rows too long for this cache
        const double flops = 2.0 * kernel.lanes * kernel.points * double(depth);
        // What a tile reads from that level: the points once for a panel of lanes; from the second level the lanes too,
        // where they do not stay in the first.
        double bytes = double(group + block);
        if (!near) bytes = double(block) / double(groups) + (panel_near || set.bytes > kL2 ? 0 : double(group));
        probes.push_back({"tiles",
                          text("\"isa\": \"%s\", \"depth\": %lld, \"set\": \"%s\", \"points_bytes\": %lld, "
                               "\"panel_bytes\": %lld, \"intensity\": %.3f",
                               kernel.name, (long long)depth, set.name, (long long)(blocks * block),
                               (long long)(groups * group), flops / bytes),
                          true, threads, flops * double(blocks * groups),
                          [=, &kernel, &arenas](int thread, int64_t turns) {
                              const char* lanes = arenas[size_t(thread)].memory.get();
                              const char* points = lanes + (1 << 20);
                              const Aligned<float> half(32), never(32), values(32 * 32);
                              const Aligned<uint32_t> masks(32);
                              std::fill_n(half.get(), 32, -1.0f);
                              std::fill_n(never.get(), 32, std::numeric_limits<float>::infinity());
                              kernel.begin();
                              for (int64_t i = 0; i < turns; ++i)
                                  for (int64_t b = 0; b < blocks; ++b)
                                      for (int64_t g = 0; g < groups; ++g)
                                          kernel.tile(lanes + g * group, points + b * block, depth, half.get(),
                                                      never.get(), masks.get(), values.get());
                              kernel.end();
                          }});
    }
}

// The rest of the work, a row or a pair at a time, on rows that lie in the second-level cache.
void add_rows(std::vector<Probe>& probes, const TileKernel& kernel, int64_t depth, int threads,
              const std::vector<Arena>& arenas) {
    const int64_t rows = std::max<int64_t>(1, kL2 / 4 / (kernel.lanes * depth * 4)) * kernel.lanes;
    const auto add = [&](const char* what, std::function<void(const float*)> work) {
        probes.push_back({"rows",
                          text("\"isa\": \"%s\", \"depth\": %lld, \"what\": \"%s\"", kernel.name,
                               (long long)depth, what),
                          false, threads, double(rows), [=, &arenas](int thread, int64_t turns) {
                              const auto* x = reinterpret_cast<const float*>(arenas[size_t(thread)].memory.get());
                              for (int64_t i = 0; i < turns; ++i) work(x);
                          }});
    };
    add("pack_lanes", [=, &kernel](const float* x) {
        const Aligned<char> out(kernel.lanes * depth * kernel.bytes);
        for (int64_t i = 0; i < rows; i += kernel.lanes) kernel.pack_lanes(x + i * depth, depth, out.get());
    });
    add("pack_point", [=, &kernel](const float* x) {
        const Aligned<char> out(kernel.points * depth * kernel.bytes);
        for (int64_t i = 0; i < rows; ++i) kernel.pack_point(x + i * depth, depth, out.get(), int(i % kernel.points));
    });
    add("measure", [=, &kernel](const float* x) {
        double norm2[3] = {};
        for (int64_t i = 0; i < rows; ++i) kernel.measure(x + i * depth, depth, norm2);
    });
    add("canonical", [=, &kernel](const float* x) {
        std::vector<double> scratch(static_cast<size_t>(depth));
        volatile double kept = 0;
        for (int64_t i = 0; i < rows; ++i)
            kept = kernel.squared_f32(x + i * depth, x + (i * 37 + 11) % rows * depth, depth, scratch.data());
        (void)kept;
    });
}

void print(const std::vector<Probe>& probes, const char* list) {
    std::printf(",\n  \"%s\": [", list);
    bool first = true;
    for (const Probe& p : probes) {
        if (p.list != list) continue;
        std::vector<double> found = p.found;
        std::sort(found.begin(), found.end());
        const double median = (found[(found.size() - 1) / 2] + found[found.size() / 2]) / 2;
        std::printf("%s\n    {%s, \"threads\": %d, \"median\": %.5g, \"best\": %.5g}", first ? "" : ",",
                    p.labels.c_str(), p.threads, median, p.rate ? found.back() : found.front());
        first = false;
    }
    std::printf("\n  ]");
}

} // namespace

int main(int argc, char** argv) {
    const int rounds = argc > 1 ? std::atoi(argv[1]) : 5;
    const double wanted = (argc > 2 ? std::atof(argv[2]) : 10.0) / 1000;
    const int cores = argc > 3 ? std::atoi(argv[3]) : int(std::thread::hardware_concurrency());
    if (rounds < 1 || !(wanted > 0) || cores < 1) {
        std::fprintf(stderr, "roofline ROUNDS MS [THREADS]: at least 1, more than 0, at least 1 are wanted\n");
        return 2;
    }
    std::vector<int> teams{1};
    if (cores > 1) teams.push_back(cores);
    // Together larger than the last cache, where that can be had.
    const int64_t memory = std::clamp<int64_t>(kL3 + kL3 / 5, 256 << 20, 640 << 20) / cores / 4096 * 4096;
    std::vector<Arena> arenas;
    for (int i = 0; i < cores; ++i) arenas.emplace_back(std::max(memory, 5 * kL2 + (2 << 20)));

    std::vector<Probe> probes;
    for (int threads : teams) {
#if defined(__x86_64__)
        for (const Peak& peak : kPeaks) {
            if (!isa_refusal(peak.isa).empty()) continue;
            const std::string what =
                text("\"isa\": \"%s\", \"instruction\": \"%s\"", isa_name(peak.isa), peak.instruction);
            probes.push_back({"peaks", what, true, threads, peak.operations,
                              [&peak](int, int64_t turns) { peak.run(turns); }});
        }
        for (const Set level : {Set{"L1", kL1 / 2 / 4096 * 4096}, Set{"L2", kL2 / 2}, Set{"L3", 4 * kL2},
                                Set{"memory", memory}}) {
            const std::string what = text("\"level\": \"%s\", \"bytes\": %lld", level.name, (long long)level.bytes);
            probes.push_back({"bandwidth", what, true, threads, double(level.bytes),
                              [=, &arenas](int thread, int64_t turns) {
                                  const auto read = reader();
                                  const char* from = arenas[size_t(thread)].memory.get();
                                  for (int64_t i = 0; i < turns; ++i) read(from, level.bytes);
                              }});
        }
#endif
        for (Isa isa : all_isas) {
            if (!isa_refusal(isa).empty()) continue;
            const TileKernel& kernel = kernel_of(isa);
            for (int64_t depth : {128, 256, 512, 1024}) {
                if (!right(kernel, depth)) {
                    std::fprintf(stderr, "roofline: the tile of %s is WRONG, depth %d\n", kernel.name, int(depth));
                    return 1;
                }
                add_tiles(probes, kernel, depth, threads, arenas);
                add_rows(probes, kernel, depth, threads, arenas);
            }
        }
    }
    for (Probe& p : probes) p.calibrate(wanted);
    for (int round = 0; round < rounds; ++round)
        for (Probe& p : probes) p.measure();

    std::printf("{\n  \"rounds\": %d, \"milliseconds\": %g, \"cores\": %d,\n", rounds, wanted * 1000, cores);
    std::printf("  \"caches\": {\"L1\": %lld, \"L2\": %lld, \"L3\": %lld},\n  \"kernels\": [", (long long)kL1,
                (long long)kL2, (long long)kL3);
    bool first = true;
    for (Isa isa : all_isas) {
        if (!isa_refusal(isa).empty()) continue;
        const TileKernel& k = kernel_of(isa);
        std::printf("%s\n    {\"isa\": \"%s\", \"lanes\": %d, \"points\": %d, \"bytes\": %d}", first ? "" : ",",
                    k.name, k.lanes, k.points, k.bytes);
        first = false;
    }
    std::printf("\n  ]");
    for (const char* list : {"peaks", "bandwidth", "tiles", "rows"}) print(probes, list);
    std::printf("\n}\n");
    return 0;
}
