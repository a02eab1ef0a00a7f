"""What surrounds a command: memory that runs out, full disks, closed and full streams, signals, names of any bytes."""

from __future__ import annotations

import errno
import logging
import os
import resource
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from patchcore_fast.cli import main, select
from patchcore_fast.cli.explain import explain
from patchcore_fast.cli.process import Terminated, signals, start_logging
from patchcore_fast.errors import DataError

from ..programs import MAIN, Program, run


@pytest.fixture
def features(tmp_path: Path) -> Path:
    np.save(tmp_path / "f.npy", np.random.default_rng(0).random((50, 4), dtype=np.float32))
    return tmp_path / "f.npy"


def raised(action: object) -> BaseException:
    with pytest.raises(BaseException) as found:
        action()  # type: ignore[operator]
    return found.value


TORCH = (
    "[enforce fail at alloc_cpu.cpp:124] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to allocate "
    "4096000000 bytes. Error code 12 (Cannot allocate memory)"
)
CUDA = "CUDA out of memory. Tried to allocate 20.00 MiB. GPU 0 has a total capacity of 7.79 GiB of which 1 MiB is free."
EXPLAINED: dict[str, tuple[BaseException, str | None]] = {
    "memory": (MemoryError(), "s.npy: out of memory"),
    "memory-named": (MemoryError("f.npy: out of memory, 12 bytes wanted"), "f.npy: out of memory, 12 bytes wanted"),
    "numpy": (raised(lambda: np.empty((10**13, 10))), "s.npy: out of memory, 800,000,000,000,000 bytes wanted"),
    "torch": (RuntimeError(TORCH), "s.npy: out of memory, 4,096,000,000 bytes wanted"),
    "cuda": (torch.OutOfMemoryError(CUDA), "s.npy: out of GPU memory, 20.00 MiB wanted"),
    "cuda-bare": (RuntimeError("CUDA error: out of memory\nCompile with..."), "s.npy: out of GPU memory"),
    "enomem": (OSError(errno.ENOMEM, os.strerror(errno.ENOMEM)), "s.npy: out of memory"),
    "loader": (ImportError("libx.so: failed to map segment from shared object"), "s.npy: out of memory"),
    "thread": (RuntimeError("can't start new thread"), "s.npy: out of memory or of threads"),
    "full": (OSError(errno.ENOSPC, "No space left on device", "o"), "o: No space left on device: the disk is full"),
    "quota": (OSError(errno.EDQUOT, "Disk quota exceeded", "o"),
              "o: Disk quota exceeded: the quota of the disk is used up"),
    "no-number": (OSError("25600 requested and 16352 written"), "25600 requested and 16352 written"),
    "os-bare": (OSError(), "OSError"),
    "bytes": (OSError(errno.ENOENT, "No such file", b"a\xff"), "a\\xff: No such file"),
    "line": (DataError("a\nb\x1b[31m\udcff: is bad"), "a\\nb\\x1b[31m\\xff: is bad"),
    "runtime": (RuntimeError("shape"), None),
    "foreign-value": (raised(lambda: np.zeros(3).reshape(2)), None),
    "import": (ImportError("no module"), None),
    "extra": (ImportError("x needs y:\n pip install z"), "x needs y: pip install z"),
}  # fmt: skip


@pytest.mark.parametrize("name", EXPLAINED)
def test_explain(name: str) -> None:
    error, text = EXPLAINED[name]
    assert explain(error, "s.npy") == text


