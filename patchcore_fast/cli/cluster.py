"""cluster: labels of the images or patches of a store, as a file."""

from __future__ import annotations

import argparse
import csv
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from patchcore_fast.cli.beforehand import need_pipeline
from patchcore_fast.cli.outputs import check_outputs_differ, writable_file
from patchcore_fast.errors import DataError
from patchcore_fast.feature_store import FeatureStore
from patchcore_fast.npy import Array, read_npy

if TYPE_CHECKING:
    from patchcore_fast.chain import ChainFile

_LARGEST = 1 << 28  # bytes of a list of labels


@contextmanager
def opened(args: argparse.Namespace, *reads: str) -> Iterator[tuple[FeatureStore, Path]]:
    """The store of a command of the chain and its output, which is none of the files that are read.

    reads : names of arguments that are such files.
    """
    output = writable_file(args.output)
    if output.suffix != ".safetensors":
        raise DataError(f"--output {args.output}: the file is safetensors, its name must end in .safetensors")
    if args.seed < 0 or args.seed >= 2**32:
        raise DataError(f"--seed must lie in 0..2**32 - 1, got {args.seed}")
    need_pipeline()
    with FeatureStore(args.features) as store:
        files = [(f"file of {args.features}", path) for path in Path(args.features).iterdir()]
        given = [(f"--{name}", getattr(args, name)) for name in reads if getattr(args, name) is not None]
        check_outputs_differ({"--output": output}, [*files, *given])
        yield store, output


def cluster(args: argparse.Namespace) -> None:
    """Write labels: by clustering, or those of a list."""
    if args.clusters is not None and args.clusters < 2:
        raise DataError(f"--clusters must be at least 2, got {args.clusters}")
    if args.labels is not None and (args.clusters is not None or args.method is not None):
        raise DataError("--labels: are given, --clusters and --method make some")
    if args.method == "heads" and args.level == "patch":
        raise DataError("--method heads: goes by embeddings of images, with --level image")
    with opened(args, "labels") as (store, output):
        from patchcore_fast.model.chained import cluster_store

        if args.labels is not None:
            made = _given(args, store)
        else:
            made = cluster_store(
                store, level=args.level or "image", method=args.method or "kmeans", clusters=args.clusters or 10,
                seed=args.seed, device=args.device,
            )  # fmt: skip
        made.save(output)
    counts = np.unique(made.arrays["labels"], return_counts=True)[1]
    level = "images" if made.settings["level"] == "image" else "patches"
    print(
        f"{len(made.arrays['labels']):,} {level} in {len(counts):,} clusters of {counts.min():,} to {counts.max():,}."
    )
    if len(counts) < 2:
        print("A single cluster teaches a proxy nothing: train-proxy wants two.")
    print(f"Saved {output}.")
    print(f"Next, how hard they are:  patchcore-fast train-proxy {args.features} --clusters {output} "
          "--output dynamics.safetensors")  # fmt: skip


def _given(args: argparse.Namespace, store: FeatureStore) -> ChainFile:
    from patchcore_fast.model.chained import labelled

    classes: list[str] = []
    if Path(args.labels).suffix.lower() == ".csv":
        labels, classes = _listed(args.labels, store)
    else:
        labels = read_npy(args.labels)
    try:
        return labelled(store, labels, classes, args.level)
    except DataError as error:
        raise DataError(f"{args.labels}: {error}") from error


def _listed(path: str, store: FeatureStore) -> tuple[Array, list[str]]:
    """Labels [I] of a list of image,label, and what they are called, in the order of their texts.

    Raises
    ------
    DataError : no such file, no list, an image without a label or with two.
    """
    try:
        if not Path(path).is_file():
            raise DataError(f"{path}: no such file")
        with open(path, newline="", encoding="utf-8-sig") as f:
            lines = [line for line in csv.reader(f.read(_LARGEST).splitlines()) if line]
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path}: is no list of image,label ({error})") from error
    known, found = set(store.images), dict[str, str]()
    for number, line in enumerate(lines, 1):
        if len(line) != 2:
            raise DataError(f"{path}: line {number} has {len(line)} fields, image,label are wanted")
        name, label = line[0].strip(), line[1].strip()
        if number == 1 and name not in known and (name, label) == ("image", "label"):
            continue
        if found.setdefault(name, label) != label:
            raise DataError(f"{path}: {name} has two labels, {found[name]} and {label}")
    if missing := [name for name in store.images if name not in found]:
        raise DataError(
            f"{path}: {missing[0]} has no label, nor have {len(missing) - 1:,} other images of {store.name}; names are "
            f"wanted as the store has them"
        )
    classes = sorted({found[name] for name in store.images})
    number_of = {label: number for number, label in enumerate(classes)}
    return np.array([number_of[found[name]] for name in store.images], np.int64), classes
