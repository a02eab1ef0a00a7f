from __future__ import annotations

import errno
import os
import stat

import pytest

from patchcore_fast.files import atomic_write


def test_writes_and_replaces(tmp_path):
    path = tmp_path / "a.txt"
    for text in ("one", "two"):
        with atomic_write(path, "w", encoding="utf-8") as f:
            f.write(text)
        assert path.read_text() == text
    assert os.listdir(tmp_path) == ["a.txt"]


def test_permissions_are_those_of_open(tmp_path):
    with atomic_write(tmp_path / "a") as f:
        f.write(b"1")
    (tmp_path / "b").write_bytes(b"1")
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == stat.S_IMODE((tmp_path / "b").stat().st_mode)


@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(errno.ENOSPC, "No space left on device")], ids=repr)
def test_failure_leaves_the_old_file(tmp_path, error):
    path = tmp_path / "a.bin"
    path.write_bytes(b"old")
    with pytest.raises(type(error)), atomic_write(path) as f:
        f.write(b"new")
        raise error
    assert path.read_bytes() == b"old" and os.listdir(tmp_path) == ["a.bin"]


def test_really_full_disk(tmp_path):
    # /dev/full answers every write with ENOSPC, like a full disk.
    with pytest.raises(OSError, match="No space left"), atomic_write(tmp_path / "a.bin") as f:
        with open("/dev/full", "wb", buffering=0) as full:
            os.dup2(full.fileno(), f.fileno())
        f.write(b"x" * 100_000)
    assert os.listdir(tmp_path) == []


def test_missing_folder(tmp_path):
    with pytest.raises(FileNotFoundError), atomic_write(tmp_path / "no" / "a"):
        pass


def test_mode(tmp_path):
    with pytest.raises(ValueError, match='mode must be "wb" or "w", got \'a\''), atomic_write(tmp_path / "a", "a"):
        pass
