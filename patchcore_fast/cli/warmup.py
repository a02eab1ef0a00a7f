"""warmup: compile the Triton kernels before they are needed, and tune their tiles if asked."""

from __future__ import annotations

import argparse
from collections import Counter
from typing import Any

from patchcore_fast.errors import DataError


def warmup(args: argparse.Namespace) -> None:
    """Print seconds by kernel and call, and the total; say why where the kernels cannot run."""
    import torch

    from patchcore_fast.kernels.backends.triton_backend import TRITON

    device = torch.device(args.device)
    if any(dim < 1 for dim in args.dim):
        raise DataError(f"--dim must be at least 1, got {min(args.dim)}")
    if reason := TRITON.refuse(device):
        raise DataError(f"nothing to warm up on {device}: {reason}")
    if args.autotune and device.type != "cuda":
        raise DataError(f"--autotune wants a CUDA device, got {device}")

    from patchcore_fast.kernels.autotune.tuner import tune_all
    from patchcore_fast.kernels.autotune.warming import warm_up
    from patchcore_fast.kernels.backends.triton_kernels.tile_cache import cache_file

    halves = not {"float16", "bfloat16"}.isdisjoint(args.dtype)
    tuned = tune_all(device, args.dim, args.precision, halves=halves) if args.autotune else 0
    calls = warm_up(device, args.dim, [getattr(torch, name) for name in args.dtype], args.precision)
    kernels: Counter[str] = Counter()
    for call in calls:
        kernels.update(call.kernels)
    found = {
        "device": str(device),
        "calls": [vars(call) for call in calls],
        "kernels": dict(kernels.most_common()),
        "seconds": sum(call.first for call in calls),
        "tiles_tuned": tuned,
        "cache_file": str(cache_file()),
    }
    from patchcore_fast.report.tables import to_json

    print(to_json(found) if args.json else render(found))


def render(found: dict[str, Any]) -> str:
    """The findings as text for a terminal."""
    lines = ["Compiled, or loaded from triton's cache:"]
    width = max(map(len, found["kernels"]), default=0)
    lines += [f"  {name.ljust(width)} {seconds:7.2f} s" for name, seconds in found["kernels"].items()]
    if not found["kernels"]:
        lines = ["No kernel was compiled: all were loaded already, or Triton's interpreter runs them."]
    lines += ["", "First calls, and the same call again:"]
    lines += [f"  {c['first']:7.2f} s {1e3 * c['again']:9.2f} ms  {c['call']}" for c in found["calls"]]
    if found["tiles_tuned"]:
        lines += ["", f"Tiles tuned: {found['tiles_tuned']}, kept in {found['cache_file']}"]
    return "\n".join([*lines, "", f"First calls took {found['seconds']:.1f} s in all."])
