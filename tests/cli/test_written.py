"""What predict and evaluate write: scores whatever happens to pictures, and nothing twice or out of date."""

from __future__ import annotations

import errno
import json
import os
import pkgutil
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from patchcore_fast.cli import main
from patchcore_fast.report.page import write_report
from patchcore_fast.written import LIST

from ..evaluated import TINY, files, predict, rows_of

pytestmark = pytest.mark.usefixtures("no_drawing")

# scores before pictures


class Broken:
    """A stand-in for a drawing function that fails from its n-th call on."""

    def __init__(self, whole: Any, error: BaseException, good: int = 0) -> None:
        self.whole, self.error, self.left = whole, error, good

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        self.left -= 1
        if self.left < 0:
            raise self.error
        return self.whole(*args, **kwargs)


FAULTS = {
    "disk": (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), "No space left on device"),
    "memory": (MemoryError(), "out of memory"),
    "bug": (KeyError("surprise"), "KeyError: 'surprise'"),
    "name": (OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG)), "File name too long"),
}


ONE_EACH = [("save_png", fault) for fault in FAULTS]  # of every fault, and below of everything that can fail


@pytest.mark.parametrize(("what", "fault"), [*ONE_EACH, ("contact_sheet", "bug"), ("photograph", "memory")])
def test_predict_keeps_its_scores(place: Path, data: Path, fault: str, what: str, tmp_path: Path, monkeypatch: Any,
                                  capsys: Any) -> None:  # fmt: skip
    import patchcore_fast.report.gallery as gallery

    error, words = FAULTS[fault]
    good = 0 if what == "contact_sheet" else 2
    monkeypatch.setattr(gallery, what, Broken(getattr(gallery, what), error, good))
    assert predict(place, data / "test", tmp_path / "out") == 3
    err = capsys.readouterr().err
    assert words in err and "Traceback" not in err
    rows = rows_of(tmp_path / "out/scores.csv")
    assert len(rows) == 6 and all(r["score"] and not r["error"] for r in rows)
    assert [bool(r["heatmap"]) for r in rows] == [what == "contact_sheet" or i < good for i in range(6)]
    assert "contact_sheet.png" in err if what == "contact_sheet" else "test/good/002.png" in err
    assert not list((tmp_path / "out").rglob("*.part"))


PLOTS = ("contact_sheet", "plot_histogram", "plot_roc", "plot_pr", "write_layers", "plot_provenance", "write_record")


@pytest.mark.parametrize(("what", "fault"), [*ONE_EACH, *((plot, "bug") for plot in PLOTS)])
def test_evaluate_keeps_its_numbers(place: Path, data: Path, fault: str, what: str, tmp_path: Path, monkeypatch: Any,
                                    capsys: Any) -> None:  # fmt: skip
    import patchcore_fast.report.gallery as gallery

    monkeypatch.setattr(gallery, what, Broken(getattr(gallery, what), FAULTS[fault][0], 2 * (what == "save_png")))
    out = tmp_path / "out"
    assert main(["evaluate", str(data), "--bank", str(place / "bank.safetensors"), "--output", str(out)]) == 3
    said = capsys.readouterr()
    assert FAULTS[fault][1] in said.err and "weave" in said.out
    drawn = [bool(r["heatmap"]) for r in rows_of(out / "scores.csv")]
    assert drawn == [what != "save_png" or i < 2 for i in range(6)]
    assert json.loads((out / "metrics.json").read_text())["metrics"]["n_test"] == 6
    if what == "write_record":
        assert "patchcore-fast report" not in said.out and not (out / "report.json").exists()
    else:
        write_report(out)


def test_a_disk_that_cannot_hold_the_scores(
    place: Path, data: Path, tmp_path: Path, monkeypatch: Any, capsys: Any
) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full)
    assert predict(place, data / "test", tmp_path / "out") == 2
    err = capsys.readouterr().err
    assert "No space left on device" in err and err.count("\n") == 1
    assert files(tmp_path / "out") <= {LIST}


def test_a_list_that_cannot_grow(place: Path, data: Path, tmp_path: Path, monkeypatch: Any, capsys: Any) -> None:
    import patchcore_fast.written as written

    whole, out = written._append, tmp_path / "out"

    def full(file: Any, line: bytes) -> None:
        if b"heatmaps" in line:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        whole(file, line)

    monkeypatch.setattr(written, "_append", full)
    assert predict(place, data / "test", out) == 3
    assert len(rows_of(out / "scores.csv")) == 6 and not list(out.rglob("heatmaps/*/*.png"))
    monkeypatch.undo()
    with (out / LIST).open("ab") as file:
        file.write(b"heatmaps/mine.png")  # a line that was cut off
    (out / "heatmaps").mkdir(exist_ok=True)
    (out / "heatmaps/mine.png").write_bytes(b"mine")
    assert predict(place, data / "test", out) == 0
    assert (out / "heatmaps/mine.png").read_bytes() == b"mine" and "mine" not in (out / LIST).read_text()


