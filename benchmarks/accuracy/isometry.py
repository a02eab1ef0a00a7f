"""How far features are from turning with their image: patches of turned images matched, and covered by a coreset.

    python -m benchmarks.accuracy.isometry FOLDER [FOLDER ...] [--images 4] [--output FILE.json]

Images are turned by 90, 180 and 270 degrees and mirrored both ways, their patches put back to where they were:

    cosines     of a patch and its match, by layer: mean and 5 % quantile; beside them the mean of patches that do not
                belong together (a seeded permutation of the same image), for maps without negative numbers are never
                far apart
    radii       covering radius, on the patches of the turned image, of the first picks of greedy k-center from the
                patches of the image as it was, over that on its own patches; as a measure also with another image of
                the set in place of the turned one. 1: the turned image brings nothing that is not covered

of EfficientNet-Lite0, and of two Vision GNNs with random weights (no others are here: what their design keeps, not what
training makes of it). Features are those of the layers by default, "concat" and "graph". Nothing here is a time.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F

from benchmarks.harness import records
from benchmarks.harness.environment import describe
from patchcore_fast.config.families import defaults_of
from patchcore_fast.data import make_loader, scan
from patchcore_fast.features import Backbone, FeatureExtractor, FeatureSource
from patchcore_fast.features.vig import SHAPES, VisionGNN
from patchcore_fast.kernels import k_center_greedy
from patchcore_fast.model.views import FLIPS, ROTATIONS, undone

VIEWS = ROTATIONS | FLIPS
ANOTHER = "another image"
PICKS = (1, 2, 4, 8, 16, 32, 64, 128)
FUSIONS = ("concat", "graph")
QUANTILE = 0.05


class Kind(NamedTuple):
    """layers : whose maps are matched.  weights : of the network."""

    layers: tuple[int, ...]
    weights: str


NETWORKS = {
    "tf_efficientnet_lite0": Kind((1, 2, 3), "auto"),
    "vig_ti": Kind((0, 5, 11), "random"),
    "pvig_ti": Kind((0, 1, 2, 3), "random"),
}


def source_of(name: str, layers: tuple[int, ...], weights: str, side: int) -> FeatureSource:
    """The network with maps of these layers."""
    kind = VisionGNN if name in SHAPES else Backbone
    return kind(name, layers, weights, "cpu", 0, image_size=side)


def read(folder: Path, count: int, side: int) -> torch.Tensor:
    """[count, 3, side, side]: training images of a set, evenly taken."""
    known = scan(folder).train
    taken = [known[i] for i in np.linspace(0, len(known) - 1, count).round().astype(int)]
    return torch.cat([batch["image"] for batch in make_loader(taken, (side, side), None, count, 0)])


def matched(rows: Callable[[torch.Tensor], list[torch.Tensor]], images: torch.Tensor) -> Iterator[list[list[float]]]:
    """For each view, for each layer: mean, quantile and unmatched mean of the cosines.

    rows : images -> maps [B, C, h, w].
    """
    plain = [m.permute(0, 2, 3, 1).flatten(1, 2) for m in rows(images)]
    generator = torch.Generator().manual_seed(0)
    for view in VIEWS.values():
        found = []
        for m, own in zip(rows(view.change(images)), plain, strict=True):
            flat, grid = m.permute(0, 2, 3, 1).flatten(0, 2), (m.shape[2], m.shape[3])
            turned = undone(view, flat, grid).view(own.shape)
            cosine = F.cosine_similarity(own.double(), turned.double(), dim=2).flatten()
            other = turned[:, torch.randperm(own.shape[1], generator=generator)]
            apart = F.cosine_similarity(own.double(), other.double(), dim=2)
            found.append([float(cosine.mean()), float(cosine.quantile(QUANTILE)), float(apart.mean())])
        yield found


def covered(own: torch.Tensor, others: torch.Tensor) -> list[list[float]]:
    """Covering radii by the first PICKS from rows `own` [N, D]: of these rows, and of others [M, D] over that.

    The first number is the engine's: a pick's distance to the earlier ones when it was made is the radius before it.
    """
    found = k_center_greedy(own, max(PICKS) + 1, start=0)
    picks = own[found.indices[:-1]]
    nearest = torch.cdist(others.double(), picks.double()).cummin(dim=1).values.amax(dim=0)
    return [[float(found.radii[n]), float(nearest[n - 1]) / float(found.radii[n])] for n in PICKS]


def measure(name: str, folders: list[Path], count: int, side: int) -> dict[str, list[dict[str, Any]]]:
    """Rows of "cosines" and "radii" of a network, means over all images."""
    kind, layers = NETWORKS[name], defaults_of(name).layers
    plain = source_of(name, kind.layers, kind.weights, side)
    default = source_of(name, layers, kind.weights, side)  # type: ignore[arg-type]
    extractors = {f: FeatureExtractor(default, f, defaults_of(name).patch_size) for f in FUSIONS}

    def maps(images: torch.Tensor) -> list[torch.Tensor]:
        together = default(images)
        return [*plain(images), *(e.fuse(together) for e in extractors.values())]

    labels = [*(f"layer {n}" for n in kind.layers), *FUSIONS]
    cosines: dict[tuple[str, str], list[list[float]]] = {}
    radii: dict[tuple[str, str], list[list[list[float]]]] = {}
    for folder in folders:
        images = read(folder, count, side)
        for view, found in zip(VIEWS, matched(maps, images), strict=True):
            for label, values in zip(labels, found, strict=True):
                cosines.setdefault((label, view), []).append(values)
        for fusion, extractor in extractors.items():
            own = extractor(images).features.view(count, -1, extractor.dim)
            seen = {v: extractor(view.change(images)).features.view(own.shape) for v, view in VIEWS.items()}
            seen[ANOTHER] = own.roll(1, dims=0)
            for (view, rows), i in itertools.product(seen.items(), range(count)):
                radii.setdefault((fusion, view), []).append(covered(own[i], rows[i]))
    head = {"network": name, "weights": kind.weights}
    return {
        "cosines": [
            head | {"features": label, "view": view} | dict(zip(("mean", "low", "unmatched"), mean(v), strict=True))
            for (label, view), v in cosines.items()
        ],
        "radii": [
            head | {"features": fusion, "view": view, "own": own, "ratio": ratio}
            for (fusion, view), v in radii.items()
            for own, ratio in [np.array(v).mean(axis=0).T.tolist()]
        ],
    }


def mean(values: list[list[float]]) -> list[float]:
    """Of lists of the same numbers."""
    return [float(x) for x in np.array(values).mean(axis=0)]


def text(result: dict[str, Any]) -> str:
    """Means over the views, a line for each kind of features."""
    lines = []
    for name, features in dict.fromkeys((r["network"], r["features"]) for r in result["cosines"]):
        mine = [r for r in result["cosines"] if (r["network"], r["features"]) == (name, features)]
        values = mean([[r["mean"], r["low"], r["unmatched"]] for r in mine])
        lines.append(f"{name:24}{features:10}  cosine {values[0]:.3f}, low {values[1]:.3f}, apart {values[2]:.3f}")
    for row in result["radii"]:
        ratios = " ".join(f"{x:6.2f}" for x in row["ratio"])
        lines.append(f"{row['network']:24}{row['features']:10}{row['view']:24}{ratios}")
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> None:
    """Measure each network on images of all sets."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path, metavar="FOLDER", help="image sets, with train/good")
    parser.add_argument("--images", type=int, default=4, metavar="N", help="of each set, at least 2 (default 4)")
    parser.add_argument("--networks", nargs="+", choices=list(NETWORKS), default=list(NETWORKS), metavar="NAME")
    parser.add_argument("--image-size", type=int, metavar="PX", help="default by the network")
    parser.add_argument("--output", type=Path, metavar="FILE.json")
    args = parser.parse_args(argv)
    if args.images < 2:
        parser.error("--images must be at least 2, one is compared with another")
    options = {"images": args.images, "picks": list(PICKS), "quantile": QUANTILE, "image_size": args.image_size}
    result: dict[str, Any] = {
        "benchmark": "isometry", "environment": describe("cpu"),
        "options": options | {"sets": [f.resolve().name for f in args.folders]}, "cosines": [], "radii": [],
    }  # fmt: skip
    for name in args.networks:
        side = args.image_size or defaults_of(name).image_size
        for part, rows in measure(name, args.folders, args.images, side).items():
            result[part] += rows
        if args.output is not None:
            records.write(args.output, result)
    print(text(result))


if __name__ == "__main__":
    main()
