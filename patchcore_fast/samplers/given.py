"""Signals that were computed before, `patchcore-fast score`'s, in place of those that the composite measures."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ..scores.density import inverse
from .composite_options import CompositeOptions
from .composite_signals import normalised

# Of difficulty: measures and the signals of `score` that they are.
_MEASURES = {"aum": "difficulty", "forgetting": "forgetting", "el2n": "el2n"}


def check_scores(name: str, scores: Any, n: int, options: CompositeOptions | None) -> dict[str, Tensor]:
    """Signals by name, [N] float32 each on the CPU; {} for None.

    Raises
    ------
    TypeError : no mapping.  ValueError : a signal of another shape or not finite, none that is used, or a sampler
    without the composite preset.
    """
    if scores is None:
        return {}
    if not isinstance(scores, Mapping):
        raise TypeError(f"{name}: scores must be a mapping of names to [N] numbers, got {type(scores).__name__}")
    if options is None:
        raise ValueError(f'{name}: scores go with preset="composite"; nothing else here is measured by given signals')
    found = {}
    for what, values in scores.items():
        try:
            known = found[str(what)] = torch.as_tensor(values).detach().cpu().float()
        except (TypeError, ValueError, RuntimeError):
            raise TypeError(f"{name}: scores[{what!r}] must be {n} numbers, got {type(values).__name__}") from None
        if tuple(known.shape) != (n,):
            raise ValueError(f"{name}: scores[{what!r}] must be {n} finite numbers, got shape {tuple(known.shape)}")
        if bad := int((~known.isfinite()).sum()):
            raise ValueError(f"{name}: scores[{what!r}] must be finite in float32; {bad} of {n} are not")
    if all(given(part, options, found) is None for part in ("representativeness", "density", options.third)):
        raise ValueError(f"{name}: none of the signals {', '.join(found)} is one of this composite")
    return found


def given(part: str, options: CompositeOptions, scores: Mapping[str, Tensor]) -> Tensor | None:
    """A signal of the composite, [N] float32, of given ones; None where these do not have it.

    Representativeness is a distance here, so that of `scores.representativeness`, which is minus one, changes its sign.
    """
    if part == "representativeness":
        return -scores[part] if part in scores else None
    if part == "density":
        found = scores.get("rarity")
        return inverse(found) if found is not None and options.density == "dense" else found
    if options.instability != "difficulty":
        return None if options.instability is None else scores.get("instability")
    names = [_MEASURES[m] for m in options.measures]
    if not all(name in scores for name in names):
        return None
    if len(names) == 1:
        return scores[names[0]]
    return torch.stack([normalised(scores[name]) for name in names]).mean(0).float()