def test_a_file_system_without_room_to_reserve(place: Path, data: Path, tmp_path: Path, monkeypatch: Any) -> None:
    def unknown(*_: Any) -> None:
        raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))

    monkeypatch.setattr(os, "posix_fallocate", unknown)
    assert predict(place, data / "test", tmp_path / "out") == 0
    assert len(rows_of(tmp_path / "out/scores.csv")) == 6


def test_an_output_folder_that_goes_away(
    place: Path, data: Path, tmp_path: Path, monkeypatch: Any, capsys: Any
) -> None:
    import patchcore_fast.report.gallery as gallery

    whole = gallery.save_png

    def save(*args: Any) -> None:
        shutil.rmtree(tmp_path / "out")
        whole(*args)

    monkeypatch.setattr(gallery, "save_png", save)
    assert predict(place, data / "test", tmp_path / "out") in (2, 3)
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("where", ["scoring", "drawing"])
def test_a_run_that_is_stopped_keeps_its_scores(
    place: Path, data: Path, number: int, where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    point = {"scoring": "model.PatchCore._predict", "drawing": "report.gallery.save_png"}[where]
    owner, name = pkgutil.resolve_name(f"patchcore_fast.{point.rpartition('.')[0]}"), point.rpartition(".")[2]
    whole, calls = getattr(owner, name), []

    def stopped(*args: Any, **kwargs: Any) -> Any:
        calls.append(1)
        if len(calls) == 3:
            signal.raise_signal(number)
        return whole(*args, **kwargs)

    monkeypatch.setattr(owner, name, stopped)
    args = ["predict", str(place / "bank.safetensors"), str(data / "test"), "--output", str(tmp_path / "out"),
            "--batch-size", "2"]  # fmt: skip
    assert main(args) == {signal.SIGINT: 130, signal.SIGTERM: 143}[number]
    err = capsys.readouterr().err
    assert "Traceback" not in err
    rows = rows_of(tmp_path / "out/scores.csv")
    assert len(rows) == (4 if where == "scoring" else 6) and all(r["score"] for r in rows)
    assert f"the scores of {len(rows)} of 6 images are in {tmp_path / 'out/scores.csv'}" in err
    assert not list((tmp_path / "out").rglob("*.part"))


# one folder, many runs


def test_a_second_run_counts_the_same(place: Path, data: Path, tmp_path: Path, capsys: Any) -> None:
    photos = data / "test"
    for out in ("out", "out", "other", "deep/er/out"):
        assert predict(place, photos, photos / out) == 0
        assert len(rows_of(photos / out / "scores.csv")) == 6
    assert main(["fit", str(photos), "--output", str(tmp_path / "b.safetensors"), *TINY]) == 0
    assert "Fitted on 6 images" in capsys.readouterr().out, "heat maps are no training images either"
    assert main(["fit", str(photos), "--output", str(tmp_path / "b.safetensors"), "--shots", "2", *TINY]) == 0
    assert "Fitted on 2 images" in capsys.readouterr().out


def test_what_is_out_of_date_goes_and_nothing_else(place: Path, data: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    args = ["evaluate", str(data), "--bank", str(place / "bank.safetensors"), "--output", str(out)]
    assert main(args) == 0
    before = files(out)
    (out / "heatmaps/spot/mine.png").write_bytes(b"mine")
    (out / "notes.txt").write_text("mine")
    (data / "test/spot/002.png").unlink()
    assert main(args) == 0
    gone = {"heatmaps/spot/002.png"} | {f"layers/spot/002_{p}" for p in ("photo.jpg", "heat.png", "mask.png")}
    assert files(out) == (before - gone) | {"heatmaps/spot/mine.png", "notes.txt"}
    shutil.rmtree(data / "test/good")
    assert main(args) == 0
    assert {"roc.png", "pr.png"} & files(out) == set() and not (out / "heatmaps/good").exists()


def test_a_forged_list_removes_nothing_else(place: Path, data: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (tmp_path / "away").mkdir()
    mine = [tmp_path / "precious.png", tmp_path / "away/x.png", out / "bank.safetensors", out / "heatmaps/x.txt"]
    (out / "heatmaps").mkdir()
    for path in mine:
        path.write_text("mine")
    (out / "layers").symlink_to(tmp_path / "away")
    names = ["../precious.png", str(tmp_path / "precious.png"), "layers/x.png", "bank.safetensors", "heatmaps/x.txt",
             "heatmaps/../../precious.png", "heatmaps", "", "."]  # fmt: skip
    (out / LIST).write_text("\n".join(names) + "\n")
    assert predict(place, data / "test", out) == 0
    assert all(path.read_text() == "mine" for path in mine)


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["predict", "B", "D/test", "--output", "D/test"], "is the folder of IMAGES"),
        (["predict", "B", "L", "--output", "D/test"], "is the folder of IMAGES"),
        (["predict", "O/heatmaps/a.png", "D/test", "--output", "O"], "writes its pictures where the bank"),
        (["predict", "B", "O/contact_sheet.png", "--output", "O"], "contact_sheet.png of --output and image"),
        (["predict", "B", "O/heatmaps", "--output", "O"], "writes its pictures where image"),
        (
            ["evaluate", "D", "--bank", "B", "--json", "O/metrics.json", "--output", "O"],
            "metrics.json of --output and --json",
        ),
        (
            ["evaluate", "D", "--bank", "B", "--json", "O/scores.csv", "--output", "O"],
            "scores.csv of --output and --json",
        ),
        (["evaluate", "D", "--bank", "B", "--json", "O/heatmaps/x", "--output", "O"], "pictures where --json"),
        (["evaluate", "D", "--bank", "B", "--json", "B"], "--json and --bank"),
        (["evaluate", "D", "--bank", "B", "--json", "D/test/good/000.png"], "--json and image"),
        (["evaluate", "D", "--bank", "B", "--output", "D"], "is the folder of DIR"),
        (["fit", "D", "--output", "D/train/good/000.png"], "--output and training image"),
    ],
)
def test_outputs_on_each_other_are_refused(
    place: Path, data: Path, args: list[str], words: str, tmp_path: Path, capsys: Any
) -> None:
    out = tmp_path / "o"
    (out / "heatmaps").mkdir(parents=True)
    for name in ("contact_sheet.png", "heatmaps/a.png"):
        shutil.copy(data / "test/good/000.png", out / name)
    if args[1] == "O/heatmaps/a.png":
        shutil.copy(place / "bank.safetensors", out / "heatmaps/a.png")
    bank = shutil.copy(place / "bank.safetensors", tmp_path / "b.safetensors")
    (tmp_path / "link").symlink_to(data / "test")
    known = {"B": str(bank), "D": str(data), "O": str(out), "L": str(tmp_path / "link")}
    before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    real = [known.get(a.split("/")[0], a.split("/")[0]) + a[len(a.split("/")[0]) :] for a in args]
    assert main([*real, *(TINY if args[0] == "fit" else [])]) == 2
    err = capsys.readouterr().err
    assert words in err and err.count("\n") == 1
    assert {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()} == before


