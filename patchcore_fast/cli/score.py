"""score: signals of all patches of a store, as a file."""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np

from patchcore_fast.chain import read_chain
from patchcore_fast.cli.chaining import GEOMETRY, SIGNALS
from patchcore_fast.cli.cluster import opened


def score(args: argparse.Namespace) -> None:
    """Compute signals, write them, show their spread."""
    wanted = args.signals
    if wanted == ("all",):
        wanted = SIGNALS if args.dynamics is not None else tuple(n for n in SIGNALS if n != "dynamics")
    trained = [name for name in wanted if name not in GEOMETRY]
    with opened(args, "clusters", "dynamics") as (store, output):
        files: dict[str, Any] = {}
        for kind in ("clusters", "dynamics"):
            path = getattr(args, kind)
            files[kind] = None if path is None else (read_chain(path, kind, store), path)

        from patchcore_fast.model.scored import score_store

        made = score_store(store, wanted, **files, seed=args.seed, device=args.device)
        made.save(output)
    print(f"Signals of {len(next(iter(made.arrays.values()))):,} patches:")
    width = max(map(len, made.arrays))
    print(f"{'':{width}}       5 %    median      95 %")
    for name, values in made.arrays.items():
        low, middle, high = np.percentile(values, (5, 50, 95))
        print(f"{name:{width}} {low:9.4g} {middle:9.4g} {high:9.4g}")
    if trained and args.dynamics is None:
        print(f"{', '.join(trained)}: of a short training here; train-proxy keeps one.")
    print(f"Saved {output}.")
    print(f"Next, a coreset:  patchcore-fast select {args.features} --scores {output} --sampler composite "
          "--indices picks.safetensors")  # fmt: skip
