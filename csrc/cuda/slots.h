// The slots of a query: its smallest (value, row) pairs so far, ascending, in memory; one warp works on one query.
#pragma once
#include "gpu.h"
#include "knn.h"

#ifdef PCF_EMULATED
#define PCF_ROLLED
#else
#define PCF_ROLLED _Pragma("unroll 1")
#endif

namespace pcf {
namespace cuda {

constexpr Key kEmpty = 0xff800000ffffffffull; // infinity, and no row; values that enter are below it

// Any order of arrival leaves the same keys.
PCF_DEVICE Key key_of(float value, uint32_t row) {
    const uint32_t bits = float_to_bits(value + 0.0f); // -0 and 0 are one value
    return Key(bits & 0x80000000u ? ~bits : bits | 0x80000000u) << 32 | row;
}

PCF_DEVICE float value_of(Key key) {
    const uint32_t high = uint32_t(key >> 32);
    return bits_to_float(high & 0x80000000u ? high & 0x7fffffffu : ~high);
}

PCF_DEVICE uint32_t row_of(Key key) { return uint32_t(key); }

// What follows works on N queries in each half of a warp: 16 lanes are enough for one, and a chain of shuffles has to
// wait less where several go side by side.
PCF_DEVICE int half_lane() { return lane() & 15; }

// One step of a sorting network: a lane keeps the smaller of its key and that of lane ^ distance, or the larger.
template <int N>
PCF_DEVICE void exchange(Key (&key)[N], int distance, bool smaller) {
    PCF_UNROLL
    for (int n = 0; n < N; ++n) {
        const Key other = __shfl_xor_sync(kAll, key[n], distance);
        key[n] = (other < key[n]) == smaller ? other : key[n];
    }
}

// Keys that rise over the lanes and then fall, or the other way round: ascending.
template <int N>
PCF_DEVICE void sort_hill(Key (&key)[N]) {
    PCF_UNROLL
    for (int distance = 8; distance > 0; distance /= 2) exchange(key, distance, (lane() & distance) == 0);
}

// Any keys: ascending over the lanes of a half.
template <int N>
PCF_DEVICE void sort(Key (&key)[N]) {
    PCF_UNROLL
    for (int size = 2; size < 16; size *= 2)
        PCF_UNROLL
        for (int distance = size / 2; distance > 0; distance /= 2)
            exchange(key, distance, ((lane() & size) == 0) == ((lane() & distance) == 0));
    sort_hill(key);
}

// Takes 16 ascending keys a query into its slots[0..count), which are ascending too. Only one half warp touches the
// slots of a query between two barriers, and each lane its own places: nothing waits for memory. Null: no such query.
// Then key[n] is, in all lanes, the largest that was kept.
template <int N>
PCF_DEVICE void absorb(Key* const (&slots)[N], int count, Key (&key)[N]) {
    Key kept[N];
    PCF_ROLLED
    for (int base = 0; base < count; base += 16) {
        const int place = base + half_lane();
        PCF_UNROLL
        for (int n = 0; n < N; ++n) {
            kept[n] = slots[n] && place < count ? slots[n][place] : kEmpty;
            const Key other = __shfl_xor_sync(kAll, key[n], 15); // backwards: the halves of a hill
            key[n] = other > kept[n] ? other : kept[n];          // goes on to the next slots
            kept[n] = other > kept[n] ? kept[n] : other;
        }
        sort_hill(kept);
        PCF_UNROLL
        for (int n = 0; n < N; ++n)
            if (slots[n] && place < count) slots[n][place] = kept[n];
        if (base + 16 < count) sort_hill(key);
    }
    PCF_UNROLL
    for (int n = 0; n < N; ++n) key[n] = __shfl_sync(kAll, kept[n], (lane() & 16) | ((count - 1) & 15));
}

} // namespace cuda
} // namespace pcf
