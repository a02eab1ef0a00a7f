// k nearest neighbours on the device: pieces of queries against pieces of the bank (search.cu), what may be among the
// neighbours settled in float64 and ranked (neighbours.cu), and crowded queries (rescue.cu).
#pragma once
#include "status.h"

namespace pcf {
namespace cuda {

// A float32 value above a row number: in the order of (value, row). slots.h
using Key = unsigned long long;

constexpr int kMostNeighbours = 64;
constexpr int kMostSlots = 128;   // more than neighbours: rows that are as near in float32
constexpr int kAligned = 8;       // columns of packed rows: a multiple
constexpr uint32_t kNoRow = 0xffffffffu;
constexpr int kCrowded = 16;      // crowded queries that a block takes at a time
constexpr int kRescued = 128;     // bank rows that they meet at once
constexpr int kMostParts = 64;    // of the bank, one a block, where crowded queries are few

// A piece of queries and what its kernels share. Q = queries in the piece, M = bank rows, S = slots, P = pitch. Results
// do not depend on the sizes. All memory is the caller's, on the device.
struct Knn {
    DeviceMatrix query, bank;   // as the caller has them
    const float* centre;        // of the frame, see rows.h
    const double* params;
    int k, slots, pitch;        // pitch: columns of packed rows, a multiple of kAligned
    int splits;                 // of the bank among blocks, where queries are too few to fill the device
    int64_t chunk;              // bank rows that are packed at a time
    float* packed;              // [Q, P] queries in the frame, zero behind the last column
    float* packed_norm;         // [Q]
    float* packed_bank;         // [chunk, P]
    float* norm;                // [M]
    Key* kept;                  // [splits, Q, S], ascending
    double* reach;              // [Q], of crowded queries: largest fast distance that a neighbour can have
    int64_t* crowded;           // [Q] crowded queries, in any order,
    int* count;                 // [1] how many
    double* squared;            // [Q, k] out
    int64_t* rows;              // [Q, k] out
    int rescuers;               // blocks that take crowded queries
    double* part_exact;         // [rescuers, kCrowded, k] neighbours in a part of the bank
    uint32_t* part_row;         // [rescuers, kCrowded, k]
    const unsigned char* surplus; // [M]: not 0: k equal rows stand before it; null: not known
};

// Packs the queries, then searches the bank and settles all queries but crowded ones, whose number goes to `count`.
// `packed_already`: packed_bank holds the whole bank.
Status knn_some(const Knn& knn, bool tensor_cores, bool packed_already, int device, stream_t stream);

// Crowded queries. May be enqueued without asking whether there are any.
Status knn_rescue(const Knn& knn, int device, stream_t stream);

// Loads all kernels of a search on the device, those for crowded queries too, which else the first crowded query would
// do: a search that is captured in a graph needs them loaded.
Status knn_load(int device);

int64_t knn_tile(); // queries that a block of the search takes at a time

// What knn_some and knn_rescue are made of.
Status search(const Knn& knn, int64_t first, int64_t rows, bool tensor_cores, stream_t stream);
Status settle(const Knn& knn, stream_t stream);
Status rescue(const Knn& knn, stream_t stream);
Status load_search();
Status load_settle();
Status load_rescue();

} // namespace cuda
} // namespace pcf
