// How tiles of the update reach shared memory: 128 rows of features and 64 picks, 16 columns at a time, as float32; or
// 32 columns at a time, as the halves that they are.
//
// A row of a chunk is four quads of 16 bytes, without padding. Quad q of row r lies at quad place q ^ (r / 2) % 4: then
// the quads q of eight rows one after the other, which FFMA tiles read together, lie in different banks, and so do
// the eight quads of two rows that tensor-core tiles read, and those that a quarter of a warp writes.
#pragma once
#include "kcenter.h"
#include "rows.h"
#include "rows_in_place.h"

#include <type_traits>

namespace pcf {

constexpr int kWords = 16;          // of 4 bytes, that a row of a chunk has
constexpr int kUpdateThreads = 256; // of a block

// What chunks of a mode hold.
template <Mode MODE>
using ValueOf = std::conditional_t<MODE == Mode::half, Half, std::conditional_t<MODE == Mode::brain, Brain, float>>;
template <class T>
constexpr int kDepth = kWords * 4 / int(sizeof(T)); // columns of a chunk

struct Chunk {
    float x[kTileRows * kWords], y[kTilePicks * kWords];
};

PCF_DEVICE int quad_place(int row, int quad) { return row * kWords + ((quad ^ (row >> 1)) & 3) * 4; }

// Whether copies to shared memory run on while a thread computes. Where they do not, a chunk waits in registers.
PCF_DEVICE bool copies_run_ahead() {
#if defined(PCF_EMULATED)
    return emulated::code() >= 80;
#elif defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
    return true;
#else
    return false;
#endif
}

// How features lie in memory.
enum class Source {
    direct, // used as they are, float32 or in a mode of halves these, rows 16 bytes apart or a multiple
    halves, // float16 or bfloat16, the same; values are made float32 on the way
    any,    // any type, strides and frame
};

// What it takes for that.
inline Source source_of(const KCenterPass& p) {
    if (!p.plain || p.rows.type == Type::f64 || !in_place(p.rows)) return Source::any;
    return p.rows.type == Type::f32 || of_halves(p.mode) ? Source::direct : Source::halves;
}

PCF_DEVICE float low_half(uint32_t bits, bool brain) {
    return brain ? bits_to_float(bits << 16) : to_float(Half{uint16_t(bits)});
}
PCF_DEVICE float high_half(uint32_t bits, bool brain) {
    return brain ? bits_to_float(bits & 0xffff0000u) : to_float(Half{uint16_t(bits >> 16)});
}

// A value in the frame, of the row that begins so many elements behind the first one of `rows`.
PCF_DEVICE float framed_at(const KCenterPass& p, int64_t row, int column) {
    const int64_t at = row + column * p.rows.column_stride;
    if (p.plain) return load_float(p.rows.data, p.rows.type, at);
    const float centre = p.centre[column];
    const Scale scale({p.centre, p.params});
    return p.rows.type == Type::f64 ? framed(static_cast<const double*>(p.rows.data)[at], centre, scale)
                                 : framed(load_float(p.rows.data, p.rows.type, at), centre, scale);
}

PCF_DEVICE void put4(float* at, float a, float b, float c, float d) {
    *reinterpret_cast<float4*>(at) = make_float4(a, b, c, d);
}

// Four values of picks, from an element of these on.
PCF_DEVICE float4 picked4(const KCenterPass& p, int64_t at) {
    if (!of_halves(p.mode)) return *reinterpret_cast<const float4*>(static_cast<const float*>(p.picks) + at);
    const uint2 v = *reinterpret_cast<const uint2*>(static_cast<const uint16_t*>(p.picks) + at);
    const bool brain = p.mode == Mode::brain;
    return make_float4(low_half(v.x, brain), high_half(v.x, brain), low_half(v.y, brain), high_half(v.y, brain));
}

// One thread's share of bringing a tile's chunks of T: float, or halves as they are. A chunk is asked for by `fetch`;
// after `finish` and a barrier it is there. Between the two the thread computes on the chunk before.
template <Source SOURCE, class T>
class Feed {
  public:
    // rows [kTileRows], in shared memory: the tile's rows, -1 where there is none. Read again for each chunk: registers
    // are better spent on sums. raw [kUpdateThreads], in shared memory: where halves wait.
    PCF_DEVICE Feed(const KCenterPass& p, const int32_t* rows, uint4* raw) : p_(p), rows_(rows), raw_(raw) {}

