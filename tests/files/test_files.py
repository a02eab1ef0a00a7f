import errno
import fcntl
import os
import re
import resource
import signal
import socket
import stat
import struct
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from patchcore_fast.files import atomic_write, places, temporary


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


@pytest.fixture
def small_files():
    """No file may grow beyond 20,000 bytes: what a full disk is to a writer."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def _picture(side):
    image = pytest.importorskip("PIL.Image", reason="the extra pipeline is not installed")
    return image.fromarray(np.random.default_rng(0).integers(0, 255, (side, side, 3), np.uint8))


WRITERS = {
    "bytes": lambda f: f.write(bytes(50_000)),
    "numpy": lambda f: np.save(f, np.random.default_rng(0).random(6000)),
    "pillow": lambda f: _picture(99).save(f, "PNG"),
    "many small": lambda f: [f.write(b"12345") for _ in range(9999)],
}


@pytest.mark.parametrize("kind", WRITERS)
@pytest.mark.usefixtures("small_files")
def test_really_full_disk(kind, tmp_path):
    path = tmp_path / "a.bin"
    path.write_bytes(b"old")
    with pytest.raises(OSError) as caught, atomic_write(path) as f:
        WRITERS[kind](f)
    assert caught.value.errno == errno.EFBIG and caught.value.filename == str(path)
    assert re.search(r"\(at least [\d,]+ bytes wanted, [\d,]+ written\)", caught.value.strerror)
    assert path.read_bytes() == b"old" and os.listdir(tmp_path) == ["a.bin"]


@pytest.mark.usefixtures("small_files")
def test_a_known_size_is_what_was_wanted(tmp_path):
    wanted = pytest.raises(OSError, match="123,456 bytes wanted, 20,000 written")
    with wanted, atomic_write(tmp_path / "a", size=123_456) as f:
        f.write(bytes(50_000))
    assert os.listdir(tmp_path) == []


def test_a_full_device_is_named():
    # /dev/full answers every write with ENOSPC.
    with pytest.raises(OSError, match=r"No space left on device .*: '/dev/full'"), atomic_write("/dev/full") as f:
        f.write(b"x" * 100_000)


def test_missing_folder(tmp_path):
    with pytest.raises(FileNotFoundError), atomic_write(tmp_path / "no" / "a"):
        pass


def test_mode(tmp_path):
    with pytest.raises(ValueError, match='mode must be "wb" or "w", got \'a\''), atomic_write(tmp_path / "a", "a"):
        pass


def write(path, content=b"new"):
    with atomic_write(path) as f:
        f.write(content)


@pytest.fixture(params=["nameless", "hidden", "no names for the nameless"])
def file_system(request, monkeypatch):
    """With O_TMPFILE, without it, and with one that cannot be linked."""
    if request.param == "hidden":
        monkeypatch.delattr(os, "O_TMPFILE")
    elif request.param != "nameless":
        real = os.link

        def refuse(source, *args, **kwargs):
            if str(source).startswith("/proc"):
                raise OSError(errno.EXDEV, "refused")
            real(source, *args, **kwargs)

        monkeypatch.setattr(os, "link", refuse)
    monkeypatch.setattr(temporary, "_due", {})
    return request.param


@pytest.mark.usefixtures("file_system")
class TestEveryFileSystem:
    def test_a_link_stays_and_its_target_is_replaced(self, tmp_path):
        (tmp_path / "there").mkdir()
        (tmp_path / "there/target").write_bytes(b"old")
        (tmp_path / "link").symlink_to("there/target")
        (tmp_path / "link2").symlink_to("link")
        (tmp_path / "dangling").symlink_to("there/new")
        write(tmp_path / "link2")
        write(tmp_path / "dangling")
        assert (tmp_path / "link").is_symlink() and (tmp_path / "link2").is_symlink()
        assert (tmp_path / "there/target").read_bytes() == (tmp_path / "there/new").read_bytes() == b"new"
        assert sorted(os.listdir(tmp_path / "there")) == ["new", "target"] and len(os.listdir(tmp_path)) == 4

    @pytest.mark.parametrize("mode", [0o600, 0o640, 0o444, 0o4755])
    def test_modes_stay(self, mode, tmp_path):
        path = tmp_path / "a"
        path.write_bytes(b"old")
        path.chmod(mode)
        write(path)
        assert stat.S_IMODE(path.stat().st_mode) == mode and path.read_bytes() == b"new"

    @pytest.mark.skipif(os.geteuid() != 0, reason="only root may give files away")
    def test_owners_stay(self, tmp_path):
        path = tmp_path / "a"
        path.write_bytes(b"old")
        os.chown(path, 12345, 23456)
        write(path)
        assert (path.stat().st_uid, path.stat().st_gid, path.read_bytes()) == (12345, 23456, b"new")

    def test_what_a_group_might_another_may_not(self, tmp_path, monkeypatch):
        (tmp_path / "a").write_bytes(b"old")
        (tmp_path / "a").chmod(0o4664)
        os.chown(tmp_path / "a", *((12345, 23456) if os.geteuid() == 0 else (-1, -1)))
        if os.geteuid() != 0:
            pytest.skip("only root may give files away")

        def refuse(*_):
            raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

        monkeypatch.setattr(os, "fchown", refuse)
        write(tmp_path / "a")
        assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o644

    def test_access_lists_stay(self, tmp_path):
        (tmp_path / "a").write_bytes(b"old")
        # Version 2; owner rw, user 1000 rw, group none, mask rw, others none: tag, rights, number.
        entries = ((1, 6, -1), (2, 6, 1000), (4, 0, -1), (16, 6, -1), (32, 0, -1))
        acl = struct.pack("<I", 2) + b"".join(struct.pack("<HHi", *entry) for entry in entries)
        try:
            os.setxattr(tmp_path / "a", "system.posix_acl_access", acl)
        except OSError:
            pytest.skip("the file system has no access lists")
        write(tmp_path / "a")
        assert os.getxattr(tmp_path / "a", "system.posix_acl_access") == acl
        assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o660 and (tmp_path / "a").read_bytes() == b"new"

    @pytest.mark.parametrize(
        "name", ["n" * 255, b"\xff\xfe".decode(errors="surrogateescape"), "$HOME", "a\nb", "=1+1", " ", "ä" * 127]
    )
    def test_any_name(self, name, tmp_path):
        for content in (b"1", b"22"):
            write(tmp_path / name, content)
            assert (tmp_path / name).read_bytes() == content and os.listdir(tmp_path) == [name]

    def test_another_hard_link_keeps_the_old_content(self, tmp_path):
        (tmp_path / "a").write_bytes(b"old")
        os.link(tmp_path / "a", tmp_path / "b")
        write(tmp_path / "a")
        assert (tmp_path / "a").read_bytes() == b"new" and (tmp_path / "b").read_bytes() == b"old"

    def test_an_error_leaves_nothing(self, tmp_path, monkeypatch):
        def full(*_):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        for name in ("replace", "fsync"):
            with monkeypatch.context() as m:
                m.setattr(os, name, full)
                with pytest.raises(OSError, match=r"No space left.*a'"):
                    write(tmp_path / "a")
            assert os.listdir(tmp_path) == []


def test_pipes_and_devices_are_written_to(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    got = []
    reader = threading.Thread(target=lambda: got.append((tmp_path / "pipe").read_bytes()))
    reader.start()
    with atomic_write(tmp_path / "pipe") as f:
        np.save(f, np.arange(3))
    reader.join()
    assert got[0].startswith(b"\x93NUMPY") and stat.S_ISFIFO((tmp_path / "pipe").stat().st_mode)
    write("/dev/null")
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)


def test_a_socket_is_refused(tmp_path):
    with socket.socket(socket.AF_UNIX) as s:
        s.bind(str(tmp_path / "s"))
    with pytest.raises(OSError, match="is a socket"):
        write(tmp_path / "s")
    assert stat.S_ISSOCK((tmp_path / "s").stat().st_mode)


def test_a_short_write_is_not_taken_for_a_whole_one(tmp_path, monkeypatch):
    # A full disk takes a part of the last block; Pillow, given a descriptor, would call that done.
    real = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: real(fd, bytes(data)[:1000]))
    picture = _picture(64)
    with atomic_write(tmp_path / "a.jpg") as f:
        picture.save(f, "JPEG")
    with pytest.importorskip("PIL.Image").open(tmp_path / "a.jpg") as image:
        image.load()


def test_a_pipe_without_a_reader_is_an_error(tmp_path, monkeypatch):
    os.mkfifo(tmp_path / "pipe")
    monkeypatch.setattr(places, "PATIENCE", 0.1)
    with pytest.raises(OSError, match="no program reads from this pipe"):
        write(tmp_path / "pipe")


@pytest.mark.parametrize("to", ["a pipe", "a file"])
def test_standard_output_is_written_to(to, tmp_path):
    code = (
        "from patchcore_fast.files import atomic_write\nprint('before')\n"
        "with atomic_write('/dev/stdout', 'w') as f: f.write('between\\n')\nprint('after')"
    )
    if to == "a pipe":
        out = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout
    else:
        with open(tmp_path / "out", "wb") as f:
            subprocess.run([sys.executable, "-c", code], stdout=f, check=True)
        out = (tmp_path / "out").read_bytes()
    assert out == b"before\nbetween\nafter\n"


def test_folders_and_loops_are_refused_by_name(tmp_path):
    (tmp_path / "loop").symlink_to("loop")
    for path in (tmp_path, tmp_path / "loop", tmp_path / ("n" * 256)):
        with pytest.raises(OSError) as caught:
            write(path)
        assert caught.value.filename == str(path)


WRITES = """
import os, sys, time
if sys.argv[2] == "hidden": del os.O_TMPFILE
from patchcore_fast.files import atomic_write
with atomic_write(sys.argv[1]) as f:
    f.write(b"x" * 99999); f.flush(); print("in", flush=True); time.sleep(60)
