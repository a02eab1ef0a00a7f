"""The published code of reverse distillation against our student: the same weights and maps.

How it is found: repositories.py. Its networks come from the checkout; of its scripts only the functions that are
compared are run, for they import packages that nothing here needs.
"""

from __future__ import annotations

import ast
import importlib.util
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.ndimage import gaussian_filter

from patchcore_fast.methods.reverse_distillation.blocks import layout_of
from patchcore_fast.methods.reverse_distillation.loss import distance, distillation_loss, summed
from patchcore_fast.methods.reverse_distillation.network import Student
from patchcore_fast.scoring import gaussian_blur

from .repositories import checkout

pytestmark = pytest.mark.thorough
SIDES = (16, 8, 4)
PAIRS = {
    "wide-resnet-50": ((256, 512, 1024), "AttnBottleneck", 3, "de_wide_resnet50_2", {"width_per_group": 128}),
    "resnet-18": ((64, 128, 256), "AttnBasicBlock", 2, "de_resnet18", {}),
}


def script(name: str) -> ModuleType:
    """A module of the checkout under a name that is nobody's."""
    spec = importlib.util.spec_from_file_location(f"rd4ad_{name}", checkout("rd4ad") / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def function(file: str, name: str) -> Any:
    """A function of a script, without what the script imports."""
    tree = ast.parse((checkout("rd4ad") / file).read_text(encoding="utf-8"))
    only = [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == name]
    found: dict[str, Any] = {"torch": torch, "F": F, "np": np}
    exec(compile(ast.Module(only, []), file, "exec"), found)
    return found[name]


def their_name(ours: str) -> tuple[str, str]:
    """("bn" or "decoder", the name there) of a tensor of ours."""
    part, where, index, rest = ours.split(".", 3)
    if part == "decoder":
        return part, f"layer{int(index) + 1}." + rest.removeprefix("0.").replace("shortcut", "upsample")
    if where == "embed":
        return "bn", f"bn_layer.{index}." + rest.replace("shortcut", "downsample")
    number, name = rest.split(".", 1)
    which = {("0", 0): 1, ("0", 1): 2, ("1", 0): 3}[index, int(number) // 3]
    return "bn", f"{'conv' if int(number) % 3 == 0 else 'bn'}{which}.{name}"


@pytest.fixture(params=PAIRS)
def pair(request: pytest.FixtureRequest) -> tuple[Student, dict[str, torch.nn.Module], list[torch.Tensor]]:
    """Our student, theirs with its weights, and maps of a 64 pixel image."""
    channels, block, blocks, decoder, options = PAIRS[request.param]
    resnet, de_resnet = script("resnet"), script("de_resnet")
    theirs = {
        "bn": resnet.BN_layer(getattr(resnet, block), blocks, **options),
        "decoder": getattr(de_resnet, decoder)(**options),
    }
    ours = Student(layout_of([(c, side, side) for c, side in zip(channels, SIDES, strict=True)]))
    states: dict[str, dict[str, torch.Tensor]] = {"bn": {}, "decoder": {}}
    for name, value in ours.state_dict().items():
        part, there = their_name(name)
        states[part][there] = value
    for part, module in theirs.items():
        missing = module.load_state_dict(states[part], strict=False)
        assert not missing.unexpected_keys
        assert {key.split(".")[0] for key in missing.missing_keys} <= {"conv4", "bn4"}  # theirs never runs them
    g = torch.Generator().manual_seed(0)
    maps = [torch.randn(4, c, s, s, generator=g).clamp(min=0) for c, s in zip(channels, SIDES, strict=True)]
    return ours, theirs, maps


def near(got: torch.Tensor, want: torch.Tensor) -> float:
    """The norm of the difference by that of what is wanted."""
    return float(((got - want).norm() / want.norm()).detach())


def test_outputs_loss_gradients_and_statistics(pair):
    ours, theirs, maps = pair
    got, want = ours(maps), theirs["decoder"](theirs["bn"](maps))
    assert max(near(g, w) for g, w in zip(got, want, strict=True)) <= 1e-5
    losses = distillation_loss(maps, got), function("main.py", "loss_fucntion")(maps, want)
    assert losses[0].item() == pytest.approx(losses[1].item(), rel=1e-5)
    for loss in losses:
        loss.backward()
    parameters = {part: dict(module.named_parameters()) for part, module in theirs.items()}
    buffers = {part: dict(module.named_buffers()) for part, module in theirs.items()}
    for name, value in ours.named_parameters():
        part, there = their_name(name)
        assert near(value.grad, parameters[part][there].grad) <= 1e-5, name
    for name, value in ours.named_buffers():
        part, there = their_name(name)
        assert near(value.double(), buffers[part][there].double()) <= 1e-5, name


def test_maps_and_scores(pair):
    ours, theirs, maps = pair
    ours.eval()
    for module in theirs.values():
        module.eval()
    maps = [m[:1] for m in maps]  # their map is of one image
    with torch.no_grad():
        got, want = ours(maps), theirs["decoder"](theirs["bn"](maps))
    plain, _ = function("test.py", "cal_anomaly_map")(maps, want, 64, amap_mode="a")
    wanted = gaussian_filter(plain, sigma=4)
    found = gaussian_blur(summed([distance(t, s) for t, s in zip(maps, got, strict=True)], (64, 64)), 4.0)[0].numpy()
    assert np.abs(found - wanted).max() <= 1e-5 * wanted.max()
    assert found.max() == pytest.approx(wanted.max(), rel=1e-5)
