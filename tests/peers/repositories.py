"""Where the outside repositories are: a checkout or unpacked wheel that a variable names, or an installed package."""

from __future__ import annotations

import importlib
import os
import sys
from pathlib import Path
from types import ModuleType

import pytest

VARIABLES = {
    "patchcore": "PATCHCORE_FAST_AMAZON_REPO",
    "anomalib": "PATCHCORE_FAST_ANOMALIB_REPO",
    "indad": "PATCHCORE_FAST_INDAD_REPO",
    "sampling_methods": "PATCHCORE_FAST_ACTIVE_LEARNING_REPO",
    "deepcore": "PATCHCORE_FAST_DEEPCORE_REPO",
    "softpatch": "PATCHCORE_FAST_SOFTPATCH_REPO",
}


def checkout(package: str) -> Path:
    """The folder that the package's variable names, else skip with the reason; a folder that is missing is an error."""
    variable = VARIABLES[package]
    place = os.environ.get(variable)
    if not place:
        pytest.skip(f"{variable} is not set")
    if not Path(place).is_dir():
        raise FileNotFoundError(f"{variable} is {place!r}, which is no folder")
    return Path(place)


def peer_module(name: str) -> ModuleType:
    """The module from the checkout, else as installed, else skip with the reason."""
    variable = VARIABLES[name.split(".")[0]]
    if os.environ.get(variable):
        root = checkout(name.split(".")[0])
        folder = str(root / "src" if (root / "src").is_dir() else root)
        if folder not in sys.path:
            sys.path.insert(0, folder)
        return importlib.import_module(name)  # a checkout that was asked for and cannot be imported is a failure
    try:
        return importlib.import_module(name)
    except ImportError as error:
        pytest.skip(f"{variable} is not set and {name} is not installed ({error})")
