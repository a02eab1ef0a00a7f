// How tiles of the update reach shared memory: 128 rows of features and 64 picks, 16 columns at a time, as float32.
//
// A row of a chunk is four quads of 16 bytes, without padding. Quad q of row r lies at quad place q ^ (r / 2) % 4: then
// the quads q of eight rows one after the other, which FFMA tiles read together, lie in different banks, and so do
// the eight quads of two rows that tensor-core tiles read, and those that a quarter of a warp writes.
#pragma once
#include "kcenter.h"
#include "rows.h"

namespace pcf {

constexpr int kDepth = 16;          // columns of a chunk
constexpr int kUpdateThreads = 256; // of a block

struct Chunk {
    float x[kTileRows * kDepth], y[kTilePicks * kDepth];
};

PCF_DEVICE int quad_place(int row, int quad) { return row * kDepth + ((quad ^ (row >> 1)) & 3) * 4; }

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
    direct, // float32, used as they are, rows 16 bytes apart or a multiple
    halves, // float16 or bfloat16, the same; values are made float32 on the way
    any,    // any type, strides and frame
};

// What it takes for that.
inline Source source_of(const KCenterPass& p) {
    const int per_load = 16 / bytes_of(p.x.type);
    const bool wide = p.plain && p.x.column_stride == 1 && p.x.row_stride % per_load == 0 && p.x.dim % per_load == 0 &&
                      reinterpret_cast<uintptr_t>(p.x.data) % 16 == 0;
    if (!wide || p.x.type == Type::f64) return Source::any;
    return p.x.type == Type::f32 ? Source::direct : Source::halves;
}

PCF_DEVICE float low_half(uint32_t bits, bool brain) {
    return brain ? bits_to_float(bits << 16) : to_float(Half{uint16_t(bits)});
}
PCF_DEVICE float high_half(uint32_t bits, bool brain) {
    return brain ? bits_to_float(bits & 0xffff0000u) : to_float(Half{uint16_t(bits >> 16)});
}

// A value of the row that begins so many elements behind the first one, in the frame.
PCF_DEVICE float framed_at(const KCenterPass& p, int64_t row, int column) {
    const int64_t at = row + column * p.x.column_stride;
    if (p.plain) return load_float(p.x.data, p.x.type, at);
    const float centre = p.centre[column];
    const Scale scale({p.centre, p.params});
    return p.x.type == Type::f64 ? framed(static_cast<const double*>(p.x.data)[at], centre, scale)
                                 : framed(load_float(p.x.data, p.x.type, at), centre, scale);
}

PCF_DEVICE void put4(float* at, float a, float b, float c, float d) {
    *reinterpret_cast<float4*>(at) = make_float4(a, b, c, d);
}

// One thread's share of bringing a tile's chunks. A chunk is asked for by `fetch`; after `finish` and a barrier it is
// there. Between the two the thread computes on the chunk before.
template <Source SOURCE>
class Feed {
  public:
    // rows [kTileRows], in shared memory: the tile's rows, -1 where there is none. Read again for each chunk: registers
    // are better spent on sums. raw [kUpdateThreads], in shared memory: where halves wait.
    PCF_DEVICE Feed(const KCenterPass& p, const int32_t* rows, uint4* raw) : p_(p), rows_(rows), raw_(raw) {}

    // Columns `column` to `column` + 15 of the rows and of picks first .. first + live - 1; zeros elsewhere.
    PCF_DEVICE void fetch(Chunk& to, int64_t first, int live, int column) {
        const int quad = int(threadIdx.x) & 3, pick = int(threadIdx.x) >> 2, dim = int(p_.x.dim);
        const float* y = p_.picks + (first + (pick < live ? pick : 0)) * p_.pitch + column + 4 * quad;
        if constexpr (SOURCE == Source::direct) {
            const int c = column + 4 * quad;
            PCF_UNROLL
            for (int i = 0; i < kShare; ++i) {
                const int row = rows_[row_of(i)];
                const bool real = row >= 0 && c < dim;
                const float* x = static_cast<const float*>(p_.x.data) + (real ? row * p_.x.row_stride + c : 0);
                if (copies_run_ahead()) cp_async16(to.x + quad_place(row_of(i), quad), x, real);
                else held_[i] = real ? load4(x) : make_uint4(0, 0, 0, 0);
            }
        } else if constexpr (SOURCE == Source::halves) {
            const int c = column + 8 * (int(threadIdx.x) & 1);
            const int row = rows_[row_of(0)];
            const bool real = row >= 0 && c < dim;
            const auto* x = static_cast<const uint16_t*>(p_.x.data) + (real ? row * p_.x.row_stride + c : 0);
            if (copies_run_ahead()) cp_async16(raw_ + threadIdx.x, x, real);
            else held_[0] = real ? load4(x) : make_uint4(0, 0, 0, 0);
        }
        if (copies_run_ahead()) {
            cp_async16(to.y + quad_place(pick, quad), y, pick < live);
            cp_async_commit();
        } else {
            held_pick_ = pick < live ? load4(y) : make_uint4(0, 0, 0, 0);
        }
    }

    PCF_DEVICE void finish(Chunk& to, int column) {
        const int quad = int(threadIdx.x) & 3, pick = int(threadIdx.x) >> 2;
        if (copies_run_ahead()) cp_async_wait<0>();
        else store4(to.y + quad_place(pick, quad), held_pick_);
        if constexpr (SOURCE == Source::halves) {
            const bool brain = p_.x.type == Type::bf16;
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
                       row >= 0 ? any4(row * p_.x.row_stride, column + 4 * quad) : make_uint4(0, 0, 0, 0));
            }
        } else if (!copies_run_ahead()) {
            PCF_UNROLL
            for (int i = 0; i < kShare; ++i) store4(to.x + quad_place(row_of(i), quad), held_[i]);
        }
    }

  private:
    // A thread brings 16 bytes of kShare rows: 4 values of two, or 8 of one.
    static constexpr int kShare = SOURCE == Source::halves ? 1 : 2;
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
            v[e] = c < p_.x.dim ? float_to_bits(framed_at(p_, row, c)) : 0;
        }
        return make_uint4(v[0], v[1], v[2], v[3]);
    }

    const KCenterPass& p_;
    const int32_t* rows_;
    uint4* raw_;
    uint4 held_[kShare], held_pick_;
};

} // namespace pcf
