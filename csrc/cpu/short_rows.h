// Short rows of a bank and of queries: coordinates along leading directions and the length of the rest (prepared.h).
#pragma once
#include "points.h"

#include <algorithm>
#include <cmath>

namespace pcf {

// A computed short row is off by no more than share |z| + tiny.
struct Slack {
    double share, tiny;
};

// Where short rows come from and those of the bank.
struct ShortBank {
    ShortBank(const Frame& full, const double* given, int64_t few, int64_t all, Slack of_few, Slack of_all, int64_t bank_rows)
        : frame(full.kernel(), nullptr, 1.0, few + 1), points(frame, bank_rows), few(few), all(all),
          blocks((all + 7) / 8), width((all + 16) / 16 * 16), of_few(of_few), of_all(of_all),
          directions(blocks * 8 * full.dim()), longer(bank_rows * width) {
        std::fill_n(directions.get(), blocks * 8 * full.dim(), 0.0);
        for (int64_t i = 0; i < full.dim(); ++i)
            for (int64_t j = 0; j < all; ++j) directions[(j / 8 * full.dim() + i) * 8 + j % 8] = given[i * all + j];
    }
    // How far apart short rows may be, of rows no farther apart than m, one of them no longer than norm.
    static double between(double m, double norm, const Slack& slack) {
        return (m + slack.share * (2 * norm + m) + 2 * slack.tiny) * (1 + 0x1p-40);
    }

    Frame frame; // [few + 1]
    Points points;
    Bound bound;
    int64_t few, all, blocks, width; // blocks of 8 directions; values of a longer row, zeros at its end
    Slack of_few, of_all;
    Aligned<double> directions; // [blocks][D][8]
    Aligned<float> longer;      // [M][width]
    double loss = 0;            // of canonical squares, in the units of the frame
};

// Four rows at a time along all directions; one object a thread.
class Shortener {
  public:
    Shortener(const Frame& full, int64_t blocks)
        : full_(&full), row_(full.depth()), spare_(full.dim()), rows_(4 * full.dim()), along_(4 * blocks * 8) {}
    // Rows first.. of x, at most four: short [few + 1] and longer [width] of each.
    void take(const ShortBank& of, const Matrix& x, int64_t first, int64_t count, float* shorter, float* longer) {
        const int64_t dim = full_->dim();
        double norm2[4] = {};
        std::fill_n(rows_.get() + count * dim, (4 - count) * dim, 0.0);
        for (int64_t r = 0; r < count; ++r) {
            full_->row(x, first + r, row_.get(), spare_.get());
            for (int64_t i = 0; i < dim; ++i) {
                const double z = row_[i];
                rows_[r * dim + i] = z;
                norm2[r] += z * z;
            }
        }
        full_->kernel().project(rows_.get(), dim, of.directions.get(), of.blocks, along_.get());
        for (int64_t r = 0; r < count; ++r) {
            const double* along = along_.get() + r * of.blocks * 8;
            float *s = shorter + r * (of.few + 1), *l = longer + r * of.width;
            double left = norm2[r];
            for (int64_t j = 0; j < of.all; ++j) {
                if (j == of.few) s[j] = rest(left);
                (j < of.few ? s[j] : l[j]) = float(along[j]);
                if (j < of.few) l[j] = s[j];
                left -= along[j] * along[j];
            }
            if (of.all == of.few) s[of.few] = rest(left);
            l[of.all] = rest(left);
            std::fill_n(l + of.all + 1, of.width - of.all - 1, 0.0f);
        }
    }

  private:
    static float rest(double left) { return float(std::sqrt(left > 0 ? left : 0)); }
    const Frame* full_;
    Aligned<float> row_, spare_;
    Aligned<double> rows_, along_;
};

} // namespace pcf
