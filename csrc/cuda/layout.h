// Places in the two small arrays through which the kernels of a pass speak to each other and to the host: the same as
// in the Python package (DeviceKCenter), which compares the two when it loads this library.
#pragma once
#include <cstdint>

namespace pcf {

// What is in these lists has its Python name from here too, kEdgeRow being EDGE_ROW (bindings_frame.cpp).
// X(name, place) in control, int64: what lives on from pass to pass.
#define PCF_CONTROL(X)                                                                                                 \
    X(kCount, 0)     /* picks made */                                                                                  \
    X(kEnd, 1)       /* picks asked for, those given included */                                                       \
    X(kWanted, 2)    /* rows that the edge should let in */                                                            \
    X(kLeft, 3)      /* of those, still to be found below the bins that are decided; -1: fewer rows than wanted */     \
    X(kEdge, 4)      /* bits of the key that a candidate must reach, */                                                \
    X(kEdgeRow, 5)   /* and among rows of that very key, the last row that does */                                     \
    X(kBest, 6)      /* bits of the best key left out of the block, -1 if none was, */                                 \
    X(kBestRow, 7)   /* and its lowest row */                                                                          \
    X(kAccepted, 8)  /* picks of the last pass that had some to make */                                                \
    X(kDistances, 9) /* computed in refreshing rows */                                                                 \
    X(kFound, 10)    /* candidates of this pass, before they were narrowed to those there is room for */               \
    X(kCrowded, 11)  /* whether a coarse cut lets in over twice the rows wanted: an exact one is worth its launches */ \
    X(kPasses, 12)   /* that had picks to make */                                                                      \
    X(kControl, 16)  /* length */

// X(name, place) in counters, int32: zero when a pass begins; behind them the histograms.
#define PCF_COUNTERS(X)                                                                                                \
    X(kStale, 0)  /* rows to refresh */                                                                                \
    X(kInside, 1) /* candidates */                                                                                     \
    X(kDoubt, 2)  /* candidates whose nearest pick is not certain */                                                   \
    X(kBlock, 3)  /* candidates that greedy runs over */                                                               \
    X(kPairs, 4)  /* of them, pairs that may be near */                                                                \
    X(kQueue, 5)  /* jobs of the update that blocks have taken */                                                      \
    X(kTicket, 8) /* one a histogram: blocks that are done */                                                          \
    X(kHistogram, 32)

// X(type, name, value)
#define PCF_NUMBERS(X)                                                                                                 \
    X(int, kAgeBins, 16)                                                                                               \
    X(int, kBins, 2048)                                                                                                \
    X(int64_t, kLastRow, (int64_t(1) << 31) - 1) /* no row has this number */                                          \
    X(int, kKeyLevels, 6)                        /* of kLevels */                                                      \
    X(int, kCoarseLevels, 2)                     /* these decide the exponent and 11 bits behind it */

#define PCF_PLACE(name, place) name = place,
#define PCF_NUMBER(type, name, value) constexpr type name = value;
enum Control : int { PCF_CONTROL(PCF_PLACE) };
enum Counters : int { PCF_COUNTERS(PCF_PLACE) };
PCF_NUMBERS(PCF_NUMBER)
#undef PCF_PLACE
#undef PCF_NUMBER

// Histograms that decide a cut to the last bit: lowest bit and number of bits of the key, then of the row.
struct Level {
    int shift, width;
};
constexpr Level kLevels[] = {{52, 11}, {41, 11}, {30, 11}, {19, 11}, {8, 11}, {0, 8}, {20, 11}, {9, 11}, {0, 9}};
constexpr int kLevelCount = int(sizeof(kLevels) / sizeof(kLevels[0]));
constexpr int kCounters = kHistogram + kLevelCount * kBins; // length

} // namespace pcf
