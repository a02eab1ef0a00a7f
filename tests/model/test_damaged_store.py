"""Feature stores that were cut, changed or are no stores: each is named, and none is read or gone on with."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from patchcore_fast.errors import DataError
from patchcore_fast.feature_store import FeatureStore
from patchcore_fast.model import PatchCore, stored

from ..evaluated import tiny_config
from .conftest import CELLS, shards


def cut(path: Path, keep: float) -> None:
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * keep)])


@pytest.mark.parametrize("keep", [0.0, 0.001, 0.5, 0.99])
@pytest.mark.parametrize("which", ["shards.json", "images-000000004.safetensors"])
def test_a_truncated_file_is_named(folder, store, which, keep):
    cut(store / which, keep)
    for attempt in (
        lambda: FeatureStore(store),
        lambda: PatchCore(tiny_config(), progress=False).extract(folder, store, on_error="return"),
    ):
        with pytest.raises(DataError) as error:
            attempt()
        assert which in str(error.value)


def header(path: Path, change: str, to: str) -> None:
    """Change the header of a shard without moving anything."""
    assert len(change) == len(to)
    path.write_bytes(path.read_bytes().replace(change.encode(), to.encode(), 1))


@pytest.mark.parametrize(
    "change, to",
    [("feature store 1", "feature store 9"), ('"about"', '"abouf"'), ("[16, 16]", "[16, 17]"), ("[16, 16]", "[-1, 16]"),
     ('\\"last\\": 8', '\\"last\\": 2'), ('\\"first\\": 4', '\\"first\\": 3'), ('\\"unread\\"', '\\"unseen\\"'),
     ("F32", "F16")],
    ids=str,
)  # fmt: skip
def test_a_foreign_or_damaged_shard_is_named(store, change, to):
    header(shards(store)[1], change, to)
    with pytest.raises(DataError, match="images-000000004"):
        FeatureStore(store)


@pytest.mark.parametrize(
    "text", ["[]", "{}", '{"kind": "x"}', "nothing", '{"shards": ["a.npy"]}', "[" * 100_000], ids=lambda t: t[:20]
)
def test_a_foreign_index_is_named(folder, store, text):
    (store / "shards.json").write_text(text)
    with pytest.raises(DataError, match=r"shards\.json: is no index of a feature store"):
        FeatureStore(store)
    with pytest.raises(DataError, match=r"shards\.json: is no index of a feature store"):
        PatchCore(tiny_config(), progress=False).extract(folder, store)


def test_settings_that_are_unknown(store):
    index = json.loads((store / "shards.json").read_text())
    index["about"]["features"]["flavour"] = 1
    (store / "shards.json").write_text(json.dumps(index))
    with FeatureStore(store) as opened, pytest.raises(DataError, match=r"its settings are wrong: .*features\.flavour"):
        PatchCore(tiny_config(), progress=False).fit(opened)


def test_a_store_that_is_cut_while_it_is_read(store):
    with FeatureStore(store) as opened:
        rows = stored.StoredRows(opened)
        cut(shards(store)[2], 0.5)
        with pytest.raises(DataError, match=r"images-000000008\.safetensors: was truncated"):
            rows.take(torch.tensor([8 * CELLS - 1]))
