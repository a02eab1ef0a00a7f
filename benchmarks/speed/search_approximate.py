"""Exact search in a prepared bank beside approximate indexes, and how its time grows with the bank.

    python -m benchmarks.speed.search_approximate --bank ROWS.npy --queries PATCHES.npy --json FILE.json
    python -m benchmarks.speed.search_approximate --shown FILE.json --page docs/search-uses.md --plot FILE.png

ROWS are bank rows [M, D], PATCHES queries [Q, D]. For each of `--sizes` the bank is so many rows drawn at random. At
`--beside` rows hnswlib and faiss's IndexIVFFlat join, each with the least `ef` or `nprobe` of a doubling series that
finds the nearest row of `--recall` of the queries; what is not installed is named and left out. `--dense SIDE` takes
ROWS as maps of SIDE x SIDE patches and interpolates them bilinearly until there are enough for the largest size: such
rows lie closer together than those of more images would, and the page says so.

Neighbours of the prepared bank are compared with plain `knn` on some queries before its times are shown. Methods take
turns; medians of the clock and of the processor time of all threads. Builds are timed once.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import math
import os
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.harness import records
from benchmarks.harness.environment import describe
from benchmarks.pages.render import with_table
from patchcore_fast.files import atomic_write
from patchcore_fast.kernels import knn, prepare

MARKS = ("<!-- search_approximate:begin -->", "<!-- search_approximate:end -->")
CHECKED, WARM = 16, 4  # queries compared with plain search; searches before times count
LINKS, BUILD = 16, 100  # hnswlib's M and ef_construction
Search = Callable[[], Tensor]  # -> rows [Q]


def rows_of(whole: Tensor, size: int, dense: int | None) -> tuple[Tensor, bool]:
    """Rows [size, D] drawn at random, and whether they had to be interpolated."""
    draw = torch.Generator().manual_seed(0)
    if size <= len(whole):
        return whole[torch.randperm(len(whole), generator=draw)[:size]].contiguous(), False
    if dense is None:
        raise SystemExit(f"{size:,} rows are wanted, {len(whole):,} are there: give --dense, or fewer --sizes")
    images = len(whole) // dense**2
    side = math.ceil(math.sqrt(size / images))
    out = torch.empty(images * side**2, whole.shape[1])
    for i in range(images):
        one = whole[i * dense**2 : (i + 1) * dense**2].view(1, dense, dense, -1).permute(0, 3, 1, 2)
        made = F.interpolate(one, size=(side, side), mode="bilinear", align_corners=False)
        out[i * side**2 : (i + 1) * side**2] = made[0].flatten(1).t()
    return out[:size], True


def least(index: Any, set_width: Callable[[int], None], search: Search, true: Tensor, recall: float) -> dict[str, Any]:
    """The least width of 8, 16, 32 ... that reaches the recall; found rows count by their number, ties as misses."""
    width, found = 8, 0.0
    while width <= 4096:
        set_width(width)
        found = float((search() == true).double().mean())
        if found >= recall:
            break
        width *= 2
    return {"width": width, "recall": found}


def hnsw(bank: Tensor, query: Tensor, true: Tensor, recall: float) -> tuple[Search, dict[str, Any]]:
    import hnswlib

    index = hnswlib.Index(space="l2", dim=bank.shape[1])
    index.init_index(len(bank), M=LINKS, ef_construction=BUILD, random_seed=0)
    index.set_num_threads(torch.get_num_threads())
    begun, before = time.perf_counter(), time.process_time()
    index.add_items(bank.numpy())
    built = {"build_s": time.perf_counter() - begun, "build_processor_s": time.process_time() - before}

    def search() -> Tensor:
        return torch.from_numpy(index.knn_query(query.numpy(), 1)[0].astype(np.int64))[:, 0]

    return search, built | least(index, index.set_ef, search, true, recall)


def ivf(bank: Tensor, query: Tensor, true: Tensor, recall: float) -> tuple[Search, dict[str, Any]]:
    import faiss

    faiss.omp_set_num_threads(torch.get_num_threads())
    lists = max(1, min(int(4 * len(bank) ** 0.5), len(bank) // 39))
    index = faiss.IndexIVFFlat(faiss.IndexFlatL2(bank.shape[1]), bank.shape[1], lists)
    index.cp.seed = 1
    begun, before = time.perf_counter(), time.process_time()
    index.train(bank.numpy())
    index.add(bank.numpy())
    built = {"build_s": time.perf_counter() - begun, "build_processor_s": time.process_time() - before, "lists": lists}

    def search() -> Tensor:
        return torch.from_numpy(index.search(query.numpy(), 1)[1])[:, 0]

    return search, built | least(index, lambda width: setattr(index, "nprobe", min(width, lists)), search, true, recall)


def flat(bank: Tensor, query: Tensor) -> Search:
    import faiss

    faiss.omp_set_num_threads(torch.get_num_threads())
    index = faiss.IndexFlatL2(bank.shape[1])
    index.add(bank.numpy())
    return lambda: torch.from_numpy(index.search(query.numpy(), 1)[1])[:, 0]


APPROXIMATE = {"hnswlib": ("hnswlib", hnsw), "faiss IVF": ("faiss", ivf)}


def measure(
    bank: Tensor, query: Tensor, beside: bool, brute: bool, recall: float, rounds: int
) -> list[dict[str, Any]]:  # fmt: skip
    """A row for each method."""
    begun, before = time.perf_counter(), time.process_time()
    prepare(bank, prune="partial")
    took = {"build_s": time.perf_counter() - begun, "build_processor_s": time.process_time() - before}
    ready = prepare(bank)
    for _ in range(WARM):
        true = knn(query, ready, 1)[1][:, 0]
    if not torch.equal(true[:CHECKED], knn(query[:CHECKED], bank, 1)[1][:, 0]):
        raise SystemExit("prepared: not the neighbours of plain search; no times are shown")
    methods: dict[str, Search] = {"prepared": lambda: knn(query, ready, 1)[1][:, 0]}
    facts: dict[str, dict[str, Any]] = {"prepared": {**took, "recall": 1.0}}
    if brute and importlib.util.find_spec("faiss"):
        methods["faiss flat"], facts["faiss flat"] = flat(bank, query), {"recall": 1.0}
    for name, (module, build) in APPROXIMATE.items() if beside else ():
        if importlib.util.find_spec(module) is None:
            print(f"{module}: not installed, left out")
            continue
        methods[name], facts[name] = build(bank, query, true, recall)
    clock: dict[str, list[float]] = {m: [] for m in methods}
    worked: dict[str, list[float]] = {m: [] for m in methods}
    work = vars(ready.work).copy()
    for _ in range(rounds):
        for m, search in methods.items():
            begun, before = time.perf_counter(), time.process_time()
            search()
            clock[m].append(time.perf_counter() - begun)
            worked[m].append(time.process_time() - before)
    done = {name: value - work[name] for name, value in vars(ready.work).items()}
    short = done["short"] * ready.columns / bank.shape[1]
    facts["prepared"]["share"] = (done["full"] + short + done["settled"]) / done["pairs"]
    return [{"method": m, "median_s": statistics.median(clock[m]), "processor_s": statistics.median(worked[m]),
             "runs_s": clock[m], **facts[m]} for m in methods]  # fmt: skip


def page(r: Mapping[str, Any]) -> str:
    """What stands between the marks of docs/search-uses.md."""
    e = r["environment"]
    lines = [f"{r['name']}, {r['queries']:,} queries, k = 1; {e['device']}, {e['threads']} threads, commit "
             f"{e['commit']}, {e['date']}; load of the machine before: {r['load_before']:.1f}.", "",
             "| rows | method | recall | time | processor time | share of products | building, processor time |",
             "|---|---|---:|---:|---:|---:|---:|"]  # fmt: skip
    for p in r["problems"]:
        for row in p["rows"]:
            share = f"{100 * row['share']:.1f} %" if "share" in row else ""
            built = records.seconds(row["build_processor_s"]) if "build_processor_s" in row else ""
            wide = f" ({row['width']})" if "width" in row else ""
            lines.append(
                f"| {p['rows_of_bank']:,}{' interpolated' if p['interpolated'] else ''} | {row['method']}{wide} | "
                f"{row['recall']:.3f} | {records.seconds(row['median_s'])} | {records.seconds(row['processor_s'])} | "
                f"{share} | {built} |"
            )
    return "\n".join(lines)


def draw(r: Mapping[str, Any], path: Path) -> None:
    """Processor time and share of products against the rows of the bank."""
    from patchcore_fast.report.plots import LINES, new_figure, quiet, save_figure

    figure = new_figure(8.0, 3.2)
    times, shares = figure.subplots(1, 2)
    for method, colour in zip(("prepared", "faiss flat", *APPROXIMATE), LINES, strict=False):
        found = [(p["rows_of_bank"], row["processor_s"] * 1e3) for p in r["problems"] for row in p["rows"]
                 if row["method"] == method]  # fmt: skip
        if found:
            times.plot(*zip(*found, strict=True), marker="o", color=colour, label=method)
    times.legend(frameon=False)
    shares.plot([p["rows_of_bank"] for p in r["problems"]], [100 * p["rows"][0]["share"] for p in r["problems"]],
                marker="o", color=LINES[0])  # fmt: skip
    for axes, label in ((times, "processor time, ms"), (shares, "products computed, %")):
        axes.set(xscale="log", yscale="log", xlabel="rows of the bank", ylabel=label)
        quiet(axes)
    save_figure(figure, path)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bank", type=Path, metavar="ROWS.npy")
    parser.add_argument("--queries", type=Path, metavar="PATCHES.npy")
    parser.add_argument("--name", default="rows", help="of the features, for the page")
    parser.add_argument("--sizes", type=int, nargs="+", default=[1000, 10_000, 100_000, 1_000_000])
    parser.add_argument("--beside", type=int, default=100_000, help="rows at which approximate indexes join")
    parser.add_argument("--brute", type=int, default=100_000, help="rows up to which faiss's brute force joins")
    parser.add_argument("--recall", type=float, default=0.99)
    parser.add_argument("--count", type=int, default=1024, help="of queries")
    parser.add_argument("--dense", type=int, metavar="SIDE")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--shown", type=Path, metavar="RESULT", help="measure nothing, put this on --page and --plot")
    parser.add_argument("--page", type=Path, metavar="FILE.md")
    parser.add_argument("--plot", type=Path, metavar="FILE.png")
    args = parser.parse_args(argv)
    if args.shown:
        result = json.loads(args.shown.read_text(encoding="utf-8"))
        if args.plot:
            draw(result, args.plot)
        if args.page is None:
            return print(page(result))
        text = with_table(args.page.read_text(encoding="utf-8"), page(result), MARKS)
        with atomic_write(args.page, "w", encoding="utf-8") as f:
            f.write(text)
        return None
    if args.bank is None or args.queries is None:
        parser.error("--bank and --queries are wanted, or --shown")
    load = os.getloadavg()[0]
    whole = torch.from_numpy(np.load(args.bank)).float()
    query = torch.from_numpy(np.load(args.queries)[: args.count]).float().contiguous()
    result = {"benchmark": "search_approximate", "environment": describe("cpu"), "load_before": load, "name": args.name,
              "queries": len(query), "columns": whole.shape[1], "recall": args.recall, "problems": []}  # fmt: skip
    for size in args.sizes:
        bank, interpolated = rows_of(whole, size, args.dense)
        if interpolated:
            whole = whole[:0]  # its memory goes back: the largest bank may want it
        rows = measure(bank, query, size == args.beside, size <= args.brute, args.recall, args.rounds)
        result["problems"].append({"rows_of_bank": size, "interpolated": interpolated, "rows": rows})
        del bank
        print(page({**result, "problems": result["problems"][-1:]}), flush=True)
        if args.json:
            records.write(args.json, result, schema=None)


if __name__ == "__main__":
    main()
