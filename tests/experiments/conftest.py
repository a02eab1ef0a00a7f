"""A small data set, and its material: six training images of 16 x 16 patches, three of them held out."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("timm", reason="the extra pipeline is not installed")

from patchcore_fast.experiments.material import Material, gather
from patchcore_fast.model import PatchCore, PatchCoreConfig

from ..evaluated import tiny_config
from ..pictures import quiet_scan, write_mvtec


@pytest.fixture(scope="package")
def config() -> PatchCoreConfig:
    return tiny_config()


@pytest.fixture(scope="package")
def weave(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Only to be read."""
    return write_mvtec(tmp_path_factory.mktemp("experiments") / "weave", train=6, good=2, bad=2)


@pytest.fixture(scope="package")
def gathered(weave: Path, config: PatchCoreConfig, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Material]:
    """The output folder of an experiment with its features, and these; only to be read."""
    folder, model = tmp_path_factory.mktemp("gathered"), PatchCore(config)
    return folder, gather(quiet_scan(weave), config, model.extractor, model.device, folder, 0.5, False)
