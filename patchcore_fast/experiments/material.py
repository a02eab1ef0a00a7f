"""The features that an experiment works on, computed once and kept: training, held-out, synthetic and test images."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from patchcore_fast.config import PatchCoreConfig
from patchcore_fast.data import ImageRecord, ImageSet
from patchcore_fast.errors import DataError
from patchcore_fast.experiments.defects import KINDS, with_defect
from patchcore_fast.features import FeatureExtractor
from patchcore_fast.files import atomic_write
from patchcore_fast.model.batches import Batch, batches_of
from patchcore_fast.model.collect import FeatureRows
from patchcore_fast.npy import read_npy
from patchcore_fast.progress import Progress, bar

FOLDER, ABOUT = "features", "experiment.json"
HELD_OUT, MOST_HELD_OUT, SYNTHETIC = 0.25, 40, 60
RESOLUTION = 128  # pixels of a map's longer side that are compared, at most
UNKNOWN = 2  # in a file of masks: a pixel of which nobody knows
HEADER = 128  # bytes of a .npy file before its numbers


@dataclass(frozen=True, eq=False)
class Part:
    """Images of one kind.

    features : [n * h * w, D] float32, image by image.  labels : [n] 1 anomalous, 0 normal, -1 unknown.
    masks : [n, H, W] bool, every `step`-th pixel.  known : [n] bool, images whose every pixel is known.
    """

    features: torch.Tensor
    labels: NDArray[np.int64]
    masks: NDArray[np.bool_]
    known: NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Material:
    """What every combination is tried on.

    rows : of the training images that are not held out, with their grids.  pasted : held-out images as they are, and
    copies of them with defects.  test : the folder's own test images, None where it has none.  grid : (h, w) of each
    image.  size : (height, width) of the maps.  covered : pixels that the grid covers.  about : all of it in words.
    """

    rows: FeatureRows
    pasted: Part
    test: Part | None
    grid: tuple[int, int]
    size: tuple[int, int]
    covered: tuple[int, int]
    about: dict[str, Any]

    @property
    def step(self) -> int:
        """Of the pixels that are compared."""
        return _step(self.size)


def held_out_images(count: int, share: float, seed: int) -> NDArray[np.int64]:
    """Numbers of the training images that stay out of the bank, ascending: a seeded share, 1 to 40 of them.

    DataError: fewer than two images, of which one could stay in.
    """
    if count < 2:
        raise DataError(f"an experiment holds images out: at least 2 training images are wanted, got {count}")
    wanted = min(MOST_HELD_OUT, count - 1, max(1, round(share * count)))
    return np.sort(np.random.default_rng(seed).choice(count, wanted, replace=False))


def synthetic_images(
    images: Sequence[NDArray[np.float32]], seed: int
) -> Iterator[tuple[NDArray[np.float32], NDArray[np.bool_]]]:
    """Copies of held-out images [3, H, W] with one defect each, and their masks [H, W]: as many as `copies_of` says."""
    for i, image in enumerate(images):
        donor = images[(i + 1) % len(images)]
        for copy in range(copies_of(len(images))):
            yield with_defect(image, donor, KINDS[(i + copy) % len(KINDS)], i + copy, [seed, i, copy])


def copies_of(held_out: int) -> int:
    """Synthetic defects of each held-out image: about 60 in all, at least one an image and at most one of each kind."""
    return min(len(KINDS), max(1, SYNTHETIC // held_out))


def check_config(config: PatchCoreConfig) -> None:
    """DataError: settings under which one matrix of rows is not all that the selection and the scores go by."""
    s, f = config.selection, config.features
    for what, bad in (
        (f"banks={s.banks}", s.banks != "joint"), (f"augment={s.augment}", s.augment != "none"),
        (f"shots={s.shots}", s.shots is not None), (f"budget={s.budget}", s.budget is not None),
        (f"count={s.count}", s.count is not None),
        (f"reduction={f.reduction}", f.fitted_reduction is not None),
        (f"image_size={f.image_size} aspect={f.aspect}", config.input_size is None),
    ):  # fmt: skip
        if bad:
            raise DataError(f"experiments want one bank of a ratio of fixed features of images of one size, got {what}")


def gather(
    images: ImageSet, config: PatchCoreConfig, extractor: FeatureExtractor, device: torch.device, folder: Path,
    share: float = HELD_OUT, progress: Progress = None,
) -> Material:  # fmt: skip
    """Extract what is missing in `folder` (the output of the experiment), and open all of it.

    Each kind of images is one step, and its file appears whole: a run that was killed goes on with the next kind.

    Parameters
    ----------
    images : scanned folder; its test part may be empty.  share : of the training images that is held out.

    Raises
    ------
    DataError : images that cannot be read, or a folder with an experiment of other images or settings.
    """
    seed, size = config.selection.seed, config.input_size
    assert size is not None, "the command looked"
    records = [r for r in images.train if r.label <= 0]
    out = held_out_images(len(records), share, seed).tolist()
    kept = [r for i, r in enumerate(records) if i not in set(out)]
    about: dict[str, Any] = {
        "version": 1, "weights": extractor.backbone.fingerprint(), "share": share, "synthetic": copies_of(len(out)),
        "held_out": [_name(records[i], images) for i in out], "images": _digest(images, [*records, *images.test]),
        "train": len(kept), "test": len(images.test), "size": list(size), "seed": seed,
        "settings": {k: config.to_dict()[k] for k in ("features", "search", "scoring")},
    }  # fmt: skip
    place = folder / FOLDER
    about = _agreed(folder, place, about, extractor, size)
    grid = (about["grid"][0], about["grid"][1])
    step = _step(size)
    held = [batch.images for batch in batches_of([records[i] for i in out], config, "any")]
    kept_files = _Files(place, grid, extractor, device, progress)
    kept_files.add("train", (batch.images for batch in batches_of(kept, config, "train")), len(kept))
    kept_files.add("held_out", held, len(out))
    if not kept_files.has("synthetic"):
        made = list(synthetic_images([image.numpy() for batch in held for image in batch], seed))
        pictures = torch.from_numpy(np.stack([image for image, _ in made]))
        masks = np.stack([mask for _, mask in made])[:, ::step, ::step].astype(np.uint8)
        kept_files.add("synthetic", pictures.split(config.running.batch_size), len(made), lambda: masks)
    held_out, (synthetic, marks) = kept_files.open("held_out"), kept_files.open_marked("synthetic")
    labels = np.repeat(np.array([0, 1]), [len(out), len(marks)])
    clean = np.zeros((len(out), *marks.shape[1:]), bool)
    pasted = Part(torch.cat([held_out, synthetic]), labels, np.concatenate([clean, marks == 1]), labels >= 0)
    test = None
    if images.test:
        if not kept_files.has("test"):
            truth: list[NDArray[np.uint8]] = []
            shown = _with_truth(batches_of(images.test, config, "any"), truth, step)
            kept_files.add("test", shown, len(images.test), lambda: np.concatenate(truth))
        features, marks = kept_files.open_marked("test")
        labels = np.array([r.label for r in images.test], np.int64)
        test = Part(features, labels, marks == 1, (marks != UNKNOWN).all((1, 2)))
    rows = FeatureRows.of(kept_files.open("train"), [grid] * len(kept))
    return Material(rows, pasted, test, grid, size, (about["covered"][0], about["covered"][1]), about)


class _Files:
    """The arrays of an experiment: NAME.npy has features [n * h * w, D], NAME_masks.npy marks [n, H, W] uint8."""

    def __init__(
        self, place: Path, grid: tuple[int, int], extractor: FeatureExtractor, device: torch.device, progress: Progress
    ) -> None:
        self.place, self.grid, self.extractor, self.device, self.progress = place, grid, extractor, device, progress

    def has(self, name: str) -> bool:
        return (self.place / f"{name}.npy").exists()

    def add(
        self, name: str, batches: Iterable[torch.Tensor], count: int,
        masks: Callable[[], NDArray[np.uint8]] | None = None,
    ) -> None:  # fmt: skip
        """Extract and write, unless it is there; the masks first, so that features mean that all is there."""
        if self.has(name):
            return
        rows = FeatureRows(count)
        with bar(count, name.replace("_", "-"), self.progress) as done:
            for batch in batches:
                rows.add(*self.extractor(batch.to(self.device)))
                done.update(len(batch))
        if set(rows.grids) != {self.grid}:
            raise DataError(f"experiments want images of one grid, got {sorted(set(rows.grids))} in {name}")
        if masks is not None:
            _write(self.place / f"{name}_masks.npy", masks())
        _write(self.place / f"{name}.npy", rows.features.float().numpy())

    def open(self, name: str) -> torch.Tensor:
        """Features. DataError: they are damaged."""
        array = _read(path := self.place / f"{name}.npy")
        if array.ndim != 2 or array.dtype != np.float32 or len(array) % (self.grid[0] * self.grid[1]):
            raise DataError(f"{path}: holds {array.dtype} {array.shape}, no features: remove it, and it is made again")
        return torch.from_numpy(array)

    def open_marked(self, name: str) -> tuple[torch.Tensor, NDArray[np.uint8]]:
        """Features and marks of as many images. DataError: they are damaged."""
        features, marks = self.open(name), _read(path := self.place / f"{name}_masks.npy")
        if marks.ndim != 3 or len(features) != len(marks) * self.grid[0] * self.grid[1]:
            raise DataError(f"{path}: {marks.shape} are no masks of {name}: remove both, and they are made again")
        return features, marks


def _with_truth(batches: Iterable[Batch], truth: list[NDArray[np.uint8]], step: int) -> Iterator[torch.Tensor]:
    """The images of each batch; every `step`-th pixel of their masks goes into `truth`."""
    for batch in batches:
        assert batch.masks is not None, "files of a folder"
        known = np.array(batch.has_mask)[:, None, None]
        truth.append(np.where(known, batch.masks.numpy()[:, ::step, ::step], UNKNOWN).astype(np.uint8))
        yield batch.images


def _agreed(
    folder: Path, place: Path, about: dict[str, Any], extractor: FeatureExtractor, size: tuple[int, int]
) -> dict[str, Any]:
    """What experiment.json says, written where there is none. DataError: it says something else."""
    path = folder / ABOUT
    if path.exists():
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
            same = {key: found[key] for key in about} == about and len(found["grid"]) == len(found["covered"]) == 2
            known = dict(found)
        except (OSError, ValueError, LookupError, TypeError):
            same, known = False, {}
        if not same:
            other = [key for key in about if known.get(key) != about[key]]
            raise DataError(f"{folder}: holds an experiment of other {', '.join(other) or 'settings'}: give another "
                            "--output, or the images and settings that it was begun with")  # fmt: skip
        place.mkdir(exist_ok=True)
        return known
    for name in ("grid.csv", "steps.csv"):
        if (folder / name).exists():
            raise DataError(f"{folder / name}: is there, but {ABOUT} does not say of what: give another --output")
    with torch.inference_mode():
        _, grid = extractor(torch.zeros(1, 3, *size, device=extractor.backbone.mean.device))
    about = about | {"grid": list(grid), "covered": list(extractor.covered(size))}
    place.mkdir(exist_ok=True)
    for old in place.glob("*.npy"):  # of an experiment that nobody knows
        with suppress(OSError):
            old.unlink()
    with atomic_write(path, "w", encoding="utf-8") as f:
        f.write(json.dumps(about, indent=2) + "\n")
    return about


def _digest(images: ImageSet, records: Sequence[ImageRecord]) -> str:
    """Of names, labels and contents of the files."""
    whole = hashlib.sha256()
    for r in records:
        whole.update(f"{_name(r, images)}\0{r.label}\0".encode("utf-8", "surrogateescape"))
        whole.update(hashlib.sha256(r.path.read_bytes()).digest())
    return whole.hexdigest()


def _name(record: ImageRecord, images: ImageSet) -> str:
    return record.path.relative_to(images.root).as_posix().encode("utf-8", "backslashreplace").decode()


def _step(size: tuple[int, int]) -> int:
    return max(1, max(size) // RESOLUTION)


def _write(path: Path, array: NDArray[Any]) -> None:
    array = np.ascontiguousarray(array)
    with atomic_write(path, size=array.nbytes + HEADER) as f:
        np.save(f, array, allow_pickle=False)


def _read(path: Path) -> NDArray[Any]:
    try:
        return read_npy(path)
    except (OSError, DataError) as error:
        raise DataError(f"{error}: remove it, and it is made again") from error
