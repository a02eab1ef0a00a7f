"""Features in .safetensors files and in folders: the rows of the arrays that made them; errors that name the file."""

from __future__ import annotations

import json
import random

import numpy as np
import pytest
import safetensors.numpy
import torch

from patchcore_fast.cli import main, select
from patchcore_fast.errors import DataError
from patchcore_fast.matrix_files import open_matrix

X = np.random.default_rng(0).normal(size=(700, 140)).astype(np.float16)


@pytest.fixture
def forms(tmp_path):
    """The same rows as one .npy, one .safetensors, and folders."""
    np.save(tmp_path / "x.npy", X)
    safetensors.numpy.save_file({"features": X, "other": X[:3]}, tmp_path / "x.safetensors")
    safetensors.numpy.save_file({"anything": X, "flat": X[0]}, tmp_path / "one.safetensors")
    folder, listed = tmp_path / "shards", tmp_path / "listed"
    folder.mkdir()
    listed.mkdir()
    cuts = [(0, 1), (1, 400), (400, 400), (400, 700)]
    for i, (low, high) in enumerate(cuts):
        if i % 2:
            safetensors.numpy.save_file({"features": X[low:high]}, folder / f"{i}.safetensors")
        else:
            np.save(folder / f"{i}.npy", X[low:high])
        np.save(listed / f"{9 - i}.npy", X[low:high])
    (folder / "notes.txt").write_text("no features")
    (listed / "shards.json").write_text(json.dumps({"shards": ["9.npy", "8.npy", "7.npy", "6.npy"]}))
    return [tmp_path / name for name in ("x.npy", "x.safetensors", "one.safetensors", "shards", "listed")]


def test_the_same_rows(forms):
    dice = np.random.default_rng(1)
    for path in forms:
        with open_matrix(path) as file:
            assert file.shape == X.shape and file.dtype == X.dtype and file.nbytes == X.nbytes
            assert np.array_equal(file.read(), X)
            for _ in range(20):
                low, high = sorted(dice.integers(0, 701, 2).tolist())
                assert np.array_equal(file.rows(low, high), X[low:high])
            rows = dice.integers(0, 700, 50)
            assert np.array_equal(file.take(rows), X[rows])


@pytest.mark.parametrize("method", ["greedy", "random"])
def test_the_same_selection(forms, tmp_path, monkeypatch, method):
    outputs = []
    for memory in (1 << 40, 200_000):
        monkeypatch.setattr(select, "available_memory", lambda memory=memory: memory)
        for path in forms:
            out = tmp_path / "o.npy"
            assert main(["select", str(path), "--ratio", "0.1", "--method", method, "--output", str(out)]) == 0
            outputs.append(out.read_bytes())
    assert len(set(outputs)) == 1


def test_a_folder_that_is_too_large_without_a_projection(forms, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(select, "available_memory", lambda: 100_000)
    options = ["--ratio", "0.1", "--no-projection", "--output", str(tmp_path / "o.npy")]
    assert main(["select", str(forms[3]), *options]) == 2
    assert "leave --no-projection away" in capsys.readouterr().err
    assert main(["select", str(forms[1]), *options]) == 0  # one file is mapped


def test_other_files(tmp_path):
    bank = {"a": torch.zeros(3, 2).numpy(), "b": torch.zeros(4, 2).numpy()}
    safetensors.numpy.save_file(bank, tmp_path / "two.safetensors")
    safetensors.numpy.save_file({"a": np.zeros(3)}, tmp_path / "flat.safetensors")
    (tmp_path / "empty").mkdir()
    (tmp_path / "mixed").mkdir()
    np.save(tmp_path / "mixed" / "a.npy", np.zeros((3, 4)))
    np.save(tmp_path / "mixed" / "b.npy", np.zeros((3, 5)))
    (tmp_path / "list").mkdir()
    for name, words in (
        ("two.safetensors", "a tensor named features, or one alone .* it has a, b"),
        ("flat.safetensors", "a tensor named features"),
        ("empty", "holds no file of features"),
        ("mixed", r"b\.npy: has 5 columns of float64, .*a\.npy 4 of float64"),
        ("missing.safetensors", "no such file"),
    ):
        with pytest.raises(DataError, match=words):
            open_matrix(tmp_path / name)
    for content in ("[]", '{"shards": []}', '{"shards": ["../x.npy"]}', '{"shards": [3]}', "nonsense"):
        (tmp_path / "list" / "shards.json").write_text(content)
        with pytest.raises(DataError, match=r"shards\.json"):
            open_matrix(tmp_path / "list")
    (tmp_path / "list" / "shards.json").write_text('{"shards": ["gone.npy"]}')
    with pytest.raises(DataError, match=r"gone\.npy: no such file"):
        open_matrix(tmp_path / "list")


def test_damaged_files_of_safetensors(tmp_path):
    path = tmp_path / "x.safetensors"
    safetensors.numpy.save_file({"features": X}, path)
    good = path.read_bytes()
    dice = random.Random(2)
    for _ in range(60):
        content = bytearray(good)
        if dice.random() < 0.3:
            content = content[: dice.randrange(len(good))]
        else:
            content[dice.randrange(120)] = dice.randrange(256)
        path.write_bytes(content)
        try:
            with open_matrix(path) as file:
                assert file.read().shape == file.shape
        except DataError as error:
            assert "x.safetensors" in str(error)
    path.write_bytes(good)
    with open_matrix(path) as file:
        path.write_bytes(good[:5000])
        with pytest.raises(DataError, match="truncated"):
            file.read()
