// k nearest neighbours on the device: pieces of queries against pieces of the bank (search.cu), what may be among the
// neighbours settled in float64 and ranked (neighbours.cu), and crowded queries (rescue.cu).
#pragma once
#include "knn_arrays.h"
#include "mode.h"
#include "rows_in_place.h"
#include "status.h"

namespace pcf {
namespace cuda {

// A float32 value above a row number: in the order of (value, row). slots.h
using Key = unsigned long long;

constexpr int kMostNeighbours = 64;
constexpr int kMostSlots = 128;   // more than neighbours: rows that are as near in float32
constexpr int kAligned = 8;       // words of packed rows: a multiple
constexpr uint32_t kNoRow = 0xffffffffu;
constexpr int kCrowded = 16;      // crowded queries that a block takes at a time
constexpr int kRescued = 128;     // bank rows that they meet at once
constexpr int kMostParts = 64;    // of the bank, one a block, where crowded queries are few

// A piece of queries and what its kernels share, the arrays of knn_arrays.h among it. Q = queries in the piece, M = bank
// rows. Results do not depend on the sizes. All memory is the caller's, on the device.
struct Knn {
    DeviceMatrix query, bank;   // as the caller has them
    Mode mode;                  // of the search: all but ffma
    bool query_in_place, bank_in_place; // tiles read them as the caller has them: lies_packed
    int k, slots, pitch;        // pitch: words of packed rows, of one column, or of two halves; a multiple of kAligned
    int splits;                 // of the bank among blocks, where queries are too few to fill the device
    int rescuers;               // blocks that take crowded queries
    int64_t chunk;              // bank rows that are packed at a time
    double* squared;            // [Q, k] out
    int64_t* rows;              // [Q, k] out
    const unsigned char* surplus; // [M]: not 0: k equal rows stand before it; null: not known
#define PCF_FIELD(type, name, length) type* name;
    PCF_KNN_ARRAYS(PCF_FIELD)
#undef PCF_FIELD
};

// Whether rows that the frame leaves unchanged lie as packed ones would: of the mode's type, as wide.
inline bool lies_packed(const Knn& knn, const DeviceMatrix& x) {
    const bool of_type = of_halves(knn.mode) ? x.type == Type::f16 || x.type == Type::bf16 : x.type == Type::f32;
    const int64_t in_a_word = of_halves(knn.mode) ? 2 : 1;
    return of_type && in_place(x) && x.dim == knn.pitch * in_a_word && x.row_stride / in_a_word <= INT32_MAX;
}

// Packs the queries, then searches the bank and settles all queries but crowded ones, whose number goes to `count`.
// `packed_already`: packed_bank holds the whole bank.
Status knn_some(const Knn& knn, bool packed_already, int device, stream_t stream);

// Crowded queries. May be enqueued without asking whether there are any.
Status knn_rescue(const Knn& knn, int device, stream_t stream);

// Loads all kernels of a search on the device, those for crowded queries too, which else the first crowded query would
// do: a search that is captured in a graph needs them loaded.
Status knn_load(int device);

int64_t knn_tile(); // queries that a block of the search takes at a time

// What knn_some and knn_rescue are made of.
Status search(const Knn& knn, const DeviceMatrix& bank, int64_t first, stream_t stream); // of it, rows from `first` on
Status settle(const Knn& knn, int device, stream_t stream);
Status rescue(const Knn& knn, stream_t stream);
Status load_search();
Status load_settle();
Status load_rescue();

} // namespace cuda
} // namespace pcf
