"""Outputs are refused before the work: what cannot be written, and two that are one file."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import numpy as np
import pytest

from patchcore_fast.cli import main
from patchcore_fast.cli.outputs import EVALUATED, check_outputs_differ, writable_file
from patchcore_fast.errors import DataError

from ..evaluated import evaluate


def _link(kind: str, root: Path) -> str:
    """A second name of root/a."""
    if kind == "missing file, two spellings":
        return str(root / "." / "sub" / ".." / "a")
    if kind == "relative":
        return os.path.relpath(root / "a")
    if kind == "dangling link":
        (root / "b").symlink_to("a")
    else:
        (root / "a").write_bytes(b"1")
        if kind == "hard link":
            os.link(root / "a", root / "b")
        elif kind == "link":
            (root / "b").symlink_to("a")
        elif kind == "linked folder":
            (root / "other").symlink_to(root)
            return str(root / "other/a")
    return str(root / "b")


KINDS = ("missing file, two spellings", "relative", "dangling link", "hard link", "link", "linked folder")


@pytest.mark.parametrize("kind", KINDS)
def test_two_names_of_one_file(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "sub").mkdir()
    monkeypatch.chdir(tmp_path)
    other = _link(kind, tmp_path)
    with pytest.raises(DataError, match="--output and --indices are one file"):
        check_outputs_differ({"--output": tmp_path / "a", "--none": None, "--indices": other})
    check_outputs_differ({"--output": tmp_path / "a", "--indices": tmp_path / "c"})


def test_a_null_device_may_be_named_twice() -> None:
    check_outputs_differ({"--output": "/dev/null", "--indices": "/dev/null"})


def test_commands_refuse_one_path_for_two_outputs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    np.save(tmp_path / "f.npy", np.random.default_rng(0).random((40, 4), dtype=np.float32))
    out = str(tmp_path / "o.npy")
    assert main(["select", str(tmp_path / "f.npy"), "--ratio", "0.5", "--output", out, "--indices", out]) == 2
    assert "--output and --indices are one file" in capsys.readouterr().err and not os.path.exists(out)


def test_an_evaluation_keeps_its_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = evaluate(tmp_path)
    written = {p.name for p in out.iterdir() if p.is_file()}
    assert written <= set(EVALUATED) and set(EVALUATED) - written == {"report.html", "regions.csv", "regions.json"}
    for args in (["evaluate", str(tmp_path / "weave"), "--json", str(out / "scores.csv"), "--output", str(out)],
                 ["report", str(out), "--output", str(out / "metrics.json")]):  # fmt: skip
        before = {p.name: p.read_bytes() for p in out.iterdir() if p.is_file()}
        assert main(args) == 2
        assert "are one file" in capsys.readouterr().err
        assert {p.name: p.read_bytes() for p in out.iterdir() if p.is_file()} == before


def test_what_cannot_be_written(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as s:
        s.bind(str(tmp_path / "socket"))
    (tmp_path / "nowhere").symlink_to("no/a")
    (tmp_path / "loop").symlink_to("loop")
    for name, message in (("socket", "is a socket"), ("nowhere", "folder .*/no does not exist"), ("", "is a folder")):
        with pytest.raises(DataError, match=message):
            writable_file(tmp_path / name)
    for name in ("loop", "x" * 256):
        with pytest.raises(OSError):
            writable_file(tmp_path / name)
    assert writable_file("/dev/null") == Path("/dev/null")
    assert writable_file(tmp_path / ("x" * 255)).name == "x" * 255


def test_a_folder_that_is_not_writable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a").write_bytes(b"old")
    (tmp_path / "link").symlink_to("a")
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != tmp_path)  # root may write everywhere
    for name in ("a", "link", "new"):
        with pytest.raises(DataError, match=f"{name}: the folder .* is not writable"):
            writable_file(tmp_path / name)
