"""The command: what predict writes, and with labels what evaluate writes."""

from __future__ import annotations

import json

import pytest

from patchcore_fast import data
from patchcore_fast.cli import main
from patchcore_fast.report.scores_csv import COLUMNS

from ..evaluated import files, rows_of
from .alike import write_alike

TINY = ("--backbone", "test_resnet", "--layers", "1,2", "--weights", "random", "--image-size", "64", "--degrees", "1,3")


@pytest.fixture(scope="module")
def weave(tmp_path_factory):
    return write_alike(tmp_path_factory.mktemp("zeroshot") / "weave", train=2, good=4, bad=2)


def test_a_folder_of_images(weave, tmp_path, capsys):
    assert main(["zeroshot", str(weave / "test"), "--output", str(tmp_path / "out"), *TINY]) == 0
    rows = rows_of(tmp_path / "out/scores.csv")
    assert tuple(rows[0]) == COLUMNS and len(rows) == 6
    scores = {row["path"]: float(row["score"]) for row in rows}
    assert min(v for k, v in scores.items() if "spot" in k) > max(v for k, v in scores.items() if "good" in k)
    assert all(row["label"] == row["is_anomalous"] == row["error"] == "" for row in rows)
    assert {row["heatmap"] for row in rows} | {"contact_sheet.png", "scores.csv"} <= files(tmp_path / "out")
    assert "6 images scored" in (said := capsys.readouterr().out) and "scored each other in" in said


def test_a_folder_with_labels_is_measured_and_has_a_page(weave, tmp_path, capsys):
    out = tmp_path / "out"
    assert main(["zeroshot", str(weave), "--output", str(out), *TINY]) == 0
    said = capsys.readouterr().out
    assert "mutual" in said and "2 images in train had no part in it" in said
    metrics = json.loads((out / "metrics.json").read_text())
    assert metrics["metrics"]["image_auroc"] == 1 and metrics["config"]["zeroshot"]["degrees"] == [1, 3]
    assert [row["label"] for row in rows_of(out / "scores.csv")].count("1") == 2
    assert main(["report", str(out)]) == 0
    page = (out / "report.html").read_text()
    assert "images scored by each other, without training" in page and "did not write down its memory bank" in page


def test_one_broken_file_among_many(weave, tmp_path, capsys):
    photos = write_alike(tmp_path / "photos", train=4, good=1, bad=1)
    (photos / "train/good/000.png").write_bytes(b"no image")
    assert main(["zeroshot", str(photos / "train"), "--output", str(tmp_path / "out"), *TINY]) == 3
    assert [bool(row["error"]) for row in rows_of(tmp_path / "out/scores.csv")] == [True, False, False, False]
    assert "1 file could not be used" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (("--degrees", "1,2"), "ZeroShot: degrees must be odd"),
        (("--degrees", "x"), "invalid sides value: 'x'"),
        (("--share", "nan"), "ZeroShot: share must lie in"),
        (("--share", "0"), "ZeroShot: share must lie in"),
        (("--group", "1"), "ZeroShot: group must be 2 images or more"),
        (("--image-size", "0"), "features.image_size must be at least 1"),
        (("--ratio", "0.1"), "unrecognized arguments: --ratio"),
    ],
)
def test_wrong_options_are_told_at_once(weave, tmp_path, capsys, monkeypatch, argv, said):
    for read in ("scan", "scan_images"):
        monkeypatch.setattr(data, read, lambda *_: pytest.fail("the images are looked at"))
    assert main(["zeroshot", str(weave), "--output", str(tmp_path / "out"), *argv]) == 2
    assert said in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_one_image_scores_nothing(weave, tmp_path, capsys):
    photos = write_alike(tmp_path / "photos", train=1, good=1, bad=1)
    assert main(["zeroshot", str(photos / "train"), "--output", str(tmp_path / "out"), *TINY]) == 2
    assert "two images or more" in capsys.readouterr().err
    assert main(["zeroshot", str(weave), "--output", str(weave), *TINY]) == 2
