"""compare as a command: what is typed reaches the cells, wrong things are told at once, and files come out."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from patchcore_fast.cli import main
from patchcore_fast.comparison import models

from ..compared import Fake, cells_here
from ..evaluated import files, rows_of
from ..pictures import write_mvtec

TINY = ["--backbone", "test_resnet", "--layers", "1,2", "--weights", "random", "--image-size", "64"]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    top = tmp_path_factory.mktemp("compare") / "root"
    for name in ("bolt", "nut"):
        write_mvtec(top / name, train=2, good=1, bad=1)
    return top


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Mapping[str, Any]]:
    """The jobs, done in this process by a method that takes no time."""
    found: list[Mapping[str, Any]] = []
    cells_here(monkeypatch.setattr, found)
    monkeypatch.setattr(models, "make_model", Fake)
    return found


@pytest.mark.usefixtures("no_drawing")
def test_tables_pictures_and_a_page(
    root: Path, tmp_path: Path, asked: list, capsys: pytest.CaptureFixture[str]
) -> None:
    made = tmp_path / "made"
    typed = ["compare", str(root), "--methods", "patchcore,simplenet", "--seeds", "2", "--epochs", "3", "--output",
             str(made), *TINY]  # fmt: skip
    (tmp_path / "a.toml").write_text('method = "simplenet"\n[simplenet]\nsteps = 9\n')
    assert main([*typed, "--config", f"simplenet={tmp_path / 'a.toml'}"]) == 0
    out = capsys.readouterr().out
    assert {"results.json", "results.csv", "compare.png", "sets.png", "index.html"} <= files(made)
    assert len(asked) == 8 and asked[2]["settings"]["simplenet"]["epochs"] == 3
    assert asked[2]["settings"]["simplenet"]["steps"] == 9 and asked[3]["settings"]["selection"]["seed"] == 1
    assert "[8/8] nut, simplenet, seed 1: image AUROC 0.100, trained in" in out
    assert "mean of sets" in out and "0.095 ± 0.007" in out and f"{made / 'index.html'}" in out
    rows = rows_of(made / "results.csv")
    assert [(r["set"], r["method"]) for r in rows][-2:] == [("mean", "patchcore"), ("mean", "simplenet")]
    assert all(text in (made / "index.html").read_text() for text in ("simplenet.epochs", "0.095", "Mean over sets"))
    before = json.loads((made / "results.json").read_text())
    assert main([*typed, "--config", f"simplenet={tmp_path / 'a.toml'}"]) == 0
    assert len(asked) == 8 and json.loads((made / "results.json").read_text()) == before
    assert "taken from" in capsys.readouterr().out


@pytest.mark.usefixtures("no_drawing")
def test_failures_and_ctrl_c(
    root: Path, tmp_path: Path, asked: list, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    typed = ["compare", str(root / "nut"), "--methods", "padim,rd", "--seeds", "1", "--output", str(tmp_path), *TINY]

    def broken(method: str, settings: Any) -> Any:
        if method == "rd":
            raise MemoryError
        return Fake(method, settings)

    monkeypatch.setattr(models, "make_model", broken)
    monkeypatch.setattr(Fake, "unreadable", True)
    assert main(typed) == 3
    said = capsys.readouterr()
    assert "rd, seed 0: failed: out of memory" in said.out and "nut, rd: out of memory" in said.out
    assert "1 of 2 cells failed; the same command tries them again" in said.err
    assert "1 file could not be used:" in said.err and "nut/train/good/000.png" in said.err

    def interrupted(method: str, settings: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(models, "make_model", interrupted)
    assert main(typed) == 130
    assert "the same command goes on from what is done" in capsys.readouterr().err
    cells = json.loads((tmp_path / "results.json").read_text())["cells"]
    assert [cell["status"] for cell in cells] == ["done", "pending"]


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--methods", "patchcor"], "did you mean patchcore?"), (["--methods", "padim,padim"], "more than once"),
        (["--seeds", "0"], "--seeds"), (["--epochs", "0"], "--epochs"), (["--config", "padim"], "METHOD=FILE.toml"),
        (["--config", "pdim=a.toml"], "did you mean padim?"), (["--config", "padim=a.toml"], "a.toml: no such file"),
        (["--image-size", "0"], "image_size"), (["--backbone", "resnet_18", "--weights", "random"], "resnet_18"),
    ],
    ids=["method", "twice", "seeds", "epochs", "file", "unknown", "missing", "size", "backbone"],
)  # fmt: skip
def test_what_cannot_be_is_told(
    root: Path, tmp_path: Path, asked: list, capsys: pytest.CaptureFixture[str], more: list[str], said: str
) -> None:
    assert main(["compare", str(root), "--output", str(tmp_path / "made"), *more]) == 2
    assert said in capsys.readouterr().err and not asked
    assert "resnet_18" in more or not (tmp_path / "made").exists()


def test_where_there_is_nothing_to_compare_by(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", str(root / "nut/train/good"), "--output", str(tmp_path / "made")]) == 2
    assert "no test images" in capsys.readouterr().err
    assert main(["compare", str(root), "--output", str(root / "nut/made")]) == 2
    assert "lies in the category" in capsys.readouterr().err and not (root / "nut/made").exists()
