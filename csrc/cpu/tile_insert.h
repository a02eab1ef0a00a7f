// The k largest values of each lane, kept in vectors. Included inside the anonymous namespace of a tile_*.cpp, which
// defines V, kWidth, load, store, at_least, larger, smaller, kLanes, kPoints.

void insert(const float* values, int64_t k, float* top) {
    constexpr uint32_t all = kWidth == 32 ? ~0u : (1u << kWidth) - 1;
    for (int j = 0; j < kLanes; j += kWidth) {
        const float* last = top + (k - 1) * kLanes + j;
        V least = load(last);
        for (int p = 0; p < kPoints; ++p) {
            V x = load(values + p * kLanes + j);
            if (at_least(least, x) == all) continue;
            for (float* row = top + j; row <= last; row += kLanes) {
                const V held = load(row);
                store(row, larger(held, x));
                x = smaller(held, x);
            }
            least = load(last);
        }
    }
}
