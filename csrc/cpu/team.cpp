#include "team.h"

#include <chrono>
#include <utility>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace pcf {
namespace {

constexpr int64_t kSpinNanoseconds = 30'000; // regions follow each other closely
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

// Waits a moment for `done`, before the caller goes to sleep.
template <class Done>
void spin(const Done& done) {
    const int64_t until = nanoseconds() + kSpinNanoseconds;
    while (!done() && nanoseconds() < until)
        for (int i = 0; i < 8; ++i) relax();
}

} // namespace

Team::Team(int threads, std::function<void()> poll) : poll_(std::move(poll)), polled_(nanoseconds()) {
    workers_.reserve(size_t(threads) - 1);
    try {
        for (int i = 1; i < threads; ++i) workers_.emplace_back([this, i] { serve(i); });
    } catch (const std::exception&) {
        // The system has no more threads to give: the job runs on those that there are.
    }
}

Team::~Team() {
    if (getpid() != owner_) {
        for (auto& worker : workers_) worker.detach();
        return;
    }
    {
        std::lock_guard<std::mutex> lock(mutex_);
        closing_ = true;
        round_.fetch_add(1);
    }
    signals_->wake.notify_all();
    for (auto& worker : workers_) worker.join();
    delete signals_;
}

void Team::run(int64_t tasks, const std::function<void(int64_t, int)>& work) {
    if (tasks <= 0) return;
    work_ = &work;
    tasks_ = tasks;
    next_.store(0);
    failed_.store(false);
    error_ = nullptr;
    const bool shared = tasks > 1 && !workers_.empty() && getpid() == owner_;
    if (shared) {
        {
            std::lock_guard<std::mutex> lock(mutex_);
            busy_.store(int(workers_.size()));
            round_.fetch_add(1);
        }
        signals_->wake.notify_all();
    }
    take(0);
    if (shared) {
        spin([this] { return busy_.load() == 0; });
        std::unique_lock<std::mutex> lock(mutex_);
        signals_->done.wait(lock, [this] { return busy_.load() == 0; });
    }
    // Not kept: what was thrown may hold on to the owner of this team.
    if (error_) std::rethrow_exception(std::exchange(error_, nullptr));
}

void Team::serve(int worker) {
    uint64_t seen = 0;
    while (true) {
        spin([&] { return round_.load() != seen; });
        {
            std::unique_lock<std::mutex> lock(mutex_);
            signals_->wake.wait(lock, [&] { return round_.load() != seen; });
            seen = round_.load();
            if (closing_) return;
        }
        take(worker);
        std::lock_guard<std::mutex> lock(mutex_);
        if (busy_.fetch_sub(1) == 1) signals_->done.notify_one();
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
