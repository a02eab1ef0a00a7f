"""train-proxy: the training dynamics of a small network on labels, as a file."""

from __future__ import annotations

import argparse

from patchcore_fast.chain import read_chain
from patchcore_fast.cli.cluster import opened
from patchcore_fast.cli.outputs import check_outputs_differ, writable_file
from patchcore_fast.errors import DataError

_SHOWN = 12  # epochs in the table


def train_proxy(args: argparse.Namespace) -> None:
    """Train, go on where an earlier call ended, write the trajectories, show how loss and accuracy went."""
    if args.epochs < 1:
        raise DataError(f"--epochs must be at least 1, got {args.epochs}")
    with opened(args, "clusters") as (store, output):
        read_chain(args.clusters, "clusters", store)  # before torch is imported
        from patchcore_fast.model.chained import train_store, training_file

        kept = writable_file(training_file(output))
        check_outputs_differ({"--output": output, "what is kept beside it": kept}, [("--clusters", args.clusters)])
        begun = kept.exists()
        made, found = train_store(
            store, args.clusters, output, epochs=args.epochs, seed=args.seed, device=args.device
        )  # fmt: skip
    if begun:
        print(f"Went on from {kept}.")
    level = "images" if made.settings["level"] == "image" else "patches"
    print(f"{found.epochs} epochs over {found.loss.shape[1]:,} {level}:")
    print("epoch   loss  accuracy")
    step = max(1, -(-found.epochs // _SHOWN))
    for epoch in sorted({*range(0, found.epochs, step), found.epochs - 1}):
        loss, right = float(found.loss[epoch].double().mean()), float(found.correct[epoch].double().mean())
        print(f"{epoch + 1:5} {loss:6.3f} {100 * right:8.1f} %")
    print(f"Saved {output}.")
    print(f"Next, signals of the patches:  patchcore-fast score {args.features} --dynamics {output} "
          "--output scores.safetensors")  # fmt: skip
