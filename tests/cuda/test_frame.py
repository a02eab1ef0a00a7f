"""Rows looked over and packed by the CUDA kernels."""

import pytest
import torch

from .addresses import FLOATS, laid_out, rows

SHAPES = ((1, 1), (3, 5), (40, 33), (7, 300), (700, 17), (2100, 2))


def look(emulated, x):
    """The largest |x| and whether some value is not an integer."""
    largest, broken = torch.zeros(1, dtype=torch.int64), torch.zeros(1, dtype=torch.int32)
    emulated.look(rows(x), largest.data_ptr(), broken.data_ptr(), -1, 0)
    return float(largest.view(torch.float64)), bool(broken)


def pack(emulated, x, centre, params, listed=None, first=0, pitch=None, places=None):
    """Squared norms and, with a pitch, packed rows; what is not written stays NaN."""
    count = x.shape[0] if listed is None else listed.shape[0]
    places = first + count if places is None else places
    norm = torch.full((places,), torch.nan)
    out = None if pitch is None else torch.full((places, pitch), torch.nan)
    emulated.pack(
        rows(x), 0 if listed is None else listed.data_ptr(), count, first, centre.data_ptr(), params.data_ptr(),
        norm.data_ptr(), 0 if out is None else out.data_ptr(), pitch or 0, -1, 0,
    )  # fmt: skip
    return norm, out


def frame(dim, scale=(1.0, 1.0), centred=False):
    centre = torch.linspace(-2, 3, dim) if centred else torch.zeros(dim)
    return centre, torch.tensor([scale[0], 0.0, 0.0, 0.0, scale[1]], dtype=torch.float64)


def framed(x, centre, params):
    """(x - centre) * scale: in float64 and rounded once for float64 rows, else in float32."""
    if x.dtype == torch.float64:
        return ((x - centre.double()) * params[0] * params[4]).float()
    return (x.float() - centre) * params[0].float() * params[4].float()


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_look(emulated, every_seed, shape, dtype):
    x = (9 * torch.randn(shape, generator=torch.Generator().manual_seed(1))).to(dtype)
    whole = x.round()
    for _ in every_seed(2):
        for layout in laid_out(x).values():
            assert look(emulated, layout) == (float(x.abs().max()), not torch.equal(x, whole))
        for layout in laid_out(whole).values():
            assert look(emulated, layout) == (float(whole.abs().max()), False)


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_look_finds_one_value_anywhere(emulated, dtype):
    for place in ((0, 0), (699, 16), (350, 3)):
        for value, expected in ((torch.nan, (torch.inf, True)), (-torch.inf, (torch.inf, False)), (-7.5, (7.5, True))):
            x = torch.ones(700, 17, dtype=dtype)
            x[place] = value
            for layout in laid_out(x).values():
                assert look(emulated, layout) == expected


def test_look_adds_to_what_was_seen(emulated):
    largest, broken = torch.zeros(1, dtype=torch.int64), torch.ones(1, dtype=torch.int32)
    for x in [torch.full((4, 4), value) for value in (3.0, 9.0, 5.0)]:
        emulated.look(rows(x), largest.data_ptr(), broken.data_ptr(), -1, 0)
    emulated.look((0, "float32", 0, 4, 4, 1), largest.data_ptr(), broken.data_ptr(), -1, 0)  # no rows: nothing
    assert float(largest.view(torch.float64)) == 9.0 and int(broken) == 1


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_pack(emulated, every_seed, shape, dtype):
    x = (9 * torch.randn(shape, generator=torch.Generator().manual_seed(2))).to(dtype)
    dim = shape[1]
    pitch = -(-dim // 16) * 16
    for _ in every_seed(2):
        for centre, params in (frame(dim), frame(dim, (2.0**-3, 2.0), True)):
            expected = framed(x, centre, params)
            squares = expected.double().square().sum(1)
            for layout in laid_out(x).values():
                norm, out = pack(emulated, layout, centre, params, pitch=pitch)
                assert torch.equal(out[:, :dim], expected)
                assert torch.equal(out[:, dim:], torch.zeros(shape[0], pitch - dim))
                # One rounding of a float64 sum: half a unit in the last place, and what the sum is off by.
                assert ((norm.double() - squares).abs() <= squares * 2.0**-24 * (1 + 1e-6)).all()
                assert torch.equal(pack(emulated, layout, centre, params)[0], norm)


def test_scales_beyond_float32(emulated):
    x = torch.randn(5, 40, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    for scale in ((2.0**220, 2.0**220), (2.0**-220, 2.0**-220)):
        rescaled = x / scale[0] / scale[1]
        _, out = pack(emulated, rescaled, *frame(40, scale), pitch=48)
        assert torch.equal(out[:, :40], x.float())


@pytest.mark.parametrize("layout", ["rows", "columns", "gaps"])
def test_listed_rows_go_where_they_are_told(emulated, every_seed, layout):
    x = torch.randn(50, 21, generator=torch.Generator().manual_seed(4))
    centre, params = frame(21, centred=True)
    listed = torch.tensor([49, 0, 7, 7, 23])
    for _ in every_seed(2):
        norm, out = pack(emulated, laid_out(x)[layout], centre, params, listed, first=3, pitch=32, places=10)
        assert torch.equal(out[3:8, :21], framed(x, centre, params)[listed])
        assert out[:3].isnan().all() and out[8:].isnan().all()
        assert norm[3:8].isfinite().all() and norm[:3].isnan().all() and norm[8:].isnan().all()


def test_nothing_to_pack(emulated):
    x, none = torch.ones(4, 3), torch.empty(0, dtype=torch.int64)
    norm, out = pack(emulated, x, *frame(3), listed=none, pitch=16, places=2)
    assert norm.isnan().all() and out.isnan().all()


def test_what_is_refused(emulated):
    x, (centre, params) = torch.ones(4, 3), frame(3)
    for change, message in (
        ({"pitch": 2}, "pitch must be at least the columns, got 2"),
        ({"first": -1, "places": 9}, "first must be >= 0"),
    ):
        with pytest.raises(ValueError, match=message):
            pack(emulated, x, centre, params, **{"pitch": 16, **change})
    for bad, message in (
        (("float31", 4, 3), "type must be float16"),
        (("float32", -1, 3), "rows must be >= 0"),
        (("float32", 4, 0), "columns >= 1"),
        (("float32", 4, 1 << 22), "columns must be at most 2097152"),
    ):
        with pytest.raises(ValueError, match=message):
            emulated.look((x.data_ptr(), *bad, 3, 1), 8, 8, -1, 0)
    with pytest.raises(ValueError, match="not aligned for float32"):
        emulated.look((x.data_ptr() + 2, "float32", 4, 3, 3, 1), 8, 8, -1, 0)
    with pytest.raises(ValueError, match="an address is null"):
        emulated.look(rows(x), 0, 8, -1, 0)
