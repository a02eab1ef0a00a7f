"""The emulated tensor cores are as inaccurate as the bounds of tf32x3 and half allow, and not more."""

from fractions import Fraction
from math import floor, log2

import pytest
import torch

UNIT = 2.0**-24


def tf32(x):
    """Cut to 10 bits behind the leading one."""
    return (x.view(torch.int32) & ~0x1FFF).view(torch.float32)


def rounded(x):
    """Rounded to TF32, nearest, ties away from zero."""
    return tf32((x.view(torch.int32) + 0x1000).view(torch.float32))


def mma(emulated, a, b, d, thrice=False):
    """d + a b by the kernel: the operands are rounded to TF32 there, or split into halves."""
    a, b, out = a.contiguous(), b.contiguous(), d.clone().contiguous()
    emulated.test_mma(a.data_ptr(), b.data_ptr(), out.data_ptr(), int(thrice))
    return out


def exponent(x):
    """Of a Fraction that is not zero: 2^e <= |x| < 2^(e + 1)."""
    e = floor(log2(abs(x)))
    while Fraction(2) ** e > abs(x):
        e -= 1
    while Fraction(2) ** (e + 1) <= abs(x):
        e += 1
    return e


def cut(x, unit):
    """Toward zero, to a multiple."""
    return int(x / unit) * unit


def accumulated(start, a, b):
    """One element, exactly: four products and the sum so far, cut below bit 24 of the largest, then the sum."""
    total = Fraction(start)
    for k in range(0, len(a), 4):
        addends = [total, *(Fraction(x) * Fraction(y) for x, y in zip(a[k : k + 4], b[k : k + 4], strict=True))]
        if any(addends):
            unit = Fraction(2) ** (max(exponent(v) for v in addends if v) - 23)
            total = sum(cut(v, unit) for v in addends)
            total = cut(total, Fraction(2) ** (exponent(total) - 23)) if total else total
    return float(total)


def operands(seed, spread=0):
    generator = torch.Generator().manual_seed(seed)
    shapes = ((16, 8), (8, 8), (16, 8))
    return [
        torch.randn(s, generator=generator) * 2.0 ** torch.randint(-spread, spread + 1, s, generator=generator)
        for s in shapes
    ]


@pytest.mark.parametrize("spread", [0, 3, 15])
def test_each_element_is_cut_as_the_tensor_core_cuts(emulated, spread):
    for seed in range(4):
        a, b, d = operands(seed, spread)
        found = mma(emulated, a, b, d)
        a, b = rounded(a), rounded(b)
        for row in range(16):
            for column in range(8):
                want = accumulated(d[row, column].item(), a[row].tolist(), b[:, column].tolist())
                assert found[row, column].item() == want, (seed, row, column)


def test_small_whole_numbers_are_exact(emulated):
    generator = torch.Generator().manual_seed(0)
    a, b, d = (torch.randint(-512, 512, s, generator=generator).float() for s in ((16, 8), (8, 8), (16, 8)))
    assert torch.equal(mma(emulated, a, b, d), d + a @ b)


def test_rounding_to_tf32_is_to_nearest_ties_away(emulated):
    a, b, d = torch.zeros(16, 8), torch.eye(8), torch.zeros(16, 8)
    a[0, :6] = torch.tensor([1 + 2**-11, -1 - 2**-11, 1 + 2**-11 - 2**-23, 1 + 3 * 2**-11, 2**100, 2.0**-100])
    expected = torch.tensor([1 + 2**-10, -1 - 2**-10, 1, 1 + 2**-9, 2.0**100, 2.0**-100, 0, 0])
    assert torch.equal(mma(emulated, a, b, d)[0], expected)


def test_what_lies_below_the_largest_is_lost(emulated):
    # A sum that rounds would keep some of these; two of the four hang on by their last bit.
    a, b, d = torch.zeros(16, 8), torch.zeros(8, 8), torch.ones(16, 8)
    a[:, :4] = 1 - 2.0**-10
    b[:4] = 2.0**-23
    assert torch.equal(mma(emulated, a, b, d), d)
    b[:4] = 2.0**-22
    assert torch.equal(mma(emulated, a, b, d), d + 4 * 2.0**-23)


@pytest.mark.parametrize("positive", [False, True])
def test_three_products_keep_the_bound(emulated, positive):
    """|error| of a product of D = 128 columns, against (3 D + 40) u |x||y|, the inner product's share of precision."""
    worst, depth = 0.0, 128
    for seed in range(6):
        generator = torch.Generator().manual_seed(seed)
        x, y = (torch.randn(n, depth, generator=generator) for n in (16, 8))
        if positive:
            x, y = x.abs(), y.abs()
        out = torch.zeros(16, 8)
        for k in range(0, depth, 8):
            out = mma(emulated, x[:, k : k + 8], y[:, k : k + 8].t(), out, thrice=True)
        allowed = UNIT * torch.outer(x.double().norm(dim=1), y.double().norm(dim=1))
        error = (out.double() - x.double() @ y.double().t()).abs() / allowed
        worst = max(worst, float(error.max()))
    assert worst <= 3 * depth + 40
    if positive:  # all cuts go one way: far from what rounding would give
        assert worst > 20


