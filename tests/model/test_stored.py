"""Features in a store: the same bank as without, gone on with after kill -9, refused where they are others."""

from __future__ import annotations

import json
import os
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open

from patchcore_fast import feature_store
from patchcore_fast.cli import main
from patchcore_fast.cli.options import STORED
from patchcore_fast.config import PatchCoreConfig
from patchcore_fast.errors import DataError
from patchcore_fast.feature_store import FeatureStore, StoreWriter
from patchcore_fast.layered_bank import Bank, load_bank
from patchcore_fast.matrix_files import open_matrix
from patchcore_fast.memory_bank import MemoryBank
from patchcore_fast.model import PatchCore, room, stored
from patchcore_fast.model.batches import batches_of

from ..evaluated import TINY, tiny_config
from ..programs import run
from .conftest import CELLS, shards

FACTS = ("config", "threshold", "images", "grid", "patches", "weights")
TENSORS = ("features", "indices", "positions", "projection", "support")


def same(one: Bank, other: Bank) -> bool:
    equal = [getattr(one, name) == getattr(other, name) for name in FACTS]
    equal.append(getattr(one, "scales", None) == getattr(other, "scales", None))
    pairs = [(one.normal_scores, other.normal_scores)]
    for mine, theirs in zip(one.parts, other.parts, strict=True):
        equal.append(mine.radius == theirs.radius)
        pairs += [(getattr(mine, name), getattr(theirs, name)) for name in TENSORS]
    return all(equal) and all((a is None) == (b is None) and (a is None or torch.equal(a, b)) for a, b in pairs)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"augment": "rotate", "precision": "bfloat16", "shots": 4},
        {"sampler": "elfs", "precision": "float16"},
        pytest.param({"metric": "cosine"}, marks=pytest.mark.thorough),
        {"fusion": "graph", "dim": 24, "graph_dilation": 2},
        {"metric": "cosine", "banks": "layer"},
        pytest.param({"banks": "layer"}, marks=pytest.mark.thorough),
        pytest.param({"sampler": "approximate", "seed": 3}, marks=pytest.mark.thorough),
        pytest.param({"sampler": "random"}, marks=pytest.mark.thorough),
        pytest.param({"sampler": "identity"}, marks=pytest.mark.thorough),
        pytest.param({"layers": (1,), "scorer": "influence"}, marks=pytest.mark.thorough),
    ],
    ids=str,
)
def test_the_bank_is_that_of_the_images(folder, tmp_path, monkeypatch, changes):
    monkeypatch.setattr(feature_store, "SHARD_BYTES", 100_000)
    config = tiny_config(**changes)
    alone = PatchCore(config, progress=False).fit(folder, on_error="return")
    both = PatchCore(config, progress=False).fit(folder, on_error="return", store=tmp_path / "s")
    assert same(both.bank, alone.bank) and alone.threshold is not None
    assert [path.name for path, _ in both.unread_] == [path.name for path, _ in alone.unread_]
    later = PatchCore(config, progress=False)
    monkeypatch.setattr(stored, "_block", None)  # nothing is computed again
    with FeatureStore(tmp_path / "s") as store:
        assert same(later.fit(store).bank, alone.bank) and later._extractor is None
    images = sorted((folder / "test/spot").iterdir())
    assert [p.score for p in later.predict(images)] == [p.score for p in alone.predict(images)]
    assert same(PatchCore(config, progress=False).fit(folder, on_error="return", store=tmp_path / "s").bank, alone.bank)


def test_float16_rounds_the_rows_and_nothing_else(folder, made, tmp_path):
    with FeatureStore(made) as store:
        rows = store.rows(0, 8 * CELLS)
    with PatchCore(tiny_config(), progress=False).extract(
        folder, tmp_path / "s", dtype="float16", on_error="return"
    ) as store:
        assert str(open_matrix(tmp_path / "s").dtype) == "float16"
        assert np.array_equal(store.rows(0, 8 * CELLS), rows.astype(np.float16))
        bank = PatchCore(tiny_config(), progress=False).fit(store).bank
    assert bank.features.dtype == torch.float32 and torch.equal(bank.features, bank.features.half().float())


