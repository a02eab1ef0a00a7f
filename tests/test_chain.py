"""Files that chain on a store: whole, of one store, and refused where they are of another or damaged."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

from patchcore_fast.chain import KINDS, ChainFile, digest, is_store, kind_of, read_chain
from patchcore_fast.errors import DataError
from patchcore_fast.feature_store import FeatureStore

from .stores import write_store


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    with FeatureStore(write_store(tmp_path_factory.mktemp("chain") / "store")) as found:
        yield found


def made(store: FeatureStore, kind: str = "clusters") -> ChainFile:
    arrays = {"labels": np.arange(9), "far": np.linspace(0, 1, 9, dtype=np.float32), "wide": np.ones((2, 3), np.uint8)}
    return ChainFile.of(kind, store, {"seed": 3, "names": ["a", "b"]}, arrays)


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_written_is_read(store, tmp_path, kind):
    path = tmp_path / "x.safetensors"
    made(store, kind).save(path)
    found = read_chain(path, kind, store)
    assert found.settings == {"seed": 3, "names": ["a", "b"]} and found.store == digest(store)
    assert found.store_name == "store" and kind_of(path) == kind and found.digest == made(store, kind).digest
    others = safetensors.numpy.load_file(path)  # as the format's own reader reads it
    for name, values in made(store, kind).arrays.items():
        assert found.arrays[name].dtype == values.dtype and (found.arrays[name] == values).all()
        assert (others[name] == values).all()
    made(store, kind).save(tmp_path / "y.safetensors")
    assert path.read_bytes() == (tmp_path / "y.safetensors").read_bytes()


def test_a_store_is_known_by_what_it_holds_and_not_by_its_files(store, tmp_path):
    with FeatureStore(write_store(tmp_path / "cut", shard=2)) as cut:
        assert len(list((tmp_path / "cut").glob("images-*"))) == 5 and digest(cut) == digest(store)
    for name, options in {"seed": {"seed": 1}, "images": {"images": 8}}.items():
        with FeatureStore(write_store(tmp_path / name, **options)) as other:
            assert digest(other) != digest(store)
    assert is_store(tmp_path / "cut") and not is_store(tmp_path) and not is_store(tmp_path / "nowhere")


def test_one_of_another_store_is_refused_by_name(store, tmp_path):
    made(store).save(tmp_path / "x.safetensors")
    told = r"x.safetensors: is of another store, 'store' .* not of .*other .*run cluster"
    with FeatureStore(write_store(tmp_path / "other", seed=1)) as other, pytest.raises(DataError, match=told):
        read_chain(tmp_path / "x.safetensors", "clusters", other)


def header(path: Path, change) -> None:
    raw = path.read_bytes()
    size = int.from_bytes(raw[:8], "little")
    found = json.loads(raw[8 : 8 + size])
    change(found)
    text = json.dumps(found).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + raw[8 + size :])


DAMAGE = {
    "cut": lambda p: p.write_bytes(p.read_bytes()[:-1]),
    "longer": lambda p: p.write_bytes(p.read_bytes() + b"\0"),
    "flipped": lambda p: p.write_bytes(p.read_bytes()[:-1] + b"\x07"),
    "empty": lambda p: p.write_bytes(b""),
    "text": lambda p: p.write_text("hello, this is no such file at all"),
    "settings": lambda p: header(p, lambda h: h["__metadata__"].update(settings='{"seed": 4}')),
    "no metadata": lambda p: header(p, lambda h: h.pop("__metadata__")),
    "no digest": lambda p: header(p, lambda h: h["__metadata__"].pop("digest")),
    "shape": lambda p: header(p, lambda h: h["labels"].update(shape=[-9])),
    "overlap": lambda p: header(p, lambda h: h["far"].update(data_offsets=[0, 36])),
    "type": lambda p: header(p, lambda h: h["far"].update(dtype="F8")),
    "nothing there": lambda p: p.unlink(),
}


@pytest.mark.parametrize("what", DAMAGE)
def test_damaged_files_are_refused(store, tmp_path, what):
    path = tmp_path / "x.safetensors"
    made(store).save(path)
    DAMAGE[what](path)
    with pytest.raises(DataError, match=r"x.safetensors: (is no file that cluster wrote|no such file)"):
        read_chain(path, "clusters", store)


def test_other_kinds_and_versions_are_named(store, tmp_path):
    path = tmp_path / "x.safetensors"
    made(store, "scores").save(path)
    with pytest.raises(DataError, match="holds scores, which score wrote; picks are wanted, which select writes"):
        read_chain(path, "picks", store)
    header(path, lambda h: h["__metadata__"].update(version="2"))
    with pytest.raises(DataError, match="is of version '2', this release reads 1"):
        read_chain(path, "scores", store)
    with pytest.raises(DataError, match=r"labels must be float32 of shape .9., got int64"):
        made(store).array("labels", "float32", (9,), path)
    with pytest.raises(DataError, match="has no indices; it has labels, far, wide"):
        made(store).array("indices", "int64", (-1,), path)
