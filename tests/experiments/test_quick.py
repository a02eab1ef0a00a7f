"""All samplers on some rows, in one table."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest
import torch

from patchcore_fast.cli import main
from patchcore_fast.config import SAMPLERS
from patchcore_fast.experiments import quick
from patchcore_fast.experiments.measured import measured
from patchcore_fast.experiments.quick import COLUMNS, drawn_rows, quick_look


def test_every_sampler_by_name(monkeypatch):
    monkeypatch.setattr(quick, "REPEATS", 1)
    x = torch.randn(150, 6, generator=torch.Generator().manual_seed(0))
    table = {row["sampler"]: row for row in quick_look(x, 0.1, progress=False)}
    assert tuple(table) == SAMPLERS
    assert table["identity"]["rows"] == 150 and table["identity"]["covering_radius"] == 0
    assert table["greedy"]["rows"] == 15
    assert table["greedy"]["covering_radius"] < table["random"]["covering_radius"]
    for row in table.values():
        assert (row["rows"] is None) == (row["note"] is not None) and set(row) == set(COLUMNS)
    assert "image_ids or positions" in table["two-level"]["note"]


def test_the_command(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(quick, "REPEATS", 1)
    np.save(tmp_path / "f.npy", np.random.default_rng(0).random((90, 5)))
    there = [str(tmp_path / name) for name in ("f.npy", "t.json", "t.csv")]
    assert main(["bench-samplers", there[0], "--rows", "60", "--json", there[1], "--csv", there[2]]) == 0
    facts = json.loads((tmp_path / "t.json").read_text())
    assert (facts["of"], facts["rows"], facts["dim"]) == (90, 60, 5)
    with open(there[2], newline="") as f:
        assert [row["sampler"] for row in csv.DictReader(f)] == [row["sampler"] for row in facts["samplers"]]
    out = capsys.readouterr().out
    assert "60 of 90 rows of 5 numbers" in out and "covering radius" in out


@pytest.mark.parametrize(
    ("more", "said"),
    [(["--rows", "1"], "--rows"), (["--ratio", "1"], "--ratio"), (["--seed", "-1"], "--seed"),
     (["--ratio", "0.001"], "keeps none"), (["--json", "a", "--csv", "a"], "one file")],
    ids=["rows", "ratio", "seed", "none", "outputs"],
)  # fmt: skip
def test_what_cannot_be_is_told(tmp_path, monkeypatch, capsys, more, said):
    monkeypatch.chdir(tmp_path)
    np.save("f.npy", np.ones((20, 3), np.float32))
    assert main(["bench-samplers", "f.npy", *more]) == 2
    assert said in capsys.readouterr().err


def test_rows_that_are_not_finite_are_told(tmp_path, capsys):
    x = np.ones((20, 3), np.float32)
    x[4, 1] = np.nan
    np.save(tmp_path / "f.npy", x)
    assert main(["bench-samplers", str(tmp_path / "f.npy")]) == 2
    assert "1 of 20 rows that were drawn are not finite" in capsys.readouterr().err


def test_drawn_rows_are_seeded_and_all_where_there_are_fewer():
    assert (drawn_rows(10, 20, 0) == np.arange(10)).all()
    assert (drawn_rows(1000, 9, 4) == drawn_rows(1000, 9, 4)).all()
    assert len(set(drawn_rows(1000, 9, 4).tolist())) == 9


def test_memory_is_what_was_added():
    with measured(torch.device("cpu")) as spent:
        held = np.ones(20_000_000, np.uint8)
    if spent.memory is not None:  # the system tells
        assert held.nbytes * 0.9 <= spent.memory <= 3 * held.nbytes
    assert spent.seconds > 0 and spent.cpu_seconds >= 0
