// Places in the two small arrays through which the kernels of a pass speak to each other and to the host: the same as
// in the Python package (DeviceKCenter), which compares the two when it loads this library.
#pragma once
#include <cstdint>

namespace pcf {

// control, int64: what lives on from pass to pass; behind it stand the pass's picks and their squared distances.
enum Control : int {
    kCount = 0,     // picks made
    kEnd = 1,       // picks asked for, those given included
    kWanted = 2,    // rows that the edge should let in
    kLeft = 3,      // of those, still to be found below the bins that are decided; -1: fewer rows than wanted
    kEdge = 4,      // bits of the key that a candidate must reach,
    kEdgeRow = 5,   // and among rows of that very key, the last row that does
    kBest = 6,      // bits of the best key left out of the block, -1 if none was,
    kBestRow = 7,   // and its lowest row
    kAccepted = 8,  // picks of this pass
    kDistances = 9, // computed in refreshing rows
    kFound = 10,    // candidates of this pass; more than there is room for: none was looked at
    kControl = 16,  // length
};

// counters, int32: zero when a pass begins; behind them the histograms.
enum Counters : int {
    kStale = 0,  // rows to refresh
    kInside = 1, // candidates
    kDoubt = 2,  // candidates whose nearest pick is not certain
    kBlock = 3,  // candidates that greedy runs over
    kPairs = 4,  // of them, pairs that may be near
    kQueue = 5,  // jobs of the update that blocks have taken
    kTicket = 8, // one a histogram: blocks that are done
    kHistogram = 32,
};

constexpr int kAgeBins = 16;
constexpr int kBins = 2048;
constexpr int64_t kLastRow = (int64_t(1) << 31) - 1; // no row has this number

// Histograms that decide a cut to the last bit: lowest bit and number of bits of the key, then of the row.
struct Level {
    int shift, width;
};
constexpr Level kLevels[] = {{52, 11}, {41, 11}, {30, 11}, {19, 11}, {8, 11}, {0, 8}, {20, 11}, {9, 11}, {0, 9}};
constexpr int kLevelCount = int(sizeof(kLevels) / sizeof(kLevels[0]));
constexpr int kKeyLevels = 6;
constexpr int kCoarseLevels = 2; // these decide the exponent and 11 bits behind it

} // namespace pcf
