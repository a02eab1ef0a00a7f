"""Folding batch norms changes no map beyond rounding, and no network that has another use for what it would change."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from patchcore_fast.features import Backbone
from patchcore_fast.features.folding import folded
from patchcore_fast.features.networks import build, outline, own_random_state


class Net(nn.Module):
    """A convolution with its norm; `raw` gives the convolution's output away as well, `twice` runs it twice."""

    def __init__(self, raw: bool = False, twice: bool = False) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3)
        self.norm.running_mean.fill_(0.5)  # type: ignore[union-attr]
        self.norm.running_var.fill_(4.0)  # type: ignore[union-attr]
        self.raw, self.twice = raw, twice

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        """Maps."""
        x = self.conv(x) if self.twice else x
        between = self.conv(x)
        return [self.norm(between), *([between] if self.raw else [])]


def norms(net: nn.Module) -> int:
    return sum(isinstance(m, nn.BatchNorm2d) for m in net.modules())


@pytest.mark.parametrize(
    ("name", "layers", "left"), [("test_efficientnet", (1, 2), 0), ("resnet18", (1, 2), 0), ("resnetv2_50", (1, 2), 7)]
)
@torch.inference_mode()
def test_the_same_maps(name: str, layers: tuple[int, ...], left: int) -> None:
    with own_random_state(0):
        net = build(outline(name), layers, "random", False, None).eval()
    for m in net.modules():
        if isinstance(m, nn.BatchNorm2d):  # as trained ones are, nothing like 0 and 1
            m.running_mean.uniform_(-0.2, 0.2, generator=torch.Generator().manual_seed(1))
            m.running_var.uniform_(0.5, 2, generator=torch.Generator().manual_seed(2))
    before = {k: v.clone() for k, v in net.state_dict().items()}
    images = torch.rand(2, 3, 96, 80, generator=torch.Generator().manual_seed(3))
    made = folded(net, (96, 80), images.device)
    assert norms(net) > norms(made) == left  # a norm that comes before its convolution stays
    for a, b in zip(net(images), made(images), strict=True):
        torch.testing.assert_close(b, a, rtol=0, atol=1e-5 * float(a.abs().max()))
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())


def test_what_is_used_otherwise_stays() -> None:
    where = (8, 8), torch.device("cpu")
    assert norms(folded(Net().eval(), *where)) == 0
    for net in (Net(raw=True).eval(), Net(twice=True).eval(), Net().train()):
        assert folded(net, *where) is net


def test_other_weights_are_folded_anew() -> None:
    backbone = Backbone("test_efficientnet", (1, 2), "random")
    images = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    before, known = backbone(images), backbone.fingerprint()
    backbone.net.load_state_dict(Backbone("test_efficientnet", (1, 2), "random", seed=1).net.state_dict())
    after = backbone(images)
    assert norms(backbone.net) > 0 and backbone.fingerprint() != known
    for a, b, c in zip(before, after, backbone.net((images - backbone.mean) / backbone.std), strict=True):
        assert not torch.allclose(a, b, atol=1e-3)
        torch.testing.assert_close(b, c.detach(), rtol=1e-4, atol=1e-5)
