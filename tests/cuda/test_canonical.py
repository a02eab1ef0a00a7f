"""The canonical distance of a warp is exact.squared_distance, bit for bit, in every lane."""

import pytest
import torch

from patchcore_fast.kernels import exact

from .addresses import FLOATS, laid_out, rows

BIG = (1023, 1024, 1025, 4097, 65535, 65537, 100003, 1234567, (1 << 21) - 1, 1 << 21)


def check(emulated, x, y):
    out = torch.full((x.shape[0], 32), torch.nan, dtype=torch.float64)
    emulated.test_canonical(rows(x), rows(y), out.data_ptr())
    assert torch.equal(out, exact.squared_distance(x, y)[:, None].expand(-1, 32)), (x.shape, x.dtype, y.dtype)


def test_every_width_up_to_600(emulated):
    generator = torch.Generator().manual_seed(0)
    for dim in range(1, 601):
        check(emulated, torch.randn(3, dim, generator=generator), torch.randn(3, dim, generator=generator))


@pytest.mark.parametrize("dim", BIG)
def test_wide_rows(emulated, dim):
    generator = torch.Generator().manual_seed(dim)
    check(emulated, torch.randn(1, dim, generator=generator), torch.randn(1, dim, generator=generator))


def test_the_sum_depends_on_its_order(emulated):
    """Else the tests above would show nothing: most widths give another value when summed from left to right."""
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(64, 100, generator=generator), torch.zeros(64, 100)
    squares = (x.double() - y.double()).square()
    plain = squares.cumsum(1)[:, -1]
    assert (plain != exact.squared_distance(x, y)).sum() > 20


@pytest.mark.parametrize("other", FLOATS, ids=str)
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_types_and_strides(emulated, dtype, other):
    generator = torch.Generator().manual_seed(0)
    for dim in (1, 2, 31, 33, 128, 257):
        x = laid_out((3 * torch.randn(4, dim, generator=generator)).to(dtype))
        y = laid_out(torch.randn(4, dim, generator=generator).to(other))
        for first, second in zip(x.values(), [*y.values()][::-1], strict=True):
            check(emulated, first, second)


def test_differences_of_any_size(emulated):
    generator = torch.Generator().manual_seed(0)
    for size in (1e-320, 1e-160, 1e-30, 1e150, 1e160):
        x = torch.randn(3, 77, generator=generator, dtype=torch.float64) * size
        check(emulated, x, torch.zeros_like(x))
