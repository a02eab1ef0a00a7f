"""Exact search in a prepared bank beside today's search and faiss's brute force, on real features and on Gaussian rows.

    python -m benchmarks.speed.search_prepared SET --json benchmarks/results/DEVICE/search_prepared.json
    python -m benchmarks.speed.search_prepared SET --backbone vit_small_patch14_dinov2 --weights FILE --json FILE
    python -m benchmarks.speed.search_prepared --gaussian M N D --json FILE
    python -m benchmarks.speed.search_prepared --shown benchmarks/results/*/search_prepared*.json --page docs/search.md

SET is a folder in MVTec layout. Patches of training images give banks of several sizes (random rows, as pipelines
without a coreset have them), patches of test images are the queries; `--gaussian M N D` adds rows where nothing can be
left out. In every turn neighbours and distances of each method are compared, so that those of a prepared bank are once
it has its short rows: ours bit for bit with one another, and on some queries with float64 brute force; faiss's
distances to 10^-3. Where they differ no times are shown. Methods take turns, ours with each of
the instruction sets that `--isas` names; medians are shown. faiss runs in processes of its own, one for each of the
sets. For avx2 its loops (FAISS_SIMD_LEVEL, or the module its loader picks) and its OpenBLAS (OPENBLAS_CORETYPE) are
held to AVX2 before they are loaded, and asked afterwards what they use. A prepared bank is searched until its way is
settled before it is timed. The share is that of products: in full, along short rows by their length, and settled.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import multiprocessing
import os
import re
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.harness import records
from benchmarks.harness.environment import describe
from benchmarks.pages.render import with_table
from patchcore_fast.data import make_loader, scan
from patchcore_fast.files import atomic_write
from patchcore_fast.kernels import knn, prepare
from patchcore_fast.kernels.knn.reference import knn_reference
from patchcore_fast.model import PatchCore, PatchCoreConfig

CHECKED = 4  # queries against float64 brute force
WARM = 4  # turns before times count: by then short rows are made and both ways timed
VARIABLE = "PATCHCORE_FAST_ISA"
MARKS = ("<!-- search_prepared:begin -->", "<!-- search_prepared:end -->")
NAMED = {"avx2": "AVX2", "auto": "all"}  # instruction sets, on the page
HELD = {"avx2": {"FAISS_SIMD_LEVEL": "AVX2", "FAISS_OPT_LEVEL": "AVX2", "OPENBLAS_CORETYPE": "Haswell"}, "auto": {}}
WITHIN_AVX2 = {"faiss": {"AVX2", "NONE"}, "openblas": {"Haswell", "Zen"}}  # what it may say that it uses
Search = Callable[[], tuple[float, Tensor, Tensor]]  # seconds, distances, rows


def features(model: PatchCore, images: list[Any], rows: int) -> Tensor:
    """At least so many patches, if there are."""
    found: list[Tensor] = []
    for batch in make_loader(images, model.config.resize, None, 4):
        found.append(model.extractor(batch["image"])[0].cpu())
        if sum(map(len, found)) >= rows:
            break
    return torch.cat(found)


def timed(search: Callable[[], tuple[Tensor, Tensor]]) -> tuple[float, Tensor, Tensor]:
    start = time.perf_counter()
    distance, rows = search()
    return time.perf_counter() - start, distance, rows


def used_by_faiss() -> dict[str, str]:
    """Instruction set of faiss's own loops; the processor whose kernels its OpenBLAS took, "unknown" where unsaid."""
    import faiss

    config = getattr(faiss, "SIMDConfig", None)
    if config is not None:
        level = config.get_level_name()
    else:  # wheels with a module for each set
        picked = [name for name in ("avx512_spr", "avx512", "avx2") if f"faiss.swigfaiss_{name}" in sys.modules]
        level = picked[0].upper() if picked else "NONE"
    core = "unknown"
    for line in Path("/proc/self/maps").read_text().splitlines():
        if match := re.search(r"(/\S*faiss_cpu\.libs/libopenblas\S*)", line):
            named = ctypes.CDLL(match[1]).openblas_get_corename
            named.restype = ctypes.c_char_p
            core = named().decode()
            break
    return {"faiss": level, "openblas": core}


