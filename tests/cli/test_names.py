"""Files may be called anything: scores, pictures, JSON and the page are made all the same."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from patchcore_fast.cli import main
from patchcore_fast.report.files import PictureNames
from patchcore_fast.report.page import write_report

from ..evaluated import files, predict, rows_of
from ..pictures import texture

HOSTILE = {
    "long": b"x" * 251 + b".png", "long-unicode": "\N{LATIN SMALL LETTER E WITH ACUTE}".encode() * 125 + b".png",
    "not-utf8": b"bad\xff\xfe.png", "formula": b"=cmd|' '!A1.png", "plus": b"+1.png", "at": b"@SUM(A1).png",
    "dash": b"-rf.png", "mathtext": b"$x^{$.png", "dollars": b"a$b$c.png", "newline": b"a\n=1+1\tb.png",
    "escape": b"\x1b[31mred\x07.png", "quotes": b"\"a';,.png", "right-to-left": "a\u202egnp.png".encode(),
    "percent": b"%s%n{}{0}.png", "backslash": b"a\\b\\xff.png", "html": b"<img src=x onerror=alert(1)>.png",
    "underscore": b"_a.png", "spaces": b"  a  .png", "unicode": "\u65e5\u672c \N{GRINNING FACE}.png".encode(),
}  # fmt: skip


def test_hostile_names_in_predict(place: Path, data: Path, tmp_path: Path, monkeypatch: Any, capsys: Any) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    for i, name in enumerate(HOSTILE.values()):
        Image.fromarray(texture(np.random.default_rng(i))).save(tmp_path / "t.png")
        os.rename(tmp_path / "t.png", os.fsencode(folder) + b"/" + name)
    monkeypatch.chdir(folder)
    assert predict(place, ".", tmp_path / "out") == 0
    said = capsys.readouterr()
    assert said.err == "", "no warning of a glyph, of a name"
    rows = rows_of(tmp_path / "out/scores.csv")
    assert len(rows) == len(HOSTILE)
    raw = (tmp_path / "out/scores.csv").read_bytes().decode("utf-8")
    for row in rows:
        assert not row["path"].startswith(("=", "+", "-", "@", "\t"))
        assert (tmp_path / "out" / row["heatmap"]).is_file() and row["heatmap"].isprintable()
    assert not any(line.startswith(("=", "+", "-", "@")) for line in raw.replace("a\n=1+1", "").split("\n"))
    usable = [r["path"] for r in rows if Path(r["path"]).is_file()]
    assert len(usable) == len(HOSTILE) - 1, "every path that is UTF-8 opens as it is written"
    (other,) = {r["path"] for r in rows} - set(usable)
    assert other == r"bad\xff\xfe.png"
    assert (tmp_path / "out/contact_sheet.png").is_file()


SOME = list(HOSTILE)


@pytest.mark.parametrize("first", range(0, len(SOME), 3), ids=lambda i: "+".join((SOME + SOME)[i : i + 3]))
def test_hostile_names_of_a_set_a_kind_and_an_image(
    place: Path, data: Path, first: int, tmp_path: Path, monkeypatch: Any, capsys: Any
) -> None:
    files_of = [HOSTILE[(SOME + SOME)[first + i]] for i in range(3)]
    top, kind = (name[:-4][:200].strip() for name in files_of[:2])
    root = os.fsencode(tmp_path) + b"/" + top
    os.rename(os.fsencode(data), root)
    os.rename(root + b"/test/spot", root + b"/test/" + kind)
    os.rename(root + b"/ground_truth/spot", root + b"/ground_truth/" + kind)
    os.rename(root + b"/test/good/000.png", root + b"/test/good/" + files_of[2])
    out = tmp_path / "out"
    args = ["evaluate", os.fsdecode(root), "--bank", str(place / "bank.safetensors"), "--output", str(out)]
    assert main(args) == 0
    said = capsys.readouterr()
    assert said.err == "" and "\x1b" not in said.out and "\n=1+1" not in said.out
    for file in ("metrics.json", "report.json"):
        content = (out / file).read_bytes().decode("ascii")
        json.dumps(json.loads(content), ensure_ascii=False).encode("utf-8")  # no lone surrogates
    assert len(rows_of(out / "scores.csv")) == 6
    assert {"roc.png", "pr.png", "histogram.png", "contact_sheet.png", "provenance.png"} <= files(out)
    assert len([f for f in files(out) if f.startswith("heatmaps/")]) == 6
    assert all(f.isprintable() for f in files(out))
    write_report(out).read_text(encoding="utf-8")


def test_pictures_never_share_a_name(tmp_path: Path) -> None:
    names = PictureNames(tmp_path)
    sources = ["a.png", "A.PNG", "a.jpg", "b/a.png", "B/a.png", "a.png/c.jpg", "e\u0301.png", "\u00e9.png", "a_2.png",
               "x" * 250 + ".png", "x" * 250 + ".jpg", "x" * 249 + "y.png", "q\n.png", "q\t.png"]  # fmt: skip
    found = [names.of(tmp_path / s) for s in sources]
    keys = {str(n).casefold() for n in found}
    assert len(keys) == len(sources)
    for name in found:
        target = tmp_path / "out" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.with_name(f".{target.name}.0123456789ab.part").write_bytes(b"")
        target.write_bytes(b"")
