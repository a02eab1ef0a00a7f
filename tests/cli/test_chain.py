"""The chain of commands: its bank is that of fit, file for file; what does not belong together is refused."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from patchcore_fast.chain import ChainFile, read_chain
from patchcore_fast.cli import main
from patchcore_fast.feature_store import FeatureStore
from patchcore_fast.memory_bank import MemoryBank

from ..pictures import write_mvtec
from ..stores import write_store

MODEL = ["--backbone", "test_resnet", "--layers", "1,2", "--weights", "random", "--image-size", "32"]
RUN = ["--device", "cpu", "--workers", "0"]


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A folder of images, and the first four commands on it."""
    found = tmp_path_factory.mktemp("chain")
    write_mvtec(found / "weave", train=7)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(found)
        assert main(["extract", "weave", "--output", "s", *MODEL, *RUN]) == 0
        assert main(["cluster", "s", "--clusters", "3", "--output", "c.safetensors"]) == 0
        assert (
            main(["train-proxy", "s", "--clusters", "c.safetensors", "--epochs", "3", "--output", "d.safetensors"]) == 0
        )
        assert main(["score", "s", "--dynamics", "d.safetensors", "--output", "sc.safetensors"]) == 0
    return found


@pytest.fixture
def here(root, tmp_path, monkeypatch):
    for name in ("s", "weave"):
        (tmp_path / name).symlink_to(root / name)
    for name in ("c", "d", "sc"):
        shutil.copy(root / f"{name}.safetensors", tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


SETTINGS = {
    "greedy": ["--ratio", "0.1"],
    "default": [],
    "count": ["--count", "40"],
    "budget": ["--budget", "20KB"],
    "approximate": ["--sampler", "approximate", "--count", "40"],
    "random": ["--sampler", "random", "--ratio", "0.1"],
    "elfs": ["--sampler", "elfs", "--count", "40", "--sampler-option", "w_density=-1", "--prune-support", "rule"],
    "composite": [
        "--sampler",
        "composite",
        "--count",
        "40",
        "--sampler-option",
        "w_density=-1",
        "--sampler-option",
        "instability=difficulty",
    ],
    "two-level": ["--sampler", "two-level", "--count", "40", "--sampler-option", "patches=elfs"],
}


@pytest.mark.parametrize("name", SETTINGS)
def test_the_bank_of_the_chain_is_that_of_fit(here, name):
    settings = SETTINGS[name]
    assert main(["fit", "weave", "--output", "one.safetensors", *MODEL, *RUN, *settings]) == 0
    assert main(["select", "s", *settings, "--device", "cpu", "--indices", "p.safetensors", "--output", "r.npy"]) == 0
    assert main(["fit", "--features", "s", "--indices", "p.safetensors", "--output", "two.safetensors", *RUN]) == 0
    assert Path("one.safetensors").read_bytes() == Path("two.safetensors").read_bytes()
    bank = MemoryBank.load("two.safetensors")
    assert bank.threshold is not None and (np.load("r.npy") == bank.features.numpy()).all()


def test_what_each_part_took_is_told(here, capsys):
    np.save("m.npy", np.random.default_rng(0).normal(size=(300, 12)).astype(np.float32))
    sampler = ["--sampler", "composite", "--count", "30", "--device", "cpu", "--output", "r.npy"]
    for features in ("s", "m.npy"):
        for verbose, told in ((["-v"], True), ([], False)):
            assert main(["select", features, *sampler, *verbose]) == 0
            said = [line.split() for line in capsys.readouterr().out.splitlines()]
            assert (["part", "of", "the", "selection", "seconds", "peak", "memory"] in said) is told
            assert ({"representativeness", "density", "pool"} <= {line[0] for line in said if line}) is told


def test_scores_are_handed_to_the_composite(here):
    composite = [
        "--sampler",
        "composite",
        "--count",
        "40",
        "--sampler-option",
        "instability=difficulty",
        "--device",
        "cpu",
    ]
    for name, more in (("own", []), ("given", ["--scores", "sc.safetensors"])):
        assert main(["select", "s", *composite, *more, "--indices", f"{name}.safetensors"]) == 0
    with FeatureStore("s") as store:
        own, given = (read_chain(f"{name}.safetensors", "picks", store).arrays for name in ("own", "given"))
        scores = read_chain("sc.safetensors", "scores", store).arrays
    assert own["indices"].tolist() != given["indices"].tolist()
    assert all((given[f"score {name}"] == values).all() for name, values in scores.items())
    assert main(["fit", "--features", "s", "--indices", "given.safetensors", "--output", "b.safetensors", *RUN]) == 0
    bank = MemoryBank.load("b.safetensors")
    told = bank.config["selection"]
    assert bank.indices.tolist() == given["indices"].tolist() and bank.threshold is not None
    assert told["sampler"] == "composite" and told["sampler_parameters"]["scores"] == sorted(scores)


def test_rows_that_nobody_explains_are_a_bank_of_precomputed(here, capsys):
    assert main(["select", "s", "--count", "40", "--device", "cpu", "--indices", "p.npy", "--output", "r.npy"]) == 0
    for given in ("p.npy", "r.npy"):
        assert main(["fit", "--features", "s", "--indices", given, "--output", f"{given}.safetensors", *RUN]) == 0
        assert "rather too high than too low" in capsys.readouterr().out
    one, two = (MemoryBank.load(f"{given}.safetensors") for given in ("p.npy", "r.npy"))
    assert one.indices.tolist() == two.indices.tolist() == np.load("p.npy").tolist()
    assert one.config["selection"]["sampler"] == "precomputed" and one.threshold == two.threshold is not None
    # a bank is a file of chosen rows too
    again = ["fit", "--features", "s", "--indices", "p.npy.safetensors", "--output", "x.safetensors", *RUN]
    assert main(again) == 0 and MemoryBank.load("x.safetensors").indices.tolist() == one.indices.tolist()


def test_held_out_images_are_asked_by_given_rows_without_their_own(here):
    np.save("p.npy", np.arange(64))  # all of the first image
    assert main(["fit", "--features", "s", "--indices", "p.npy", "--output", "b.safetensors", *RUN]) == 0
    scores = MemoryBank.load("b.safetensors").normal_scores
    assert len(scores) == 6 and (scores > 0).all()  # the first image has no bank left


@pytest.mark.parametrize("more", [["--radius", "0.5"], ["--no-projection", "--count", "30"]], ids=["radius", "columns"])
def test_what_fit_cannot_repeat_is_not_recorded(here, more):
    assert main(["select", "s", *more, "--device", "cpu", "--indices", "p.safetensors"]) == 0
    with FeatureStore("s") as store:
        assert read_chain("p.safetensors", "picks", store).settings["selection"] is None
    assert main(["fit", "--features", "s", "--indices", "p.safetensors", "--output", "b.safetensors", *RUN]) == 0
    assert MemoryBank.load("b.safetensors").config["selection"]["sampler"] == "precomputed"


FIT = ["fit", "--features", "s", "--output", "b.safetensors", *RUN, "--indices"]
REFUSED = {
    "clusters of another store": (["train-proxy", "s", "--clusters", "oc.safetensors", "--output", "x.safetensors"],
                                  "oc.safetensors: is of another store, 'other'"),
    "dynamics of another store": (["score", "s", "--dynamics", "od.safetensors", "--output", "x.safetensors"],
                                  "od.safetensors: is of another store, 'other'"),
    "picks of another store": ([*FIT, "op.safetensors"], "op.safetensors: is of another store, 'other'"),
    "a file of another kind": ([*FIT, "c.safetensors"], "c.safetensors: holds clusters, which cluster wrote"),
    "damaged": ([*FIT, "cut.safetensors"], "cut.safetensors: is no file that select wrote, or a damaged one"),
    "rows twice": ([*FIT, "twice.npy"], "twice.npy holds row 3 more than once"),
    "rows that are not there": ([*FIT, "far.npy"], "far.npy: has row 448, s has 448 rows"),
    "no store": (["cluster", "weave", "--output", "x.safetensors"], "weave: holds no features of images"),
    "other settings": ([*FIT, "p.safetensors", "--ratio", "0.2"],
                       "--ratio: the rows in p.safetensors were picked with 0.1, got 0.2"),
    "settings of given rows": ([*FIT, "p.npy", "--ratio", "0.2"], "--ratio: the rows are given by --indices"),
    "with images": (["fit", "weave", "--indices", "p.npy", "--output", "b.safetensors"], "--indices: goes with"),
    "another seed": (["select", "s", "--seed", "3", "--indices", "x.npy"], "--seed: the features in s were made with"),
    "picks of a matrix": (["select", "r.npy", "--count", "3", "--indices", "x.safetensors"],
                          "--indices x.safetensors: goes with a store of features"),
    "nothing to write": (["select", "s"], "one of the arguments --output --indices is required"),
    "scores for greedy": (["select", "s", "--scores", "sc.safetensors", "--indices", "x.npy"],
                          "--scores: is for --sampler composite; greedy measures"),
    "another suffix": (["cluster", "s", "--output", "x.npy"], "--output x.npy: the file is safetensors"),
    "no picks": ([*FIT, "p.nothing"], "p.nothing: no such file"),
    "dynamics as clusters": (["train-proxy", "s", "--clusters", "d.safetensors", "--output", "x.safetensors"],
                             "d.safetensors: holds dynamics, which train-proxy wrote"),
    "a signal mistyped": (["score", "s", "--signals", "raritiy", "--output", "x.safetensors"], "did you mean rarity?"),
    "no size": (["select", "r.npy", "--output", "x.npy"], "one of the arguments --ratio --budget --count is required"),
    "count": (["select", "r.npy", "--count", "0", "--output", "x.npy"], "--count must be at least 1, got 0"),
    "labels and clusters": (["cluster", "s", "--labels", "l.csv", "--clusters", "3", "--output", "x.safetensors"],
                            "--labels: are given"),
    "an image without a label": (["cluster", "s", "--labels", "l.csv", "--output", "x.safetensors"],
                                 "l.csv: train/good/006.png has no label"),
    "over its input": (["train-proxy", "s", "--clusters", "c.safetensors", "--output", "c.safetensors"],
                       "--output and --clusters c.safetensors, which is read, are one file"),
}  # fmt: skip


@pytest.fixture(scope="module")
def others(root):
    """Files of another store."""
    with FeatureStore(write_store(root / "other")) as store:
        for kind, name in (("clusters", "oc"), ("dynamics", "od"), ("picks", "op")):
            ChainFile.of(kind, store, {"level": "image", "rows": 180}, {"indices": np.arange(3)}).save(
                root / f"{name}.safetensors"
            )
    return root


@pytest.mark.parametrize("what", REFUSED)
def test_what_does_not_belong_together_is_refused(others, here, capsys, what):
    for name in ("oc", "od", "op"):
        shutil.copy(others / f"{name}.safetensors", here)
    np.save("twice.npy", np.array([3, 4, 3]))
    np.save("far.npy", np.array([3, 448]))
    np.save("p.npy", np.arange(40))
    np.save("r.npy", np.ones((9, 4), np.float32))
    names = [f"train/good/00{i}.png,{i % 2}" for i in range(6)]
    Path("l.csv").write_text("\n".join(["image,label", *names]))
    with FeatureStore("s") as store:
        settings = {"rows": 448, "selection": {"sampler": "greedy", "ratio": 0.1}}
        ChainFile.of("picks", store, settings, {"indices": np.arange(44)}).save("p.safetensors")
    Path("cut.safetensors").write_bytes(Path("p.safetensors").read_bytes()[:-8])
    argv, message = REFUSED[what]
    before = sorted(here.iterdir())
    assert main(argv) == 2
    assert message in capsys.readouterr().err and sorted(here.iterdir()) == before


def test_labels_of_a_list(here, capsys):
    names = [f"train/good/00{i}.png,{'ab'[i % 2]}" for i in range(7)]
    Path("l.csv").write_text("\n".join(["image,label", *names]))
    assert main(["cluster", "s", "--labels", "l.csv", "--output", "x.safetensors"]) == 0
    with FeatureStore("s") as store:
        found = read_chain("x.safetensors", "clusters", store)
    assert found.arrays["labels"].tolist() == [0, 1, 0, 1, 0, 1, 0] and found.settings["classes"] == ["a", "b"]
    assert "7 images in 2 clusters of 3 to 4" in capsys.readouterr().out


def test_train_proxy_shows_how_it_went_and_goes_on(here, capsys):
    (here / "x.safetensors.training").write_bytes(b"of something else")
    train = ["train-proxy", "s", "--clusters", "c.safetensors", "--epochs", "3", "--output", "x.safetensors"]
    assert main(train) == 2 and "x.safetensors.training: is no file" in capsys.readouterr().err
    (here / "x.safetensors.training").unlink()
    assert main(train) == 0
    said = capsys.readouterr().out
    assert "3 epochs over 7 images" in said and [line.split()[0] for line in said.splitlines()[2:5]] == ["1", "2", "3"]
    assert Path("x.safetensors").read_bytes() == Path("d.safetensors").read_bytes()
