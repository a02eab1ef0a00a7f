// The threads of a job: every task once, exceptions, the call between tasks.
#include "battery.h"
#include "cpu/team.h"

#include <chrono>
#include <stdexcept>
#include <thread>

namespace battery {
namespace {

using std::chrono::milliseconds;

void every_task_once(int threads) {
    Team team(threads, nullptr);
    CHECK(team.size() == threads, "number of threads");
    for (int64_t tasks : {0, 1, 2, 7, 1000}) {
        std::vector<int> done(static_cast<size_t>(tasks)), by(static_cast<size_t>(threads));
        team.run(tasks, [&](int64_t task, int worker) { // plain counters: the thread sanitizer would see two at one
            ++done[size_t(task)];
            ++by[size_t(worker)];
        });
        int64_t sum = 0;
        for (int count : done) CHECK(count == 1, "a task that did not run once");
        for (int count : by) sum += count;
        CHECK(sum == tasks, "tasks by worker");
    }
    int64_t sum = 0;
    for (int round = 0; round < (kSlow ? 200 : 1000); ++round) { // what workers write is there when run returns
        std::vector<int64_t> parts(4);
        team.run(4, [&](int64_t task, int) { parts[size_t(task)] = round + task; });
        for (int64_t part : parts) sum += part;
    }
    CHECK(sum > 0, "sums");
}

void exceptions(int threads) {
    Team team(threads, nullptr);
    for (int64_t bad : {0, 3, 99})
        for (int repeat = 0; repeat < 5; ++repeat) {
            std::atomic<int> ran{0};
            try {
                team.run(100, [&](int64_t task, int) {
                    ++ran;
                    if (task == bad) throw std::runtime_error(std::to_string(task));
                });
                CHECK(false, "an exception was lost");
            } catch (const std::runtime_error& e) {
                CHECK(e.what() == std::to_string(bad), "another exception");
            }
            CHECK(ran.load() <= 100, "more tasks than there are");
            int after = 0;
            team.run(1, [&](int64_t, int) { ++after; });
            CHECK(after == 1, "the team does not work after an exception");
        }
}

void poll_ends_a_job(int threads) {
    int polled = 0;
    std::atomic<int> ran{0};
    const auto begin = std::chrono::steady_clock::now(); // before the team: its 50 ms count from its construction
    Team team(threads, [&] {
        if (++polled == 3) throw std::runtime_error("enough");
    });
    try {
        team.run(1000, [&](int64_t, int) {
            ++ran;
            std::this_thread::sleep_for(milliseconds(5));
        });
        CHECK(false, "poll's exception was lost");
    } catch (const std::runtime_error&) {
    }
    CHECK(polled == 3 && ran.load() < 1000 && ran.load() >= 3, "poll did not end the job");
    const auto lasted = std::chrono::steady_clock::now() - begin;
    // No longer than so often: a machine that stands still for seconds must not fail this. That it is called is above.
    CHECK(lasted >= milliseconds(140), "poll is called more often than every 50 ms");
}

} // namespace

void team() {
    for (int threads : {1, 2, 5}) {
        every_task_once(threads);
        exceptions(threads);
        poll_ends_a_job(threads);
    }
    for (int i = 0; i < 50; ++i) const Team unused(3, nullptr);
    std::vector<std::thread> callers;
    for (int i = 0; i < 4; ++i) callers.emplace_back([] { every_task_once(2); });
    for (auto& caller : callers) caller.join();
    std::printf("team: tasks, exceptions, poll, teams side by side\n");
}

} // namespace battery
