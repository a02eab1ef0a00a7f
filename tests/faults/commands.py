"""The commands as data: arguments inside a copied template (`place.build`), what they write, what they come by."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from .place import TINY


@dataclass(frozen=True)
class Command:
    """One row of the matrix.

    argv : run in the cell's folder.
    outputs : files or folders that it may write, relative; nothing else may change.
    folder : whether the output is a folder of files.
    moments : where faults can be put in (`moments.MOMENTS`) and are met at least once.
    bank : whether it reads bank.safetensors.
    costly : takes about a second, so that it comes in fewer cells.
    image : one of the image files that it reads.
    table : of a folder, the file that has the numbers.
    beside : files that it keeps until it has ended.
    resumes : goes on with what is at its output, so that nothing foreign may lie there.
    """

    name: str
    argv: tuple[str, ...]
    outputs: tuple[str, ...] = ()
    folder: bool = False
    moments: tuple[str, ...] = ()
    bank: bool = False
    costly: bool = False
    image: str | None = None
    table: str = "scores.csv"
    resumes: bool = False
    beside: tuple[str, ...] = ()

    @property
    def output(self) -> str:
        """The first of the outputs."""
        return self.outputs[0]


FILE = ("create", "flush", "rename")
SELECT = ("select", "f.npy", "--ratio", "0.1", "--output", "made.npy")
EVALUATE = ("evaluate", "data", "--bank", "bank.safetensors")
GRID = ("grid", "data", "--output", "made", *("--backbone-weights" if part == "--weights" else part for part in TINY))
ALONE = tuple(part for part in TINY if part not in ("--ratio", "0.1"))
COMMANDS = (
    Command("fit", ("fit", "data", "--output", "made.safetensors", *TINY), ("made.safetensors",),
            moments=("decode", "network", *FILE), image="data/train/good/b.png"),
    Command("extract", ("extract", "data", "--output", "made", *ALONE), ("made",), folder=True,
            moments=("decode", "network", "folder", *FILE), image="data/train/good/b.png", table="shards.json",
            resumes=True),
    Command("predict", ("predict", "bank.safetensors", "data/test", "--output", "made"), ("made",), folder=True,
            moments=("decode", "network", "folder", *FILE), bank=True, image="data/test/good/e.png"),
    Command("watch", ("watch", "bank.safetensors", "data/test", "--output", "made", "--once", "--heatmaps", "--settle",
                      "0"), ("made",), folder=True, moments=("decode", "network", "folder", *FILE), bank=True,
            image="data/test/good/e.png", resumes=True),
    Command("evaluate-json", (*EVALUATE, "--json", "made.json"), ("made.json",),
            moments=("decode", "network", *FILE), bank=True, image="data/test/good/e.png"),
    Command("evaluate", (*EVALUATE, "--output", "made"), ("made",), folder=True,
            moments=("decode", "network", "folder", *FILE), bank=True, costly=True, image="data/test/spot/f.png"),
    Command("inspect", ("inspect", "data", "--bank", "bank.safetensors", "--output", "made"), ("made",), folder=True,
            moments=("decode", "network", "folder", *FILE), bank=True, costly=True, image="data/train/good/b.png",
            table="selection.json"),
    Command("audit", ("audit", "data", "--output", "made", *ALONE), ("made",), folder=True,
            moments=("decode", "network", "folder", *FILE), image="data/train/good/b.png", table="audit.csv"),
    Command("zeroshot", ("zeroshot", "data/train", "--output", "made", *ALONE), ("made",), folder=True,
            moments=("decode", "network", "folder", *FILE), image="data/train/good/b.png"),
    Command("train", ("train", "simplenet", "data", "--output", "made.safetensors", "--epochs", "2", "--steps", "1",
                      *ALONE), ("made.safetensors",), moments=("decode", "network", *FILE), costly=True,
            image="data/train/good/b.png", beside=("made.safetensors.training",), resumes=True),
    Command("grid", (*GRID, "--weights", "0,1", "--limit", "1"), ("made",), folder=True, costly=True,
            moments=("decode", "network", "folder", *FILE), image="data/train/good/b.png", table="grid.csv",
            resumes=True),
    Command("grid-steps", (*GRID, "--steps"), ("made",), folder=True, costly=True,
            moments=("decode", "network", "folder", *FILE), image="data/train/good/b.png", table="steps.csv",
            resumes=True),
    Command("compare", ("compare", "data", "--methods", "patchcore", "--seeds", "1", "--output", "made", *ALONE),
            ("made",), folder=True, costly=True, moments=("folder", *FILE), table="results.csv", resumes=True),
    Command("bench", ("bench", "bank.safetensors", "data/test", "--limit", "1", "--rounds", "1", "--batches", "1",
                      "--json", "made.json"), ("made.json",), moments=("decode", "network", *FILE), bank=True,
            image="data/test/good/e.png"),
    Command("bench-samplers", ("bench-samplers", "f.npy", "--json", "made.json"), ("made.json",), moments=FILE),
    Command("report", ("report", "done", "--output", "made.html"), ("made.html",), moments=FILE),
    Command("export", ("export", "bank.safetensors", "--output", "made.pt2"), ("made.pt2",),
            moments=("network", *FILE), bank=True, costly=True),
    Command("select", SELECT, ("made.npy",), moments=FILE),
    Command("select-random", (*SELECT, "--method", "random"), ("made.npy",), moments=FILE),
    Command("select-indices", (*SELECT, "--indices", "rows.npy"), ("made.npy", "rows.npy"), moments=FILE),
    Command("select-store", ("select", "store", "--count", "20", "--indices", "made.safetensors"),
            ("made.safetensors",), moments=FILE),
    Command("cluster", ("cluster", "store", "--clusters", "2", "--output", "made.safetensors"), ("made.safetensors",),
            moments=FILE),
    Command("train-proxy", ("train-proxy", "store", "--clusters", "clusters.safetensors", "--epochs", "3", "--output",
                            "made.safetensors"), ("made.safetensors",), moments=FILE,
            beside=("made.safetensors.training",)),
    Command("score", ("score", "store", "--clusters", "clusters.safetensors", "--output", "made.safetensors"),
            ("made.safetensors",), moments=FILE),
    Command("fit-indices", ("fit", "--features", "store", "--indices", "picks.safetensors", "--output",
                            "made.safetensors", "--workers", "0", "--device", "cpu"), ("made.safetensors",),
            moments=FILE),
    Command("threshold", ("threshold", "bank.safetensors", "0.3"), ("bank.safetensors",), moments=FILE, bank=True),
    Command("threshold-copy", ("threshold", "bank.safetensors", "0.3", "--output", "made.safetensors"),
            ("made.safetensors",), moments=FILE, bank=True),
    Command("calibrate", ("calibrate", "bank.safetensors", "data/train/good", "--output", "made.safetensors"),
            ("made.safetensors",), moments=("decode", "network", *FILE), bank=True, costly=True,
            image="data/train/good/b.png"),
    Command("update", ("update", "bank.safetensors", "data", "--output", "made.safetensors"), ("made.safetensors",),
            moments=("decode", "network", *FILE), bank=True, costly=True, image="data/train/good/b.png"),
    Command("merge", ("merge", "bank.safetensors", "bank.safetensors", "--output", "made.safetensors"),
            ("made.safetensors",), moments=FILE, bank=True),
    Command("check", ("check", "data"), moments=("decode",), image="data/train/good/b.png"),
    Command("plan", ("plan", "data", *TINY), moments=("decode", "network"), image="data/train/good/a.png"),
    Command("doctor", ("doctor",)),
)  # fmt: skip
BY_NAME = {command.name: command for command in COMMANDS}
WRITERS = tuple(command for command in COMMANDS if command.outputs)
FILES = tuple(command for command in WRITERS if not command.folder)
NEW = tuple(command for command in FILES if command.output not in command.argv[:2])  # not in place of what it reads
FOLDERS = tuple(command for command in WRITERS if command.folder)


def replaced(command: Command, old: str, new: str) -> tuple[str, ...]:
    """The command's arguments with one of them exchanged."""
    assert old in command.argv, f"{command.name} has no argument {old}"
    return tuple(new if part == old else part for part in command.argv)


def older(root: Path, command: Command) -> None:
    """Put an older result where the command writes: it must survive whatever fails."""
    for name in () if command.resumes else command.outputs:
        if command.folder:
            (root / name).mkdir()
            (root / name / command.table).write_bytes(b"older\n")
        elif not (root / name).exists():
            (root / name).write_bytes(b"older\n")