def test_the_page_does_not_fall_on_what_it_is_made_of(place: Path, data: Path, tmp_path: Path, capsys: Any) -> None:
    out = tmp_path / "out"
    assert main(["evaluate", str(data), "--bank", str(place / "bank.safetensors"), "--output", str(out)]) == 0
    for name in ("metrics.json", "report.json", "layers/good/000_photo.jpg"):
        before = (out / name).read_bytes()
        assert main(["report", str(out), "--output", str(out / name)]) == 2
        assert "which is read" in capsys.readouterr().err and (out / name).read_bytes() == before
    assert main(["report", str(out), "--output", str(out / "report.html")]) == 0
    assert main(["report", str(out), "--output", str(out / "report.html")]) == 0


def test_pictures_of_a_selection_are_no_images_and_stay(place: Path, data: Path, tmp_path: Path, capsys: Any) -> None:
    photos = data / "train/good"
    assert main(["inspect", str(photos), "--output", str(photos / "out"), *TINY]) == 0
    before = files(photos / "out")
    assert predict(place, photos, photos / "out") == 0
    assert main(["fit", str(photos), "--output", str(tmp_path / "b.safetensors"), *TINY]) == 0
    assert "Fitted on 6 images" in capsys.readouterr().out
    assert before < files(photos / "out"), "predict replaces what predict wrote"
    assert main(["inspect", str(photos), "--output", str(photos / "out"), *TINY]) == 0
    assert "scores.csv" in files(photos / "out")


# large pictures


def test_help_tells_the_bound() -> None:
    from patchcore_fast.cli.parser import DRAWN
    from patchcore_fast.report.images import LONGEST, drawn_size

    assert DRAWN == LONGEST
    assert drawn_size((9000, 4500)) == (2048, 1024) and drawn_size((2048, 5)) == (2048, 5)
    assert drawn_size((1, 80_000_000)) == (1, 2048)


def test_pictures_of_large_photographs_are_bounded(place: Path, data: Path, tmp_path: Path, monkeypatch: Any) -> None:
    import patchcore_fast.report.images as images

    monkeypatch.setattr(images, "LONGEST", 100)
    monkeypatch.setattr(images.drawn_size, "__defaults__", (100,))
    Image.open(data / "test/spot/000.png").resize((400, 200)).save(data / "test/spot/000.png")
    Image.open(data / "ground_truth/spot/000_mask.png").resize((400, 200)).save(data / "ground_truth/spot/000_mask.png")
    out = tmp_path / "out"
    assert main(["evaluate", str(data), "--bank", str(place / "bank.safetensors"), "--output", str(out)]) == 0
    with Image.open(out / "heatmaps/spot/000.png") as picture:
        assert picture.size == (100, 50)
    with Image.open(out / "heatmaps/spot/001.png") as picture:
        assert picture.size == (64, 64)
