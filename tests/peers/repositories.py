"""Where the outside repositories are: a checkout or unpacked wheel that a variable names, or an installed package."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path
from types import ModuleType
from xml.etree import ElementTree

import pytest

VARIABLES = {
    "patchcore": "PATCHCORE_FAST_AMAZON_REPO",
    "anomalib": "PATCHCORE_FAST_ANOMALIB_REPO",
    "indad": "PATCHCORE_FAST_INDAD_REPO",
    "sampling_methods": "PATCHCORE_FAST_ACTIVE_LEARNING_REPO",
    "deepcore": "PATCHCORE_FAST_DEEPCORE_REPO",
    "softpatch": "PATCHCORE_FAST_SOFTPATCH_REPO",
    "goldener": "PATCHCORE_FAST_GOLDENER_REPO",
    "vig": "PATCHCORE_FAST_VIG_REPO",
    "rd4ad": "PATCHCORE_FAST_RD4AD_REPO",  # a checkout of scripts, no package
    "util": "PATCHCORE_FAST_ADER_REPO",
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


def model_module(name: str) -> ModuleType:
    """torch_model of one of anomalib's image models, else skip: there is no anomalib, or it is too old to have it."""
    peer_module("anomalib.models")
    module = f"anomalib.models.image.{name}.torch_model"
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or not module.startswith(error.name):
            raise
        pytest.skip(f"this anomalib has no {name}")


def run_suite(root: Path, tests: str, plugin: str) -> Counter[str]:
    """Run a peer's own tests in a process of their own, with a plugin of this folder that puts our classes in.

    root : the checkout.  tests : what to run, relative to it.  plugin : module name in tests/peers.

    Returns how many passed, failed, ended in an error or were skipped. Their output is shown if any test fails.
    """
    if not (root / tests).exists():
        pytest.skip(f"{root} has no {tests}: a checkout is wanted, not an unpacked wheel")
    source = root / "src" if (root / "src").is_dir() else root
    paths = [str(source), str(Path(__file__).parent), str(Path(__file__).parents[2])]
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        command = [sys.executable, "-m", "pytest", "-p", plugin, "-p", "no:cacheprovider", "--junitxml", str(report)]
        done = subprocess.run(
            [*command, tests], cwd=root, capture_output=True, text=True,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(paths), "PYTHONDONTWRITEBYTECODE": "1"},
        )  # fmt: skip
        assert report.exists(), f"pytest wrote no report:\n{done.stdout}\n{done.stderr}"
        cases = ElementTree.parse(report).iter("testcase")
        outcomes = Counter(case[0].tag if len(case) and case[0].tag != "system-out" else "passed" for case in cases)
    if outcomes["failure"] or outcomes["error"]:
        print(done.stdout[-10_000:])
    return outcomes
