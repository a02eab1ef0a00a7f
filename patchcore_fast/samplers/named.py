"""Samplers by name, and what is written down of one that was given as an object."""

from __future__ import annotations

import inspect
import reprlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from ..config.base import nearest
from ..config.sampler_options import IMAGE_SHARE, checked_options
from ..config.selection import LIST, PARAMETERS, RATIO, TEXT, SelectionSettings, is_plain
from .base import Sampler
from .basic import IdentitySampler, RandomSampler
from .elfs import ELFSCoresetSampler
from .elfs_images import ELFSImageSampler
from .greedy import ApproximateGreedyCoresetSampler, GreedyCoresetSampler
from .lowest_density import LowestDensitySampler
from .two_level import SupportedImages, TwoLevelSampler

NAMED: dict[str, type[Sampler]] = {
    "greedy": GreedyCoresetSampler,
    "elfs": ELFSCoresetSampler,
    "composite": ELFSCoresetSampler,
    "two-level": TwoLevelSampler,
    "lowest-density": LowestDensitySampler,
    "approximate": ApproximateGreedyCoresetSampler,
    "random": RandomSampler,
    "identity": IdentitySampler,
}


def make_sampler(
    name: str,
    ratio: float = 0.01,
    *,
    seed: int = 0,
    device: torch.device | str | None = None,
    projection: int | None = 128,
    prune_support: str = "none",
    options: Mapping[str, Any] | None = None,
) -> Sampler:
    """A sampler by its short name, one of NAMED.

    Parameters
    ----------
    ratio : share of rows, in (0, 1); of "two-level", of the patches of the chosen images; not used by "identity".
    seed, device : of all that the sampler draws, and where it computes.
    projection : width of the random projection, or None; not used by "random" and "identity".
    prune_support : of "elfs": "none", "ask" or "rule".
    options : further arguments of the sampler, those of `config.sampler_options.OPTIONS`. `view_kinds` becomes an
        attribute of the sampler, which the pipeline looks at (`model.views`).

    Raises
    ------
    TypeError, ValueError : unknown name, ratio out of range, or an option that the sampler has not or cannot be so.
    """
    if name not in NAMED:
        raise ValueError(f"make_sampler: name must be one of {', '.join(NAMED)}, got {name!r}{nearest(name, NAMED)}")
    try:
        given: dict[str, Any] = dict(checked_options(name, options or {}))
    except (TypeError, ValueError) as error:
        raise type(error)(f"make_sampler: options: {error}") from None
    kinds = given.pop("view_kinds", None)
    if name == "random":
        return RandomSampler(ratio, seed)
    if name == "identity":
        return IdentitySampler()
    if name == "two-level":
        return _two_level(ratio, seed, device, projection, **given)
    if name == "elfs":
        given["prune_support"] = False if prune_support == "none" else prune_support
    elif name == "composite":
        given["preset"] = name
    kind: Any = NAMED[name]
    made: Sampler = kind(ratio, device, dimension_to_project_features_to=projection, seed=seed, **given)
    if kinds is not None:
        made.view_kinds = kinds  # type: ignore[attr-defined]  # of the pipeline, not of the sampler
    return made


def sampler_of(settings: SelectionSettings, device: torch.device | str | None = None) -> Sampler:
    """The sampler that settings name. ValueError: they are a record of one that was given as an object.

    Where they give a budget or a count in place of a ratio, set `percentage` once the rows are known.
    """
    s = settings
    if s.sampler_parameters is not None:
        raise ValueError(f"the settings say sampler {s.sampler}, which was given as an object")
    ratio = RATIO if s.ratio is None else s.ratio
    return make_sampler(s.sampler, ratio, seed=s.seed, device=device, prune_support=s.prune_support,
                        options=dict(s.sampler_options))  # fmt: skip


def _two_level(
    ratio: float,
    seed: int,
    device: torch.device | str | None,
    projection: int | None,
    images: str = "support",
    patches: str = "greedy",
    **chosen: Any,
) -> TwoLevelSampler:
    first: SupportedImages | ELFSImageSampler
    if images == "elfs":
        share, score = chosen.pop("image_share", IMAGE_SHARE), chosen.pop("difficulty", "aum")
        first = ELFSImageSampler(share, score=score, **chosen, seed=seed, device=device)
    else:
        first = SupportedImages(**chosen, seed=seed, device=device)
    kind = ELFSCoresetSampler if patches == "elfs" else GreedyCoresetSampler
    return TwoLevelSampler(first, kind(ratio, device, projection, seed=seed))


def describe_sampler(sampler: Any) -> tuple[str, dict[str, Any]]:
    """Name and parameters of a sampler of any class, as the settings of a bank record them.

    The name is that of `make_sampler` for its very classes, else module and class. The parameters are those of the
    constructor that the object has public attributes for (scikit-learn's convention): texts, numbers and short flat
    lists as they are, all else by its repr, cut to a length.
    """
    kind = type(sampler)
    name = _name_of(sampler) or f"{kind.__module__}.{kind.__qualname__}"[-TEXT:]
    name = getattr(kind, "registered", name)
    found = {parameter: _plain(value) for parameter, value, _ in _parameters(sampler)}
    return name, dict(list(found.items())[:PARAMETERS])


def _name_of(sampler: Any) -> str | None:
    """That of `make_sampler`; of the presets of one class the one that it has."""
    found = next((n for n, kind in NAMED.items() if kind is type(sampler)), None)
    return "composite" if found == "elfs" and sampler.preset == "composite" else found


def _parameters(sampler: Any) -> list[tuple[str, Any, Any]]:
    """Name, value and default of the constructor's parameters that there are public attributes for."""
    try:
        wanted = inspect.signature(type(sampler)).parameters
    except (TypeError, ValueError):  # a class without a signature
        return []
    return [
        (p, getattr(sampler, p), wanted[p].default) for p in wanted if not p.startswith("_") and hasattr(sampler, p)
    ]


def _plain(value: Any) -> Any:
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, list | tuple) and len(value) <= LIST and all(map(is_plain, value)):
        return list(value)
    if is_plain(value):
        return value
    if any(callable(getattr(value, name, None)) for name in ("select", "select_images")):  # a sampler in a sampler
        name = _name_of(value) or type(value).__name__
        said = ((p, _plain(v), default) for p, v, default in _parameters(value))
        text = f"{name}({', '.join(f'{p}={v!r}' for p, v, default in said if v is not default and v != default)})"
    else:
        text = _REPR.repr(value)
    return text if len(text) <= TEXT else text[: TEXT - 4] + " ..."


_REPR = reprlib.Repr()  # shows the first items of what is long, instead of making a text of all of them
_REPR.maxother = _REPR.maxstring = TEXT
