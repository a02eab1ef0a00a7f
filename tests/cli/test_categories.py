"""evaluate on a folder of categories: one command, whatever becomes of a category or of the run."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal

import pytest
import torch

from patchcore_fast.cli import main
from patchcore_fast.cli.finished import kept
from patchcore_fast.errors import DataError
from patchcore_fast.features import Backbone
from patchcore_fast.model import PatchCore, passes

from ..evaluated import TINY, files, rows_of
from ..pictures import write_mvtec
from ..programs import MAIN, Program

pytestmark = pytest.mark.usefixtures("no_drawing")

COUNTS = {"train": 3, "good": 2, "bad": 2}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Two sound categories and one without test images, evaluated once: root and its results."""
    top = tmp_path_factory.mktemp("categories")
    for name in ("bolt", "cap", "nut"):
        write_mvtec(top / "root" / name, **COUNTS)
    shutil.rmtree(top / "root/cap/test")
    shutil.rmtree(top / "root/cap/ground_truth")
    assert main(["evaluate", str(top / "root"), "--output", str(top / "out"), *TINY]) == 3
    return top


@pytest.fixture
def place(made, tmp_path):
    """A copy of it; copies keep their times."""
    return shutil.copytree(made, tmp_path / "place")


@pytest.fixture
def asked(monkeypatch):
    """Which categories were to be fitted; none is."""
    seen: list[str] = []

    def refuse(self, data, **_):
        seen.append(data.root.name)
        raise DataError("not now")

    monkeypatch.setattr(PatchCore, "fit", refuse)
    return seen


def run(place, *more):
    return main(["evaluate", str(place / "root"), "--output", str(place / "out"), *TINY, *more])


def test_a_row_each_the_mean_and_a_page_each(made):
    out = made / "out"
    found = json.loads((out / "results.json").read_text())
    assert [(c["category"], c["status"]) for c in found["categories"]] == [
        ("bolt", "done"), ("cap", "failed"), ("nut", "done")]  # fmt: skip
    assert found["categories"][1]["error"] == "no test images"  # and no path of this machine
    for name in ("bolt", "nut"):
        assert {"metrics.json", "scores.csv", "report.html", "category.json"} <= files(out / name)
        metrics = json.loads((out / name / "metrics.json").read_text())["metrics"]
        assert metrics in [c["metrics"] for c in found["categories"]]
        assert f'href="{name}/report.html"' in (out / "index.html").read_text()
    assert found["mean"]["image_auroc"]["categories"] == 2
    assert [r["category"] for r in rows_of(out / "results.csv")] == ["bolt", "cap", "nut", "mean"]
    assert not (out / "cap").exists()


def test_the_numbers_are_those_of_each_category_alone(made, tmp_path):
    assert main(["evaluate", str(made / "root/nut"), "--output", str(tmp_path / "nut"), *TINY]) == 0
    alone, among = (json.loads((p / "nut/metrics.json").read_text()) for p in (tmp_path, made / "out"))
    assert alone["metrics"] == among["metrics"] and alone["images"] == among["images"]


@pytest.mark.parametrize("more", [(), ("--reduction", "pca", "--dim", "8")], ids=["plain", "learned"])
def test_the_backbone_is_built_once_and_changes_no_number(tmp_path, monkeypatch, more):
    root, built, shown = tmp_path / "root", [], PatchCore.evaluate
    for name, side in (("bolt", 64), ("nut", 72), ("pin", 80)):  # other sides, other pictures
        write_mvtec(root / name, **COUNTS, side=side)

    class Counted(Backbone):
        def __init__(self, *given, **named):
            built.append(given[0])
            super().__init__(*given, **named)

    def evaluated(self, data, **named):
        banks.append(self.bank)
        return shown(self, data, **named)

    banks = []
    monkeypatch.setattr(passes, "Backbone", Counted)
    monkeypatch.setattr(PatchCore, "evaluate", evaluated)
    assert main(["evaluate", str(root), "--output", str(tmp_path / "all"), *TINY, *more]) == 0
    assert built == ["test_resnet"] and len({id(bank) for bank in banks}) == 3
    for name, among in zip(("bolt", "nut", "pin"), tuple(banks), strict=True):
        file = tmp_path / f"{name}.json"
        assert main(["evaluate", str(root / name), "--json", str(file), *TINY, *more]) == 0
        assert torch.equal(among.features, banks[-1].features) and among.threshold == banks[-1].threshold
        found, wanted = (json.loads(p.read_text()) for p in (tmp_path / "all" / name / "metrics.json", file))
        assert found["metrics"] == wanted["metrics"] and found["images"] == wanted["images"]