"""


def start_writer(path, kind):
    process = subprocess.Popen([sys.executable, "-c", WRITES, str(path), kind], stdout=subprocess.PIPE)
    assert process.stdout.readline() == b"in\n"
    return process


@pytest.mark.parametrize("kind", ["nameless", "hidden"])
def test_what_a_killed_writer_leaves_is_removed_and_what_a_living_one_writes_is_not(kind, tmp_path, monkeypatch):
    monkeypatch.setattr(temporary, "_due", {})
    living, dead = start_writer(tmp_path / "a", kind), start_writer(tmp_path / "b", kind)
    dead.send_signal(signal.SIGKILL)
    dead.wait()
    dead.stdout.close()
    assert len(os.listdir(tmp_path)) == (2 if kind == "hidden" else 0)
    write(tmp_path / "c")
    parts = [p for p in os.listdir(tmp_path) if p != "c"]
    living.kill()
    living.wait()
    living.stdout.close()
    assert len(parts) == (1 if kind == "hidden" else 0)
    temporary._due.clear()
    write(tmp_path / "c")
    assert os.listdir(tmp_path) == ["c"]


def test_parts_of_others_are_old_before_they_go(tmp_path, monkeypatch):
    elsewhere = ".patchcore-fast-00000000-0123456789ab.part"
    for name, age in ((elsewhere, 0), (elsewhere.replace("89ab", "89cd"), 2e5), (".o.npy.0123456789ab.part", 0),
                      (".p.npy.0123456789ab.part", 2e5), ("mine.part", 2e5), (".x.part", 2e5)):  # fmt: skip
        (tmp_path / name).write_bytes(b"1")
        os.utime(tmp_path / name, (time.time() - age,) * 2)
    (tmp_path / "held").write_bytes(b"1")
    (tmp_path / ".q.0123456789ab.part").symlink_to("held")
    locked = tmp_path / f".patchcore-fast-{temporary._machine()}-0123456789ab.part"
    monkeypatch.setattr(temporary, "_due", {})
    with open(locked, "wb") as f:
        fcntl.flock(f, fcntl.LOCK_EX)
        write(tmp_path / "c")
        assert locked.exists()
    kept = {elsewhere, ".o.npy.0123456789ab.part", "mine.part", ".x.part", "held", ".q.0123456789ab.part", "c"}
    assert set(os.listdir(tmp_path)) == kept | {locked.name}


def test_a_folder_that_is_not_writable_is_said(tmp_path, monkeypatch):
    (tmp_path / "a").write_bytes(b"old")
    real = os.open

    def refuse(path, *args, **kwargs):
        if Path(path).name.startswith(".patchcore-fast") or str(path) == str(tmp_path):
            raise PermissionError(errno.EACCES, "Permission denied", path)
        return real(path, *args, **kwargs)

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(PermissionError, match=f"a new file is made in {tmp_path}, which is not writable.*/a'"):
        write(tmp_path / "a")
    assert (tmp_path / "a").read_bytes() == b"old"
