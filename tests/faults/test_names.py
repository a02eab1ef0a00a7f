"""Names that file systems allow and programs trip over, of images, folders, features, banks and outputs."""

from __future__ import annotations

import csv
import os
from pathlib import Path

import pytest

from .commands import BY_NAME, Command, replaced
from .engine import Fault, run_cell

NAMES = {
    "long": "x" * 255,
    "long-wide": "й" * 127,  # 254 bytes
    "not-utf8": os.fsdecode(b"caf\xe9 \xff"), "dollar": "$x^{$", "formula": "=1+1", "command": "@SUM(A1)",
    "minus": "-rf", "newline": "one\ntwo", "return-tab": "a\rb\tc", "escape": "\x1b[31mred",
    "right-to-left": "\u202egnp.שלום", "html": "<img src=x onerror=alert(1)>&amp;", "quotes": '"it\'s", `said`',
    "percent": "%s{0}%(x)d\\n", "glob": "[ab]*?", "spaces": "  two  ", "dots": "a.png.b..c",
    "decomposed": "e\u0301 \U0001f600",
}  # fmt: skip


def named(key: str, suffix: str = "") -> str:
    """The name with a suffix, at most 255 bytes."""
    text = NAMES[key]
    while len(os.fsencode(text + suffix)) > 255:
        text = text[:-1]
    return text + suffix


def of_images(root: Path, key: str) -> None:
    """A training image, a test image, a defect folder and its mask have the name."""
    (root / "data/train/good/b.png").rename(root / "data/train/good" / named(key, ".png"))
    (root / "data/test/good/e.png").rename(root / "data/test/good" / named(key, ".png"))
    (root / "data/test/spot").rename(root / "data/test" / named(key))
    (root / "data/ground_truth/spot").rename(root / "data/ground_truth" / named(key))


@pytest.mark.parametrize("name", ["fit", "check", "evaluate-json", "predict"])
@pytest.mark.parametrize("key", NAMES)
def test_of_images(root: Path, name: str, key: str) -> None:
    of_images(root, key)
    run_cell(root, BY_NAME[name], Fault(key, (0,), again=False))
    if name == "predict":
        table_names_pictures(root / "made")


@pytest.mark.parametrize("key", ["long", "not-utf8", "dollar", "newline", "html"])
def test_of_everything(root: Path, key: str) -> None:
    """The whole way to the page, with the set's folder and the results' named so too, and all pictures drawn."""
    of_images(root, key)
    (root / "data").rename(root / named(key))
    out = f"./{named(key, '_')}"
    command = Command("evaluate", ("evaluate", f"./{named(key)}", "--bank", "bank.safetensors", "--output", out),
                      (named(key, "_"),), folder=True)  # fmt: skip
    run_cell(root, command, Fault(key, (0,), old=False, again=False))
    table_names_pictures(root / out)
    run_cell(root, Command("report", ("report", out), (f"{named(key, '_')}/report.html",)),
             Fault(key, (0,), old=False, again=False))  # fmt: skip
    page = (root / out / "report.html").read_text(errors="surrogateescape")
    assert "<img src=x" not in page


def table_names_pictures(folder: Path) -> None:
    """scores.csv has a row for both images, and every picture that it names is there."""
    with (folder / "scores.csv").open(newline="", encoding="utf-8", errors="surrogateescape") as f:
        rows = list(csv.DictReader(f))
    assert len(rows) == 2
    for row in rows:
        assert (folder / row["heatmap"]).is_file(), row


OUTPUTS = ("fit", "evaluate-json", "report", "select", "select-indices")


@pytest.mark.parametrize("name", OUTPUTS)
@pytest.mark.parametrize("key", NAMES)
def test_of_outputs(root: Path, no_drawing: None, name: str, key: str) -> None:
    command = BY_NAME[name]
    suffix = Path(command.output).suffix
    to = named(key, suffix)
    given = f"./{to}" if key == "minus" else to
    fault = Fault(key, (0,), argv=lambda c: replaced(c, c.output, given), outputs=(to,), again=False)
    run_cell(root, command, fault)
    assert (root / to).is_file()


@pytest.mark.parametrize("key", NAMES)
def test_of_inputs(root: Path, no_drawing: None, key: str) -> None:
    bank, features = named(key, ".safetensors"), named(key, ".npy")
    (root / "bank.safetensors").rename(root / bank)
    (root / "f.npy").rename(root / features)
    for name, old, new in (("evaluate-json", "bank.safetensors", bank), ("select", "f.npy", features)):
        argv = replaced(BY_NAME[name], old, f"./{new}")
        run_cell(root, BY_NAME[name], Fault(key, (0,), argv=lambda _, argv=argv: argv, again=False))
        argv = replaced(BY_NAME[name], old, f"./{named(key)}")  # as a name in an error, without the suffix: missing
        run_cell(root, BY_NAME[name], Fault(key, (2,), argv=lambda _, argv=argv: argv, again=False, old=False))