def serve(pipe: Any, threads: int) -> None:
    """The process: says what it uses, then takes (bank, query) and numbers of neighbours."""
    import faiss

    faiss.omp_set_num_threads(threads)
    pipe.send(used_by_faiss())
    index, query = None, None
    while (asked := pipe.recv()) is not None:
        if isinstance(asked, int):
            start = time.perf_counter()
            found = index.search(query, asked)  # type: ignore[union-attr]
            pipe.send((time.perf_counter() - start, *found))
        else:
            bank, query = asked
            index = faiss.IndexFlatL2(bank.shape[1])
            index.add(bank)
            del bank, asked


class Faiss:
    """faiss's brute force in a process of its own, held to an instruction set ("avx2", or "auto": as it comes).

    Raises
    ------
    SystemExit : it uses others all the same.
    """

    def __init__(self, isa: str) -> None:
        saved = {name: os.environ.get(name) for name in HELD["avx2"]}
        context = multiprocessing.get_context("spawn")
        self._pipe, other = context.Pipe()
        for name in saved:
            os.environ.pop(name, None)
        os.environ.update(HELD.get(isa, {}))
        try:  # a process has its environment from its start
            process = context.Process(target=serve, args=(other, torch.get_num_threads()), daemon=True)
            process.start()
        finally:
            for name, value in saved.items():
                os.environ.pop(name, None) if value is None else os.environ.update({name: value})
        other.close()
        self.uses: dict[str, str] = self._pipe.recv()
        if isa == "avx2" and any(self.uses[part] not in within for part, within in WITHIN_AVX2.items()):
            raise SystemExit(f"faiss was to be held to AVX2, and uses {self.uses}")

    def takes(self, bank: Tensor, query: Tensor) -> None:
        """What `search` is about from now on."""
        self._pipe.send((bank.numpy(), query.numpy()))

    def search(self, k: int) -> tuple[float, Tensor, Tensor]:
        """Seconds it took there, distances, rows."""
        self._pipe.send(k)
        seconds, squared, rows = self._pipe.recv()
        return seconds, torch.from_numpy(squared).clamp_min(0).sqrt(), torch.from_numpy(rows)

    def close(self) -> None:
        """End the process."""
        self._pipe.send(None)


def check(found: dict[str, tuple[Tensor, Tensor]], want: tuple[Tensor, Tensor]) -> None:
    """SystemExit where a method does not give the neighbours. want : of the first queries, by brute force."""
    first = next(f for name, f in found.items() if not name.startswith("faiss"))
    for name, (distance, rows) in found.items():
        if name.startswith("faiss"):
            good = torch.allclose(distance, first[0], rtol=1e-3, atol=1e-3 * float(first[0].mean()))
        else:
            good = torch.equal(distance, first[0]) and torch.equal(rows, first[1])
            good = good and torch.equal(distance[:CHECKED], want[0]) and torch.equal(rows[:CHECKED], want[1])
        if not good:
            raise SystemExit(f"{name}: not the neighbours of brute force; no times are shown")


