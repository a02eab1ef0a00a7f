"""What prepared banks are used for: image scores without maps, bounds of neighbouring patches, bank files, loops.

    python -m benchmarks.speed.search_uses --bank ROWS.npy --queries PATCHES.npy --grid 32 32 --json FILE.json
    python -m benchmarks.speed.search_uses --shown FILE.json FILE.json --page docs/search-uses.md

ROWS are bank rows [M, D], PATCHES those of whole images [B * h * w, D], one row of an image's grid after the other:
`PatchCore.training_features(...).features` and what `extract` stores are such. Parts (`--parts`):

    highest      image scores by the highest patches alone, beside the full search of the same prepared bank
    neighbours   bank rows that short rows leave open: by a bound from a sixteenth of the bank (the cascade's first),
                 by the rows found for the left and the upper patch, by all of these, and by the true distance
    file         reading a bank file and preparing its bank, and what of it the directions and the packed rows take
    loops        where the same rows are searched again: folds of held-out images, the bank against itself, images
                 against each other; with prepared rows and without

Each is checked before its times are shown (scores, neighbours and distances bit for bit), methods take turns, and
medians are shown: of the clock, and of the processor time of all threads, which other work on the machine changes less.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.harness import records
from benchmarks.harness.environment import describe
from benchmarks.pages.render import with_table
from patchcore_fast.bank_file import digest
from patchcore_fast.files import atomic_write
from patchcore_fast.kernels import knn, prepare
from patchcore_fast.kernels.exact import paired_squared
from patchcore_fast.kernels.rounding import choose_frame
from patchcore_fast.kernels.short_rows import leading_directions, short_rows
from patchcore_fast.memory_bank import MemoryBank
from patchcore_fast.scoring import patch_scores
from patchcore_fast.search import HighestSearch

MARKS = ("<!-- search_uses:begin -->", "<!-- search_uses:end -->")
DIRECTIONS, SHARE = 31, 16  # of short rows; of the bank, that gives the cascade's first bound
LOOKED = 4  # images of which bounds are counted
WARM = 4  # searches before times count: by then short rows are made and both ways timed
Grid = tuple[int, int]


def turns(methods: Mapping[str, Callable[[int], Any]], rounds: int, same: Callable[[Any, Any], bool]) -> dict[str, Any]:
    """Times of each method in turns; SystemExit where one does not give what the first gives."""
    clock: dict[str, list[float]] = {m: [] for m in methods}
    worked: dict[str, list[float]] = {m: [] for m in methods}
    for turn in range(-1, rounds):
        first: Any = None
        for m, run in methods.items():
            begun, before = time.perf_counter(), time.process_time()
            found = run(max(turn, 0))
            taken = time.perf_counter() - begun, time.process_time() - before
            first = found if first is None else first
            if not same(found, first):
                raise SystemExit(f"{m}: not what {next(iter(methods))} gives; no times are shown")
            if turn >= 0:
                clock[m].append(taken[0])
                worked[m].append(taken[1])
    medians = {m: (statistics.median(clock[m]), statistics.median(worked[m])) for m in methods}
    base = medians[next(iter(methods))]
    return {m: {"median_s": c, "processor_s": p, "times_faster": base[0] / c, "times_less_work": base[1] / p,
                "runs_s": clock[m]} for m, (c, p) in medians.items()}  # fmt: skip


def equal(a: Any, b: Any) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def highest(bank: Tensor, images: Sequence[Tensor], k: int, rounds: int) -> dict[str, Any]:
    """Image scores by the maximum."""
    ready = prepare(bank)
    for number in range(WARM):
        knn(images[number % len(images)], ready, k)
    search, pairs = HighestSearch(ready), 0

    def few(number: int) -> tuple[Tensor]:
        nonlocal pairs
        before = ready.work.pairs
        dist, _ = search.search(images[number % len(images)], k, 1, 1, patch_scores)
        pairs += ready.work.pairs - before
        return (patch_scores(dist).max(),)

    def full(number: int) -> tuple[Tensor]:
        return (patch_scores(knn(images[number % len(images)], ready, k)[0]).max(),)

    rows = turns({"full": full, "highest": few}, rounds, equal)
    return {"k": k, "rows": rows, "searched": pairs / (len(bank) * (rounds + 1)), "patches": len(images[0])}


def neighbours(bank: Tensor, images: Sequence[Tensor], grid: Grid) -> dict[str, float]:
    """Mean number of bank rows a query that short rows leave open, by each bound."""
    frame = choose_frame("search_uses", bank=bank)[0]
    made = leading_directions(bank, frame.centre, frame.scale, (DIRECTIONS,), 0, True)
    if made is None:
        raise SystemExit("neighbours: rows without leading directions")
    shorten = partial(short_rows, centre=frame.centre, scale=frame.scale, directions=made[0])
    short, height, width = shorten(bank), *grid
    own = torch.arange(height * width)
    found: dict[str, list[float]] = {}
    excess: dict[str, list[float]] = {}
    for image in images[:LOOKED]:
        of_image = shorten(image)
        near = knn(image, bank, 1)[1][:, 0]
        to = {"first": short[::SHARE].clone()}
        by: dict[str, Tensor] = {"true": paired_squared(image, own, bank, near)}
        # The left patch's row; at the left edge the upper one's, and for the first patch its own first bound.
        first = torch.cdist(of_image, to["first"]).argmin(1) * SHARE
        left = torch.where(own % width > 0, near.roll(1), near.roll(width))
        up = torch.where(own >= width, near.roll(width), near.roll(1))
        left[0] = up[0] = first[0]
        by |= {name: paired_squared(image, own, bank, row) for name, row in
               (("first", first), ("left", left), ("up", up))}  # fmt: skip
        by["left and up"] = torch.minimum(by["left"], by.pop("up"))
        by["all three"] = torch.minimum(by["first"], by["left and up"])
        for lo in range(0, len(image), 128):
            bounds = torch.cdist(of_image[lo : lo + 128], short)
            for name, squared in by.items():
                limit = squared[lo : lo + 128].sqrt().float() * frame.scale
                found.setdefault(name, []).append(float((bounds <= limit[:, None] * (1 + 1e-5)).sum(1).double().mean()))
                excess.setdefault(name, []).append(
                    float((squared[lo : lo + 128] / by["true"][lo : lo + 128].clamp_min(1e-300)).sqrt().median())
                )
    return {f"{what}, {name}": statistics.mean(values) for what, part in (("rows", found), ("distance", excess))
            for name, values in part.items()}  # fmt: skip


def file(bank: Tensor, rounds: int) -> dict[str, Any]:
    """Seconds of processor time by what is done. What is packed is read as a file of as many bytes with its digest."""
    spent: dict[str, list[float]] = {}

    def timed(name: str, run: Callable[[], Any]) -> Any:
        before = time.process_time()
        found = run()
        spent.setdefault(name, []).append(time.process_time() - before)
        return found

    with tempfile.TemporaryDirectory() as folder:
        path, packed = Path(folder) / "bank.safetensors", Path(folder) / "packed"
        MemoryBank(bank, torch.arange(len(bank))).save(path)
        for _ in range(rounds):
            read = timed("load", lambda: MemoryBank.load(path))
            ready = timed("prepare", lambda read=read: prepare(read.features, prune="partial"))
            frame = timed("centre", lambda: choose_frame("search_uses", bank=bank)[0])
            at = frame.centre, frame.scale
            timed("directions", lambda at=at: leading_directions(bank, *at, (15, 31, 63), 127))
            if not packed.exists():
                packed.write_bytes(bytes(ready.nbytes))
            timed("read packed", lambda: digest({"packed": torch.from_numpy(np.fromfile(packed, np.uint8))}, {}))
    return {"packed_bytes": ready.nbytes, "bank_bytes": bank.nbytes,
            "processor_s": {name: statistics.median(values) for name, values in spent.items()}}  # fmt: skip


def loops(bank: Tensor, images: Sequence[Tensor], rounds: int) -> dict[str, Any]:
    """Searches of the same rows again."""
    few = images[: min(len(images), 10)]
    own = bank[:: max(1, len(bank) // 16_384)][:16_384].contiguous()

    def folds(count: int, ready: bool) -> Callable[[int], tuple[Tensor, ...]]:
        def run(turn: int) -> tuple[Tensor, ...]:
            rows = prepare(own) if ready else own
            return tuple(knn(few[(turn + i) % len(few)], rows, 3)[0] for i in range(count))

        return run

    def itself(ready: bool) -> Callable[[int], tuple[Tensor, ...]]:
        def run(turn: int) -> tuple[Tensor, ...]:
            rows = prepare(own) if ready else own
            return tuple(knn(part, rows, 4)[1] for part in own.split(2048))

        return run

    def mutual(prune: str | None) -> Callable[[int], tuple[Tensor, ...]]:
        queries = torch.cat(list(few))

        def run(turn: int) -> tuple[Tensor, ...]:
            return tuple(knn(queries, prepare(one, prune=prune) if prune else one, 1)[0] for one in few)

        return run

    size = f"{len(own):,} rows"
    return {
        f"1 image in {size}": turns({"plain": folds(1, False), "prepared": folds(1, True)}, rounds, equal),
        f"10 images in {size}": turns({"plain": folds(10, False), "prepared": folds(10, True)}, rounds, equal),
        f"{size} in themselves": turns({"plain": itself(False), "prepared": itself(True)}, rounds, equal),
        f"{len(few)} images of {len(few[0]):,} in each other": turns(
            {"plain": mutual(None), "prepared": mutual("auto"), "short rows": mutual("partial")}, rounds, equal),
    }  # fmt: skip


def page(results: Sequence[Mapping[str, Any]]) -> str:
    """What stands between the marks of docs/search-uses.md."""
    lines: list[str] = []
    for r in results:
        e = r["environment"]
        lines += [f"{r['name']}, {r['bank'][0]:,} x {r['bank'][1]}; {e['device']}, {e['threads']} threads, commit "
                  f"{e['commit']}, {e['date']}; load of the machine before: {r['load_before']:.1f}.", ""]  # fmt: skip
        if "highest" in r:
            lines += ["| image score, k | full | highest alone | times faster | times less work | patches searched |",
                      "|---|---:|---:|---:|---:|---:|"]  # fmt: skip
            for h in r["highest"]:
                full, few = h["rows"]["full"], h["rows"]["highest"]
                lines.append(
                    f"| {h['patches']:,} patches, {h['k']} | {records.seconds(full['median_s'])} | "
                    f"{records.seconds(few['median_s'])} | {few['times_faster']:.1f} | {few['times_less_work']:.1f} | "
                    f"{h['searched']:.0f} |"
                )
            lines.append("")
        if "neighbours" in r:
            lines += ["| bound of the nearest distance | over the true one | rows left open |", "|---|---:|---:|"]
            for name in ("first", "left", "left and up", "all three", "true"):
                n = r["neighbours"]
                lines.append(f"| {name} | {n[f'distance, {name}']:.2f} | {n[f'rows, {name}']:,.0f} |")
            lines.append("")
        if "file" in r:
            told = ", ".join(f"{name} {records.seconds(s)}" for name, s in r["file"]["processor_s"].items())
            lines += [f"A bank file, processor time: {told}; packed: {r['file']['packed_bytes'] / 1e6:.0f} MB beside "
                      f"{r['file']['bank_bytes'] / 1e6:.0f} MB of rows.", ""]  # fmt: skip
        if "loops" in r:
            lines += ["| the same rows again | plain | prepared | times faster | times less work |",
                      "|---|---:|---:|---:|---:|"]  # fmt: skip
            for what, rows in r["loops"].items():
                for m, row in list(rows.items())[1:]:
                    lines.append(
                        f"| {what}{', short rows at once' if m == 'short rows' else ''} | "
                        f"{records.seconds(rows['plain']['median_s'])} | {records.seconds(row['median_s'])} | "
                        f"{row['times_faster']:.2f} | {row['times_less_work']:.2f} |"
                    )
            lines.append("")
    return "\n".join(lines).rstrip()


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bank", type=Path, metavar="ROWS.npy")
    parser.add_argument("--queries", type=Path, metavar="PATCHES.npy")
    parser.add_argument("--grid", type=int, nargs=2, default=[32, 32], metavar=("H", "W"))
    parser.add_argument("--name", default="rows", help="of the features, for the page")
    parser.add_argument("--rows", type=int, default=100_000, help="of the bank, drawn at random")
    parser.add_argument("--parts", nargs="+", default=["highest", "neighbours", "file", "loops"])
    parser.add_argument("--neighbours", type=int, nargs="+", default=[1, 3, 9])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--shown", type=Path, nargs="+", metavar="RESULT", help="measure nothing, put these on --page")
    parser.add_argument("--page", type=Path, metavar="FILE.md")
    args = parser.parse_args(argv)
    if args.shown:
        found = page([json.loads(path.read_text(encoding="utf-8")) for path in args.shown])
        if args.page is None:
            return print(found)
        text = with_table(args.page.read_text(encoding="utf-8"), found, MARKS)
        with atomic_write(args.page, "w", encoding="utf-8") as f:
            f.write(text)
        return None
    if args.bank is None or args.queries is None:
        parser.error("--bank and --queries are wanted, or --shown")
    load = os.getloadavg()[0]
    whole = torch.from_numpy(np.load(args.bank, mmap_mode="c"))
    drawn = torch.randperm(len(whole), generator=torch.Generator().manual_seed(0))[: args.rows]
    bank = whole[drawn].float().contiguous()
    images = torch.from_numpy(np.load(args.queries)).float().split(args.grid[0] * args.grid[1])
    result: dict[str, Any] = {"benchmark": "search_uses", "environment": describe("cpu"), "load_before": load,
                              "name": args.name, "bank": list(bank.shape)}  # fmt: skip
    for part in args.parts:
        if part == "highest":
            result[part] = [highest(bank, images, k, args.rounds) for k in args.neighbours]
        elif part == "neighbours":
            result[part] = neighbours(bank, images, tuple(args.grid))
        elif part == "file":
            result[part] = file(bank, min(args.rounds, 3))
        else:
            result[part] = loops(bank, images, min(args.rounds, 3))
        print(page([{**{n: result[n] for n in ("environment", "load_before", "name", "bank")}, part: result[part]}]),
              flush=True)  # fmt: skip
        if args.json:
            records.write(args.json, result, schema=None)


if __name__ == "__main__":
    main()
