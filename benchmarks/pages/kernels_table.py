"""Write the tables of docs/kernels.md: kernels, tiles, and what the compiler made of every variant for every card.

    TRITON_INTERPRET=0 python -m benchmarks.pages.kernels_table                # compiles all: minutes, and no GPU
    python -m benchmarks.pages.kernels_table --check --facts FACTS.json        # changes nothing; fails on a stale page

FACTS.json is what `python -m patchcore_fast.kernels.backends.triton_kernels.offline` writes. Registers and instructions
differ between versions of triton: with another one than that of the page, --check leaves the last table aside.
"""

from __future__ import annotations

import argparse
import ast
import json
import re
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import triton

from benchmarks import ROOT
from patchcore_fast.files import atomic_write
from patchcore_fast.kernels.backends.device.precision import FIRST_HALF
from patchcore_fast.kernels.backends.triton_kernels import tile_table
from patchcore_fast.kernels.backends.triton_kernels.catalogue import CAPABILITIES, KERNELS
from patchcore_fast.kernels.backends.triton_kernels.precision import choose_arithmetic
from patchcore_fast.kernels.tuning import PRECISIONS

FOLDER = ROOT / "kernels" / "backends" / "triton_kernels"
MARK = "<!-- {}:{} -->"
VERSION = re.compile(r"compiled with triton ([\w.+]+)")
Facts = dict[str, Any]


def kernels() -> str:
    """Each kernel and what it does: its docstring."""
    lines = ["| kernel | what it does |", "|---|---|"]
    for kernel in KERNELS:
        tree = ast.parse((FOLDER / f"{kernel.module}.py").read_text(encoding="utf-8"))
        node = next(n for n in tree.body if isinstance(n, ast.FunctionDef) and n.name == kernel.name)
        text = " ".join((ast.get_docstring(node) or SAID.get(kernel.key, "")).split())
        if not text:
            raise ValueError(f"{kernel.key} has no docstring, and nothing is said of it here")
        lines.append(f"| `{kernel.key}` | {text} |")
    return "\n".join(lines)


# Of kernels without a docstring.
SAID = {
    "frame.look_kernel": "The largest absolute value of a matrix, and whether all of it are integers.",
    "frame.pack_kernel": "Rows in the frame (centred, scaled, float32) and their squared norms, summed in float64.",
    "search.search_kernel": "Tiles of queries against tiles of the bank, keeping the smallest distances of each query.",
    "neighbours.reach_kernel": "Which of the rows kept may be neighbours, and which queries need more than those.",
    "neighbours.settle_kernel": "The exact distances of those rows.",
    "neighbours.rank_kernel": "The k nearest of each query in order of (distance, row).",
    "rescue.merge_kernel": "Where programs shared a crowded query's bank: their top-k put together.",
    "rescue.rescue_kernel": "Crowded queries: exact distances to every bank row in reach, with a running top-k.",
}


def tiles() -> str:
    """The first choice of the table for every card, arithmetic and width."""
    head = ["kernel", "sm", "arithmetic", *(f"up to {b}" for b in tile_table.BUCKETS[:-1]), "wider"]
    lines = [head, ["---"] * len(head)]
    for kernel in tile_table.KERNELS:
        for capability in CAPABILITIES:
            card = capability // 10, capability % 10
            modes = [choose_arithmetic(p, card, 128).mode for p in PRECISIONS] + ["half"] * (card >= FIRST_HALF)
            for mode in dict.fromkeys(modes):
                row = []
                for bucket in tile_table.BUCKETS:
                    t = tile_table.candidates(kernel, card, bucket, mode)[0]
                    row.append(f"{t.rows} x {t.others} x {t.depth}, {t.warps} w, {t.stages} st")
                lines.append([kernel, str(capability), mode, *row])
    return as_table(lines)


def machine(facts: list[Facts], version: str) -> str:
    """What was compiled: one line a variant and card."""
    head = ["kernel", "variant", "sm", "registers", "spills", "shared memory", "does", "16-byte loads"]
    lines = [head, ["---"] * len(head)]
    for f in sorted(facts, key=lambda f: [k.key for k in KERNELS].index(f["kernel"])):
        does = f["mma"] or (f"{f['fma32']} FFMA" if f["mode"] == "ieee" else "-")
        lines.append([
            f"`{f['kernel']}`", f["variant"], str(f["capability"]), f"{f['registers']} x {32 * f['warps']}",
            str(f["spills"]), f"{f['shared']:,}", does, f"{f['wide_loads']} of {f['loads']}",
        ])  # fmt: skip
    return f"{len(facts)} variants, compiled with triton {version}.\n\n{as_table(lines)}"


def as_table(lines: list[list[str]]) -> str:
    """Markdown."""
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def between(text: str, name: str, new: str) -> str:
    """`text` with `new` between the marks of that name.

    Raises
    ------
    ValueError : the page lacks the marks.
    """
    begin, end = MARK.format(name, "begin"), MARK.format(name, "end")
    if text.count(begin) != 1 or text.count(end) != 1:
        raise ValueError(f"the page must have one {begin} and one {end}")
    head, _, rest = text.partition(begin)
    _, _, tail = rest.partition(end)
    return f"{head}{begin}\n{new}\n{end}{tail}"


def main(argv: list[str] | None = None) -> None:
    """See above."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="fail where the page is stale; change nothing")
    parser.add_argument("--facts", type=Path, metavar="FILE", help="take these instead of compiling")
    parser.add_argument("--page", type=Path, default=ROOT / "docs" / "kernels.md", metavar="FILE")
    parser.add_argument("--jobs", type=int, default=2, metavar="N", help="processes that compile (default 2)")
    args = parser.parse_args(argv)
    if args.facts is not None:
        found = json.loads(args.facts.read_text(encoding="utf-8"))
    else:
        from patchcore_fast.kernels.backends.triton_kernels.offline import measure_all

        facts = measure_all(list(CAPABILITIES), args.jobs)
        found = {"triton": triton.__version__, "facts": [asdict(f) for f in facts]}
    text = args.page.read_text(encoding="utf-8")
    new = between(between(text, "kernels", kernels()), "tiles", tiles())
    written = VERSION.search(text)
    if not args.check or (written is not None and written[1] == found["triton"]):
        new = between(new, "machine", machine(found["facts"], found["triton"]))
    if args.check:
        if new != text:
            sys.exit(f"stale, run python -m benchmarks.pages.kernels_table: {args.page}")
        return
    with atomic_write(args.page, "w", encoding="utf-8") as f:
        f.write(new)


if __name__ == "__main__":
    main()
