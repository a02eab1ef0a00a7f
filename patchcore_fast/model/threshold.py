"""A decision threshold from normal images alone."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

LIMIT = 64  # images scored; more would cost time and hardly move the quantile


def leave_out_scores(
    features: torch.Tensor,
    starts: torch.Tensor,
    bank: torch.Tensor,
    owners: torch.Tensor,
    score: Callable[[torch.Tensor, torch.Tensor], float],
    smallest: int = 1,
    images: torch.Tensor | None = None,
) -> list[float]:
    """Scores of training images, each against the bank without its own rows.

    Scored against the whole bank a training image finds itself, and its score says nothing about new images.
    Without its own rows the bank misses what only this image shows, so these scores err on the high side.

    Parameters
    ----------
    features : [N, D].  starts : [images + 1], rows of image i are starts[i] to starts[i + 1].
    bank : [M, D].  owners : [M] image of each bank row.
    score : features of one image and a bank -> image score.
    images : [J] numbers of those that may be scored, all when None.
    smallest : images that would leave fewer bank rows than this are passed over.

    Returns
    -------
    Up to LIMIT scores, of images spread evenly over the training set.
    """
    images = torch.arange(len(starts) - 1) if images is None or not len(images) else images
    chosen = images[torch.linspace(0, len(images) - 1, min(LIMIT, len(images))).round().long().unique()]
    scores = []
    for image in chosen.tolist():
        keep = (owners != image).to(bank.device)
        if int(keep.sum()) >= smallest:
            rows = features[int(starts[image]) : int(starts[image + 1])]
            scores.append(score(rows.to(bank.device), bank[keep]))
    return scores


def threshold_from(scores: list[float], quantile: float) -> float | None:
    """The smallest of the scores that reaches the quantile; None without scores."""
    return float(np.quantile(scores, quantile, method="higher")) if scores else None
