"""Images into the folder of their verdict: once, whatever was done before, and never over another image."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest

from patchcore_fast.cli import watch as command
from patchcore_fast.watch.journal import Entry
from patchcore_fast.watch.placing import WAYS, Placing, heatmap_name


def entry(folder: Path, name: str, verdict: bool | None = True, error: str | None = None) -> Entry:
    found = (folder / name).stat()
    return Entry(1, name, found.st_size, found.st_mtime_ns, 0.0, 1.0, verdict, 0.5, "", error, {})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "in/sub").mkdir(parents=True)
    (tmp_path / "in/sub/a.png").write_bytes(b"first")
    return tmp_path / "in"


def test_the_command_line_knows_the_ways() -> None:
    assert command.WAYS == WAYS


@pytest.mark.parametrize("way", ["link", "copy", "move"])
def test_each_way_once_and_again(folder: Path, way: str) -> None:
    source, output = folder / "sub/a.png", folder.parent / "out"
    placing, first = Placing(folder, output, way), entry(folder, "sub/a.png")
    for _ in range(2):  # the second time as after a kill
        assert placing.place(first) == output / "anomalous/sub/a.png" == placing.find(first)
    assert [p.name for p in output.rglob("*.png")] == ["a.png"]
    assert source.exists() == (way != "move")
    assert (output / "anomalous/sub/a.png").read_bytes() == b"first"
    if way != "move":
        assert os.path.samefile(source, output / "anomalous/sub/a.png") == (way == "link")


@pytest.mark.parametrize("way", ["link", "copy", "move"])
def test_another_image_of_the_name_gets_another_place(folder: Path, way: str) -> None:
    source, output = folder / "sub/a.png", folder.parent / "out"
    placing = Placing(folder, output, way)
    placing.place(entry(folder, "sub/a.png"))
    source.unlink(missing_ok=True)  # a camera that begins its names anew
    source.write_bytes(b"second")
    second = entry(folder, "sub/a.png")
    place = placing.place(second)
    assert (
        place == output / f"anomalous/sub/a-{second.key[:4].hex()}.png" == placing.place(second) == placing.find(second)
    )
    assert {p.read_bytes() for p in output.rglob("*.png")} == {b"first", b"second"}


def test_verdicts_name_the_folder(folder: Path) -> None:
    placing = Placing(folder, folder.parent / "out", "copy")
    for verdict, error, name in ((True, None, "anomalous"), (False, None, "normal"), (None, "bad", "unreadable")):
        assert placing.place(entry(folder, "sub/a.png", verdict, error)).parent.parent.name == name
    source = folder / "sub/a.png"
    assert placing.place(entry(folder, "sub/a.png", None)) == source, "a score without a threshold is no verdict"
    assert Placing(folder, folder.parent / "none", "none").place(entry(folder, "sub/a.png")) == source
    assert not (folder.parent / "none").exists()


def test_a_file_that_is_another_now_is_left_alone(folder: Path) -> None:
    scored = entry(folder, "sub/a.png")
    (folder / "sub/a.png").write_bytes(b"written anew")
    assert Placing(folder, folder.parent / "out", "move").place(scored) == folder / "sub/a.png"
    assert (folder / "sub/a.png").exists() and not (folder.parent / "out").exists()


@pytest.mark.parametrize("way", ["link", "move"])
def test_across_file_systems_it_is_a_copy(folder: Path, way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    name = "link" if way == "link" else "rename"
    whole = getattr(os, name)

    def refuse(*args: Any, **more: Any) -> None:
        if more:  # of a file that is written whole
            return whole(*args, **more)
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    monkeypatch.setattr(os, name, refuse)
    source, first = folder / "sub/a.png", entry(folder, "sub/a.png")
    place = Placing(folder, folder.parent / "out", way).place(first)
    assert place.read_bytes() == b"first" and source.exists() == (way == "link")
    assert place.stat().st_mtime_ns == first.mtime_ns


def test_what_is_refused_is_told(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "link", refuse)
    with pytest.raises(OSError, match="No space left"):
        Placing(folder, folder.parent / "out", "link").place(entry(folder, "sub/a.png"))


def test_heat_maps_of_two_files_of_a_name_are_two() -> None:
    names = {
        heatmap_name("sub/a.png", bytes(16)),
        heatmap_name("sub/a.png", b"1" * 16),
        heatmap_name("sub/a.jpg", bytes(16)),
    }
    assert "heatmaps/sub/a-00000000.png" in names and len(names) == 2
    assert heatmap_name("a\n.png", bytes(16)) == "heatmaps/a_-00000000.png"


def test_of_a_link_that_is_moved_the_image_is_copied(folder: Path) -> None:
    image, link = folder.parent / "beside.png", folder / "sub/b.png"
    image.write_bytes(b"named")
    link.symlink_to("../../beside.png")
    place = Placing(folder, folder.parent / "out", "move").place(entry(folder, "sub/b.png"))
    assert place.read_bytes() == b"named" and not place.is_symlink()
    assert not link.is_symlink() and image.read_bytes() == b"named"
