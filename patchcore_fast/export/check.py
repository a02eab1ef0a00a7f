"""Does the written file give the model's numbers? It is loaded again and run, on the CPU, before it gets its name."""

from __future__ import annotations

import copy
import io
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F

from patchcore_fast.errors import BankError
from patchcore_fast.methods.base import Method

if TYPE_CHECKING:
    from patchcore_fast.model import PatchCore

TOLERANCE = 1e-4
Outputs = tuple[torch.Tensor, torch.Tensor]


class Difference(NamedTuple):
    """How far a file's numbers are from the model's.

    score : largest |exported - model| / |model| of an image score.  map : largest difference of a map's pixel, by the
    largest value of the model's map of that image.  images : how many were compared.
    """

    score: float
    map: float
    images: int


def check_images(size: tuple[int, int], images: torch.Tensor | None = None) -> torch.Tensor:
    """The images to compare on, [B, 3, *size] float32: those given, checked; or three seeded ones, smooth to rough."""
    if images is None:
        generator = torch.Generator().manual_seed(0)
        sides = [(4, 4), (max(1, size[0] // 8), max(1, size[1] // 8)), size]
        coarse = [torch.rand(1, 3, *side, generator=generator) for side in sides]
        return torch.cat([F.interpolate(c, size=size, mode="bilinear", align_corners=False) for c in coarse])
    if images.ndim != 4 or tuple(images.shape[1:]) != (3, *size) or not len(images):
        raise ValueError(f"export: images must be [B, 3, {size[0]}, {size[1]}], got shape {tuple(images.shape)}")
    return images.float()


def compare(
    model: PatchCore | Method, run: Callable[[bytes, torch.Tensor], list[Outputs]], content: bytes, images: torch.Tensor
) -> Difference:
    """Largest differences between a written model and the model with exact search, image by image and as one batch.

    Raises
    ------
    BankError : one is above TOLERANCE, or not a number.
    """
    exact = copy.copy(model)  # shares everything but the bank's index
    if not isinstance(exact, Method):
        exact._bank, exact._scorer = exact.bank.with_index("exact"), None
    expected = exact.predict(images)
    scores = np.array([p.score for p in expected], np.float64)
    maps = np.stack([p.anomaly_map for p in expected]).astype(np.float64)
    worst_score = worst_map = 0.0
    for got_scores, got_maps in run(content, images):
        score = np.abs(got_scores.double().numpy() - scores) / np.maximum(np.abs(scores), 1e-12)
        top = np.maximum(np.abs(maps).max(axis=(1, 2)), 1e-12)
        worst_score = max(worst_score, float(score.max()))
        worst_map = max(worst_map, float((np.abs(got_maps.double().numpy() - maps).max(axis=(1, 2)) / top).max()))
    found = Difference(worst_score, worst_map, len(images))
    if not (found.score <= TOLERANCE and found.map <= TOLERANCE):  # NaN fails this too
        raise BankError(
            f"export: the file gives other numbers than the model: scores differ by {found.score:.2g}, maps by "
            f"{found.map:.2g} (relative; {TOLERANCE:g} is allowed)"
        )
    return found


def run_pt2(content: bytes, images: torch.Tensor) -> list[Outputs]:
    """Outputs of a torch.export archive, for all images at once and one by one."""
    program = torch.export.load(io.BytesIO(content)).module()
    with torch.no_grad():
        return [program(images), _joined([program(image[None]) for image in images])]


def run_onnx(content: bytes, images: torch.Tensor) -> list[Outputs]:
    """Outputs of an ONNX model under onnxruntime, for all images at once and one by one."""
    import onnxruntime

    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])

    def run(part: torch.Tensor) -> Outputs:
        scores, maps = session.run(["scores", "maps"], {"images": part.numpy()})
        return torch.from_numpy(scores), torch.from_numpy(maps)

    return [run(images), _joined([run(image[None]) for image in images])]


def _joined(parts: list[Outputs]) -> Outputs:
    return torch.cat([scores for scores, _ in parts]), torch.cat([maps for _, maps in parts])
