"""Inputs that cannot be used: cut, foreign, random, of another kind of file, unreadable, gone in the middle."""

from __future__ import annotations

import json
import os
import random
import shutil
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch

from .commands import BY_NAME, COMMANDS, Command
from .engine import Fault, run_cell
from .moments import Strike
from .place import SPARE
from .rights import locked

pytestmark = pytest.mark.usefixtures("no_drawing")
Change = Callable[[Path], Any]  # what it does to a file that is whole


def written(content: Callable[[bytes], bytes]) -> Change:
    return lambda path: path.write_bytes(content(path.read_bytes()))


def replaced_by(make: Change) -> Change:
    def change(path: Path) -> None:
        path.unlink()
        make(path)

    return change


def noise(size: int) -> bytes:
    return random.Random(0).randbytes(size)


CONTENTS: dict[str, Change] = {
    "empty": written(lambda _: b""),
    "one-byte": written(lambda b: b[:1]),
    "cut-head": written(lambda b: b[:20]),
    "cut-middle": written(lambda b: b[: len(b) // 2]),
    "cut-end": written(lambda b: b[:-40]),
    "text": written(lambda _: b"no such thing\n" * 9),
    "random": written(lambda b: noise(len(b))),
    "zeros": written(lambda b: bytes(len(b))),
}
KINDS: dict[str, Change] = {
    "folder": replaced_by(lambda p: p.mkdir()),
    "dangling": replaced_by(lambda p: p.symlink_to("nowhere")),
    "loop": replaced_by(lambda p: p.symlink_to(p.name)),
    "pipe": replaced_by(lambda p: os.mkfifo(p)),
}


@contextmanager
def unreadable(path: Path) -> Iterator[None]:
    with locked(path, 0):
        yield


# Images: one that cannot be used beside others that can.


def bad_image(command: Command) -> str:
    """A name beside the images that the command reads."""
    assert command.image is not None
    return str(Path(command.image).with_name("bad.png"))


def image_fault(command: Command, name: str) -> Fault:
    """Damage to a copy of an image."""
    at = bad_image(command)
    codes = {"predict": (3,), "evaluate": (3,), "evaluate-json": (3,), "check": (2, 3)}.get(command.name, (2, 3))
    if name in KINDS:
        codes = (0, *codes)  # passed over as no image at all, and counted so

    def prepare(root: Path, command: Command) -> None:
        assert command.image is not None
        shutil.copy(root / command.image, root / at)
        (CONTENTS | KINDS).get(name, lambda _: None)(root / at)

    def mend(root: Path, command: Command) -> None:
        if (root / at).is_dir():
            (root / at).rmdir()
        else:
            (root / at).unlink(missing_ok=True)

    during: Any = None
    if name == "unreadable":
        during = lambda root, _: unreadable(root / at)  # noqa: E731
    if name == "gone":
        during = lambda root, _: Strike("decode", 1, lambda _: (root / at).unlink(missing_ok=True)).active()  # noqa: E731
    return Fault(name, codes, ("bad.png",), prepare, mend, during, again=not command.costly,
                 outputs=(at,) if name == "gone" else ())  # fmt: skip


IMAGES = [
    (command, image_fault(command, name))
    for command in COMMANDS
    if command.image and command.name != "inspect"  # a bank is of its own images, all of them
    for name in (*CONTENTS, *KINDS, "unreadable", "gone")
    if not command.costly or name in ("cut-middle", "gone")
]


@pytest.mark.parametrize(("command", "fault"), IMAGES, ids=[f"{c.name}-{f.name}" for c, f in IMAGES])
def test_image(root: Path, command: Command, fault: Fault) -> None:
    result = run_cell(root, command, fault)
    if command.name == "predict" and result.code == 3:
        text = (root / "made/scores.csv").read_text()
        assert len(text.splitlines()) >= 3, "the scores of the images that can be read"


# Banks.


def header(change: Callable[[dict[str, Any]], None]) -> Change:
    """Another JSON header on the same tensors."""

    def content(whole: bytes) -> bytes:
        (size,) = struct.unpack("<Q", whole[:8])
        found = json.loads(whole[8 : 8 + size])
        change(found)
        text = json.dumps(found).encode()
        text += b" " * (-len(text) % 8)
        return struct.pack("<Q", len(text)) + text + whole[8 + size :]

    return written(content)


def flipped(part: float) -> Change:
    """One bit of the tensors, at a part of their length."""

    def content(whole: bytes) -> bytes:
        (size,) = struct.unpack("<Q", whole[:8])
        at = 8 + size + int((len(whole) - 9 - size) * part)
        return whole[:at] + bytes([whole[at] ^ 4]) + whole[at + 1 :]

    return written(content)


def facts(**values: Any) -> Change:
    """Other facts in the metadata."""

    def change(found: dict[str, Any]) -> None:
        about = found["__metadata__"]
        about["facts"] = json.dumps(json.loads(about["facts"]) | values)

    return header(change)


BANKS = CONTENTS | KINDS | {
    "foreign": lambda p: safetensors.torch.save_file({"x": torch.ones(2)}, p), "flip-first": flipped(0),
    "flip-middle": flipped(0.5), "flip-last": flipped(1),
    "brackets": header(lambda h: h["__metadata__"].update(facts="[" * 100_000)),
    "huge-header": written(lambda b: struct.pack("<Q", 1 << 40) + b[8:]),
    "no-facts": header(lambda h: h["__metadata__"].pop("facts")), "threshold-text": facts(threshold="high"),
    "threshold-huge": facts(threshold=10**400), "radius-negative": facts(radius=-1.0),
    "grid-huge": facts(grid=[10**9, 10**9]), "patches-negative": facts(patches=-1), "config-list": facts(config=[]),
    "images-numbers": facts(images=[1, 2]),
}  # fmt: skip


def restore_bank(root: Path, command: Command) -> None:
    bank = root / "bank.safetensors"
    if bank.is_dir():
        bank.rmdir()
    bank.unlink(missing_ok=True)
    shutil.copy(root / SPARE / "bank.safetensors", bank)


def bank_fault(name: str, again: bool) -> Fault:
    """Damage to the bank."""
    return Fault(name, (2,), ("bank.safetensors",), lambda root, _: BANKS[name](root / "bank.safetensors"),
                 restore_bank, again=again)  # fmt: skip


BANK_CELLS = [(c, bank_fault(n, again=c.name == "evaluate-json" and n in KINDS))
              for c in COMMANDS if c.bank for n in BANKS if not c.costly or n in CONTENTS or n in KINDS]  # fmt: skip
CLOSED = Fault("unreadable", (2,), ("bank.safetensors",), again=False,
               during=lambda root, _: unreadable(root / "bank.safetensors"))  # fmt: skip
BANK_CELLS += [(command, CLOSED) for command in COMMANDS if command.bank]


@pytest.mark.parametrize(("command", "fault"), BANK_CELLS, ids=[f"{c.name}-{f.name}" for c, f in BANK_CELLS])
def test_bank(root: Path, command: Command, fault: Fault) -> None:
    run_cell(root, command, fault)


# Features.


def npy(text: str, body: bytes = bytes(160), version: int = 1) -> Change:
    """An .npy file with this header, whatever it says."""
    form = "<H" if version == 1 else "<I"
    return lambda path: path.write_bytes(
        b"\x93NUMPY" + bytes([version, 0]) + struct.pack(form, len(text) + 1) + text.encode("latin-1") + b"\n" + body
    )


DICT = "{{'descr':{},'fortran_order':{},'shape':{}}}"
FEATURES = CONTENTS | KINDS | {
    "half-a-dict": npy("{'descr'"), "negative": npy(DICT.format("'<f4'", False, "(10,-4)")),
    "overflow": npy(DICT.format("'<f4'", False, "(1" + "0" * 18 + ",4)")),
    "beyond-64-bits": npy(DICT.format("'<f4'", False, "(1" + "0" * 40 + ",4)")),
    "booleans": npy(DICT.format("'<f4'", False, "(True,40)")), "minus-signs": npy("-" * 3000 + "1"),
    "brackets": npy("(" * 9000, version=2), "words": npy("open('x','w')"),
    "no-dtype": npy(DICT.format("'?!'", False, "(10,4)")), "none": npy(DICT.format("None", False, "(10,4)")),
    "nested": npy(DICT.format("[('a','<f4',(3,))]", False, "(10,)")),
    "order": npy(DICT.format("'<f4'", "'C'", "(10,4)")),
    "version-9": npy(DICT.format("'<f4'", False, "(10,4)"), version=9),
    "huge-header": npy("{" + " " * 70_000, version=2),
    "objects": lambda p: np.save(p, np.array([[{}], [1]], object), allow_pickle=True),
    "dates": lambda p: np.save(p, np.zeros((9, 3), "M8[s]")),
    "not-finite": lambda p: np.save(p, np.full((50, 4), np.inf, np.float32)),
    "too-large-for-float32": lambda p: np.save(p, np.full((50, 4), 1e300)),
}  # fmt: skip


def restore_features(root: Path, command: Command) -> None:
    path = root / "f.npy"
    if path.is_dir():
        path.rmdir()
    path.unlink(missing_ok=True)
    np.save(path, np.random.default_rng(1).random((200, 8), dtype=np.float32))


@pytest.mark.parametrize("name", FEATURES)
def test_features(root: Path, name: str) -> None:
    run_cell(root, BY_NAME["select"], Fault(name, (2,), ("f.npy",), lambda r, _: FEATURES[name](r / "f.npy"),
                                            restore_features))  # fmt: skip


def test_unreadable_features(root: Path) -> None:
    run_cell(root, BY_NAME["select"], Fault("unreadable", (2,), ("f.npy",), again=False,
                                            during=lambda r, _: unreadable(r / "f.npy")))  # fmt: skip
