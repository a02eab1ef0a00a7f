// A pass of k-center greedy: what its kernels share, and how they are enqueued. The buffers are those of DeviceKCenter
// in the Python package, by the same names.
#pragma once
#include "kcenter_arrays.h"
#include "mode.h"
#include "status.h"

namespace pcf {

constexpr int kScanned = 1024;                  // rows that the selecting kernels read in a step
constexpr int kTileRows = 128, kTilePicks = 64; // of the update
constexpr int kLeastBlock = 16, kMostBlock = 1024, kMostRoom = 4096;

// Everything the kernels need, passed by value. N rows, P = block, R = room; the arrays are in kcenter_arrays.h.
struct KCenterPass {
    DeviceMatrix x; // [N, D] features as the caller has them
    DeviceMatrix rows; // what fast distances are taken of: x, or a copy in the frame with zeros behind its columns
    DeviceMatrix picked_from; // [*, D] what `pick_row` has rows of: x, or picks of other ranks; of x's type
    Mode mode;    // of halves only where these lie as Feed<Source::direct> reads them: source_of
    void* picks;  // [capacity, pitch] in the frame, 16-byte aligned; in a mode of halves of the features' type
    bool tracked;     // nearest picks are kept: fast distances are not exact
    bool plain;       // `rows` are in the frame: a copy, or there is no centre and no scale, and they are not float64
    bool has_initial; // some starting distance is finite: `initial` counts
    bool weighted;    // `weight` counts
    bool eager;       // refresh all rows, whether they can become candidates or not
    int block;        // P: candidates that greedy runs over; a power of two, kLeastBlock to kMostBlock
    int room;         // R: candidates there is room for; a multiple of 64, P to kMostRoom
    int listed;       // candidates that the list holds; R or more
    int target;       // candidates aimed at
    int processors;   // multiprocessors: sizes the grids of kernels that take work until none is left
    int parts;        // pieces of tiles that `part` has room for: parts_of(processors)
    int64_t span;     // rows that one program of the selecting kernels takes: span_of(N, processors)
    int64_t pitch;    // of `picks`: D rounded up to a multiple of 16; columns from D on are zero
#define PCF_FIELD(type, name, length) type* name;
    PCF_KCENTER_ARRAYS(PCF_FIELD)
#undef PCF_FIELD
};

// Workspace, asked beforehand.
inline int kcenter_programs(int processors) { return 2 * processors; } // blocks of the update at a time
inline int parts_of(int processors) { return 4 * kcenter_programs(processors); }
inline int64_t span_of(int64_t rows, int processors) {
    const int64_t steps = (rows + kScanned - 1) / kScanned, programs = int64_t(4) * processors;
    return kScanned * ((steps + programs - 1) / programs);
}

// The parts of a pass after `select` (select.h), in order. Counters are zero when it begins.
Status update(const KCenterPass& p, bool listed, stream_t stream); // update.cu: the rows that select listed, or all
Status narrow(const KCenterPass& p, stream_t stream);              // narrow.cu: candidates there is room for
Status settle(const KCenterPass& p, stream_t stream);              // settle.cu: exact distances of the candidates
Status trim(const KCenterPass& p, stream_t stream);                // settle.cu: the block
Status resolve(const KCenterPass& p, stream_t stream);             // block.cu: greedy in the block; picks appended

// kcenter.cu: a whole pass, its cut decided by so many of kLevels (kCoarseLevels, or kLevelCount for one that lets in
// exactly as many rows as wanted); and the first comparison of all rows with the picks given, where the caller has put
// an edge into `control` that no row reaches. Nothing is allocated, nothing waits.
Status kcenter_pass(const KCenterPass& p, int levels, int device, stream_t stream);
Status kcenter_refresh_all(const KCenterPass& p, int device, stream_t stream);

// Parts of a pass for one rank of many, which is told its picks: the update of the kStale rows in `stale`, oldest first,
// and the exact distances of the kInside rows in `candidates`, all refreshed. The other counters are zero.
Status kcenter_refresh_listed(const KCenterPass& p, int device, stream_t stream);
Status kcenter_settle_listed(const KCenterPass& p, int device, stream_t stream);

} // namespace pcf
