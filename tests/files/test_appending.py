"""A file that grows by whole pieces."""

from __future__ import annotations

import errno
import os
import resource
from pathlib import Path

import pytest

from patchcore_fast.files import Appending


def test_pieces_follow_what_is_there(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes(b"head\ncut")
    file = Appending(path)
    file.cut(5)
    file.append(b"one\n")
    file.append(b"two\n", sync=True)
    file.close()
    file.close()
    assert path.read_bytes() == b"head\none\ntwo\n"


def test_a_piece_that_does_not_fit_leaves_nothing(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes(b"head\n")
    file = Appending(path)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        with pytest.raises(OSError, match="f") as found:
            file.append(b"x" * 5000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert found.value.errno == errno.EFBIG and found.value.filename == str(path)
    assert path.read_bytes() == b"head\n"
    file.append(b"next\n")
    file.close()
    assert path.read_bytes() == b"head\nnext\n"


def test_alone(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.touch()
    first, open_files = Appending(path, alone=True), len(os.listdir("/proc/self/fd"))
    with pytest.raises(BlockingIOError, match="f"):
        Appending(path, alone=True)
    assert len(os.listdir("/proc/self/fd")) == open_files
    first.close()
    Appending(path, alone=True).close()
    with pytest.raises(FileNotFoundError, match="missing"):
        Appending(tmp_path / "missing")