def measure(
    name: str, bank: Tensor, query: Tensor, k: int, isas: list[str], rounds: int, faiss: Mapping[str, Faiss]
) -> dict[str, Any]:
    """Check, then time in turns."""
    methods: dict[str, tuple[str, Search]] = {}
    prepared, took = {}, {}
    for isa in isas:
        methods[f"faiss {isa}"] = isa, lambda isa=isa: faiss[isa].search(k)
        os.environ[VARIABLE] = isa
        start = time.perf_counter()
        prepare(bank, prune="partial")  # all of it at once; the searches below make it as they need it
        took[f"prepared {isa}"] = time.perf_counter() - start
        ready = prepared[f"prepared {isa}"] = prepare(bank)
        methods[f"knn {isa}"] = isa, lambda: timed(lambda: knn(query, bank, k))
        methods[f"prepared {isa}"] = isa, lambda ready=ready: timed(lambda: knn(query, ready, k))
    want = knn_reference(query[:CHECKED], bank, k)
    seconds: dict[str, list[float]] = {m: [] for m in methods}
    work: dict[str, list[dict[str, int]]] = {m: [] for m in prepared}
    for turn in range(-WARM, rounds):
        found = {}
        for m, (isa, search) in methods.items():
            os.environ[VARIABLE] = isa
            before = vars(prepared[m].work).copy() if m in prepared else {}
            taken, *of_it = search()
            found[m] = of_it[0], of_it[1]
            if turn >= 0:
                seconds[m].append(taken)
            if before:
                work[m].append({what: count - before[what] for what, count in vars(prepared[m].work).items()})
        check(found, want)
    rows = []
    for m, s in seconds.items():
        base = statistics.median(seconds[f"faiss {methods[m][0]}"])
        row: dict[str, Any] = {"method": m, "median_s": statistics.median(s), "runs_s": s,
                               "times_faster": base / statistics.median(s)}  # fmt: skip
        if m in prepared:
            # The usual way: in some turn the other one was tried.
            columns, done = prepared[m].columns, sorted(work[m][WARM:], key=lambda w: w["full"])
            w = done[len(done) // 2]
            row |= {
                "prepare_s": took[m],
                "bytes_of_bank": prepared[m].nbytes / bank.nbytes,
                "work": w,
                "columns": columns,
                "share": (w["full"] + w["settled"] + w["short"] * columns / bank.shape[1]) / w["pairs"],
            }
        rows.append(row)
    return {"rows_of": name, "bank": list(bank.shape), "queries": len(query), "k": k, "rows": rows}


def show(p: dict[str, Any]) -> None:
    """A Markdown table."""
    print(f"\n**{p['rows_of']}, {p['queries']:,} queries in {p['bank'][0]:,} x {p['bank'][1]}, k = {p['k']}**\n")
    print(
        "| method | time | times faster than faiss with this set | share of products | prepare |\n"
        "|---|---:|---:|---:|---:|"
    )
    for r in p["rows"]:
        share = f"{r['share']:.1%}" if "share" in r else "100 %"
        took = records.seconds(r["prepare_s"]) if "prepare_s" in r else ""
        print(f"| {r['method']} | {records.seconds(r['median_s'])} | {r['times_faster']:.2f} | {share} | {took} |",
              flush=True)  # fmt: skip


def page(results: Sequence[Mapping[str, Any]]) -> str:
    """A table of what stands between the marks of docs/search.md: a line for each problem of one device's results."""
    places = dict.fromkeys(f"{r['environment']['device']}; commit {r['environment']['commit']}, "
                           f"{r['environment']['date']}" for r in results)  # fmt: skip
    loads = ", ".join(f"{r['load_before']:.1f}" for r in results)
    isas = list(dict.fromkeys(isa for r in results for isa in r["options"]["isas"]))
    methods = {r["method"] for result in results for p in result["problems"] for r in p["rows"]}
    own = "faiss" not in methods  # a faiss for each of the sets
    heads = [f"{what}, {NAMED.get(isa, isa)}" for isa in isas
             for what in (*["faiss"] * own, "`knn`", "prepared", "share")]  # fmt: skip
    heads = heads if own else ["faiss", *heads]
    lines = [f"{'; '.join(places)}; load of the machine before: {loads}.", "",
             f"| queries x rows x columns, k | {' | '.join(heads)} |",
             f"|---|{'---:|' * len(heads)}"]  # fmt: skip
    for result in results:
        tokens = "tokens of " if result["options"]["weights"] != "auto" else ""
        of = f"{tokens}{result['options']['backbone']}"
        for p in result["problems"]:
            rows = {r["method"]: r for r in p["rows"]}
            cells = [] if own else [records.seconds(rows["faiss"]["median_s"])]
            for isa in isas:
                if own:
                    cells.append(records.seconds(rows[f"faiss {isa}"]["median_s"]))
                for method in (f"knn {isa}", f"prepared {isa}"):
                    cells.append(f"{records.seconds(rows[method]['median_s'])} ({rows[method]['times_faster']:.2g})")
                cells.append(f"{100 * rows[f'prepared {isa}']['share']:.0f} %")
            size = f"{p['queries']:,} x {p['bank'][0]:,} x {p['bank'][1]:,}, {p['k']}"
            lines.append(f"| {p['rows_of'] if p['rows_of'] == 'gaussian' else of}, {size} | {' | '.join(cells)} |")
    prepared = [(p["bank"], r) for result in results for p in result["problems"] for r in p["rows"] if "share" in r]
    largest = max(bank for bank, _ in prepared)
    told = {}
    for bank, r in prepared:
        if bank == largest:  # with each number of neighbours the same was prepared
            size = f"{r['bytes_of_bank']:.2f} times the bank's bytes"
            told.setdefault(NAMED.get(isa := r["method"].split()[1], isa), f"{records.seconds(r['prepare_s'])}, {size}")
    said = "; ".join(f"{isa}: {what}" for isa, what in told.items())
    uses = {isa: used for r in results for isa, used in r.get("faiss", {}).items()}
    held = "; ".join(
        f"{NAMED.get(isa, isa)}: loops of {u['faiss']}, OpenBLAS for {u['openblas']}" for isa, u in uses.items()
    )
    end = [f"faiss uses, {held}.", ""] * bool(held)
    return "\n".join([*lines, "", *end, f"Preparing {largest[0]:,} x {largest[1]} at once: {said}."])


def shown(files: Sequence[Path]) -> str:
    """The tables of these results, one for each folder of them (a device)."""
    folders: dict[Path, list[Any]] = {}
    for file in sorted(files, reverse=True):  # tokens first
        folders.setdefault(file.parent, []).append(json.loads(file.read_text(encoding="utf-8")))
    return "\n\n".join(page(results) for results in folders.values())


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?")
    parser.add_argument("--backbone", default=PatchCoreConfig().features.backbone)
    parser.add_argument("--weights", default="auto")
    parser.add_argument(
        "--columns", type=int, nargs="+", help="of each row, from the first on: all, or those of a block"
    )
    parser.add_argument("--sizes", type=int, nargs="+", default=[1000, 10_000, 100_000])
    parser.add_argument("--queries", type=int, default=1024)
    parser.add_argument("--neighbours", type=int, nargs="+", default=[1, 9])
    parser.add_argument("--gaussian", type=int, nargs=3, metavar=("M", "N", "D"))
    parser.add_argument("--isas", nargs="+", default=["avx2", "auto"])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--shown", type=Path, nargs="+", metavar="RESULT", help="measure nothing, put these on --page")
    parser.add_argument("--page", type=Path, metavar="FILE.md")
    args = parser.parse_args(argv)
    if args.shown:
        found = shown(args.shown)
        if args.page is None:
            return print(found)
        text = with_table(args.page.read_text(encoding="utf-8"), found, MARKS)
        with atomic_write(args.page, "w", encoding="utf-8") as f:
            f.write(text)
        return None
    load = os.getloadavg()[0]
    options = {name: value for name, value in vars(args).items() if name not in ("json", "shown", "page")}
    options |= {"folder": args.folder and args.folder.name, "weights": Path(args.weights).name}
    result: dict[str, Any] = {"benchmark": "search_prepared", "environment": describe("cpu"), "load_before": load,
                              "options": options, "problems": []}  # fmt: skip
    print(f"{torch.get_num_threads()} threads; load of the machine before: {load:.1f}")
    cases: list[tuple[str, Tensor, Tensor]] = []
    if args.folder:
        model = PatchCore(PatchCoreConfig(backbone=args.backbone, weights=args.weights, device="cpu"), progress=False)
        images = scan(args.folder)
        train, query = features(model, images.train, max(args.sizes)), features(model, images.test, args.queries)
        order = torch.randperm(len(train), generator=torch.Generator().manual_seed(0))
        for columns in args.columns or [train.shape[1]]:
            few = query[: args.queries, :columns].contiguous()
            cases += [(args.folder.name, train[order[:size], :columns].contiguous(), few) for size in args.sizes]
    if args.gaussian:
        m, n, d = args.gaussian
        draw = torch.Generator().manual_seed(0)
        cases.append(("gaussian", torch.randn(m, d, generator=draw), torch.randn(n, d, generator=draw)))
    asked = os.environ.get(VARIABLE)
    faiss = {isa: Faiss(isa) for isa in args.isas}
    result["faiss"] = {isa: one.uses for isa, one in faiss.items()}
    for name, bank, query in cases:
        for one in faiss.values():
            one.takes(bank, query)
        for k in args.neighbours:
            result["problems"].append(measure(name, bank, query, k, args.isas, args.rounds, faiss))
            show(result["problems"][-1])
    for one in faiss.values():
        one.close()
    os.environ.pop(VARIABLE) if asked is None else os.environ.update({VARIABLE: asked})
    if args.json:
        records.write(args.json, result, schema=None)


if __name__ == "__main__":
    main()
