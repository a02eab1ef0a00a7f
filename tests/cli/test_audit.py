"""patchcore-fast audit: the page's files, the list, and fit --exclude with it."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from patchcore_fast.cli import main
from patchcore_fast.memory_bank import MemoryBank

from ..evaluated import TINY
from ..pictures import write_mvtec

pytestmark = pytest.mark.usefixtures("no_drawing")

ALONE = [part for part in TINY if part not in ("--ratio", "0.1")]
SPOTTED = ("train/good/003.png", "train/good/008.png")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten weaves, two of them with a bright square that belongs into the test images."""
    folder = write_mvtec(tmp_path_factory.mktemp("audit") / "weave", train=10)
    for name, at in zip(SPOTTED, (10, 40), strict=True):
        picture = np.asarray(Image.open(folder / name)).copy()
        picture[at : at + 14, at : at + 14] = (250, 240, 40) if at == 10 else (10, 40, 250)
        Image.fromarray(picture).save(folder / name)
    return folder


def lines(path: Path) -> list[str]:
    return [line for line in path.read_text(encoding="utf-8").splitlines() if not line.startswith("#")]


def same_banks(one: Path, two: Path) -> None:
    a, b = MemoryBank.load(one), MemoryBank.load(two)
    assert torch.equal(a.features, b.features) and torch.equal(a.indices, b.indices)
    assert a.positions is not None and b.positions is not None and torch.equal(a.positions, b.positions)
    assert a.support is None or (b.support is not None and torch.equal(a.support, b.support))
    assert (a.threshold, a.radius, a.images, a.patches) == (b.threshold, b.radius, b.images, b.patches)
    assert a.normal_scores is not None and b.normal_scores is not None
    assert torch.equal(a.normal_scores, b.normal_scores)


def test_the_moved_images_come_first(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["audit", str(data), "--output", str(tmp_path / "o"), "--top", "4", *ALONE]) == 0
    assert {p.name for p in (tmp_path / "o").iterdir()} == {"audit.html", "audit.csv", "suspects.txt"}
    listed = lines(tmp_path / "o/suspects.txt")
    assert len(listed) == 4 and set(listed[:2]) == set(SPOTTED)
    with (tmp_path / "o/audit.csv").open(newline="", encoding="utf-8") as f:
        rows = list(csv.DictReader(f))
    assert [row["path"] for row in rows[:4]] == listed and len(rows) == 10
    assert [row["rank"] for row in rows] == [str(i) for i in range(1, 11)]
    values = [float(row["suspicion"]) for row in rows]
    assert values == sorted(values, reverse=True)
    assert set(rows[0]) == {"rank", "path", "suspicion", "support", "1_image", "3_images", "9_images", "most_similar"}
    assert all(row["most_similar"] and row["most_similar"] != row["path"] for row in rows[:4])
    out, err = capsys.readouterr()
    assert listed[0] in out and "10 training images" in out and "--exclude" in out and err == ""
    page = (tmp_path / "o/audit.html").read_text(encoding="utf-8")
    assert page.count('class="suspect"') == 4 and "http" not in page.replace("http-equiv", "")


def test_audit_drop_fit_gives_the_bank_without_them(data: Path, tmp_path: Path) -> None:
    assert main(["audit", str(data), "--output", str(tmp_path / "o"), "--top", "2", *ALONE]) == 0
    banks = [tmp_path / f"{name}.safetensors" for name in ("excluded", "copied")]
    exclude = ["--exclude", str(tmp_path / "o/suspects.txt")]
    assert main(["fit", str(data), *exclude, "--output", str(banks[0]), *TINY]) == 0
    copy = Path(shutil.copytree(data, tmp_path / "weave"))
    for name in SPOTTED:
        (copy / name).unlink()
    assert main(["fit", str(copy), "--output", str(banks[1]), *TINY]) == 0
    same_banks(*banks)
    configs = [MemoryBank.load(bank).config["selection"] for bank in banks]
    assert [c.pop("excluded") for c in configs] == [2, 0] and configs[0] == configs[1]
    assert main(["predict", str(banks[0]), str(data / "test"), "--output", str(tmp_path / "p")]) == 0


