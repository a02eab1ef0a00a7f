"""What a scan says: text for people, JSON, warnings, and where they go; and the command `check`."""

from __future__ import annotations

import json
import os
import re
import shutil
import warnings
from pathlib import Path

import pytest
from PIL import Image

from patchcore_fast.cli import main
from patchcore_fast.data import scan
from patchcore_fast.data.check import check_folder
from patchcore_fast.data.summary import IN_LINE, IN_LIST, KINDS, Notes, ScanSummary

from ..evaluated import TINY
from ..pictures import write_masks, write_mvtec, write_photos


@pytest.fixture
def messy(tmp_path: Path) -> Path:
    """A set with one of most things that go wrong."""
    root = write_mvtec(tmp_path / "set")
    (root / "ground_truth/spot/001_mask.png").unlink()
    write_masks(root, "ground_truth/spot/9_mask.png", side=64)
    write_masks(root, "ground_truth/spot/002_mask.png", side=64, empty=True)
    write_photos(root, "val/0.png", "train/good/.hidden/1.png", "test/.ipynb_checkpoints/000-checkpoint.png")
    shutil.copy(root / "train/good/000.png", root / "test/good/copy.png")
    shutil.copy(root / "train/good/001.png", root / "test/spot/copy.png")
    write_masks(root, "train/good/drawn.png", side=64)
    (root / "train/good/notes.txt").write_text("text")
    (root / "train/good/photo.heic").write_bytes(b"?")
    (root / "train/good/broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    return root


WANTED = {
    "not used": ["val (1 image)"],
    "mask missing": ["test/spot/001.png", "test/spot/copy.png"],
    "mask unused": ["ground_truth/spot/9_mask.png"],
    "mask empty": ["test/spot/002.png"],
    "unreadable": ["train/good/broken.png (of no format that is known)"],
    "drawn": ["train/good/drawn.png"],
    "same split": ["test/good/copy.png (also train/good/000.png)"],
    "same class": ["test/spot/copy.png (also train/good/001.png)"],
    "format": ["train/good/photo.heic"],
}


def test_everything_is_said_once(messy: Path) -> None:
    with pytest.warns(UserWarning) as said:
        found = scan(messy).summary
    told = found.to_dict()
    assert json.loads(json.dumps(told)) == told
    assert {f["kind"]: f["names"] for f in told["findings"] if f["warning"]} == WANTED
    quiet = {f["kind"]: f["names"] for f in told["findings"] if not f["warning"]}
    assert quiet["litter"] == ["test/.ipynb_checkpoints", "train/good/.hidden"]
    assert quiet["other"] == ["train/good/notes.txt"]
    assert told["images"] == {"train": {"good": 8}, "test": {"good": 4, "spot": 4}} and told["masks"] == 1
    assert [str(w.message) for w in said] == [
        f"set: {f.text()}" for f in found.findings if f.is_warning and f.kind != "unreadable"
    ]
    assert len(found.warnings) == len(WANTED) and all("\n" not in line for line in found.warnings)
    text = found.text()
    assert all(name in text for names in (*WANTED.values(), *quiet.values()) for name in names)
    assert ".hidden" not in found.text(verbose=False)


def test_a_clean_set_says_so(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    found = scan(write_mvtec(tmp_path / "set")).summary
    assert not found.findings and not found.warnings and not recwarn.list
    assert found.text().splitlines()[0] == "set (MVTec layout)" and "nothing looks wrong" in found.text()


def test_many_names_are_counted(tmp_path: Path) -> None:
    notes = Notes(tmp_path)
    notes.extend("drawn", (tmp_path / f"{i:04d}.png" for i in range(1234)))
    (finding,) = notes.findings()
    assert finding.text().endswith(f"0002.png, and {1234 - IN_LINE:,} more") and "1,234 images" in finding.text()
    found = notes.summary("plain", {"train": ["good"]}, 0)
    assert len(found.text().splitlines()) < 12 and f"and {1234 - IN_LIST:,} more" in found.text()
    assert found.to_dict()["findings"][0]["count"] == 1234 and len(found.to_dict()["findings"][0]["names"]) == 200


def test_odd_names_stay_in_one_line(tmp_path: Path) -> None:
    notes = Notes(tmp_path)
    notes.add("drawn", tmp_path / "a\nb\x1b[31m.png")
    notes.add("drawn", tmp_path / os.fsdecode(b"caf\xff\xc3\xa9.png"))
    assert notes.findings()[0].names == (r"a\nb\x1b[31m.png", r"caf\udcffé.png")


def test_every_kind_has_words_for_one_and_many() -> None:
    assert all(kind.one and "{n}" in kind.many for kind in KINDS.values())
    assert ScanSummary().text() and ScanSummary().to_dict()["findings"] == []


def test_equal_sizes_are_compared_by_content(tmp_path: Path) -> None:
    for name in ("train/good/a.bmp", "train/good/b.bmp", "test/good/c.bmp"):
        write_photos(tmp_path, name)
    assert not scan(tmp_path).summary.findings
    shutil.copy(tmp_path / "train/good/a.bmp", tmp_path / "train/good/d.bmp")
    assert [f.kind for f in scan(tmp_path).summary.findings] == ["same"]


def test_check_opens_every_image(tmp_path: Path) -> None:
    root = write_mvtec(tmp_path / "set")
    cut = root / "train/good/000.png"
    cut.write_bytes(cut.read_bytes()[:2000])  # its header is whole
    Image.new("L", (32, 64)).save(root / "ground_truth/spot/000_mask.png")
    told: list[tuple[int, int]] = []
    found = check_folder(root, lambda done, total: told.append((done, total)))
    assert {f.kind: f.names for f in found.findings if f.is_warning} == {
        "unreadable": ("train/good/000.png (OSError: image file is truncated)",),
        "mask size": ("ground_truth/spot/000_mask.png",),
    }
    assert told[-1] == (12, 12)


def test_check_on_the_command_line(messy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", str(messy)]) == 3
    assert "! 1 mask belongs to no image" in capsys.readouterr().out
    assert main(["check", str(messy), "--json"]) == 3
    assert json.loads(capsys.readouterr().out)["images"]["test"] == {"good": 4, "spot": 4}
    assert main(["check", str(write_mvtec(tmp_path / "clean"))]) == 0
    assert "nothing looks wrong" in capsys.readouterr().out
    assert main(["check", str(tmp_path / "nowhere")]) == 2
    assert "no such folder" in capsys.readouterr().err


@pytest.mark.usefixtures("no_drawing")
def test_console_json_and_page_have_it(messy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (messy / "train/good/broken.png").unlink()
    write_masks(messy, "ground_truth/spot/<b>_mask.png", side=64)
    out, numbers = tmp_path / "out", tmp_path / "all.json"
    before = warnings.showwarning
    assert main(["evaluate", str(messy), "--output", str(out), "--json", str(numbers), *TINY]) == 0
    assert warnings.showwarning is before
    said = capsys.readouterr().err
    assert "patchcore-fast: WARNING: set: 2 masks belong to no image: ground_truth/spot/9_mask.png" in said
    assert said.count("belong to no image") == 1 and ".hidden" not in said
    data = json.loads((out / "report.json").read_text())["data"]
    assert data == json.loads((out / "metrics.json").read_text())["data"] == json.loads(numbers.read_text())["data"]
    assert data["masks"] == 1 and {f["kind"] for f in data["findings"] if f["warning"]} == set(WANTED) - {"unreadable"}
    assert main(["report", str(out)]) == 0
    page = (out / "report.html").read_text()
    section = re.search(r'<section id="data-summary".*?</section>', page, re.S)
    assert section and "ground_truth/spot/&lt;b&gt;_mask.png" in section[0] and ".ipynb_checkpoints" in section[0]
    capsys.readouterr()
    assert main(["fit", str(messy), "--output", str(tmp_path / "b.safetensors"), "-v", *TINY]) == 0
    assert "train/good/.hidden" in capsys.readouterr().err


def test_an_older_report_has_no_data(tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert main(["evaluate", str(write_mvtec(tmp_path / "set")), "--output", str(out), *TINY]) == 0
    facts = json.loads((out / "report.json").read_text())
    (out / "report.json").write_text(json.dumps({k: v for k, v in facts.items() if k != "data"}))
    assert main(["report", str(out)]) == 0
    facts["data"]["masks"] = "<script>"
    (out / "report.json").write_text(json.dumps(facts))
    assert main(["report", str(out)]) == 2
