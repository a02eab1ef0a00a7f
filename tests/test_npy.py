"""Readers of .npy files: what is damaged is a DataError, and what a header says is not believed."""

from __future__ import annotations

import os
import struct
from pathlib import Path

import numpy as np
import pytest

from patchcore_fast.cli import main, select
from patchcore_fast.errors import DataError
from patchcore_fast.memory import available_memory
from patchcore_fast.npy import NpyFile, read_npy
from patchcore_fast.samplers import PrecomputedSampler, space


def write(
    path: Path, header: bytes, body: bytes = b"\0" * 160, version: tuple[int, int] = (1, 0), length: int = -1
) -> str:
    """A .npy file with any text as its header; length: what is said of it, its own when negative."""
    length = len(header) if length < 0 else length
    path.write_bytes(
        b"\x93NUMPY" + bytes(version) + struct.pack("<H" if version[0] == 1 else "<I", length) + header + body
    )
    return str(path)


def described(shape: str = "(10, 4)", order: str = "False", descr: str = "'<f4'") -> bytes:
    return f"{{'descr': {descr}, 'fortran_order': {order}, 'shape': {shape}, }}\n".encode()


DAMAGED = {
    "token": b"{'descr'", "nothing": b"", "text": b"hello", "call": b"__import__('os').getcwd()",
    "deep-sign": b"-" * 3000 + b"1", "deep-list": b"[" * 3000 + b"]" * 3000, "unhashable": b"{[]: 1}",
    "nul": b"{'descr': '\0'}", "not-utf-8": b"\xff\xfe\xfa", "field-missing": b"{'descr': '<f4', 'shape': (10, 4)}",
    "field-more": b"{'descr': '<f4', 'fortran_order': False, 'shape': (10, 4), 'x': 1}", "list": b"[1, 2]",
    "negative": described("(10, -4)"), "two-negative": described("(-10, -4)"), "bool": described("(True, 4)"),
    "float": described("(10.0, 4)"), "number": described("40"), "shape-list": described("[10, 4]"),
    "huge": described("(1000000000000000000, 4)"), "beyond-64-bits": described("(" + "9" * 40 + ", 4)"),
    "digits": described("(" + "9" * 5000 + ", 4)"), "zero-times-huge": described("(0, " + "9" * 30 + ")"),
    "dimensions": described("(" + "1, " * 99 + ")"), "more-than-there": described("(11, 4)"),
    "order": described(order="1"), "order-none": described(order="None"), "type-unknown": described(descr="'<f5'"),
    "type-empty": described(descr="''"), "type-text": described(descr="'; import os'"),
    "type-number": described(descr="'<f99999999999999999999'"),
}  # fmt: skip


@pytest.mark.parametrize("version", [(1, 0), (2, 0), (3, 0)])
@pytest.mark.parametrize("name", DAMAGED)
def test_damaged_headers(tmp_path: Path, name: str, version: tuple[int, int]) -> None:
    with pytest.raises(DataError, match=r"x\.npy: is damaged or truncated \("):
        read_npy(write(tmp_path / "x.npy", DAMAGED[name], version=version))


