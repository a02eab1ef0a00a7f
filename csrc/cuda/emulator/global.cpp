// See global.h. Blocks run one after another, so that of two blocks the one that ran first is the one that must have
// released what it did; that it ran first is no order by itself.
#include "global.h"

#include <algorithm>

namespace pcf::emulated {
namespace {

constexpr size_t kPage = 256; // elements

} // namespace

void GlobalMemory::watch(bool on) {
    on_ = on;
    begin_launch();
    arrays_.clear();
    found_ = arrays_.end();
}

void GlobalMemory::add(uintptr_t at, size_t bytes, size_t element) {
    if (bytes == 0 || element == 0) return;
    const auto same = arrays_.find(at);
    if (same != arrays_.end() && same->second.bytes == bytes && same->second.element <= element) return;
    auto from = arrays_.lower_bound(at);
    if (from != arrays_.begin() && std::prev(from)->first + std::prev(from)->second.bytes > at) --from;
    arrays_.erase(from, arrays_.lower_bound(at + bytes));
    const size_t elements = (bytes + element - 1) / element;
    Array array{bytes, element, {}};
    array.pages.resize((elements + kPage - 1) / kPage);
    found_ = arrays_.emplace(at, std::move(array)).first;
}

void GlobalMemory::begin_launch() {
    ++launch_;
    histories_.clear();
    releases_.clear();
    readers_.clear();
    writers_.clear();
}

void GlobalMemory::begin_block(uint32_t block, int threads) {
    block_ = block;
    threads_ = threads;
    mine_ = nullptr;
    acquires_.clear();
}

void GlobalMemory::fence(const Moment& now) {
    if (!mine_) {
        mine_ = &histories_[block_];
        mine_->of.resize(size_t(threads_));
    }
    mine_->of[size_t(now.thread)].push_back(now.epoch);
    if (mine_->epochs.empty() || mine_->epochs.back() != now.epoch) mine_->epochs.push_back(now.epoch);
}

uint32_t GlobalMemory::fences_of(int thread) const { return mine_ ? uint32_t(mine_->of[size_t(thread)].size()) : 0; }

std::map<uintptr_t, GlobalMemory::Array>::iterator GlobalMemory::find(uintptr_t at) {
    const auto within = [&](auto array) { return at >= array->first && at < array->first + array->second.bytes; };
    if (found_ != arrays_.end() && within(found_)) return found_;
    auto next = arrays_.upper_bound(at);
    if (next == arrays_.begin() || !within(std::prev(next))) return arrays_.end();
    return found_ = std::prev(next);
}

bool GlobalMemory::holds(uintptr_t at) { return find(at) != arrays_.end(); }

std::string GlobalMemory::where(uintptr_t at) {
    const auto next = arrays_.upper_bound(at);
    if (next == arrays_.begin() && next == arrays_.end()) return "where no array is known";
    const auto& array = next == arrays_.begin() ? *next : *std::prev(next);
    return "at " + std::to_string(int64_t(at - array.first)) + " of an array of " +
           std::to_string(array.second.bytes);
}

GlobalMemory::Cell& GlobalMemory::cell_of(Array& array, size_t element) {
    auto& page = array.pages[element / kPage];
    if (!page) page = std::make_unique<Cell[]>(kPage);
    return page[element % kPage];
}

const char* GlobalMemory::touch(uintptr_t at, size_t bytes, Access access, const Moment& now, const void* place,
                                Touch& other) {
    const auto array = find(at);
    if (array == arrays_.end() || at + bytes > array->first + array->second.bytes)
        return "goes beyond the arrays in global memory";
    if (access == Access::atomic) synchronise(at, now);
    const size_t size = array->second.element, last = (at + bytes - 1 - array->first) / size;
    for (size_t element = (at - array->first) / size; element <= last; ++element)
        if (const char* wrong = touch(cell_of(array->second, element), access, now, place, other)) return wrong;
    return nullptr;
}

const char* GlobalMemory::touch(Cell& cell, Access access, const Moment& now, const void* place, Touch& other) {
    if (cell.launch != launch_) {
        cell = Cell{};
        cell.launch = launch_;
    }
    const bool changes = access == Access::write || access == Access::atomic;
    const bool together = cell.atomic && (access == Access::atomic || access == Access::peek);
    if (!together && !in_order(cell, cell.writer, cell.lost_writer, writers_, now, other))
        return changes ? "writes global memory that another thread writes, with nothing that orders them"
                       : "reads global memory that another thread writes, with nothing that orders them";
    if (access == Access::peek) return nullptr;
    if (!changes) {
        join(cell, cell.reader, cell.lost_reader, readers_, now, place);
        return nullptr;
    }
    if (!in_order(cell, cell.reader, cell.lost_reader, readers_, now, other))
        return "writes global memory that another thread reads, with nothing that orders them";
    if (!together) { // all that came before is in order with this, and whatever is in order with this is with them
        cell.writer = cell.lost_writer = Touch{};
        writers_.erase(&cell);
        if (access == Access::write) {
            cell.reader = cell.lost_reader = Touch{};
            readers_.erase(&cell);
        }
    }
    join(cell, cell.writer, cell.lost_writer, writers_, now, place);
    cell.atomic = access == Access::atomic;
    return nullptr;
}

// Takes the thread among those that touched the cell last.
void GlobalMemory::join(Cell& cell, Touch& last, Touch& lost, Lists& lists, const Moment& now, const void* place) {
    if (last.epoch && last.block != block_) {
        if (histories_.count(last.block)) lists[&cell].push_back(last);
        else lost = last;
        last = Touch{};
    }
    const auto here = uint16_t(now.thread / 32), me = uint16_t(now.thread);
    const uint32_t fences = fences_of(now.thread);
    if (last.epoch != now.epoch || (last.warp == here && last.warp_epoch != now.warp_epoch)) {
        last = {block_, now.epoch, now.warp_epoch, fences, here, me, place};
        return;
    }
    if (last.warp != here) last.warp = last.thread = Touch::kSeveral;
    else if (last.thread != me) last.thread = Touch::kSeveral;
    last.fences = std::max(last.fences, fences);
    last.place = place;
}

bool GlobalMemory::in_order(const Cell& cell, const Touch& last, const Touch& lost, const Lists& lists,
                            const Moment& now, Touch& other) const {
    const auto wrong = [&](const Touch& touch) {
        other = touch;
        return false;
    };
    if (last.epoch && !before(last, now)) return wrong(last);
    if (lost.epoch && lost.block != block_) return wrong(lost);
    const auto list = lists.find(&cell);
    if (list == lists.end()) return true;
    for (const Touch& touch : list->second)
        if (!before(touch, now)) return wrong(touch);
    return true;
}

bool GlobalMemory::before(const Touch& touch, const Moment& now) const {
    if (touch.block == block_) {
        if (touch.epoch != now.epoch || touch.thread == now.thread) return true;
        return touch.warp == now.thread / 32 && touch.warp_epoch < now.warp_epoch;
    }
    for (const Acquire& acquire : acquires_) {
        if (!acquired(acquire.at, now)) continue;
        for (size_t i = 0; i < acquire.count; ++i)
            if ((*acquire.releases)[i].block == touch.block && released(touch, (*acquire.releases)[i])) return true;
    }
    return false;
}

// Whether a fence lies between the touch and the atomic, each behind the other.
bool GlobalMemory::released(const Touch& touch, const Sync& release) const {
    const auto found = histories_.find(touch.block);
    if (found == histories_.end()) return false;
    const History& history = found->second;
    const auto own = [&](size_t thread) { // a fence of a thread that touched
        const auto& epochs = history.of[thread];
        if (int(thread) == release.thread) return touch.fences < release.fences;
        return epochs.size() > touch.fences && epochs[touch.fences] < release.epoch;
    };
    if (touch.thread != Touch::kSeveral) {
        if (own(touch.thread)) return true;
    } else {
        size_t fenced = 0;
        while (fenced < history.of.size() && own(fenced)) ++fenced;
        if (fenced == history.of.size()) return true;
    }
    if (release.fences > 0 && history.of[size_t(release.thread)][release.fences - 1] > touch.epoch) return true;
    const auto between = std::upper_bound(history.epochs.begin(), history.epochs.end(), touch.epoch);
    return between != history.epochs.end() && *between < release.epoch;
}

// Whether a fence lies between an atomic of this block and now.
bool GlobalMemory::acquired(const Sync& acquire, const Moment& now) const {
    if (!mine_) return false;
    const auto& its = mine_->of[size_t(acquire.thread)];
    const auto& own = mine_->of[size_t(now.thread)];
    if (its.size() > acquire.fences && (acquire.thread == now.thread || its[acquire.fences] < now.epoch)) return true;
    if (!own.empty() && own.back() > acquire.epoch) return true;
    const auto between = std::upper_bound(mine_->epochs.begin(), mine_->epochs.end(), acquire.epoch);
    return between != mine_->epochs.end() && *between < now.epoch;
}

// An atomic may acquire what earlier blocks released there, and release what this one has done.
void GlobalMemory::synchronise(uintptr_t at, const Moment& now) {
    const Sync sync{block_, now.epoch, fences_of(now.thread), now.thread};
    const auto found = releases_.find(at);
    if (found != releases_.end()) acquires_.push_back({sync, &found->second, found->second.size()});
    if (mine_) releases_[at].push_back(sync);
}

} // namespace pcf::emulated
