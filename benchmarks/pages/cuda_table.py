"""Write the tables of docs/cuda.md: kernels, and what nvcc made of each of them for every card.

    python -m benchmarks.pages.cuda_table            # compiles csrc/cuda for all architectures: minutes, and no GPU
    python -m benchmarks.pages.cuda_table --check    # changes nothing; fails where the page lists other kernels than
                                                     # the sources have
    python -m benchmarks.pages.cuda_table --facts --arch 86 > FACTS.json

Registers and spills are what cuobjdump reads in the machine code, instructions are counted there: how often they stand
in the code, not how often they run. cuobjdump is the toolkit's, or the one that comes with triton.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks import ROOT
from patchcore_fast.files import atomic_write

SOURCES = ROOT / "csrc" / "cuda"
PAGE = ROOT / "docs" / "cuda.md"
ARCHS = (75, 80, 86, 89, 90, 100, 120)
FLAGS = ("-std=c++17", "-O3", "-DNDEBUG", "-fmad=false")  # as csrc/CMakeLists.txt: tests/cuda/test_table.py compares
MARK = "<!-- {}:{} -->"
VERSION = re.compile(r"compiled with nvcc ([\d.]+)")
_KERNEL = re.compile(
    r"((?:^//[^\n]*\n)*)"  # the comment above it
    r"(?:^template *<[^\n]*>\s*)?"
    r"^(?:static )?__global__ void\s+(?:__launch_bounds__\([^\n]*?\)\s*)?(\w+)\(",
    re.MULTILINE,
)
_USAGE = re.compile(r"Function (\S+):\s+REG:(\d+) STACK:(\d+) SHARED:(\d+) LOCAL:(\d+)")
# What is counted: name, instructions.
COUNTS = {
    "spills": r"(?:STL|LDL)\b",
    "loads": r"(?:LDG|LDGSTS)\b",
    "wide_loads": r"(?:LDG|LDGSTS)\.[\w.]*128",
    "shared_loads": r"LDS\b",
    "wide_shared": r"LDS\.[\w.]*128",
    "matrix_loads": r"LDSM\b",
    "ffma": r"FFMA2?\b",
    "hmma": r"HMMA\b",
    "hmma_half": r"HMMA\.16816\.F32\b",
    "unpacked": r"HADD2\.F32\b",  # float16 made float32
    "dfma": r"DFMA\b",
    "calls": r"CALL\b",
}


@dataclass(frozen=True)
class Facts:
    """What a compiled kernel takes and does; `counts` are instructions of its machine code by the names of COUNTS."""

    kernel: str  # "file.name", with template arguments
    arch: int
    registers: int  # of a thread
    stack: int  # bytes of a thread
    counts: dict[str, int]

    @property
    def name(self) -> str:
        """Without template arguments."""
        return self.kernel.partition("<")[0]


def sources() -> list[Path]:
    """The CUDA sources."""
    return sorted(SOURCES.glob("*.cu"))


def kernels() -> dict[str, str]:
    """Every kernel in the sources, "file.name" -> the comment that stands above it."""
    found = {}
    for path in sources():
        for match in _KERNEL.finditer(path.read_text(encoding="utf-8")):
            key = f"{path.stem}.{match[2]}"
            found[key] = " ".join(line.removeprefix("//").strip() for line in match[1].splitlines()) or SAID.get(
                key, ""
            )
    return found


# Of kernels without a comment of their own: what their files say at the top.
SAID = {
    "device.probe_kernel": "Nothing: whether it could be launched says whether the library fits the card.",
    "search.search_kernel": "Tiles of queries against tiles of the bank, keeping the smallest distances of each query.",
    "rescue.rescue_kernel": "Crowded queries: exact distances to every bank row in reach, with a running top-k.",
}


def tool(name: str) -> str:
    """A program of the CUDA toolkit, or of triton.

    Raises
    ------
    SystemExit : there is none.
    """
    home = os.environ.get("CUDA_HOME") or "/usr/local/cuda"
    path = os.pathsep.join([os.environ.get("PATH", ""), f"{home}/bin"])
    if found := shutil.which(name, path=path):
        return found
    triton = importlib.util.find_spec("triton")
    if triton is not None and triton.origin:
        beside = Path(triton.origin).parent / "backends" / "nvidia" / "bin" / name
        if beside.exists():
            return str(beside)
    raise SystemExit(f"{name}: neither in PATH, nor in CUDA_HOME, nor with triton")


def nvcc_version() -> str:
    """Of the nvcc in PATH or CUDA_HOME."""
    said = subprocess.run([tool("nvcc"), "--version"], capture_output=True, text=True, check=True).stdout
    found = re.search(r"\bV([\d.]+)", said)
    if found is None:
        raise SystemExit(f"nvcc says no version: {said.strip()}")
    return found[1]


def measure(path: Path, arch: int) -> list[Facts]:
    """Compile one file for one architecture, and read what came out."""
    with tempfile.TemporaryDirectory() as folder:
        cubin = f"{folder}/{path.stem}.cubin"
        defined = [f"-DPCF_CUDA_ARCH_LIST={arch}", f"-DPCF_CUDA_PTX={arch}"]  # what the module says of itself
        command = [
            tool("nvcc"),
            "-cubin",
            f"-arch=sm_{arch}",
            *FLAGS,
            *defined,
            f"-I{ROOT / 'csrc'}",
            "-o",
            cubin,
            str(path),
        ]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(f"{path.name} for sm_{arch}: {done.stderr[-2000:]}")
        return facts_of(Path(cubin), path.stem, arch)


def facts_of(compiled: Path, stem: str, arch: int) -> list[Facts]:
    """What a file holds for one architecture that nvcc made of `stem`.cu, be it an object of the build; may be none."""
    machine, usage = (
        subprocess.run([tool("cuobjdump"), what, "-arch", f"sm_{arch}", str(compiled)], capture_output=True, text=True,
                       check=True).stdout
        for what in ("-sass", "-res-usage")
    )  # fmt: skip
    bodies = dict(re.findall(r"Function : (\S+)\n(.*?)(?=\n\s*Function : |\Z)", machine, re.DOTALL))
    found = []
    for mangled, registers, stack, _, _ in _USAGE.findall(usage):
        counts = {n: len(re.findall(rf"\b{p}", bodies.get(mangled, ""))) for n, p in COUNTS.items()}
        found.append(Facts(f"{stem}.{readable(mangled)}", arch, int(registers), int(stack), counts))
    return sorted(found, key=lambda f: f.kernel)


# Template arguments by their names: the enumerators in their order.
WORDS = {
    "Mode": ("ffma", "tf32x3", "half", "brain", "expanded"),
    "Source": ("direct", "halves", "any"),
    "Type": ("f16", "bf16", "f32", "f64"),
}


def readable(mangled: str) -> str:
    """Name and template arguments, without namespaces, parameters and casts."""
    said = subprocess.run([tool("c++filt"), mangled], capture_output=True, text=True, check=True).stdout.strip()
    said = re.sub(r"\(anonymous namespace\)::|pcf::|cuda::|^void ", "", said)
    for kind, words in WORDS.items():
        said = re.sub(rf"\({kind}\)(\d+)", lambda m, words=words: words[int(m[1])], said)
    said = re.sub(r"\((?:int|bool|unsigned int|\w+)\)(?=\d)", "", said)  # (int)3
    return re.sub(r"\(.*$", "", said, flags=re.DOTALL)


def measure_all(archs: Iterable[int], jobs: int) -> list[Facts]:
    """Every file for every architecture."""
    work = [(path, arch) for arch in archs for path in sources()]
    with concurrent.futures.ThreadPoolExecutor(jobs) as pool:
        return [fact for facts in pool.map(lambda item: measure(*item), work) for fact in facts]


def kernel_table() -> str:
    """Each kernel and what it does: the comment above it."""
    lines = ["| kernel | what it does |", "|---|---|"]
    for name, words in kernels().items():
        if not words:
            raise SystemExit(f"{name} has no comment above it")
        lines.append(f"| `{name}` | {words} |")
    return "\n".join(lines)


def machine_table(facts: list[Facts], version: str) -> str:
    """One line a kernel and list of template arguments: registers by architecture, then what the code is made of."""
    archs = sorted({f.arch for f in facts})
    head = ["kernel", *(f"sm_{a}" for a in archs), "spills", "16-byte loads", "16-byte shared loads", "does"]
    lines = [head, ["---"] * len(head)]
    for kernel in dict.fromkeys(f.kernel for f in facts):
        mine = {f.arch: f for f in facts if f.kernel == kernel}
        spills = {a: f.counts["spills"] for a, f in mine.items() if f.counts["spills"] or f.stack}
        said = ", ".join(f"sm_{a}: {n}" for a, n in spills.items()) or "none"
        line = [f"`{kernel}`", *(str(mine[a].registers) if a in mine else "-" for a in archs), said]
        line += [_range(mine.values(), "wide_loads", "loads"), _range(mine.values(), "wide_shared", "shared_loads")]
        lines.append([*line, _does(mine.values())])
    text = "\n".join("| " + " | ".join(line) + " |" for line in lines)
    return f"{len(lines) - 2} kernels by {len(archs)} architectures, compiled with nvcc {version}.\n\n{text}"


def _range(facts: Iterable[Facts], some: str, of: str) -> str:
    """ "4 of 9" on every architecture, or "2-4 of 8-9"."""
    said = []
    for name in (some, of):
        values = [f.counts[name] for f in facts]
        said.append(f"{min(values)}-{max(values)}" if min(values) < max(values) else str(values[0]))
    return f"{said[0]} of {said[1]}" if said[1] != "0" else "-"


def _does(facts: Iterable[Facts]) -> str:
    """Multiply-adds, where there are many: in float32 or on tensor cores."""
    said = []
    for name, word, many in (("hmma", "HMMA", 8), ("ffma", "FFMA", 16)):
        values = [f.counts[name] for f in facts]
        if max(values) >= many:
            said.append(f"{min(values)}-{max(values)} {word}" if min(values) < max(values) else f"{values[0]} {word}")
    return ", ".join(said) or "-"


def between(text: str, name: str, new: str) -> str:
    """`text` with `new` between the marks of that name."""
    begin, end = MARK.format(name, "begin"), MARK.format(name, "end")
    if text.count(begin) != 1 or text.count(end) != 1:
        raise SystemExit(f"the page must have one {begin} and one {end}")
    head, _, rest = text.partition(begin)
    return f"{head}{begin}\n{new}\n{end}{rest.partition(end)[2]}"


def main(argv: list[str] | None = None) -> None:
    """See above."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--check", action="store_true", help="change nothing; fail where the list of kernels is stale")
    p.add_argument("--facts", action="store_true", help="print what was measured as JSON, and change nothing")
    p.add_argument("--arch", type=int, nargs="+", default=list(ARCHS), help="default: all")
    p.add_argument("--jobs", type=int, default=2, metavar="N", help="compilers at a time (default 2)")
    args = p.parse_args(argv)
    if args.facts:
        print(json.dumps([asdict(f) for f in measure_all(args.arch, args.jobs)]))
        return
    text = PAGE.read_text(encoding="utf-8")
    new = between(text, "kernels", kernel_table())
    if args.check:
        sys.exit(f"stale, run python -m benchmarks.pages.cuda_table: {PAGE}" if new != text else None)
    new = between(new, "machine", machine_table(measure_all(args.arch, args.jobs), nvcc_version()))
    with atomic_write(PAGE, "w", encoding="utf-8") as f:
        f.write(new)


if __name__ == "__main__":
    main()
