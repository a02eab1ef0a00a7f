"""cluster, train-proxy and score: their arguments, which no heavy import must wait for."""

from __future__ import annotations

import argparse
from collections.abc import Callable

from patchcore_fast.config.base import nearest
from patchcore_fast.config.running import device

# model.scored's and model.chained's (a test compares)
SIGNALS = ("representativeness", "rarity", "instability", "support", "difficulty", "forgetting", "el2n", "dynamics")
GEOMETRY = SIGNALS[:4]
LEVELS, METHODS = ("image", "patch"), ("kmeans", "heads")
DEFAULT = "representativeness,rarity,difficulty"


def signals(text: str) -> tuple[str, ...]:
    """`rarity,difficulty`, or `all`."""
    found = tuple(part.strip() for part in text.split(",")) if text != "all" else ("all",)
    if wrong := [name for name in found if name not in (*SIGNALS, "all")] or (["all"] if "all" in found[1:] else []):
        raise argparse.ArgumentTypeError(
            f"must be all or some of {','.join(SIGNALS)}, got {wrong[0]!r}{nearest(wrong[0], SIGNALS)}"
        )
    return found


def add_chain(command: Callable[..., argparse.ArgumentParser]) -> None:
    """The three commands. command : of `parser.build_parser`."""
    text = "group the images or patches of a store: pseudo-labels for train-proxy"
    example = "cluster bottles.store --output clusters.safetensors"
    cluster = command("cluster", ("cluster", "cluster"), text, example)
    _common(cluster, "file of labels")
    cluster.add_argument("--level", choices=LEVELS,
                         help="images by their global embeddings (default), or patches by their features")  # fmt: skip
    cluster.add_argument("--method", choices=METHODS,
                         help="k-means (default), or for images clustering heads (TEMI)")  # fmt: skip
    cluster.add_argument("--clusters", type=int, metavar="N", help="at most so many (default 10)")
    cluster.add_argument("--labels", metavar="FILE",
                         help="labels of your own instead: .npy of integers, one for each image or patch, or .csv of "
                              "image,label")  # fmt: skip

    example = "train-proxy bottles.store --clusters clusters.safetensors --output dynamics.safetensors"
    run = ("train_proxy", "train_proxy")
    train = command(
        "train-proxy", run, "train a small network on the groups and record how hard each image or patch is", example
    )
    train.set_defaults(resumes=True)
    _common(train, "file of dynamics", "; an interrupted run goes on from FILE.training beside it")
    train.add_argument("--clusters", required=True, metavar="FILE", help="what cluster wrote")
    train.add_argument("--epochs", type=int, default=10, metavar="N", help="passes over the rows (default 10)")

    score = command("score", ("score", "score"), "compute signals of all patches of a store",
                    "score bottles.store --dynamics dynamics.safetensors --output scores.safetensors")  # fmt: skip
    _common(score, "file of signals")
    score.add_argument("--signals", type=signals, default=signals(DEFAULT), metavar="NAMES",
                       help=f"all, or some of {', '.join(SIGNALS)} (default {DEFAULT})")  # fmt: skip
    score.add_argument("--clusters", metavar="FILE", help="what cluster wrote")
    score.add_argument("--dynamics", metavar="FILE", help="what train-proxy wrote; without, a short training is made")


def _common(parser: argparse.ArgumentParser, what: str, more: str = "") -> None:
    parser.add_argument("features", metavar="STORE", help="what extract wrote")
    parser.add_argument("--output", required=True, metavar="FILE", help=f"{what} to write (.safetensors){more}")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of random choices (default 0)")
    parser.add_argument("--device", type=device, metavar="D", help="cpu, cuda, ...; default cpu")
