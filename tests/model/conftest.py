"""A data set with one broken image, and a feature store of it in several shards."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from patchcore_fast import feature_store
from patchcore_fast.model import PatchCore

from ..evaluated import tiny_config
from ..pictures import write_mvtec

COUNT, CELLS = 9, 16 * 16  # images, one of which cannot be read, and patches of one


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = write_mvtec(tmp_path_factory.mktemp("stored") / "weave", train=COUNT)
    (made / "train/good/002.png").write_bytes(b"no image")
    return made


@pytest.fixture(scope="module")
def made(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of several shards; only to be read."""
    place = tmp_path_factory.mktemp("stored") / "store"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(feature_store, "SHARD_BYTES", 1)
        PatchCore(tiny_config(), progress=False).extract(folder, place, on_error="return").close()
    return place


@pytest.fixture
def store(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "store"))


def shards(store: Path) -> list[Path]:
    return sorted(store.glob("images-*.safetensors"))
