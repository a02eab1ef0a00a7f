"""From a bank file to what a model needs, with all that a stranger's file may have wrong (docs/bank-file.md)."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import torch

from patchcore_fast.bank_file import bank_error
from patchcore_fast.config import PatchCoreConfig, RunningSettings, grouped
from patchcore_fast.config.families import GIVEN
from patchcore_fast.errors import BankError, DataError
from patchcore_fast.features import FeatureExtractor, FeatureSource, LinearReduction
from patchcore_fast.features.modules import as_source
from patchcore_fast.features.weights import chosen_weights
from patchcore_fast.layered_bank import Bank, LayeredBank
from patchcore_fast.model.passes import make_extractor

Path = str | os.PathLike[str]
# What versions did that did not have these settings: no norm on tokens, the nearest row alone, at its distance.
_EARLIER: dict[str, dict[str, Any]] = {"features": {"norm": False}, "search": {"neighbours": 1, "price": 0.0}}


def completed(values: Mapping[str, Any]) -> PatchCoreConfig:
    """The settings of a bank, with what earlier versions did where it does not say it.

    Raises
    ------
    TypeError, ValueError : settings that cannot be used.
    """
    values = grouped(values)
    for group, earlier in _EARLIER.items():
        values = values | {group: earlier | values.get(group, {})}
    return PatchCoreConfig.from_dict(values)


def stored_config(
    path: Path, bank: Bank, weights: str | None, allow_download: bool, index: str | None, given: bool = False
) -> PatchCoreConfig:
    """The settings of a bank, with the reader's weights and index, and without what is on record only.

    given : the reader brings the backbone as an object.

    Raises
    ------
    BankError : settings that cannot be used, that want weights which were not given, or banks which it has not.
    """
    try:
        config = completed(bank.config)
        if isinstance(bank, LayeredBank) != (config.selection.banks == "layer"):
            raise ValueError(f"selection.banks is {config.selection.banks!r}, of which there are {len(bank.parts)}")
        config = readers(config, weights, allow_download, given)
        return config if index is None else config.replace(index=index)
    except (TypeError, ValueError) as error:
        raise bank_error(path, f"its settings cannot be used ({error})") from error


def readers(config: PatchCoreConfig, weights: str | None, allow_download: bool, given: bool = False) -> PatchCoreConfig:
    """Settings of a file with the reader's weights, and without what is on record only.

    Raises
    ------
    ValueError : they want weights, a download or a backbone which were not given.
    """
    f = config.features
    if f.backbone.startswith(GIVEN) and not given:
        raise ValueError(
            f"its backbone was an object, {f.backbone.removeprefix(GIVEN)}: give it with load(path, backbone=...)"
        )
    here = {} if given else {"weights": chosen_weights(f.backbone, f.weights, weights, allow_download)}
    return config.replace(running=RunningSettings(), **here)


_Made = TypeVar("_Made", FeatureExtractor, FeatureSource)


def built(path: Path, make: Callable[[], _Made]) -> _Made:
    """What `make` makes of a file's settings; BankError where it cannot, DataError for weights that cannot be read."""
    try:
        return make()
    except DataError:
        raise
    except (ValueError, TypeError, LookupError, AssertionError, RuntimeError) as error:
        raise bank_error(path, f"its backbone cannot be built ({error})") from error


def check_weights(path: Path, source: FeatureSource, weights: str, given: bool) -> None:
    """BankError: the backbone has other weights than a file says, "" where it says none.  given : as an object."""
    if weights and source.fingerprint() != weights:
        more = ", or with other layers or normalisation" if given else ""
        raise BankError(f"{os.fspath(path)}: was made with other weights of {source.name} than are here{more}")


def fitting_extractor(
    path: Path, bank: Bank, config: PatchCoreConfig, device: torch.device, given: Any = None
) -> FeatureExtractor:
    """The extractor of the settings, after a look whether it gives what the bank is made of.

    given : a backbone as an object, None where the settings name it.

    Raises
    ------
    BankError : no such backbone, other weights, or features of another width; or fewer rows than neighbours.
    DataError : weights that cannot be read.
    """
    f = config.features
    source = None if given is None else as_source(given, f.layers, f.seen_size, device)
    extractor = built(path, lambda: make_extractor(config, device, source))
    name, backbone = os.fspath(path), extractor.backbone
    check_weights(path, backbone, bank.weights, given is not None)
    widths = backbone.channels if isinstance(bank, LayeredBank) else (extractor.dim,)
    if (found := tuple(part.width for part in bank.parts)) != tuple(widths):
        said = [" and ".join(map(str, numbers)) for numbers in (found, widths)]
        raise BankError(f"{name}: its rows have {said[0]} features, its settings give {said[1]}")
    if config.search.least_rows > (least := min(map(len, bank.parts))):
        raise BankError(f"{name}: asks for {config.search.neighbours} neighbours among {least} rows")
    if extractor.learns:
        first = bank.parts[0]  # a reduction goes with one bank alone
        mean, matrix = first.reduction_mean, first.reduction_matrix
        if mean is None or matrix is None or len(mean) != extractor.fused:
            raise BankError(f'{name}: lacks the reduction "{f.reduction}" that its settings name')
        extractor.learned = LinearReduction(mean, matrix).to(device)
    return extractor