def test_a_category_that_fails_leaves_nothing_to_the_next(tmp_path):
    root = tmp_path / "root"
    for name, side in (("bolt", 64), ("cap", 64), ("nut", 72)):
        write_mvtec(root / name, **COUNTS, side=side)
    for path in (root / "cap/train/good").iterdir():
        path.write_bytes(b"no image")
    more = ("--reduction", "pca", "--dim", "8")
    assert main(["evaluate", str(root), "--output", str(tmp_path / "all"), *TINY, *more]) == 3
    assert main(["evaluate", str(root / "nut"), "--output", str(tmp_path / "nut"), *TINY, *more]) == 0
    found, wanted = (json.loads((p / "nut/metrics.json").read_text()) for p in (tmp_path / "all", tmp_path))
    assert found["metrics"] == wanted["metrics"] and found["images"] == wanted["images"]


def test_finished_categories_are_taken_and_the_broken_one_is_tried_again(place, asked, capsys):
    before = json.loads((place / "out/results.json").read_text())
    assert run(place) == 3
    after = json.loads((place / "out/results.json").read_text())
    assert not asked and after["mean"] == before["mean"] and after["categories"][0] == before["categories"][0]
    said = capsys.readouterr()
    assert said.out.count("settings, weights and files are the same") == 2
    assert "1 of 3 categories failed:" in said.err
    shutil.copytree(place / "root/bolt/test", place / "root/cap/test")
    assert run(place, "--json", str(place / "all.json")) == 3
    assert asked == ["cap"]
    assert (place / "all.json").read_bytes() == (place / "out/results.json").read_bytes()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("--ratio", "0.2"), "selection.ratio"),
        (("--seed", "1"), "selection.seed"),
        (("--threshold", "0.5"), "another --image-threshold"),
        (("--batch-size", "3"), None),  # it changes no result
    ],
)
def test_changed_settings_are_worked_out_anew(place, asked, change, said):
    assert run(place, *change) == 3
    assert asked == ([] if said is None else ["bolt", "nut"])


def test_what_is_different_is_said(made):
    found = json.loads((made / "out/nut/category.json").read_text())["made"]
    folder, settings = made / "out/nut", found["settings"]
    assert kept(folder, found)[1] == "" and kept(made / "out", found) == (None, "")
    other = settings | {"features": settings["features"] | {"image_size": 32}}
    assert kept(folder, found | {"settings": other}) == (None, "other settings: features.image_size")
    for part, said in (
        ("threshold", "another --image-threshold"),
        ("weights", "other weights"),
        ("data", "other files"),
    ):
        assert kept(folder, found | {part: "x"}) == (None, said)


def test_changed_files_and_records_are_worked_out_anew(place, asked):
    os.utime(place / "root/bolt/train/good/000.png", ns=(1, 1))
    metrics = place / "out/nut/metrics.json"
    metrics.write_text(metrics.read_text() + " ")
    assert run(place) == 3
    assert asked == ["bolt", "nut"]
    assert not (place / "out/nut/category.json").exists()  # what is begun anew is not finished


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"format": "patchcore_fast.category"', "cannot be read"),
        ("[1]", "cannot be read"),
        ('{"format": "other", "format_version": 1}', "of another version"),
        ('{"format": "patchcore_fast.category", "format_version": 1, "made": {}, "row": {"metrics": 3}, "numbers": 1}',
         "is damaged"),
    ],
)  # fmt: skip
def test_a_damaged_record_is_as_none(tmp_path, text, said):
    (tmp_path / "category.json").write_text(text)
    row, why = kept(tmp_path, {"settings": {}})
    assert row is None and said in why


def changed(record, **row):
    return record | {"row": record["row"] | row}