    // The columns of a chunk, from `column` on, of the rows and of picks first .. first + live - 1; zeros elsewhere.
    PCF_DEVICE void fetch(Chunk& to, int64_t first, int live, int column) {
        const int quad = int(threadIdx.x) & 3, pick = int(threadIdx.x) >> 2, dim = int(p_.rows.dim);
        const T* y = static_cast<const T*>(p_.picks) + (first + (pick < live ? pick : 0)) * p_.pitch + column +
                     kValues * quad;
        // A row of picks is a multiple of 16 columns long: no chunk of halves need end with it.
        const bool there = pick < live && (sizeof(T) == 4 || column + kValues * quad < dim);
        if constexpr (SOURCE == Source::direct) {
            const int c = column + kValues * quad;
            PCF_UNROLL
            for (int i = 0; i < kShare; ++i) {
                const int row = rows_[row_of(i)];
                const bool real = row >= 0 && c < dim;
                const T* x = static_cast<const T*>(p_.rows.data) + (real ? row * p_.rows.row_stride + c : 0);
                float* at = to.x + quad_place(row_of(i), quad);
                // Tensor cores are done with halves sooner than the second-level cache can bring them again for every
                // tile of picks: rows stay in the first-level one.
                if (copies_run_ahead() && sizeof(T) == 2) cp_async16_keep(at, x, real);
                else if (copies_run_ahead()) cp_async16(at, x, real);
                else held_[i] = real ? load4(x) : make_uint4(0, 0, 0, 0);
            }
        } else if constexpr (SOURCE == Source::halves) {
            const int c = column + 8 * (int(threadIdx.x) & 1);
            const int row = rows_[row_of(0)];
            const bool real = row >= 0 && c < dim;
            const auto* x = static_cast<const uint16_t*>(p_.rows.data) + (real ? row * p_.rows.row_stride + c : 0);
            if (copies_run_ahead()) cp_async16(raw_ + threadIdx.x, x, real);
            else held_[0] = real ? load4(x) : make_uint4(0, 0, 0, 0);
        }
        if (copies_run_ahead()) {
            cp_async16(to.y + quad_place(pick, quad), y, there);
            cp_async_commit();
        } else {
            held_pick_ = there ? load4(y) : make_uint4(0, 0, 0, 0);
        }
    }

    PCF_DEVICE void finish(Chunk& to, int column) {
        const int quad = int(threadIdx.x) & 3, pick = int(threadIdx.x) >> 2;
        if (copies_run_ahead()) cp_async_wait<0>();
        else store4(to.y + quad_place(pick, quad), held_pick_);
        if constexpr (SOURCE == Source::halves) {
            const bool brain = p_.rows.type == Type::bf16;
            const int row = row_of(0), half = 2 * (int(threadIdx.x) & 1);
            if (!copies_run_ahead()) raw_[threadIdx.x] = held_[0];
            const uint2* v = reinterpret_cast<const uint2*>(raw_ + threadIdx.x);
#pragma unroll 1 // four values at a time: eight do not fit into registers on every card
            for (int i = 0; i < 2; ++i)
                put4(to.x + quad_place(row, half + i), low_half(v[i].x, brain), high_half(v[i].x, brain),
                     low_half(v[i].y, brain), high_half(v[i].y, brain));
        } else if constexpr (SOURCE == Source::any) { // rare: nothing waits in registers
            for (int i = 0; i < kShare; ++i) {
                const int row = rows_[row_of(i)];
                store4(to.x + quad_place(row_of(i), quad),
                       row >= 0 ? any4(row * p_.rows.row_stride, column + 4 * quad) : make_uint4(0, 0, 0, 0));
            }
        } else if (!copies_run_ahead()) {
            PCF_UNROLL
            for (int i = 0; i < kShare; ++i) store4(to.x + quad_place(row_of(i), quad), held_[i]);
        }
    }

  private:
    // A thread brings 16 bytes of kShare rows: 4 values of two, or 8 of one.
    static constexpr int kShare = SOURCE == Source::halves ? 1 : 2;
    static constexpr int kValues = 16 / int(sizeof(T)); // of a quad
    PCF_DEVICE static int row_of(int i) {
        return SOURCE == Source::halves ? int(threadIdx.x) >> 1 : (int(threadIdx.x) >> 2) + i * (kTileRows / 2);
    }
    PCF_DEVICE static uint4 load4(const void* from) { return *static_cast<const uint4*>(from); }
    PCF_DEVICE static void store4(float* to, const uint4& v) { *reinterpret_cast<uint4*>(to) = v; }
    PCF_DEVICE uint4 any4(int64_t row, int column) const {
        uint32_t v[4];
        PCF_UNROLL
        for (int e = 0; e < 4; ++e) {
            const int c = column + e;
            v[e] = c < p_.rows.dim ? float_to_bits(framed_at(p_, row, c)) : 0;
        }
        return make_uint4(v[0], v[1], v[2], v[3]);
    }

    const KCenterPass& p_;
    const int32_t* rows_;
    uint4* raw_;
    uint4 held_[kShare], held_pick_;
};

} // namespace pcf