@pytest.mark.parametrize("name", ["token", "negative", "bool", "huge", "digits", "deep-sign"])
def test_damaged_headers_on_the_command_line(tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(tmp_path / "x.npy", DAMAGED[name])
    assert main(["select", path, "--ratio", "0.5", "--output", str(tmp_path / "o.npy")]) == 2
    err = capsys.readouterr().err
    assert err.startswith(f"patchcore-fast: error: {path}: is damaged or truncated (") and err.count("\n") == 1


@pytest.mark.parametrize("descr", ["'|O'", "[('a', '<f4')]", "[('a', '|O')]", "'V8'", "('<f4', (2,))", "7"])
def test_other_contents(tmp_path: Path, descr: str) -> None:
    with pytest.raises(DataError, match=r"x\.npy: (holds|is damaged|features must be real)"):
        select.read_features(write(tmp_path / "x.npy", described(descr=descr), b"\0" * 400))


@pytest.mark.parametrize(
    ("version", "length", "body"), [((1, 0), 60000, b""), ((2, 0), 2**32 - 1, b""), ((9, 0), -1, b"\0" * 160),
                                    ((1, 7), -1, b"\0" * 160), ((2, 0), 20000, b" " * 30000), ((1, 0), -1, b"\0" * 159)]
)  # fmt: skip
def test_length_and_version(tmp_path: Path, version: tuple[int, int], length: int, body: bytes) -> None:
    with pytest.raises(DataError, match="is damaged or truncated"):
        read_npy(write(tmp_path / "x.npy", described(), body, version, length))


def test_every_cut_of_a_header(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.ones((3, 2), np.float32))
    whole = (tmp_path / "x.npy").read_bytes()
    for length in range(len(whole)):
        (tmp_path / "x.npy").write_bytes(whole[:length])
        with pytest.raises(DataError, match=r"x\.npy: is (no \.npy file|damaged or truncated)"):
            read_npy(tmp_path / "x.npy")


@pytest.mark.parametrize("dtype", ["<f4", ">f4", "<f8", ">f2", "i1", ">i8", "u2", "?", "c8", "U3", "M8[s]"])
@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("shape", [(7, 5), (0, 4), (), (3,), (2, 3, 4)], ids=str)
def test_reads_what_numpy_writes(tmp_path: Path, dtype: str, order: str, shape: tuple[int, ...]) -> None:
    array = np.asarray(np.arange(np.prod(shape, dtype=int)).reshape(shape).astype(dtype), order=order)  # type: ignore[call-overload]
    np.save(tmp_path / "x.npy", array)
    read = read_npy(tmp_path / "x.npy")
    assert read.dtype == array.dtype and read.flags.writeable
    np.testing.assert_array_equal(read, array)


def test_version_2_3_and_python_2(tmp_path: Path) -> None:
    array = np.arange(40, dtype="<f4").reshape(10, 4)
    for version in ((2, 0), (3, 0)):
        with open(tmp_path / "x.npy", "wb") as f:
            np.lib.format.write_array(f, array, version)
        np.testing.assert_array_equal(read_npy(tmp_path / "x.npy"), array)
    np.testing.assert_array_equal(read_npy(write(tmp_path / "x.npy", described("(10L, 4L)"), array.tobytes())), array)


@pytest.mark.parametrize("order", ["C", "F"])
def test_parts_of_a_matrix(tmp_path: Path, order: str) -> None:
    array = np.asarray(np.arange(60, dtype=">i4").reshape(12, 5), order=order)  # type: ignore[call-overload]
    np.save(tmp_path / "x.npy", array)
    with NpyFile(tmp_path / "x.npy") as file:
        np.testing.assert_array_equal(file.rows(3, 9), array[3:9])
        np.testing.assert_array_equal(file.take(np.array([11, 0, 5])), array[[11, 0, 5]])
        np.testing.assert_array_equal(file.mapped(), array)


@pytest.mark.parametrize("change", ["cut", "rewritten"])
def test_changed_while_open(tmp_path: Path, change: str) -> None:
    np.save(tmp_path / "x.npy", np.ones((100, 4)))
    with NpyFile(tmp_path / "x.npy") as file:
        if change == "cut":
            os.truncate(tmp_path / "x.npy", 200)
        else:
            with open(tmp_path / "x.npy", "r+b") as f:
                f.write(b"\x93")
            os.utime(tmp_path / "x.npy", ns=(1, 1))
        with pytest.raises(DataError, match=r"x\.npy: was (truncated|changed) while it was read"):
            file.read()


def test_no_memory_names_the_file_and_the_bytes(tmp_path: Path) -> None:
    with open(write(tmp_path / "x.npy", described("(281474976710656, 16)"), b""), "r+b") as f, pytest.raises(DataError):
        read_npy(f.name)
    with open(write(tmp_path / "x.npy", described("(4398046511, 1000)", descr="'i1'"), b""), "r+b") as f:
        try:
            f.truncate(4398046511 * 1000 + 200)  # a file with a hole
        except OSError:
            pytest.skip("the file system has no files of 4 TB")
    with pytest.raises(MemoryError, match=r"x\.npy: out of memory, 4,398,046,511,000 bytes wanted"):
        read_npy(tmp_path / "x.npy")


@pytest.mark.parametrize("name", ["token", "negative", "digits", "huge"])
def test_precomputed_sampler(tmp_path: Path, name: str) -> None:
    with pytest.raises(DataError, match=r"is not a readable \.npy file"):
        PrecomputedSampler(write(tmp_path / "x.npy", DAMAGED[name]))


@pytest.mark.parametrize("dtype", ["<f4", ">f8", "f2", "i2"])
@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("method", ["greedy", "approximate", "random", "elfs", "unprojected"])
def test_larger_than_memory(
    tmp_path: Path,
    method: str,
    order: str,
    dtype: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    array = (np.random.default_rng(0).standard_normal((400, 150)) * 50).astype(dtype)
    np.save(tmp_path / "x.npy", np.asarray(array, order=order))  # type: ignore[call-overload]
    options = ["--no-projection"] if method == "unprojected" else ["--method", method]
    command = ["select", str(tmp_path / "x.npy"), "--ratio", "0.1", *options, "--output"]
    assert main([*command, str(tmp_path / "a.npy"), "--indices", str(tmp_path / "i.npy")]) == 0
    capsys.readouterr()
    monkeypatch.setattr(select, "available_memory", lambda: 100_000)
    monkeypatch.setattr(space, "_PART_BYTES", 30_000)
    if method in ("greedy", "approximate", "random"):
        monkeypatch.setattr(NpyFile, "read", None)
    if method in ("greedy", "approximate"):
        monkeypatch.setattr(NpyFile, "mapped", None)
    assert main([*command, str(tmp_path / "b.npy")]) == 0
    assert ("must not be cut short" in capsys.readouterr().err) == (method in ("elfs", "unprojected"))
    assert (tmp_path / "a.npy").read_bytes() == (tmp_path / "b.npy").read_bytes()
    np.testing.assert_array_equal(np.load(tmp_path / "a.npy"), array[np.load(tmp_path / "i.npy")])


def test_available_memory() -> None:
    assert 0 < available_memory() < 2**50