@pytest.mark.parametrize(
    "damage",
    [
        lambda r: changed(r, metrics={name: v for name, v in r["row"]["metrics"].items() if name != "n_test"}),
        lambda r: changed(r, metrics={}),
        lambda r: changed(r, metrics=r["row"]["metrics"] | {"n_test": None}),
        lambda r: changed(r, metrics=r["row"]["metrics"] | {"image_auroc": 10**400}),
        lambda r: changed(r, metrics=r["row"]["metrics"] | {"image_auroc": True}),
        lambda r: r | {"made": r["made"] | {"settings": [1]}},
        lambda r: r | {"made": [["version", 1]]},
        lambda r: {name: v for name, v in r.items() if name != "numbers"},
    ],
    ids=["no count", "no metrics", "null count", "a huge number", "no number", "settings", "made", "a key is gone"],
)
def test_a_record_that_looks_whole_may_be_damaged(place, damage):
    file = place / "out/nut/category.json"
    whole = json.loads(file.read_text())
    assert kept(file.parent, whole["made"])[0] == whole["row"]
    file.write_text(json.dumps(damage(whole)))
    row, why = kept(file.parent, whole["made"])
    assert row is None and why in ("its category.json is damaged", "its category.json cannot be read")


def test_a_damaged_record_is_made_anew_with_a_word(place, capsys):
    file = place / "out/nut/category.json"
    whole = json.loads(file.read_text())
    file.write_text(json.dumps(changed(whole, metrics={"image_auroc": 10**400})))
    assert run(place) == 3  # cap has no test images
    said = capsys.readouterr()
    assert re.search(r"nut: image AUROC .*, anew: its category\.json (is damaged|cannot be read)", said.out)
    assert "1 of 3 categories failed" in said.err and json.loads(file.read_text())["made"] == whole["made"]


def test_killed_in_the_middle_it_goes_on_where_it_was(place, asked):
    shutil.rmtree(place / "out")
    process = Program(MAIN, "evaluate", place / "root", "--output", place / "out", *TINY)
    first = place / "out/bolt/category.json"
    process.wait_for(first)
    process.send_signal(signal.SIGKILL)
    process.ended()
    before = first.read_bytes()
    assert json.loads((place / "out/results.json").read_text())["categories"][2]["status"] == "pending"
    assert run(place) == 3
    assert asked == ["nut"] and first.read_bytes() == before


def test_whatever_breaks_in_a_category_is_its_own_affair(place, monkeypatch, capsys):
    def broken(self, data, **_):
        raise RuntimeError("a bug\nof two lines") if data.root.name == "bolt" else MemoryError

    monkeypatch.setattr(PatchCore, "fit", broken)
    assert run(place, "--ratio", "0.3") == 3
    found = json.loads((place / "out/results.json").read_text())["categories"]
    assert found[0]["error"] == "RuntimeError: a bug of two lines" and "out of memory" in found[2]["error"]
    assert "3 of 3 categories failed" in capsys.readouterr().err


def test_ctrl_c_ends_the_run(place, monkeypatch):
    def interrupted(self, data, **_):
        raise KeyboardInterrupt

    monkeypatch.setattr(PatchCore, "fit", interrupted)
    assert run(place, "--ratio", "0.3") == 130


def test_an_image_that_cannot_be_read_is_named_now_and_when_it_is_taken(place, capsys):
    (place / "root/bolt/test/spot/000.png").write_bytes(b"no image")
    for _ in range(2):
        assert run(place) == 3
        assert "1 file could not be used" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (("--output", "out", "--bank", "bank.safetensors"), "--bank goes with one category"),
        ((), "give --output DIR"),
        (("--output", "root"), "is the folder of the categories"),
        (("--output", "root/bolt/x"), "lies in the category"),
        (("--output", "out", "--json", "out/results.json"), "are one file"),
        (("--output", "out", "--json", "out/results.csv"), "are one file"),
        (("--output", "out", "--json", "root/bolt/train/good/000.png"), "--json root/bolt/train/good/000.png: lies in"),
        (("--output", "out", *TINY, "--layers", "17"), "has layers"),
    ],
)
def test_what_cannot_be_is_told_before_anything_is_written(made, tmp_path, monkeypatch, capsys, argv, said):
    shutil.copytree(made / "root", tmp_path / "root")
    (tmp_path / "bank.safetensors").write_bytes(b"")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "out").mkdir()
    assert main(["evaluate", "root", *argv]) == 2
    assert said in capsys.readouterr().err
    assert not files(tmp_path / "out") and files(tmp_path / "root") == files(made / "root")
