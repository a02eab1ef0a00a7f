// Greedy inside the candidates: the picks that the plain algorithm would make next.
//
// All candidates are up to date, so their values are exact. The few with the largest keys form a block; the plain
// algorithm runs in it for as long as its maximum ranks before everything else. Who may come closer to whom inside
// the block is one square of tiles; those pairs, a handful a pick, are settled in float64 as the picks are made.
#include "kcenter_parts.h"

#include <algorithm>

namespace pcf {
namespace {

bool by_rank(const Rank& a, const Rank& b) { return a.before(b); }

// The first of the largest values.
int64_t first_largest(const double* key, int64_t count) {
    double largest = key[0];
    for (int64_t i = 1; i < count; ++i) largest = key[i] > largest ? key[i] : largest;
    return std::find(key, key + count, largest) - key;
}

} // namespace

struct KCenter::Block {
    Block(const Frame& frame, int64_t size)
        : points(frame, size), lanes(frame, (size + frame.kernel().lanes - 1) / frame.kernel().lanes),
          near(size_t(points.blocks(size) * points.per_block() * lanes.groups())), key(size_t(size)) {}
    std::vector<int64_t> rows; // ascending
    Points points;
    Lanes lanes;
    std::vector<uint32_t> near; // [rows][groups]: which lanes a row may be nearer to than any pick
    std::vector<double> key;
    std::vector<int64_t> accepted;
    std::vector<double> squared; // of the accepted, when they were
};

Picks KCenter::resolve(const int64_t* rows, int64_t count, const Rank* outside, int64_t quota, int64_t block) {
    Picks picks;
    const int64_t per_group = kernel_.lanes;
    Lanes packed(frame_, (count + per_group - 1) / per_group);
    Block top(frame_, std::min(block, count));
    std::vector<Rank> rank;
    while (true) {
        rank.clear();
        for (int64_t i = 0; i < count; ++i)
            if (squared_[rows[i]] >= 0) rank.push_back({key(rows[i]), rows[i]});
        if (rank.empty()) break;
        const Rank* limit = outside;
        Rank rest{};
        if (int64_t(rank.size()) > block) {
            std::nth_element(rank.begin(), rank.begin() + block, rank.end(), by_rank);
            rest = rank[size_t(block)];
            if (!limit || rest.before(*limit)) limit = &rest;
            rank.resize(size_t(block));
        }
        top.rows.clear();
        for (const Rank& r : rank) top.rows.push_back(r.row);
        std::sort(top.rows.begin(), top.rows.end());
        greedy(top, limit, quota - int64_t(picks.rows.size()));
        if (top.accepted.empty()) break; // the first in rank may lie outside
        picks.rows.insert(picks.rows.end(), top.accepted.begin(), top.accepted.end());
        picks.squared.insert(picks.squared.end(), top.squared.begin(), top.squared.end());
        const bool packs = picks.rows.size() == top.accepted.size();
        append(top.accepted.data(), int64_t(top.accepted.size()));
        if (quota == int64_t(picks.rows.size())) break;
        if (packs)
            team_.run(packed.groups(), [&](int64_t g, int worker) {
                packed.pack(x_, rows + g * per_group, std::min(per_group, count - g * per_group), g,
                            workers_[size_t(worker)]->scratch);
            });
        absorb(packed, rows, count);
    }
    return picks;
}

void KCenter::greedy(Block& block, const Rank* limit, int64_t quota) {
    const int64_t size = int64_t(block.rows.size()), per_group = kernel_.lanes, per_block = kernel_.points;
    const int64_t groups = (size + per_group - 1) / per_group;
    float* threshold = block.lanes.thresholds();
    for (int64_t i = 0; i < groups * per_group; ++i) {
        const int64_t r = block.rows[size_t(std::min(i, size - 1))];
        const bool open = i < size && squared_[r] > 0;
        threshold[i] = open ? bound_.threshold(w_[size_t(r)], rho_[size_t(r)], squared_[r]) : kNever;
    }
    block.points.open(0, size);
    team_.run(std::max(groups, block.points.blocks(size)), [&](int64_t task, int worker) {
        const Scratch& scratch = workers_[size_t(worker)]->scratch;
        if (task < groups)
            block.lanes.pack(x_, block.rows.data() + task * per_group, std::min(per_group, size - task * per_group),
                             task, scratch);
        for (int64_t i = task * per_block; i < std::min(size, (task + 1) * per_block); ++i) {
            frame_.row(x_, block.rows[size_t(i)], scratch.rows.get(), scratch.spare.get());
            block.points.put(i, scratch.rows.get(), w_[size_t(block.rows[size_t(i)])]);
        }
    });
    team_.run(block.points.blocks(size), [&](int64_t b, int worker) {
        const Scratch& scratch = workers_[size_t(worker)]->scratch;
        const TileScope scope(kernel_);
        for (int64_t g = 0; g < groups; ++g) {
            kernel_.tile(block.lanes.group(g), block.points.block(b), frame_.depth(), block.points.half(b),
                         threshold + g * per_group, scratch.masks.get(), scratch.values.get());
            for (int64_t p = 0; p < per_block; ++p)
                block.near[size_t((b * per_block + p) * groups + g)] = scratch.masks[p];
        }
    });

    for (int64_t i = 0; i < size; ++i) block.key[size_t(i)] = key(block.rows[size_t(i)]);
    block.accepted.clear();
    block.squared.clear();
    Canonical& canonical = workers_[0]->canonical;
    while (int64_t(block.accepted.size()) < quota) {
        const int64_t best = first_largest(block.key.data(), size);
        const int64_t row = block.rows[size_t(best)];
        if (block.key[size_t(best)] < 0 || (limit && !Rank{block.key[size_t(best)], row}.before(*limit))) break;
        const auto place = int32_t(count_ + int64_t(block.accepted.size()));
        block.accepted.push_back(row);
        block.squared.push_back(squared_[row]);
        squared_[row] = block.key[size_t(best)] = -1.0;
        for (int64_t g = 0; g < groups; ++g)
            for (uint32_t mask = block.near[size_t(best * groups + g)]; mask != 0; mask &= mask - 1) {
                const int64_t i = g * per_group + __builtin_ctz(mask), other = block.rows[size_t(i)];
                if (squared_[other] <= 0) continue;
                const double squared = canonical.squared(other, row);
                if (squared >= squared_[other]) continue;
                squared_[other] = squared;
                nearest_[size_t(other)] = place;
                block.key[size_t(i)] = key(other);
            }
    }
}

} // namespace pcf
