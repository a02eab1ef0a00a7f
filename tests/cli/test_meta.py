"""evaluate and check on a meta.json: its classes are categories, and their numbers those of the same folders."""

from __future__ import annotations

import json

import pytest

from patchcore_fast.cli import main

from ..data.test_meta import listing, write_list
from ..evaluated import TINY, tiny_config
from ..pictures import write_mvtec

pytestmark = pytest.mark.usefixtures("no_drawing", "few_resamples")


@pytest.fixture
def few_resamples(monkeypatch):
    """Intervals are not what is looked at."""
    monkeypatch.setattr("patchcore_fast.report.record.RESAMPLES", 2)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """MVTec layout with meta.json beside it, and settings.toml."""
    root = tmp_path_factory.mktemp("listed") / "root"
    for name in ("bolt", "nut"):
        write_mvtec(root / name, 3, 2, 2, side=48)
    write_list(root, listing(root, "bolt", "nut"))
    tiny_config().replace(image_size=32, backbone="test_resnet").to_toml(root / "settings.toml")
    return root


def run(*argv):
    return main(["evaluate", *map(str, argv)])


def test_the_numbers_are_those_of_the_folders_and_so_is_their_mean(root, tmp_path, capsys):
    config = ("--config", root / "settings.toml")
    assert run(root, "--output", tmp_path / "folders", *config) == 0
    said = capsys.readouterr().out
    assert "meta.json is not used" in said and f"give {root / 'meta.json'}" in said
    assert run(root / "meta.json", "--output", tmp_path / "list", *config) == 0
    said = capsys.readouterr().out
    assert "is not used" not in said and "\nmean " in said and "IoU-max" in said
    folders, listed = (json.loads((tmp_path / p / "results.json").read_text()) for p in ("folders", "list"))
    assert listed["mean"] == folders["mean"] and set(listed["mean"]) >= {"pixel_iou_max", "pixel_iou_21", "aupro"}
    for one, other in zip(listed["categories"], folders["categories"], strict=True):
        assert one["metrics"] == other["metrics"] and one["category"] == other["category"]
    assert json.loads((tmp_path / "list/nut/metrics.json").read_text())["images"][0]["path"] == "nut/test/good/000.png"
    assert run(root / "meta.json", "--output", tmp_path / "list", *config) == 0
    assert capsys.readouterr().out.count("settings, weights and files are the same") == 2


def test_one_class_of_them_is_a_set_by_itself(root, tmp_path, capsys):
    bank = tmp_path / "bank.safetensors"
    small = [*TINY, "--image-size", "32"]
    assert main(["fit", str(root / "meta.json/nut"), "--output", str(bank), *small]) == 0
    capsys.readouterr()
    for place, more in ((root / "meta.json/nut", ()), (root / "meta.json", ("--classes", "nut"))):
        assert run(place, "--bank", bank, *more) == 0
        assert capsys.readouterr().out.split("\n")[2].startswith("nut "), "the class names the row"
    assert run(root / "meta.json", "--output", tmp_path / "o", "--classes", "nut,bold") == 2
    assert "has no class bold (did you mean bolt?)" in capsys.readouterr().err


def test_what_is_wrong_with_a_class_is_in_its_row_without_the_folder_of_the_data(root, tmp_path, capsys):
    found = listing(root, "bolt", "nut")
    found["train"]["nut"][0]["img_path"] = "nut/gone.png"
    file = write_list(root, found, "wrong.json")
    assert run(file, "--output", tmp_path / "o", *TINY, "--image-size", "32") == 3
    rows = json.loads((tmp_path / "o/results.json").read_text())["categories"]
    assert [row["status"] for row in rows] == ["done", "failed"]
    assert rows[1]["error"] == "the class nut names files that are not there (1): nut/gone.png"
    file.unlink()


def test_check_says_what_each_class_holds(root, tmp_path, capsys):
    assert main(["check", str(root / "meta.json")]) == 0
    said = capsys.readouterr().out
    assert "bolt (listed in meta.json)" in said and "nut (listed in meta.json)" in said
    assert main(["check", str(root / "meta.json"), "--json"]) == 0
    assert [found["folder"] for found in json.loads(capsys.readouterr().out)] == ["bolt", "nut"]
    assert main(["check", str(root / "meta.json/nut"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["images"]["test"] == {"good": 2, "spot": 2}
    assert main(["check", str(tmp_path / "meta.json")]) == 2