def test_really_out_of_memory_in_torch() -> None:
    text = explain(raised(lambda: torch.empty(2**50)), "f")
    assert text == "f: out of memory, 4,503,599,627,370,496 bytes wanted"


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError(TORCH)], ids=["python", "torch"])
def test_memory_on_the_command_line(
    features: Path, error: Exception, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(select, "_floating", fail)
    assert main(["select", str(features), "--ratio", "0.5", "--output", str(features.parent / "o")]) == 2
    err = capsys.readouterr().err
    assert err.startswith(f"patchcore-fast: error: {features}: out of memory") and err.count("\n") == 1


USUAL = {("wrong", (2,)), ("select", (0, 1, 2))}  # tests/faults has a part of each command
CLOSED = [pytest.param(arguments, closed, marks=[pytest.mark.thorough] * ((arguments, closed) not in USUAL))
          for arguments in ("select", "wrong", "none") for closed in ((1,), (2,), (0, 1, 2))]  # fmt: skip


@pytest.mark.parametrize("arguments, closed", CLOSED, ids=str)
def test_closed_streams(features: Path, closed: tuple[int, ...], arguments: str) -> None:
    output = features.parent / "o.npy"
    name = str(features) if arguments == "select" else "nowhere.npy"
    command = [] if arguments == "none" else ["select", name, "--ratio", "0.5", "--output", str(output)]
    shell = " ".join(["exec", '"$0" -c "$1" "${@:2}"', *(f"{n}>&-" for n in closed)])
    done = subprocess.run(["bash", "-c", shell, sys.executable, MAIN, *command], capture_output=True, check=False)
    assert done.returncode == (0 if arguments == "select" else 2)
    assert b"Traceback" not in done.stderr and b"Exception" not in done.stderr
    if arguments == "select":
        assert np.load(output).shape == (25, 4)  # and nothing that was printed is in it
        assert output.stat().st_size == 128 + 25 * 4 * 4


FULL = [pytest.param(stream, what, marks=[pytest.mark.thorough] * ((stream == "stdout") == (what == "wrong")))
        for stream in ("stdout", "stderr") for what in ("select", "wrong")]  # fmt: skip


@pytest.mark.parametrize("stream, what", FULL)
def test_full_streams(features: Path, stream: str, what: str) -> None:
    name = str(features) if what == "select" else "nowhere.npy"
    command = ["select", name, "--ratio", "0.5", "--output", str(features.parent / "o.npy")]
    done = run(MAIN, *command, **{stream.removeprefix("std"): "full"})
    assert done.returncode == (0 if (stream, what) == ("stderr", "select") else 2)
    if (stream, what) == ("stdout", "select"):
        assert done.stderr == "patchcore-fast: error: stdout: No space left on device: the disk is full\n"


@pytest.mark.parametrize(
    "name", [b"$HOME `a\xff\nb`.npy", pytest.param("é画.npy".encode(), marks=pytest.mark.thorough)]
)
def test_names_of_any_bytes_on_a_plain_terminal(features: Path, name: bytes) -> None:
    output = os.fsencode(features.parent) + b"/" + name
    environment = {**os.environ, "PYTHONIOENCODING": "ascii:strict", "LC_ALL": "C", "PYTHONUTF8": "0"}
    command = [sys.executable.encode(), b"-c", MAIN.encode(), b"select", os.fsencode(features), b"--ratio", b"0.5"]
    command += [b"--output"]
    done = subprocess.run([*command, output], capture_output=True, check=False, env=environment)
    assert done.returncode == 0 and os.path.exists(output), done.stderr
    command[4] = output + b"x"
    done = subprocess.run([*command, b"o"], capture_output=True, check=False, env=environment)
    assert done.returncode == 2 and done.stderr.count(b"\n") == 1 and done.stderr.endswith(b": no such file\n")


SLOW = """
import os, sys, time
from patchcore_fast.cli import main, select
def wait(*_):
    try:
        print("in", flush=True)
        time.sleep(100)
    finally:
        time.sleep(0.3)
        open("clean", "w").close()
select.read_features = wait
sys.exit(main(["select", "f.npy", "--ratio", "0.5", "--output", "o.npy"]))
"""


TERM, HUP, INT = signal.SIGTERM, signal.SIGHUP, signal.SIGINT


@pytest.mark.parametrize(
    ("number", "code", "ignored"), [(TERM, 143, False), (HUP, 129, False), (INT, 130, False), (HUP, 143, True)]
)
def test_signals(tmp_path: Path, number: signal.Signals, code: int, ignored: bool) -> None:
    process = Program(SLOW, cwd=tmp_path, ignored=HUP if ignored else None)
    process.wait_for(process.out, "in\n")
    process.send_signal(number)
    if ignored:
        time.sleep(0.2)
        number = signal.SIGTERM
        process.send_signal(number)
    if code != 130:
        time.sleep(0.1)
        process.send_signal(number)  # as timeout(1) does, which sends two
    done = process.ended(30)
    assert done.returncode == code and (tmp_path / "clean").exists()
    (line,) = [line for line in done.stderr.splitlines() if line]
    assert line.endswith("files are written whole, none is half-written")


def test_a_forked_child_ends_without_clean_up(tmp_path: Path) -> None:
    with pytest.raises(Terminated, match="SIGTERM"), signals():
        child = os.fork()
        if not child:
            try:
                os.kill(os.getpid(), signal.SIGTERM)
                time.sleep(1)
            finally:
                os._exit(1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGTERM
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(1)
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def select_to(features: Path, output: str, indices: str | None = None) -> int:
    more = [] if indices is None else ["--indices", indices]
    return main(["select", str(features), "--ratio", "0.5", "--output", output, *more])


def test_outputs_onto_what_is_no_file(features: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(features.parent)
    os.symlink("there", "link")
    Path("private.npy").write_bytes(b"old")
    os.chmod("private.npy", 0o600)
    assert select_to(features, "/dev/null", "/dev/null") == 0
    assert select_to(features, "link", "private.npy") == 0
    assert os.path.islink("link") and np.load("there").shape == (25, 4)
    assert os.stat("private.npy").st_mode & 0o777 == 0o600 and np.load("private.npy").shape == (25,)


def test_a_pipe_whose_reader_left_is_named(features: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pipe = str(features.parent / "pipe")
    os.mkfifo(pipe)
    big = features.parent / "big.npy"
    np.save(big, np.random.default_rng(0).random((60_000, 8), dtype=np.float32))
    reader = subprocess.Popen(["head", "-c", "5", pipe], stdout=subprocess.DEVNULL)
    assert main(["select", str(big), "--ratio", "0.5", "--method", "random", "--output", pipe]) == 2
    reader.wait()
    assert capsys.readouterr().err.startswith(f"patchcore-fast: error: {pipe}: Broken pipe")


@pytest.mark.parametrize("link", [False, True])
def test_an_output_over_the_features_or_the_other_output(
    features: Path, link: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    other, before = features.parent / "other", features.read_bytes()
    if link:
        other.symlink_to(features)
    assert select_to(features, str(other if link else features)) == 2
    assert "one file" in capsys.readouterr().err and features.read_bytes() == before
    output = str(features.parent / "o.npy")
    assert select_to(features, output, output) == 2 and not os.path.exists(output)


@pytest.mark.parametrize("kind", ["folder", "socket", "loop", "long", "dangling", "nowhere"])
def test_outputs_refused_before_the_work(
    features: Path, kind: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(features.parent)
    monkeypatch.setattr(select, "read_features", None)
    os.mkdir("folder")
    os.symlink("loop", "loop")
    os.symlink("no/target", "dangling")
    with socket.socket(socket.AF_UNIX) as s:
        s.bind("socket")
    name, says = {"folder": ("folder", "is a folder"), "socket": ("socket", "is a socket"),
                  "loop": ("loop", "Too many levels"), "long": ("x" * 256, "File name too long"),
                  "dangling": ("dangling", "does not exist"), "nowhere": ("no/a", "does not exist")}[kind]  # fmt: skip
    assert select_to(features, name) == 2
    err = capsys.readouterr().err
    assert says in err and name in err and err.count("\n") == 1


def test_a_full_disk_is_named_with_the_bytes_wanted(features: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200, before[1]))
    try:
        assert select_to(features, str(features.parent / "o.npy")) == 2
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    err = capsys.readouterr().err
    assert "o.npy: File too large (528 bytes wanted, 200 written)" in err and err.count("\n") == 1
    assert os.listdir(features.parent) == ["f.npy"]


def test_which_kernels_run_is_told_once_a_command(capsys: pytest.CaptureFixture[str]) -> None:
    kernels, model = (logging.getLogger(f"patchcore_fast{name}") for name in (".kernels", ".model"))
    for _ in range(2):
        start_logging(True)
        for _ in range(3):
            kernels.debug("knn: torch on cpu")
            kernels.warning("slow")
            model.debug("a pass")
        said = capsys.readouterr().err
        assert [said.count(text) for text in ("knn: torch on cpu", "slow", "a pass")] == [1, 3, 3]
    start_logging(False)
