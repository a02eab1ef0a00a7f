"""Every Vision GNN against its authors' own modules, with the same random weights. How they are found: repositories.py.

Their code wants a timm that has gone and names of numpy that have gone: stand-ins are put there for the import.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import timm.layers
import torch

from patchcore_fast.features.networks import own_random_state
from patchcore_fast.features.vig import SHAPES, VisionGNN
from patchcore_fast.features.vig.network import Grapher
from patchcore_fast.features.vig.positions import columns, factors

from .repositories import checkout

NAMES = {"helpers": {"load_pretrained": None},
         "layers": {"DropPath": timm.layers.DropPath, "to_2tuple": None, "trunc_normal_": None},
         "registry": {"register_model": lambda make: make}}  # fmt: skip


@pytest.fixture
def authors(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Call it with a name of ours: their function that makes the network."""
    root = checkout("vig")
    monkeypatch.syspath_prepend(str(root / "vig_pytorch" if (root / "vig_pytorch").is_dir() else root))
    for part, names in NAMES.items():
        module = ModuleType(f"timm.models.{part}")
        vars(module).update(names)
        monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setattr(np, "float", float, raising=False)
    for module_name in ("vig", "pyramid_vig", "gcn_lib"):
        monkeypatch.delitem(sys.modules, module_name, raising=False)

    def find(name: str) -> Any:
        return getattr(importlib.import_module("pyramid_vig" if name[0] == "p" else "vig"), f"{name}_224_gelu")

    return find


@pytest.mark.parametrize("name", SHAPES)
def test_maps_are_those_of_the_authors(name: str, authors: Any, tmp_path: Path) -> None:
    """In float64, where nearly equal distances do not fall to one side here and to the other there.

    So their relative positions are float64 too: those of the formula, which loading holds to the ones of their own.
    """
    images = torch.rand(2, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    with own_random_state(7):
        theirs = authors(name)()
        theirs.pos_embed.data.normal_()
        for module in theirs.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.momentum = 1.0  # statistics of what comes by, or numbers grow from block to block
                module.weight.data.uniform_(0.5, 1.5)
                module.bias.data.normal_(std=0.2)
        with torch.no_grad():
            theirs((images - 0.5) / 0.5)
    torch.save({"state_dict": theirs.eval().state_dict()}, tmp_path / "w.pth.tar")
    layers = range(len(SHAPES[name].layers))
    ours = VisionGNN(name, list(layers), tmp_path / "w.pth.tar")
    kept: list[torch.Tensor] = []
    for module in ours.layers:
        theirs.get_submodule(module).register_forward_hook(lambda _m, _i, output: kept.append(output))
    ours.net.double(), theirs.double()
    for place, graph in ours.net.named_modules():
        if isinstance(graph, Grapher) and graph.side is not None:
            shape = (graph.channels, graph.side, graph.reduction)
            graph.centre_columns, graph.other_columns = columns(*shape)
            query, key = factors(*shape)
            theirs.get_submodule(place).relative_pos.data = (-2 * query @ key.T)[None]
    with torch.inference_mode():
        normal = (images.double() - 0.5) / 0.5
        theirs(normal)
        found = ours.net(normal)
    off = [float((a - b).abs().max() / b.abs().max()) for a, b in zip(found, kept, strict=True)]
    print(f"{name}: largest relative difference {max(off):.1e}")
    assert [m.shape[1] for m in found] == list(ours.channels) and max(off) < 1e-9, off
