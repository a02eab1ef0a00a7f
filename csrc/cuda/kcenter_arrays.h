// The arrays of a k-center pass, written once: the fields of KCenterPass, what the bindings check of each, and the
// names by which Python hands them over (kcenter_arrays() of the module) are all made from this list. `picks`, whose
// type is the mode's, is not among them.
#pragma once
#include "layout.h"

// X(type, name, length): at least so many elements, by the pass `p` and the `capacity` of picks, those given and those
// asked for. All in device memory, contiguous, aligned for their type; what is const is only read.
#define PCF_KCENTER_ARRAYS(X)                                                                                          \
    X(int64_t, control, kControl)                                                                                      \
    X(int32_t, counters, kCounters)                                                                                    \
    X(int32_t, block_row, p.block)                                                                                     \
    X(double, block_exact, p.block)                                                                                    \
    X(double, block_weight, p.block)                                                                                   \
    X(double, squared, p.block * p.block) /* distances of pairs in the block, and room for half of them to move */     \
    X(int32_t, pairs, p.block * p.block)  /* which pairs */                                                            \
    X(int32_t, candidates, p.listed)                                                                                   \
    X(int32_t, doubt, p.room)                                                                                          \
    X(double, settled, p.room)           /* squared distances to the nearest pick */                                   \
    X(float, pick_norm, capacity)                                                                                      \
    X(int64_t, pick_row, capacity)                                                                                     \
    X(double, pick_squared, capacity)    /* squared distances at selection */                                          \
    X(float, norm, p.x.rows)             /* squared norms in the frame */                                              \
    X(int32_t, stale, p.x.rows)                                                                                        \
    X(float, part, 2 * p.parts * kTileRows)                                                                            \
    X(int32_t, part_near, p.parts * kTileRows)                                                                         \
    X(int32_t, ages, (p.x.rows + p.span - 1) / p.span * kAgeBins)                                                      \
    X(int32_t, seen, p.x.rows)                     /* picks compared with */                                           \
    X(float, value, p.x.rows)                      /* smallest fast squared distance */                                \
    X(int32_t, near, p.tracked ? p.x.rows : 1)     /* which pick has it */                                             \
    X(float, second, p.tracked ? p.x.rows : 1)     /* smallest of all other picks */                                   \
    X(double, key, p.x.rows)                       /* squared weight times an upper bound of the squared distance; */  \
                                                   /* -1 where picked */                                               \
    X(const double, initial, p.x.rows)             /* squared distances from the outset */                             \
    X(const double, weight, p.x.rows)              /* squared */                                                       \
    X(const float, centre, p.x.dim)                                                                                    \
    X(const double, params, 5) /* scale, relative, norm and absolute part of the bound, scale: rows.h */