def test_a_store_without_them_gives_the_same_bank(data: Path, tmp_path: Path) -> None:
    (tmp_path / "list").write_text("\ufeff# two\n\n  # of ten\r\n./train/good/003.png\r\ntrain/good/008.png  \n")
    exclude, store, kept = ["--exclude", str(tmp_path / "list")], str(tmp_path / "store"), str(tmp_path / "kept")
    banks = [str(tmp_path / f"{name}.safetensors") for name in ("plain", "stored", "kept")]
    assert main(["extract", str(data), *exclude, "--output", store, *ALONE]) == 0
    assert main(["fit", "--features", store, "--output", banks[1], "--ratio", "0.1"]) == 0
    assert main(["fit", str(data), *exclude, "--output", banks[0], *TINY]) == 0
    assert main(["fit", str(data), *exclude, "--store", kept, "--output", banks[2], *TINY]) == 0
    for bank in banks[1:]:
        same_banks(Path(banks[0]), Path(bank))
        assert MemoryBank.load(bank).config["selection"]["excluded"] == 2
    assert main(["fit", str(data), "--store", kept, "--output", banks[2], *TINY]) == 2, "a store of other images"


def test_audit_of_a_store_says_the_same(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["extract", str(data), "--output", str(tmp_path / "s"), *ALONE]) == 0
    assert main(["audit", str(data), "--output", str(tmp_path / "a"), *ALONE]) == 0
    assert main(["audit", str(data), "--features", str(tmp_path / "s"), "--output", str(tmp_path / "b")]) == 0
    for name in ("audit.html", "audit.csv", "suspects.txt"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    (tmp_path / "list").write_text("train/good/000.png\n")
    capsys.readouterr()
    again = ["audit", str(data), "--features", str(tmp_path / "s"), "--output", str(tmp_path / "c")]
    assert main([*again, "--exclude", str(tmp_path / "list")]) == 2
    assert "its 10 images are not the 9 training images" in capsys.readouterr().err


def test_a_second_audit_leaves_out_what_was_dropped(data: Path, tmp_path: Path) -> None:
    (tmp_path / "list").write_text("\n".join(SPOTTED))
    args = ["audit", str(data), "--exclude", str(tmp_path / "list"), "--output", str(tmp_path / "o"), *ALONE]
    assert main(args) == 0
    assert len(lines(tmp_path / "o/suspects.txt")) == 8 and not set(SPOTTED) & set(lines(tmp_path / "o/suspects.txt"))


@pytest.mark.parametrize("command", ["plan", "evaluate", "inspect"])
def test_other_commands_leave_them_out_too(
    data: Path, tmp_path: Path, command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "list").write_text("\n".join(SPOTTED))
    outputs: dict[str, list[str]] = {"inspect": ["--output", str(tmp_path / "o")]}
    args = [command, str(data), "--exclude", str(tmp_path / "list"), *outputs.get(command, []), *TINY]
    assert main(args) == 0
    out = capsys.readouterr().out
    rows = 8 * 16 * 16
    said = {"plan": f"8 images give {rows:,}", "inspect": f"of {rows:,} patches of 8 images", "evaluate": "AUROC"}
    assert said[command] in out


def test_odd_names_go_through_the_list(tmp_path: Path) -> None:
    folder = write_mvtec(tmp_path / "d", train=6)
    odd = ["# a.png", " b.png", "<img src=x onerror=alert(1)>.png", "c\nd.png"]
    for i, name in enumerate(odd):
        (folder / f"train/good/{i:03d}.png").rename(folder / "train/good" / name)
    plain = tmp_path / "plain"
    shutil.copytree(folder / "train/good", plain)
    assert main(["audit", str(plain), "--output", str(tmp_path / "o"), *ALONE]) == 0
    text = (tmp_path / "o/suspects.txt").read_text(encoding="utf-8").splitlines()
    assert {"./# a.png", "./ b.png", odd[2], "c\\nd.png"} <= set(text)
    keep = [line for line in text if line.startswith("#") or "00" not in line]
    (tmp_path / "list").write_text("\n".join(keep))
    bank = tmp_path / "b.safetensors"
    assert main(["fit", str(plain), "--exclude", str(tmp_path / "list"), "--output", str(bank), *TINY]) == 0
    assert MemoryBank.load(bank).images == ["004.png", "005.png"]
    assert "<img src=x" not in (tmp_path / "o/audit.html").read_text(encoding="utf-8")


def test_an_image_that_cannot_be_read_is_named(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    copy = Path(shutil.copytree(data, tmp_path / "weave"))
    (copy / "train/good/005.png").write_bytes(b"no image")
    assert main(["audit", str(copy), "--output", str(tmp_path / "o"), *ALONE]) == 3
    assert "005.png" in capsys.readouterr().err
    assert len(lines(tmp_path / "o/suspects.txt")) == 9


CASES: dict[str, tuple[list[str], str, str]] = {
    "near": (["fit"], "train/good/03.png", "train/good/03.png (did you mean train/good/003.png?)"),
    "strange": (["extract"], "zzz", "names what is no training image"),
    "test-image": (["plan"], "test/spot/000.png", "test/spot/000.png"),
    "all": (["fit"], "\n".join(f"train/good/{i:03d}.png" for i in range(10)), "names all 10 training images"),
    "many": (["fit"], "a\nb\nc\nd\ne", "and 2 more"),
    "no-text": (["fit"], "\udcff", "is no list of names in UTF-8"),
    "few": (["audit"], "\n".join(f"train/good/{i:03d}.png" for i in range(8)), "at least 3 training images"),
    "bank": (["evaluate", "--bank", "b.safetensors"], "", "--exclude: belongs to fitting"),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_wrong_lists(data: Path, tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    (command, *more), text, message = CASES[name]
    (tmp_path / "list").write_bytes(text.encode("utf-8", "surrogateescape"))
    args = [command, str(data), *more, "--exclude", str(tmp_path / "list")]
    given: list[Any] = [] if more else ALONE
    outputs = {"fit": ["--output", str(tmp_path / "b.safetensors")], "plan": [], "evaluate": []}
    assert main([*args, *outputs.get(command, ["--output", str(tmp_path / "o")]), *given]) == 2
    out, err = capsys.readouterr()
    assert message in err and "Traceback" not in err and out == ""


def test_what_does_not_go_together(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "list").write_text("x")
    exclude = ["--exclude", str(tmp_path / "list")]
    bank = ["--output", str(tmp_path / "b.safetensors")]
    assert main(["fit", "--features", "store", *exclude, *bank]) == 2
    assert "--exclude: goes with DIR" in capsys.readouterr().err
    assert main(["fit", str(data), "--exclude", str(tmp_path / "no"), *bank]) == 2
    assert "no such file" in capsys.readouterr().err
    (tmp_path / "list").write_text("train/good/000.png")
    assert main(["fit", str(data), *exclude, "--output", str(tmp_path / "list"), *TINY]) == 2
    assert "is read" in capsys.readouterr().err
    (tmp_path / "suspects.txt").write_text("train/good/000.png")
    again = ["audit", str(data), "--exclude", str(tmp_path / "suspects.txt"), "--output", str(tmp_path), *ALONE]
    assert main(again) == 2 and "is read" in capsys.readouterr().err
    assert main(["audit", str(data), "--output", str(tmp_path / "o"), "--top", "0", *ALONE]) == 2
    assert "--top: must be at least 1" in capsys.readouterr().err
