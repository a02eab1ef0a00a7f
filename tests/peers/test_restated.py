"""amazon's and anomalib's scoring, written again in plain steps, against ours on the same weights and images."""

from __future__ import annotations

from typing import Any

import faiss
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy import ndimage

from .peer_cases import LAYERS, Peer, peer
from .restated_scoring import image_score, mirror_blur


def _maps(p: Peer, images: torch.Tensor) -> list[torch.Tensor]:
    """Outputs of the named blocks of the whole network, caught with hooks."""
    caught: dict[str, torch.Tensor] = {}
    layers = p.model.extractor.backbone.layers
    hooks = [
        p.whole.get_submodule(name).register_forward_hook(lambda _, __, out, name=name: caught.update({name: out}))
        for name in layers
    ]
    with torch.no_grad():
        p.whole(images)
    for hook in hooks:
        hook.remove()
    return [caught[name] for name in layers]


def _amazon_features(maps: list[torch.Tensor], dim: int) -> np.ndarray:
    """3 x 3 windows with zero border; windows of coarse layers resized element by element to the first grid; each
    window flattened and averaged down to `dim` values; the layers' values in a row averaged down to `dim` again."""
    grid = maps[0].shape[2:]
    per_layer = []
    for m in maps:
        b, c = m.shape[:2]
        windows = F.unfold(m, 3, padding=1).view(b, c * 9, *m.shape[2:])
        if m.shape[2:] != grid:
            windows = F.interpolate(windows, size=grid, mode="bilinear", align_corners=False)
        flat = windows.flatten(2).transpose(1, 2).reshape(-1, 1, c * 9)
        per_layer.append(F.adaptive_avg_pool1d(flat, dim))
    return F.adaptive_avg_pool1d(torch.cat(per_layer, 2), dim)[:, 0].numpy()


@pytest.mark.parametrize("backbone", LAYERS)
@pytest.mark.parametrize("k", [1, 3], ids=lambda k: f"k{k}")
def test_amazon(backbone: str, k: int) -> None:
    p = peer("amazon", backbone, neighbours=k)
    train, test = (_amazon_features(_maps(p, images), 1024) for images in (p.train, p.test))
    index = faiss.IndexFlatL2(1024)
    index.add(train[p.indices.numpy()])
    patches = index.search(test, k)[0].mean(1).reshape(len(p.test), -1)
    grid = _maps(p, p.test)[0].shape[2:]
    up = F.interpolate(torch.from_numpy(patches).view(-1, 1, *grid), size=(64, 96), mode="bilinear")[:, 0]
    p.agree(patches.max(1), [ndimage.gaussian_filter(m, sigma=4) for m in up.numpy()])


def _anomalib_rows(maps: list[torch.Tensor]) -> torch.Tensor:
    """3 x 3 means with zero border, coarse layers resized bilinearly to the first, channels side by side."""
    means = [F.avg_pool2d(m, 3, 1, 1) for m in maps]
    sized = [F.interpolate(m, size=maps[0].shape[2:], mode="bilinear") for m in means]
    return torch.cat(sized, 1).permute(0, 2, 3, 1).flatten(0, 2).double()


@pytest.mark.parametrize("backbone", LAYERS)
@pytest.mark.parametrize("changes", [{}, {"score": "max"}, {"reweight_neighbours": 4}], ids=["b9", "max", "b4"])
def test_anomalib(backbone: str, changes: dict[str, Any]) -> None:
    p = peer("anomalib", backbone, **changes)
    train, test = (_anomalib_rows(_maps(p, images)) for images in (p.train, p.test))
    bank = train[p.indices]
    b = 1 if changes.get("score") == "max" else changes.get("reweight_neighbours", 9)
    rows = test.view(len(p.test), -1, test.shape[1])
    grid = _maps(p, p.test)[0].shape[2:]
    patches = torch.stack([torch.cdist(x, bank).min(1).values for x in rows]).view(-1, 1, *grid)
    up = F.interpolate(patches, size=(64, 96), mode="nearest")[:, 0]
    p.agree([image_score(x, bank, b) for x in rows], [mirror_blur(m, 4) for m in up.numpy()])
