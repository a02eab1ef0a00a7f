// The arrays that a search keeps from piece to piece, written once: the fields of Knn and what the bindings ask for and
// check are made from this list. Python makes them by the same names (cuda_kernels/knn.py).
#pragma once

// X(type, name, length): at least so many elements, by the search `s` and the `queries` of a piece. Q = queries.
#define PCF_KNN_ARRAYS(X)                                                                                              \
    X(const float, centre, s.bank.dim) /* of the frame, see rows.h */                                                  \
    X(const double, params, 5)                                                                                         \
    /* [Q, pitch] and [chunk, pitch] in the frame or halves, zero behind the last column; none of what lies so */      \
    X(float, packed, s.query_in_place ? 0 : queries * s.pitch)                                                         \
    X(float, packed_norm, queries)                                                                                     \
    X(float, packed_bank, s.bank_in_place ? 0 : s.chunk * s.pitch)                                                     \
    X(float, norm, s.bank.rows)                                                                                        \
    X(Key, kept, s.splits * queries * s.slots) /* [splits, Q, slots], ascending */                                     \
    X(double, reach, queries)    /* of crowded queries: largest fast distance that a neighbour can have */             \
    X(int64_t, crowded, queries) /* crowded queries, in any order, */                                                  \
    X(int, count, 1)             /* and how many */                                                                    \
    X(double, part_exact, int64_t(s.rescuers) * kCrowded * s.k) /* neighbours in a part of the bank */                 \
    X(uint32_t, part_row, int64_t(s.rescuers) * kCrowded * s.k)
