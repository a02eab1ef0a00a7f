"""Vision GNN as a backbone: a small one against a restatement, the published shapes, files of weights, the pipeline."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
import torch.nn.functional as F

from patchcore_fast.errors import BankError, DataError
from patchcore_fast.export import ExportedPatchCore
from patchcore_fast.features.networks import own_random_state
from patchcore_fast.features.vig import SHAPES, Shape, VisionGNN
from patchcore_fast.features.vig.network import Network
from patchcore_fast.features.vig.positions import columns, factors
from patchcore_fast.model import PatchCore, PatchCoreConfig
from patchcore_fast.model.passes import make_extractor

FLAT = Shape((5,), (16,), (3, 6), 2, (1,), False, 64)  # 4 x 4 nodes; the fifth block has a dilation of 2
STAGES = Shape((1, 2), (8, 16), (4, 4), 2, (2, 1), True, 32)  # 8 x 8 nodes with neighbours among 4 x 4, then 4 x 4
LAST = {FLAT: 4, STAGES: 3}


def _state(shape: Shape) -> dict[str, torch.Tensor]:
    """A file of the whole network: nothing in it is 0 or 1, and relative positions as the authors make them."""
    with own_random_state(3):
        net = Network(shape, (LAST[shape],))
        state = {k: v.clone() for k, v in net.state_dict().items()}
        for name, value in state.items():
            if "running_var" in name:
                value.uniform_(0.5, 2)
            elif (value.is_floating_point() and value.ndim != 4) or name == "pos_embed":
                value.normal_()
    for name, module in net.named_modules():
        if getattr(module, "side", None) is not None:
            state[f"{name}.relative_pos"] = _relative(module.channels, module.side, module.reduction)
    return state | {"prediction.0.weight": torch.zeros(1)}


def _relative(channels: int, side: int, reduction: int) -> torch.Tensor:
    """-[1, N, M] float32, one number after the other: the authors' formula, from the matrix of all pairs of nodes."""
    half = channels // 4
    table = []
    for node in range(side * side):
        angles = [axis / 10_000 ** (i / half) for axis in (node % side, node // side) for i in range(half)]
        x = torch.tensor(angles, dtype=torch.float64).view(2, half)
        table.append(torch.cat([x[0].sin(), x[0].cos(), x[1].sin(), x[1].cos()]))
    pairs = (2 * torch.stack(table) @ torch.stack(table).T / channels).float()
    size = (side * side, side * side // reduction**2)
    return -F.interpolate(pairs[None, None], size=size, mode="bicubic", align_corners=False)[0]


def _restated(shape: Shape, state: dict[str, torch.Tensor], x: torch.Tensor) -> list[torch.Tensor]:
    """Float64, one node after the other, distances of all pairs in an image."""
    w = {k: v.double() for k, v in state.items()}

    def convolved(name: str, x: torch.Tensor, norm: str | None, **how: int) -> torch.Tensor:
        x = F.conv2d(x, w[f"{name}.weight"], w[f"{name}.bias"], **how)
        running = (w[f"{norm}.{k}"] for k in ("running_mean", "running_var", "weight", "bias"))
        return F.batch_norm(x, *running)  # type: ignore[arg-type]

    strides = [2] * (2 if len(shape.blocks) > 1 else 4) + [1]
    for i, stride in enumerate(strides):
        x = convolved(f"stem.convs.{3 * i}", x, f"stem.convs.{3 * i + 1}", stride=stride, padding=1)
        x = F.gelu(x) if stride == 2 else x
    x = x + w["pos_embed"]
    maps, place, number, total = [], 0, 0, sum(shape.blocks)
    for stage, blocks in enumerate(shape.blocks):
        if stage:
            x = convolved(f"backbone.{place}.conv.0", x, f"backbone.{place}.conv.1", stride=2, padding=1)
            place += 1
        for _ in range(blocks):
            here, reduction = f"backbone.{place}", shape.reductions[stage]
            k = int(shape.neighbours[0] + (shape.neighbours[1] - shape.neighbours[0]) * number / (total - 1) + 1e-6)
            d = min(number // 4 + 1, shape.farthest)
            inside = convolved(f"{here}.0.fc1.0", x, f"{here}.0.fc1.1")
            coarse = F.avg_pool2d(inside, reduction)
            found = torch.zeros(len(x), 2 * inside.shape[1], *inside.shape[2:], dtype=torch.float64)
            for b in range(len(x)):
                nodes, others = inside[b].flatten(1).T, coarse[b].flatten(1).T
                distance = torch.cdist(F.normalize(nodes), F.normalize(others)).square()
                distance = distance + w.get(f"{here}.0.relative_pos", torch.zeros(1, 1, 1).double())[0]
                for i, row in enumerate(distance):
                    near = row.argsort()[: k * d : d]
                    most = (others[near] - nodes[i]).max(dim=0).values
                    found[b, :, i // inside.shape[3], i % inside.shape[3]] = torch.stack([nodes[i], most], 1).flatten()
            inside = convolved(f"{here}.0.graph_conv.gconv.nn.0", found, f"{here}.0.graph_conv.gconv.nn.1", groups=4)
            x = convolved(f"{here}.0.fc2.0", F.gelu(inside), f"{here}.0.fc2.1") + x
            inside = F.gelu(convolved(f"{here}.1.fc1.0", x, f"{here}.1.fc1.1"))
            x = convolved(f"{here}.1.fc2.0", inside, f"{here}.1.fc2.1") + x
            place, number = place + 1, number + 1
            if stage == len(shape.blocks) - 1 or shape.blocks[stage] == 1:
                maps.append(x)
    return maps if len(shape.blocks) == 1 else [maps[0], maps[-1]]


@pytest.mark.parametrize("shape", [FLAT, STAGES], ids=["isotropic", "pyramid"])
def test_maps_are_those_of_the_restatement(shape: Shape, tmp_path: Path) -> None:
    state = _state(shape)
    safetensors.torch.save_file(state, tmp_path / "w.safetensors")
    every = range(len(shape.layers))
    ours = VisionGNN("small", list(every), tmp_path / "w.safetensors", shape=shape)
    images = torch.rand(2, 3, shape.side, shape.side, generator=torch.Generator().manual_seed(0))
    want = _restated(shape, state, images.double() * 2 - 1)
    got = ours(images)
    assert [tuple(m.shape[1:]) for m in got] == [
        (c, shape.side // s, shape.side // s) for c, s in zip(ours.channels, ours.reductions, strict=True)
    ]
    for a, b in zip(got, want, strict=True):
        torch.testing.assert_close(a.double(), b, rtol=1e-4, atol=1e-4)
    alone = torch.cat([ours(image[None])[-1] for image in images])
    torch.testing.assert_close(alone, got[-1], rtol=1e-4, atol=1e-3)
    first = VisionGNN("small", [0], tmp_path / "w.safetensors", shape=shape)  # cut behind its last layer
    torch.testing.assert_close(first(images)[0], got[0])
    assert len(first.net.state_dict()) < len(ours.net.state_dict())


@pytest.mark.parametrize(("channels", "side", "reduction"), [(16, 8, 1), (24, 8, 2), (48, 8, 4)])
def test_columns_make_the_distances_with_relative_positions(channels: int, side: int, reduction: int) -> None:
    query, key = columns(channels, side, reduction)
    x = F.normalize(torch.randn(len(query), 5, generator=torch.Generator().manual_seed(0)).double())
    y = F.normalize(torch.randn(len(key), 5, generator=torch.Generator().manual_seed(1)).double())
    want = torch.cdist(x, y).square() + _relative(channels, side, reduction)[0].double()
    got = torch.cdist(torch.cat([x, query], 1), torch.cat([y, key], 1)).square()
    shift = got - want
    torch.testing.assert_close(shift, shift.mean(dim=1, keepdim=True).expand_as(shift), rtol=0, atol=1e-6)
    q, k = factors(channels, side, reduction)
    torch.testing.assert_close(-2 * q @ k.T, _relative(channels, side, reduction)[0].double(), rtol=0, atol=1e-6)


def test_published_shapes() -> None:
    """Parameters in millions, of the table in the authors' repository, which counts relative positions."""
    for name, wanted in (("vig_s", 22.7), ("pvig_m", 51.7)):
        shape = SHAPES[name]
        with torch.device("meta"):
            net = Network(shape, (int(shape.layers[-1][0].split(".")[1]),))
        head = (shape.channels[-1] + 1) * 1024 + 2 * 1024 + 1025 * 1000
        graphs = [m for m in net.modules() if getattr(m, "side", None) is not None]
        beside = sum(g.side**4 // g.reduction**2 for g in graphs)
        learned = sum(p.numel() for p in net.parameters())
        assert (head + beside + learned) / 1e6 == pytest.approx(wanted, abs=0.05), name
    assert [s for _, _, s in SHAPES["pvig_s"].layers] == [4, 8, 16, 32] and len(SHAPES["vig_b"].layers) == 16
    assert SHAPES["pvig_ti"].layers[1:3] == (("backbone.4", 96, 8), ("backbone.11", 240, 16))


@pytest.mark.parametrize(("change", "words"), [
    ({"backbone.0.0.fc1.0.weight": None}, r"lacks 1 of the \d+ tensors wanted, first backbone.0.0.fc1.0.weight"),
    ({"backbone.0.0.relative_pos": None}, r"lacks 1 of .* first backbone.0.0.relative_pos"),
    ({"backbone.9.0.weight": torch.zeros(1)}, "holds 1 tensors that the model has not, first backbone.9.0.weight"),
    ({"pos_embed": torch.zeros(1, 8, 4, 4)}, r"pos_embed has shape \(1, 8, 4, 4\), the model wants \(1, 8, 8, 8\)"),
    ({"backbone.0.0.relative_pos": torch.zeros(1, 64, 16)}, "not made of sines and cosines"),
], ids=["missing", "no positions", "unknown", "shape", "positions"])  # fmt: skip
def test_files_of_others_are_refused(change: dict[str, Any], words: str, tmp_path: Path) -> None:
    state = {k: v for k, v in (_state(STAGES) | change).items() if v is not None}
    torch.save({"state_dict": state}, tmp_path / "w.pth.tar")
    with pytest.raises(DataError, match=words):
        VisionGNN("small", [0, 1], tmp_path / "w.pth.tar", shape=STAGES)


@pytest.mark.parametrize(("settings", "words"), [
    ({}, "no package has weights of vig_ti: give its authors' file"),
    ({"weights": "random", "layers": (12,)}, "vig_ti has layers 0 to 11, got 12"),
    ({"weights": "random", "image_size": 256}, r"vig_ti takes \(224, 224\) pixels, got \(256, 256\)"),
    ({"weights": "random", "norm": True}, "vig_ti has no final norm"),
], ids=["weights", "layers", "size", "norm"])  # fmt: skip
def test_settings_of_others_are_refused(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        make_extractor(PatchCoreConfig(backbone="vig_ti", **settings), torch.device("cpu"))


def test_the_pipeline(tmp_path: Path) -> None:
    config = PatchCoreConfig(backbone="vig_ti", layers=(0, 1), weights="random", ratio=0.2, batch_size=2, device="cpu")
    images = torch.rand(3, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    model = PatchCore(config, progress=False).fit(images)
    assert model.bank.features.shape == (int(0.2 * 3 * 196), 2 * 192)
    model.save(tmp_path / "b.safetensors")
    again = PatchCore.load(tmp_path / "b.safetensors", "cpu", progress=False)
    assert again.predict(images[:1])[0].score == pytest.approx(model.predict(images[:1])[0].score, rel=1e-5)
    with pytest.raises(BankError, match="the backbone must not be vig_ti"):
        ExportedPatchCore(model)
