// The threads of one job. No pool outlives its job, so a forked child inherits none, and jobs never share threads.
#pragma once
#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <exception>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

#include <unistd.h>

namespace pcf {

class Team {
  public:
    // `poll` is called by the calling thread about every 50 ms while it works; what it throws ends the job.
    Team(int threads, std::function<void()> poll);
    ~Team();
    Team(const Team&) = delete;
    Team& operator=(const Team&) = delete;

    int size() const { return int(workers_.size()) + 1; }
    // work(task, worker) for every task in 0..tasks, by whichever worker is free; returns when all are done. The
    // first exception is rethrown here, and the tasks that have not begun are dropped.
    void run(int64_t tasks, const std::function<void(int64_t, int)>& work);

  private:
    void serve(int worker);
    void take(int worker);
    void poll_if_due();

    std::function<void()> poll_;
    int64_t polled_ = 0; // nanoseconds
    std::vector<std::thread> workers_;
    const std::function<void(int64_t, int)>* work_ = nullptr;
    int64_t tasks_ = 0;
    std::atomic<int64_t> next_{0};
    std::atomic<int> busy_{0};
    std::atomic<uint64_t> round_{0};
    std::atomic<bool> failed_{false};
    bool closing_ = false;
    std::exception_ptr error_;
    std::mutex mutex_;
    // Not destroyed in a process forked while the job was open: there they would wait for threads that do not exist.
    struct Signals {
        std::condition_variable wake, done;
    };
    Signals* signals_ = new Signals;
    const int owner_ = getpid();
};

} // namespace pcf