def test_what_is_in_it(made, folder):
    with FeatureStore(made) as store:
        assert store.images == [f"train/good/00{i}.png" for i in (0, 1, 3, 4, 5, 6, 7, 8)]
        assert [name for name, _ in store.unread] == ["train/good/002.png"] and store.grids == [(16, 16)] * 8
        assert store.config == tiny_config(sigma=store.config.sigma, batch_size=16, ratio=0.01)
        rows = stored.StoredRows(store, 1, 3)
        assert rows.positions(torch.tensor([0, CELLS + 17])).tolist() == [[0, 0, 0], [1, 1, 1]]
        assert torch.equal(rows.take(torch.tensor([5, 300, 5])), rows.features[[5, 300, 5]])
    assert len(shards(made)) == 3  # batches of 4


def test_select_reads_it(made, tmp_path):
    out = tmp_path / "o.npy"
    assert main(["select", str(made), "--ratio", "0.05", "--output", str(out)]) == 0
    assert len(np.load(out)) == int(8 * CELLS * 0.05)


def test_it_goes_on_after_kill_9(folder, made, tmp_path):
    program = (
        "import os, sys\nfrom patchcore_fast import feature_store as f\nf.SHARD_BYTES = 1\n"
        "real = f.atomic_write\ndone = []\n"
        "def write(path, *args, **named):\n    done.append(path)\n"
        "    if len(done) == 4: os.kill(os.getpid(), 9)\n    return real(path, *args, **named)\n"  # index, 2 shards
        "f.atomic_write = write\nfrom tests.evaluated import tiny_config\nfrom patchcore_fast.model import PatchCore\n"
        "PatchCore(tiny_config(), progress=False).extract(sys.argv[1], sys.argv[2], on_error='return')"
    )
    place = tmp_path / "store"
    done = run(program, folder, place)
    assert done.returncode == -signal.SIGKILL and len(shards(place)) == 2
    with pytest.raises(DataError, match="is not finished"):
        FeatureStore(place)
    assert main(["select", str(place), "--ratio", "0.1", "--output", str(tmp_path / "o.npy")]) == 2
    kept = [(path.stat().st_ino, path.stat().st_mtime_ns) for path in shards(place)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(feature_store, "SHARD_BYTES", 1)
        PatchCore(tiny_config(), progress=False).extract(folder, place, on_error="return").close()
    assert [(path.stat().st_ino, path.stat().st_mtime_ns) for path in shards(place)][:2] == kept
    assert sorted(os.listdir(place)) == sorted(os.listdir(made))
    for path in made.iterdir():
        assert path.read_bytes() == (place / path.name).read_bytes()


def test_a_hole_is_filled(folder, made, store):
    shards(store)[1].unlink()
    with pytest.raises(DataError, match=r"are not those that its shards\.json lists"):
        FeatureStore(store)
    with PatchCore(tiny_config(), progress=False).extract(folder, store, on_error="return") as again:
        assert len(again.images) == 8
    assert all(path.read_bytes() == (store / path.name).read_bytes() for path in made.iterdir())


@pytest.mark.parametrize(
    "changes, words",
    [({"image_size": 32}, "image_size 64 there and 32 here"), ({"seed": 1}, "weights .*, seed 0 there and 1 here"),
     ({"shots": 3}, "shots None there and 3 here"), ({"precision": "float16"}, "precision 'float32' there")],
    ids=str,
)  # fmt: skip
def test_a_store_of_other_features_is_refused(folder, store, changes, words):
    before = {path: path.read_bytes() for path in store.iterdir()}
    with pytest.raises(DataError, match=words):
        PatchCore(tiny_config(**changes), progress=False).extract(folder, store, on_error="return")
    with FeatureStore(store) as opened, pytest.raises(ValueError, match=f"are of {next(iter(changes))} "):
        PatchCore(tiny_config(**changes), progress=False).fit(opened)
    assert {path: path.read_bytes() for path in store.iterdir()} == before


@pytest.mark.parametrize("there, asked", [("joint", "layer"), ("layer", "joint")])
def test_rows_of_length_1_are_for_one_kind_of_bank(folder, tmp_path, capsys, there, asked):
    place = str(tmp_path / "s")
    command = ["extract", str(folder), "--output", place, *TINY[:-2], "--metric", "cosine"]
    assert main([*command, "--banks", there]) == 3
    config = PatchCoreConfig(**{"backbone": "test_resnet", "layers": (1, 2), "weights": "random", "image_size": 64,
                                "metric": "cosine", "banks": asked})  # fmt: skip
    with FeatureStore(place) as opened, pytest.raises(ValueError, match=f"are of banks '{there}'.*banks='{asked}'"):
        PatchCore(config, progress=False).fit(opened)
    with pytest.raises(DataError, match=f"banks '{there}' there and '{asked}' here"):
        PatchCore(config, progress=False).extract(folder, place, on_error="return")
    bank = str(tmp_path / "b.safetensors")
    capsys.readouterr()
    assert main(["fit", "--features", place, "--output", bank, "--banks", asked]) == 2
    assert "--banks: the features in" in capsys.readouterr().err
    assert main(["fit", "--features", place, "--output", bank, "--ratio", "0.1"]) == 3  # of the store's kind
    other = str(tmp_path / "c.safetensors")
    assert main(["fit", str(folder), "--output", other, *TINY, "--metric", "cosine", "--banks", there]) == 3
    assert same(load_bank(bank), load_bank(other))


def test_other_rows_are_for_both(folder, made, tmp_path):
    for banks in ("joint", "layer"):
        config = tiny_config(banks=banks)
        with FeatureStore(made) as opened, pytest.MonkeyPatch.context() as patch:
            patch.setattr(PatchCore, "_built", lambda self: pytest.fail("no backbone is wanted"))
            bank = PatchCore(config, progress=False).fit(opened).bank
        assert same(bank, PatchCore(config, progress=False).fit(folder, on_error="return").bank)


def test_columns_of_layers_are_known(store, made):
    with FeatureStore(store) as opened:
        assert opened.about["widths"] == [24, 32] and opened.widths == (24, 32)
    index = json.loads((store / "shards.json").read_text())
    wrong = "it does not say what is stored"
    for widths, words in (([24, 31], r"has 56 columns, its shards.json says 24 \+ 31 by layer"), ([], wrong),
                          ([24, 32.0], wrong), ([57, -1], wrong), (None, wrong)):  # fmt: skip
        index["about"]["widths"] = widths
        (store / "shards.json").write_text(json.dumps(index))
        with pytest.raises(DataError, match=words):
            FeatureStore(store)
    model = PatchCore(tiny_config(banks="layer"), progress=False)
    model.extractor.backbone.channels = (28, 28)
    with FeatureStore(made) as opened, pytest.raises(ValueError, match="24 and 32 columns, the backbone gives 28 and"):
        model.fit(opened)


def open_files(folder: Path) -> list[str]:
    links = [Path("/proc/self/fd") / name for name in os.listdir("/proc/self/fd")]
    return [str(to) for to in (link.resolve() for link in links if link.exists()) if to.is_relative_to(folder)]


def test_nothing_stays_open(folder, store, monkeypatch):
    model = PatchCore(tiny_config(), progress=False)
    model.fit(folder, on_error="return", store=store)
    assert not open_files(store)
    with pytest.raises(ValueError, match="the coreset has"):
        PatchCore(tiny_config(ratio=0.001, neighbours=9), progress=False).fit(folder, on_error="return", store=store)
    assert not open_files(store)
    whole = shards(store)[1].read_bytes()
    shards(store)[1].write_bytes(whole[:-8])
    for attempt in (lambda: FeatureStore(store), lambda: model.fit(folder, on_error="return", store=store)):
        with pytest.raises(DataError, match="images-000000004"):
            attempt()
        assert not open_files(store)  # nor locked
    shards(store)[1].write_bytes(whole)
    model.fit(folder, on_error="return", store=store)
    monkeypatch.setattr(stored, "_block", None)
    shards(store)[1].unlink()
    with pytest.raises(TypeError, match="not callable"):
        model.fit(folder, on_error="return", store=store)
    assert not open_files(store)


def test_other_images_are_refused(folder, store):
    images = sorted((folder / "train/good").iterdir())[:-1]
    with pytest.raises(DataError, match="count 9 there and 8 here, names and sizes"):
        PatchCore(tiny_config(), progress=False).extract(images, store, on_error="return")


def test_what_cannot_be_stored_is_refused(folder, tmp_path):
    model = PatchCore(tiny_config(), progress=False)
    with pytest.raises(TypeError, match="a store has their names"):
        model.extract(torch.rand(2, 3, 64, 64), tmp_path / "s")
    with pytest.raises(ValueError, match="a transform makes"):
        model.extract(folder, tmp_path / "s", augment=lambda image: image, on_error="return")
    with pytest.raises(ValueError, match="dtype must be"):
        model.extract(folder, tmp_path / "s", dtype="int8", on_error="return")
    with pytest.raises(DataError, match="none of 1 images can be read"):
        model.extract([folder / "train/good/002.png"], tmp_path / "t", on_error="return")
    (tmp_path / "u").mkdir()
    (tmp_path / "u" / "letter.txt").write_text("dear")
    with pytest.raises(DataError, match=r"no store of features, and holds letter\.txt"):
        model.extract(folder, tmp_path / "u")
    with pytest.raises(DataError, match=r"002\.png"):
        model.extract(folder, tmp_path / "v")
    with pytest.raises(ValueError, match="reduction='pca' is learnt from all rows"):
        PatchCore(tiny_config(reduction="pca", dim=4), progress=False).extract(
            folder, tmp_path / "s", on_error="return"
        )
    assert not (tmp_path / "s").exists()


def test_two_writers(folder, store):
    writer = StoreWriter(store, FeatureStore(store).about)
    with pytest.raises(DataError, match="another process writes"):
        PatchCore(tiny_config(), progress=False).extract(folder, store, on_error="return")
    writer.close()


def test_no_room_for_a_store(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(room.shutil, "disk_usage", lambda place: shutil._ntuple_diskusage(10**9, 10**9, 1000))
    with pytest.raises(OSError, match=r"are wanted for features, .* free; --store-dtype float16, a smaller"):
        PatchCore(tiny_config(), progress=False).extract(folder, tmp_path / "s", on_error="return")
    assert not shards(tmp_path / "s")


def test_the_commands(folder, tmp_path, capsys):
    place, bank = str(tmp_path / "store"), tmp_path / "b.safetensors"
    assert main(["extract", str(folder), "--output", place, *TINY[:-2]]) == 3
    told = capsys.readouterr()
    assert "8 images, " in told.out and "1 file could not be used" in told.err
    assert main(["fit", "--features", place, "--output", str(bank), "--ratio", "0.1"]) == 3
    assert "Fitted on 8 images" in capsys.readouterr().out
    assert main(["fit", str(folder), "--output", str(tmp_path / "a.safetensors"), *TINY]) == 3
    assert main(["fit", str(folder), "--store", place, "--output", str(tmp_path / "c.safetensors"), *TINY]) == 3
    banks = [MemoryBank.load(tmp_path / f"{name}.safetensors") for name in "abc"]
    assert same(banks[0], banks[1]) and same(banks[0], banks[2])
    assert main(["predict", str(bank), str(folder / "test"), "--output", str(tmp_path / "out")]) == 0


@pytest.mark.parametrize(
    "more, words",
    [
        (["--image-size", "32"], "--image-size: the features in"),
        (["--config", "c.toml"], "--image-size: the features in"),
        (["--weights", "auto"], "--weights: the features in"),
        (["--preset", "amazon"], ": the features in"),
        (["--store", "s"], "--store: goes with DIR"),
        (["photos"], "either DIR or --features"),
    ],
)
def test_options_that_contradict_it(made, tmp_path, monkeypatch, capsys, more, words):
    monkeypatch.chdir(tmp_path)
    Path("c.toml").write_text("[features]\nimage_size = 256\n")
    assert main(["fit", "--features", str(made), "--output", "b.safetensors", *more]) == 2
    assert words in capsys.readouterr().err and not Path("b.safetensors").exists()


def test_places_that_are_refused(made, folder, capsys):
    assert main(["fit", "--output", "b.safetensors"]) == 2
    assert main(["fit", "--features", str(folder), "--output", "b.safetensors"]) == 2
    assert "holds no features of images" in capsys.readouterr().err
    assert main(["fit", "--features", str(made), "--output", str(shards(made)[0])]) == 2
    assert "which is read, are one file" in capsys.readouterr().err
    assert main(["extract", str(folder), "--output", str(folder / "train/good/store"), *TINY[:-2]]) == 2
    assert "lies in a folder of training images" in capsys.readouterr().err


def test_the_options_are_those_that_a_store_is_made_of():
    assert STORED == stored.SELECTION


def test_embeddings_are_those_of_the_images(folder, made, tmp_path):
    model = PatchCore(tiny_config(), progress=False)
    batches = batches_of(folder, model.config, "train", None, "return")
    good = [batch.only([i for i, error in enumerate(batch.errors) if error is None]).images for batch in batches]
    deepest = model.extractor.backbone(torch.cat(good))[-1]
    with FeatureStore(made) as store:
        assert store.embeddings.shape == (8, 32) and store.embeddings.dtype == np.float32
        np.testing.assert_allclose(store.embeddings, deepest.mean((2, 3)), rtol=1e-4, atol=1e-5)
        assert store.embeddings is store.embeddings  # read once
    for path in shards(made):
        with safe_open(path, "pt") as file:
            assert sorted(file.keys()) == ["embeddings", "features"]
    changes = {"augment": "rotate", "augmentations": 3, "metric": "cosine", "precision": "float16"}
    with PatchCore(tiny_config(**changes), progress=False).extract(folder, tmp_path / "s", on_error="return") as copied:
        per_image = len(copied.grids) // 8
        assert per_image > 1 and copied.embeddings.shape == (8 * per_image, 32)
        own = copied.embeddings[::per_image]
        np.testing.assert_allclose(own, store.embeddings, rtol=0.02, atol=0.02)  # but for the network's precision
        assert (np.abs(copied.embeddings[1::per_image] - own).max(1) > 0).all()


def test_a_store_of_before_embeddings_still_makes_a_bank(made, store):
    with FeatureStore(made) as there:
        about = {name: value for name, value in there.about.items() if name != "embedding"}
        rows, images, grids, last = there.rows(0, 8 * CELLS), there.images, there.grids, there.about["count"]
        whole = PatchCore(tiny_config(), progress=False).fit(there).bank
    shutil.rmtree(store)
    writer = StoreWriter(store, about)
    block = feature_store.ImageBlock(0, last, list(images), list(grids), [("x", "y")])
    with pytest.raises(ValueError, match="embeddings of shape None are wanted"):
        writer.add(block, rows, np.zeros((8, 32), np.float32))
    writer.add(block, rows)
    writer.finish()
    writer.close()
    with FeatureStore(store) as before:
        assert same(PatchCore(tiny_config(), progress=False).fit(before).bank, whole)
        with pytest.raises(DataError, match="an earlier version wrote it without embeddings"):
            _ = before.embeddings


@pytest.mark.parametrize(
    "change, to",
    [(b'"embeddings"', b'"embebbings"'), (b"[4, 32]", b"[3, 32]"), (b"nan", b"")],
    ids=["none", "fewer", "nan"],
)
def test_embeddings_that_are_damaged_are_named(store, change, to):
    path = shards(store)[1]
    whole = path.read_bytes()
    if change == b"nan":
        begin = 8 + int.from_bytes(whole[:8], "little")
        path.write_bytes(whole[:begin] + np.float32(np.nan).tobytes() + whole[begin + 4 :])
    else:
        assert change in whole
        path.write_bytes(whole.replace(change, to, 1))
    with pytest.raises(DataError, match="images-000000004"), FeatureStore(store) as opened:
        _ = opened.embeddings
