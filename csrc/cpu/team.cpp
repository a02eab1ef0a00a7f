#include "team.h"

#include <chrono>
#include <system_error>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace pcf {
namespace {

constexpr int kSpins = 4000; // tens of microseconds: regions follow each other closely
constexpr int64_t kPollNanoseconds = 50'000'000;

void relax() {
#if defined(__x86_64__)
    _mm_pause();
#else
    std::this_thread::yield();
#endif
}

int64_t nanoseconds() {
    return std::chrono::duration_cast<std::chrono::nanoseconds>(
               std::chrono::steady_clock::now().time_since_epoch()).count();
}

} // namespace

Team::Team(int threads, std::function<void()> poll) : poll_(std::move(poll)), polled_(nanoseconds()) {
    try {
        for (int i = 1; i < threads; ++i) workers_.emplace_back([this, i] { serve(i); });
    } catch (const std::system_error&) {
        // The system has no more threads to give: the job runs on those that there are.
    }
}

Team::~Team() {
    {
        std::lock_guard<std::mutex> lock(mutex_);
        closing_ = true;
        round_.fetch_add(1);
    }
    wake_.notify_all();
    for (auto& worker : workers_) worker.join();
}

void Team::run(int64_t tasks, const std::function<void(int64_t, int)>& work) {
    if (tasks <= 0) return;
    work_ = &work;
    tasks_ = tasks;
    next_.store(0);
    failed_.store(false);
    error_ = nullptr;
    const bool shared = tasks > 1 && !workers_.empty();
    if (shared) {
        {
            std::lock_guard<std::mutex> lock(mutex_);
            busy_.store(int(workers_.size()));
            round_.fetch_add(1);
        }
        wake_.notify_all();
    }
    take(0);
    if (shared) {
        for (int i = 0; i < kSpins && busy_.load() > 0; ++i) relax();
        std::unique_lock<std::mutex> lock(mutex_);
        done_.wait(lock, [this] { return busy_.load() == 0; });
    }
    if (error_) std::rethrow_exception(error_);
}

void Team::serve(int worker) {
    uint64_t seen = 0;
    while (true) {
        for (int i = 0; i < kSpins && round_.load() == seen; ++i) relax();
        {
            std::unique_lock<std::mutex> lock(mutex_);
            wake_.wait(lock, [&] { return round_.load() != seen; });
            seen = round_.load();
            if (closing_) return;
        }
        take(worker);
        std::lock_guard<std::mutex> lock(mutex_);
        if (busy_.fetch_sub(1) == 1) done_.notify_one();
    }
}

void Team::take(int worker) {
    try {
        for (int64_t task = next_.fetch_add(1); task < tasks_ && !failed_.load(); task = next_.fetch_add(1)) {
            (*work_)(task, worker);
            if (worker == 0) poll_if_due();
        }
    } catch (...) {
        std::lock_guard<std::mutex> lock(mutex_);
        if (!error_) error_ = std::current_exception();
        failed_.store(true);
    }
}

void Team::poll_if_due() {
    const int64_t now = nanoseconds();
    if (!poll_ || now - polled_ < kPollNanoseconds) return;
    polled_ = now;
    poll_();
}

} // namespace pcf