HALVES = [torch.float16, torch.bfloat16]


def mma_half(emulated, a, b, d):
    """d + a b^T of halves by the kernel: a [16, 16], b [8, 16]."""
    out = d.clone()
    emulated.test_mma_half(a.data_ptr(), b.data_ptr(), out.data_ptr(), a.dtype == torch.bfloat16)
    return out


@pytest.mark.parametrize("dtype", HALVES, ids=str)
def test_fragments_of_halves_lie_as_ptx_says(emulated, dtype):
    """Each place of a and of b is another power of two or another sum: one that is mistaken for another shows."""
    for row in range(16):
        for column in range(16):
            a, b = torch.zeros(16, 16, dtype=dtype), torch.zeros(8, 16, dtype=dtype)
            a[row, column] = 1
            b[:, column] = torch.arange(1, 9)
            expected = torch.zeros(16, 8)
            expected[row] = torch.arange(1.0, 9.0)
            assert torch.equal(mma_half(emulated, a, b, torch.zeros(16, 8)), expected)
            assert not mma_half(emulated, a, b.roll(1, 1), torch.zeros(16, 8)).any()


@pytest.mark.parametrize("dtype", HALVES, ids=str)
@pytest.mark.parametrize("spread", [0, 3, 6])
def test_halves_are_cut_as_the_tensor_core_cuts(emulated, dtype, spread):
    for seed in range(3):
        generator = torch.Generator().manual_seed(seed)
        a, b, d = (
            torch.randn(s, generator=generator) * 2.0 ** torch.randint(-spread, spread + 1, s, generator=generator)
            for s in ((16, 16), (8, 16), (16, 8))
        )
        a, b = a.to(dtype), b.to(dtype)
        found = mma_half(emulated, a, b, d)
        for row in range(16):
            for column in range(8):
                want = accumulated(d[row, column].item(), a[row].tolist(), b[column].tolist())
                assert found[row, column].item() == want, (seed, row, column)


@pytest.mark.parametrize("dtype", HALVES, ids=str)
def test_small_halves_count(emulated, dtype):
    least = 2.0 ** (-24 if dtype == torch.float16 else -133)
    a, b = torch.full((16, 16), least, dtype=dtype), torch.full((8, 16), 3.0, dtype=dtype)
    assert bool((mma_half(emulated, a, b, torch.zeros(16, 8)) == 48 * least).all())


@pytest.mark.parametrize("dtype", HALVES, ids=str)
@pytest.mark.parametrize("kind", ["any sign", "positive", "all cuts lose"])
@pytest.mark.parametrize("depth", [16, 256, 2048])
def test_one_accumulator_keeps_the_bound_of_half(emulated, dtype, kind, depth):
    """|error| of a product of D columns in one accumulator, against 3 D u |x||y|, its share in precision."""
    worst = 0.0
    for seed in range(3):
        generator = torch.Generator().manual_seed(seed)
        x, y = (torch.randn(n, depth, generator=generator) for n in (16, 8))
        if kind != "any sign":
            x, y = x.abs(), y.abs()
        if kind == "all cuts lose":  # a large product first, and then such as end just below the last bit of the sum
            x, y = x * 2.0**-5, y * 2.0**-5 + 2.0**-5
            x[:, 0] = y[:, 0] = 16 + seed
        x, y = x.to(dtype), y.to(dtype)
        out = torch.zeros(16, 8)
        for k in range(0, depth, 16):
            part = slice(k, k + 16)
            out = mma_half(emulated, x[:, part].contiguous(), y[:, part].contiguous(), out)
        allowed = UNIT * torch.outer(x.double().norm(dim=1), y.double().norm(dim=1))
        worst = max(worst, float(((out.double() - x.double() @ y.double().t()).abs() / allowed).max()))
    assert worst <= 3 * depth
    if kind == "positive" and depth > 16:  # cuts go one way, a third of a unit or more each: the bound is not idle
        assert worst > depth / 16


def test_not_finite_stays_not_finite(emulated):
    a, b, d = operands(0)
    a[3, 2] = torch.inf
    d[5, 5] = torch.nan
    found = mma(emulated, a, b, d)
    assert not found[3].isfinite().any() and found[5, 5].isnan()
    assert found[[0, 1, 2, 4]].isfinite().all()
