"""From a bank file to what a model needs, with all that a stranger's file may have wrong (docs/bank-file.md)."""

from __future__ import annotations

import os

import torch

from patchcore_fast.bank_file import bank_error
from patchcore_fast.config import PatchCoreConfig, RunningSettings
from patchcore_fast.errors import BankError, DataError
from patchcore_fast.features import FeatureExtractor
from patchcore_fast.features.weights import chosen_weights
from patchcore_fast.memory_bank import MemoryBank
from patchcore_fast.model.passes import make_extractor

Path = str | os.PathLike[str]


def stored_config(
    path: Path, bank: MemoryBank, weights: str | None, allow_download: bool, index: str | None
) -> PatchCoreConfig:
    """The settings of a bank, with the reader's weights and index, and without what is on record only.

    Raises
    ------
    BankError : settings that cannot be used, or that want weights which were not given.
    """
    try:
        config = PatchCoreConfig.from_dict(bank.config)
        f = config.features
        here = {"weights": chosen_weights(f.backbone, f.weights, weights, allow_download)}
        here |= {} if index is None else {"index": index}
        return config.replace(running=RunningSettings(), **here)
    except (TypeError, ValueError) as error:
        raise bank_error(path, f"its settings cannot be used ({error})") from error


def fitting_extractor(path: Path, bank: MemoryBank, config: PatchCoreConfig, device: torch.device) -> FeatureExtractor:
    """The extractor of the settings, after a look whether it gives what the bank is made of.

    Raises
    ------
    BankError : no such backbone, other weights, or features of another width; or fewer rows than neighbours.
    DataError : weights that cannot be read.
    """
    try:
        extractor = make_extractor(config, device)
    except DataError:
        raise
    except (ValueError, TypeError, LookupError, AssertionError, RuntimeError) as error:
        raise bank_error(path, f"its backbone cannot be built ({error})") from error
    name, backbone, width = os.fspath(path), extractor.backbone, bank.features.shape[1]
    if bank.weights and backbone.fingerprint() != bank.weights:
        raise BankError(f"{name}: was made with other weights of {backbone.name} than are here")
    if width != extractor.dim:
        raise BankError(f"{name}: its rows have {width} features, its settings give {extractor.dim}")
    if config.search.neighbours > len(bank):
        raise BankError(f"{name}: asks for {config.search.neighbours} neighbours among {len(bank)} rows")
    return extractor
