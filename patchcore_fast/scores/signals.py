"""Every signal of the training patches in one call, whatever the sampler was: what `inspect --signals` looks at."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ..config.signals import chosen_signals
from ..inputs import Features
from ..kernels.surroundings import undisturbed
from ..progress import Progress, bar
from .change import proxy_change
from .clustering import KMeans, k_means
from .density import inverse, rarity, representativeness
from .difficulty import difficulty
from .foreign import support_distance
from .instability import noise_instability
from .layout import Layout
from .rows import CHUNK_SIZE, read_rows
from .support import support

CLUSTERS, NEIGHBOURS, ANCHORS = 64, 4, 1024  # as in `ELFSCoresetSampler`
NOISE = (0.05, 5)  # std and draws, as there
EXACT = 1 << 17  # rows up to which each is compared with all: more take minutes, and representatives speak for them
_ASKED = 1 << 14  # of which between two steps of the bar
_DYNAMICS = ("aum", "forgetting", "el2n")
_TRAINED = (*_DYNAMICS, "proxy")


@dataclass
class Signals:
    """What `signals` found.

    Attributes
    ----------
    values : name -> [N] float32 CPU tensor, in the order of the table.
    missing : name -> why it could not be computed of these rows.
    seconds : stage -> seconds; what several signals need (k-means, the training) counts once.
    notes : name -> how it was computed, where it could have been done in another way.
    """

    values: dict[str, Tensor] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    notes: dict[str, str] = field(default_factory=dict)

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Count the time of the block as that of a stage."""
        clock = time.perf_counter()
        yield
        self.seconds[stage] = self.seconds.get(stage, 0.0) + time.perf_counter() - clock


@undisturbed
def signals(
    features: Features,
    names: Any = "all",
    *,
    image_ids: Any = None,
    positions: Any = None,
    seed: int = 0,
    device: torch.device | str | None = None,
    chunk_size: int = CHUNK_SIZE,
    progress: Progress = None,
) -> Signals:
    """Scores of every row by the functions of this package, each in O(N) memory.

    representativeness, representativeness-mean: `representativeness` of 64 clusters and of the mean. rarity: `rarity`
    with 1,024 anchors; density: its inverse 1 / rarity, where rows that coincide with anchors count as the least rare
    one that does not. support: `support_distance`, and of more than 131,072 rows `support`, by representatives.
    aum, forgetting, el2n: `difficulty` on the clusters as pseudo-labels; proxy: `proxy_change` on the same.
    noise: `noise_instability`.

    Parameters
    ----------
    features : [N, D] floating ndarray or tensor.
    names : "all", or some of `config.signals.SIGNALS`; "views" is of images, not of rows (`model.view_instability`),
        and left out here.
    image_ids : [N] integers.  positions : [N, 3] integers, (image, row, column). Only support needs one of them.
    seed : of anchors, clusters, the training and noise.
    device : where to compute; None: where the features are.
    chunk_size : rows at a time; changes speed and memory only.
    progress : see `patchcore_fast.progress.bar`; one bar for each stage.

    Raises
    ------
    TypeError : wrong type or dtype.  ValueError : another name, wrong shape or range, rows that are not finite.
    """
    name = "signals"
    wanted = [x for x in chosen_signals(names) if x != "views"]
    n = read_rows(name, features, device, chunk_size).shape[0]
    layout = Layout.of(name, n, image_ids, positions)
    given: dict[str, Any] = {"seed": seed, "device": device, "chunk_size": chunk_size, "progress": progress}
    found, whole = Signals(), dict[str, Tensor]()
    clusters: KMeans | None = None
    if "representativeness" in wanted or any(x in wanted for x in _TRAINED):
        with found.timed("k-means"):
            clusters = k_means(features, min(n, CLUSTERS), **given)
    if "representativeness" in wanted:
        assert clusters is not None
        with found.timed("representativeness"):
            whole["representativeness"] = representativeness(features, clusters=clusters, **given)
    if "representativeness-mean" in wanted:
        with found.timed("representativeness"):
            whole["representativeness-mean"] = representativeness(features, mode="global", **given)
    if "rarity" in wanted or "density" in wanted:
        if n < 2:
            found.missing |= dict.fromkeys(("rarity", "density"), "one row has no neighbours")
        else:
            with found.timed("rarity"):
                k = min(NEIGHBOURS, min(n, ANCHORS) - 1)
                whole["rarity"] = rarity(features, k=k, anchors=min(n, ANCHORS), **given)
            whole["density"] = inverse(whole["rarity"])
    if "support" in wanted:
        with found.timed("support"):
            _support(features, layout, given, found, whole)
    if any(x in wanted for x in _TRAINED):
        assert clusters is not None
        if len(clusters.labels.unique()) < 2:
            found.missing |= dict.fromkeys(_TRAINED, "all rows are in one cluster: there is nothing to tell apart")
        else:
            whole |= _trained(features, clusters, wanted, given, found)
    if "noise" in wanted:
        with found.timed("noise"):
            whole["noise"] = noise_instability(features, *NOISE, seed, chunk_size=chunk_size, progress=progress)
    found.values = {x: whole[x] for x in wanted if x in whole}
    found.missing = {x: found.missing[x] for x in wanted if x in found.missing}
    return found


def _trained(
    features: Features, clusters: KMeans, wanted: Sequence[str], given: dict[str, Any], found: Signals
) -> dict[str, Tensor]:
    made: dict[str, Tensor] = {}
    if any(x in wanted for x in _DYNAMICS):
        with found.timed("training"):
            dynamics = difficulty(features, labels=clusters.labels, **given)
        made |= {x: getattr(dynamics, x) for x in _DYNAMICS}
    if "proxy" in wanted:
        with found.timed("proxy"):
            made["proxy"] = proxy_change(features, labels=clusters.labels, **given)
    return made


def _support(
    features: Features,
    layout: Layout | None,
    given: dict[str, Any],
    found: Signals,
    whole: dict[str, Tensor],
) -> None:
    if layout is None:
        found.missing["support"] = "nothing says which image a row is of"
        return
    n, images = len(layout.image), layout.images
    if images < 2:
        found.missing["support"] = "one image has no other that could support it"
        return
    place = {"device": given["device"], "chunk_size": given["chunk_size"]}
    if n > EXACT and images > 2:
        with bar(None, "support", given["progress"]) as done:
            whole["support"] = support(features, image_ids=layout.image, seed=given["seed"], progress=done.at,
                                       **place).distance  # fmt: skip
        found.notes["support"] = "by the representatives of each image: the set is too large to compare all rows"
        return
    found.notes["support"] = "each row with all rows of other images"
    distance = torch.empty(n, dtype=torch.float32)
    with bar(n, "support", given["progress"]) as done:
        for asked in torch.arange(n).split(_ASKED):
            distance[asked] = support_distance(features, asked, image_ids=layout.image, **place).distance
            done.update(len(asked))
    whole["support"] = distance
