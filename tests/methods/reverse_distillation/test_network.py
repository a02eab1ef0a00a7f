"""The student of reverse distillation and its loss against plain restatements; odd grids; seeds."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

pytest.importorskip("timm", reason="the extra pipeline is not installed")

from patchcore_fast.features.networks import own_random_state
from patchcore_fast.methods.reverse_distillation.blocks import layout_of
from patchcore_fast.methods.reverse_distillation.loss import LOSSES, distillation_loss, summed
from patchcore_fast.methods.reverse_distillation.network import Student

from . import restated

WRN50 = layout_of([(256, 16, 16), (512, 8, 8), (1024, 4, 4)])
RESNET18 = layout_of([(64, 16, 16), (128, 8, 8), (256, 4, 4)])
LAYOUTS = [
    pytest.param(replace(WRN50, channels=(32, 40, 48)), 2, id="bottleneck-blocks"),
    pytest.param(replace(WRN50, channels=(4, 6, 10), signed=True), 3, id="bottleneck-blocks-odd-grid"),
    pytest.param(replace(RESNET18, channels=(4, 6, 10), signed=True), 2, id="basic-blocks"),
    pytest.param(WRN50, 4, id="wide-resnet-50", marks=pytest.mark.thorough),
    pytest.param(RESNET18, 4, id="resnet-18", marks=pytest.mark.thorough),
]


def made(layout, seed=0):
    with own_random_state(seed):
        return Student(layout)


def maps_of(layout, deepest):
    """Made-up maps of three layers, [2, C, h, w] float64, with negative values where the layout has them."""
    g = torch.Generator().manual_seed(1)
    odd = deepest % 2
    sides = [2 * (2 * deepest - odd) - odd, 2 * deepest - odd, deepest]
    shapes = [(2, c, side, side) for c, side in zip(layout.channels, sides, strict=True)]
    maps = [torch.randn(shape, generator=g, dtype=torch.float64) for shape in shapes]
    return maps if layout.signed else [m.abs() for m in maps]


@pytest.mark.parametrize(("layout", "deepest"), LAYOUTS)
def test_outputs_losses_and_gradients_are_those_of_plain_operations(layout, deepest):
    student, teacher = made(layout).double(), maps_of(layout, deepest)
    weights = dict(student.named_parameters())
    got = student(teacher)
    want = restated.student(weights, teacher, layout.narrow, (layout.bottleneck, *layout.decoder), layout.signed)
    for ours, theirs, given in zip(got, want, teacher, strict=True):
        assert ours.shape == given.shape and torch.allclose(ours, theirs, rtol=1e-5, atol=1e-9)
    for kind in LOSSES:
        losses = distillation_loss(teacher, got, kind), restated.loss(teacher, want, kind)
        assert losses[0].item() == pytest.approx(losses[1].item(), rel=1e-9)
        gradients = [torch.autograd.grad(loss, list(weights.values()), retain_graph=True) for loss in losses]
        for ours, theirs in zip(*gradients, strict=True):
            assert float((ours - theirs).norm()) <= 1e-5 * float(theirs.norm()) + 1e-12


def test_the_layouts_are_those_of_the_public_code():
    assert (WRN50.narrow, WRN50.bottleneck, WRN50.decoder) == (True, 3, (3, 4, 6))
    assert (RESNET18.narrow, RESNET18.bottleneck, RESNET18.decoder) == (False, 2, (2, 2, 2))


def test_the_seed_decides_the_weights():
    layout = replace(RESNET18, channels=(4, 6, 10))
    first, again, other = (made(layout, seed).state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(value, again[name]) for name, value in first.items())
    name = "decoder.stages.0.0.0.conv2.weight"
    assert not torch.equal(first[name], other[name])
    assert float(first[name].std()) == pytest.approx((2 / (9 * len(first[name]))) ** 0.5, rel=0.1)  # of its fan-out


@pytest.mark.parametrize(
    "shapes",
    [[(4, 13, 9), (6, 7, 5), (10, 4, 3)], [(4, 9, 7), (10, 3, 2)], [(8, 5, 5)], [(8, 3, 3), (8, 3, 3)],
     [(8, 2, 3), (10, 2, 3)], [(3, 33, 17), (5, 5, 3)]],
    ids=["three", "a-quarter", "one", "tokens", "tokens-of-two-widths", "an-eighth"],
)  # fmt: skip
def test_any_layers_and_odd_grids_come_back_in_their_shapes(shapes):
    student = made(layout_of(shapes))
    maps = [torch.rand(2, *shape) for shape in shapes]
    found = student(maps)
    assert [m.shape for m in found] == [m.shape for m in maps]
    distillation_loss(maps, found).backward()
    assert all(p.grad is not None and bool(torch.isfinite(p.grad).all()) for p in student.parameters())


def test_what_cannot_be_halved_is_refused():
    assert (WRN50.ratios, layout_of([(4, 20, 9), (4, 5, 3)]).ratios) == ((2, 2), (4,))
    with pytest.raises(ValueError, match=r"grids of 7 x 8, 3 x 4, and .* multiples of the backbone's stride"):
        layout_of([(4, 7, 8), (8, 3, 4)])  # a network that rounds down
    with pytest.raises(ValueError, match="grids of 4 x 4, 8 x 8"):
        layout_of([(4, 4, 4), (8, 8, 8)])
    with pytest.raises(ValueError, match="grid of 2 x 1, which leaves one place"):
        layout_of([(4, 4, 2), (8, 2, 1)])


def test_losses_of_equal_opposite_and_scaled_maps():
    g = torch.Generator().manual_seed(0)
    maps = [torch.randn(3, 4, 5, 5, generator=g), torch.randn(3, 6, 3, 3, generator=g)]
    for kind in LOSSES:
        assert distillation_loss(maps, [3 * m for m in maps], kind).item() == pytest.approx(0, abs=1e-6)
        assert distillation_loss(maps, [-m for m in maps], kind).item() == pytest.approx(4, abs=1e-6)
    with pytest.raises(ValueError, match="got 'pixel'"):
        distillation_loss(maps, maps, "pixel")


def test_distances_are_upsampled_with_corners_aligned_and_added():
    d = torch.tensor([[[0.0, 3.0], [6.0, 9.0]]])
    found = summed([d, torch.ones(1, 1, 1)], (4, 4))
    step = torch.arange(4.0)
    assert torch.allclose(found[0], 1 + step[None] + 2 * step[:, None])
