"""select of a store: the picks that fit would make of it, and the file of them that fit --indices reads."""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from patchcore_fast.chain import read_chain
from patchcore_fast.cli.extract import quiet_rank
from patchcore_fast.cli.outputs import check_outputs_differ
from patchcore_fast.cli.sampling import report_table
from patchcore_fast.cli.selecting import made_sampler, rows_wanted, write_npy
from patchcore_fast.cli.together import joined, rank_here
from patchcore_fast.config.budget import percentage_of
from patchcore_fast.config.selection import SIZES
from patchcore_fast.errors import DataError

if TYPE_CHECKING:
    from patchcore_fast.config import PatchCoreConfig
    from patchcore_fast.feature_store import FeatureStore


def select_stored(
    args: argparse.Namespace,
    options: dict[str, Any],
    output: Path | None,
    numbers: Path | None,
    checkpoint: Path | None,
) -> None:
    """Pick rows as `fit --features` does, write them, say how far they reach.

    With --radius or --no-projection, which fit has not, and of features for a bank of each layer, the picks do not say
    what chose them.
    """
    from patchcore_fast.feature_store import FeatureStore

    rank = quiet_rank()
    with FeatureStore(args.features) as store, joined(args.rank_timeout) as group:
        shards = [(f"file of {args.features}", path) for path in Path(args.features).iterdir()]
        outputs = {"--output": output, "--indices": numbers, "--checkpoint": checkpoint}
        check_outputs_differ(outputs, shards if args.scores is None else [*shards, ("--scores", args.scores)])
        config = _settings(args, options, store)
        scores = {} if args.scores is None else _signals(args.scores, store)

        from patchcore_fast.model.choosing import select_store

        sampler = _unprojected(args, options, store) if args.no_projection else None
        begin = time.perf_counter()
        chosen, sampler, config = select_store(
            store, config, sampler=sampler, group=group, radius=args.radius, checkpoint=checkpoint, scores=scores
        )
        seconds = time.perf_counter() - begin
        if rank:
            return
        indices = chosen.indices.numpy()
        if output is not None:
            write_npy(output, store.take(indices))
        if numbers is not None and numbers.suffix == ".safetensors":
            from patchcore_fast.model.picks import picks_of

            apart = args.no_projection or args.radius is not None or config.selection.banks == "layer"
            made_by = None if apart else config
            picks_of(store, chosen, sampler, made_by, scores).save(numbers)
        elif numbers is not None:
            write_npy(numbers, indices)
    if checkpoint is not None:
        checkpoint.unlink(missing_ok=True)
    _say(args, store, chosen, sampler, seconds)
    print(f"Saved {' and '.join(str(path) for path in (output, numbers) if path is not None)}.")
    if numbers is not None:
        print(f"Next, a bank of them:  patchcore-fast fit --features {args.features} --indices {numbers} "
              "--output bank.safetensors")  # fmt: skip


def _settings(args: argparse.Namespace, options: dict[str, Any], store: FeatureStore) -> PatchCoreConfig:
    """The settings of the store with what was typed. DataError: another seed than it was made with."""
    config = store.config
    if args.seed not in (None, config.selection.seed):
        raise DataError(f"--seed: the features in {store.name} were made with {config.selection.seed}, got {args.seed}")
    if args.no_projection:
        return config.replace(device=args.device)
    given = {name: getattr(args, name) for name in SIZES if getattr(args, name) is not None}
    size = dict.fromkeys(SIZES) | given if given else {}
    return config.replace(
        sampler=args.sampler, sampler_options=options, prune_support=args.prune_support, device=args.device, **size
    )


def _signals(path: str, store: FeatureStore) -> dict[str, Any]:
    """What score wrote. DataError: as of `read_chain`; signals of other rows or that are not finite."""
    import torch

    file, n = read_chain(path, "scores", store), store.shape[0]
    found = {name: torch.from_numpy(file.array(name, "float32", (n,), path).copy()) for name in file.arrays}
    if wrong := [name for name, values in found.items() if not bool(values.isfinite().all())]:
        raise DataError(f"{path}: {wrong[0]} is not finite")
    return found


def _unprojected(args: argparse.Namespace, options: dict[str, Any], store: FeatureStore) -> Any:
    """The sampler of the arguments, which measures in all columns."""
    if args.ratio is args.budget is args.count is None:
        raise DataError("one of the arguments --ratio --budget --count is required with --no-projection")
    args.seed = store.config.selection.seed
    sampler, n = made_sampler(args, options), store.shape[0]
    count = rows_wanted(args, n, store.shape[1] * (2 if store.about["type"] == "float16" else 4))
    sampler.percentage = percentage_of(count, n) if args.ratio is None else args.ratio
    return sampler


def _say(args: argparse.Namespace, store: FeatureStore, chosen: Any, sampler: Any, seconds: float) -> None:
    (n, dim), ranks = store.shape, rank_here()[1]
    on = f" on {ranks} ranks" if ranks > 1 else ""
    print(f"Picked {len(chosen.indices):,} of {n:,} rows of {dim} numbers in {seconds:.2f} s{on}.")
    if args.verbose and (table := report_table([getattr(sampler, "report_", {})])):
        print(table)
    where = "" if chosen.projection is None else f" after projection to {chosen.projection.shape[1]} dimensions"
    if args.radius is not None and chosen.radius is not None and chosen.radius <= args.radius:
        print(f"All rows are within {args.radius:g} of these{where}.")
    elif chosen.radius is not None:
        print(f"Every row lies within {chosen.radius:.6g} of a picked row{where}.")
    else:
        print("The covering radius was not measured.")
