// A pass of k-center greedy: what its kernels share, and how they are enqueued. The buffers are those of DeviceKCenter
// in the Python package, by the same names.
#pragma once
#include "layout.h"
#include "status.h"

namespace pcf {

// How the bulk of the distances is taken: see update.cu.
enum class Mode : int { ffma = 0, tf32x3 = 1 };

constexpr int kScanned = 1024;                  // rows that the selecting kernels read in a step
constexpr int kTileRows = 128, kTilePicks = 64; // of the update
constexpr int kLeastBlock = 16, kMostBlock = 1024, kMostRoom = 4096;

// Everything the kernels need, passed by value. N rows, P = block, R = room, C = picks given and asked for; all arrays
// in device memory, contiguous, aligned for their type.
struct KCenterPass {
    DeviceMatrix x; // [N, D] features as the caller has them
    Mode mode;
    bool tracked;     // nearest picks are kept: fast distances are not exact
    bool plain;       // the frame changes nothing: no centre, no scale, and rows are not float64
    bool has_initial; // some starting distance is finite: `initial` counts
    bool weighted;    // `weight` counts
    bool eager;       // refresh all rows, whether they can become candidates or not
    int block;        // P: candidates that greedy runs over; a power of two, kLeastBlock to kMostBlock
    int room;         // R: candidates there is room for; a multiple of 64, P to kMostRoom
    int target;       // candidates aimed at
    int processors;   // multiprocessors: sizes the grids of kernels that take work until none is left
    int parts;        // pieces of tiles that `part` has room for: parts_of(processors)
    int64_t span;     // rows that one program of the selecting kernels takes: span_of(N, processors)
    int64_t pitch;    // of `picks`: D rounded up to a multiple of 16; columns from D on are zero
    int64_t* control;      // [kControl + 2 P]
    int32_t* counters;     // [kHistogram + kLevelCount kBins]
    int32_t* block_row;    // [P]
    double* block_exact;   // [P]
    double* block_weight;  // [P]
    double* squared;       // [P P] distances of pairs in the block, and room for half of them to move
    int32_t* pairs;        // [P P] which pairs
    int32_t* candidates;   // [R]
    int32_t* doubt;        // [R]
    double* settled;       // [R] squared distances to the nearest pick
    float* picks;          // [C, pitch] in the frame; 16-byte aligned
    float* pick_norm;      // [C]
    int64_t* pick_row;     // [C]
    float* norm;           // [N] squared norms in the frame
    int32_t* stale;        // [N]
    float* part;           // [2, parts, kTileRows]
    int32_t* part_near;    // [parts, kTileRows]
    int32_t* ages;         // [ceil(N / span), kAgeBins]
    int32_t* seen;         // [N] picks compared with
    float* value;          // [N] smallest fast squared distance
    int32_t* near;         // [N] which pick has it, where tracked
    float* second;         // [N] smallest of all other picks, where tracked
    double* key;           // [N] squared weight times an upper bound of the squared distance; -1 where picked
    const double* initial; // [N] squared distances from the outset
    const double* weight;  // [N] squared
    const float* centre;   // [D]
    const double* params;  // [5] scale, relative, norm and absolute part of the bound, scale
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
Status settle(const KCenterPass& p, stream_t stream);              // settle.cu: exact distances; the block
Status resolve(const KCenterPass& p, stream_t stream);             // block.cu: greedy in the block; picks appended

// kcenter.cu: a whole pass, its cut decided by so many of kLevels (kCoarseLevels, or kLevelCount for one that lets in
// exactly as many rows as wanted); and the first comparison of all rows with the picks given, where the caller has put
// an edge into `control` that no row reaches. Nothing is allocated, nothing waits.
Status kcenter_pass(const KCenterPass& p, int levels, int device, stream_t stream);
Status kcenter_refresh_all(const KCenterPass& p, int device, stream_t stream);

} // namespace pcf
