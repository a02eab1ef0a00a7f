"""audit: training images that the others support least, for a person to look at; a page, a table and a list."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from patchcore_fast.cli.beforehand import check_images, check_room, need_pipeline
from patchcore_fast.cli.exclusion import check_exclude, training_set
from patchcore_fast.cli.extract import stored_settings
from patchcore_fast.cli.options import chosen_config
from patchcore_fast.cli.outputs import check_outputs_differ, output_folder
from patchcore_fast.cli.photographs import covered_photograph
from patchcore_fast.cli.unusable import tell
from patchcore_fast.errors import DataError
from patchcore_fast.names import printable

if TYPE_CHECKING:
    from patchcore_fast.config import PatchCoreConfig
    from patchcore_fast.data import ImageSet
    from patchcore_fast.model.audit import Suspect
    from patchcore_fast.model.collect import Rows
    from patchcore_fast.scores import Suspicion

PAGE, TABLE, LIST = "audit.html", "audit.csv", "suspects.txt"
PRINTED = 5  # lines on the screen
LONGEST = 1024  # pixels of a photograph's longer side, before it is cropped and shrunk


def audit(args: argparse.Namespace) -> int:
    """Rank the training images, write page, table and list; images that cannot be read are left out and named."""
    if args.top < 1:
        raise DataError(f"--top: must be at least 1, got {args.top}")
    config = chosen_config(args)
    check_images(args.folder)
    check_exclude(args)
    check_room(args.output)
    need_pipeline()

    from patchcore_fast.feature_store import FeatureStore

    images, config = training_set(args, config)
    if not images.train:
        raise DataError(f"{args.folder}: no training images (train/good)")
    output = output_folder(args.output)
    written = {f"{name} of --output": output / name for name in (PAGE, TABLE, LIST)}
    lists = [] if args.exclude is None else [("--exclude", args.exclude)]
    check_outputs_differ(written, [*lists, *(("training image", r.path) for r in images.train)])
    if args.features is None:
        return _audited(args, config, images, output)
    with FeatureStore(args.features) as store:
        return _audited(args, stored_settings(args, store), images, output, store)


def _audited(
    args: argparse.Namespace, config: PatchCoreConfig, images: ImageSet, output: Path, store: Any = None
) -> int:
    from patchcore_fast.data.exclude import listed_name
    from patchcore_fast.files import atomic_write
    from patchcore_fast.model import PatchCore
    from patchcore_fast.model.audit import audit as looked
    from patchcore_fast.model.stored import StoredRows, unread_of

    s = config.selection
    if s.shots is not None or s.augment != "none":
        raise DataError(f"audit looks at whole training sets, got shots={s.shots} augment={s.augment}")
    rows: Rows
    model = PatchCore(config)  # builds no backbone where it is not asked for features
    if store is None:
        rows, unread = model.training_features(images, on_error="return"), model.unread_
    else:
        rows, unread = StoredRows(store), unread_of(store)
    gone = {Path(path) for path, _ in unread}
    paths = {r.path.relative_to(images.root).as_posix(): r.path for r in images.train}
    left = {name: path for name, path in paths.items() if path not in gone and Path(name) not in gone}
    names = list(left)
    if store is not None and names != store.images:
        raise DataError(f"{args.features}: its {len(store.images):,} images are not the {len(names):,} training images "
                        f"of {args.folder}")  # fmt: skip
    found, suspects = looked(rows, args.top, seed=s.seed, device=model.device)
    _write_page(output / PAGE, args.folder, config, list(left.values()), names, found, suspects)
    _write_table(output / TABLE, names, found, suspects)
    entries = [listed_name(names[suspect.image]) for suspect in suspects]
    with atomic_write(output / LIST, "w", encoding="utf-8") as f:
        f.write(f"# The {len(entries):,} most suspicious of {len(names):,} training images, in this order.\n")
        f.write(f"# Delete the lines of those that are good; the others go: patchcore-fast fit DIR --exclude {LIST}\n")
        f.writelines(f"{entry}\n" for entry in entries)
    print(f"{len(names):,} training images; least supported by the others:")
    for rank, suspect in enumerate(suspects[:PRINTED], 1):
        print(f"{rank:>3}  {printable(names[suspect.image])}  ({_said(found, suspect.image)})")
    print(f"Look at them, two minutes:  {output / PAGE}  (or edit {output / LIST})")
    print(f"Next, without the bad ones: patchcore-fast fit {args.folder} --exclude LIST --output bank.safetensors")
    return tell(unread)


def _said(found: Suspicion, image: int) -> str:
    parts = ", ".join(f"{name} {float(part[image]):.1f}" for name, part in found.parts.items())
    return f"suspicion {float(found.value[image]):.2f}; robust deviations: {parts}"


def _write_page(
    path: Path, folder: str, config: PatchCoreConfig, paths: list[Path], names: list[str], found: Suspicion,
    suspects: list[Suspect],
) -> None:  # fmt: skip
    from patchcore_fast.data.exclude import listed_name
    from patchcore_fast.progress import bar
    from patchcore_fast.report.images import shared_scale
    from patchcore_fast.report.page.audit import Card, Shown, write_audit

    def shown(image: int, grid: tuple[int, int], place: tuple[int, int]) -> Shown:
        return Shown(names[image], covered_photograph(paths[image], config, LONGEST), grid, place)

    cards = []
    with bar(len(suspects), "pictures") as done:
        for suspect in suspects:
            relatives = [(shown(r.image, r.grid, r.place), r.distance) for r in suspect.relatives]
            height, width = suspect.heat.shape
            own = shown(suspect.image, (height, width), suspect.place)
            cards.append(Card(own, suspect.heat.numpy(), _said(found, suspect.image), relatives))
            done.update()
    few = f"The {len(cards):,} least supported of {len(names):,} training images"
    summary = f"{few}, by {config.backbone}; the most suspicious first"
    entries = [listed_name(names[suspect.image]) for suspect in suspects]
    write_audit(path, Path(folder).resolve().name, summary, cards, entries, shared_scale(c.heat for c in cards))


def _write_table(path: Path, names: list[str], found: Suspicion, suspects: list[Suspect]) -> None:
    from patchcore_fast.report import write_scores_csv

    nearest = {s.image: names[s.relatives[0].image] for s in suspects}
    write_scores_csv(path, [
        {"rank": rank, "path": names[image], "suspicion": float(found.value[image])}
        | {name.replace(" ", "_"): float(part[image]) for name, part in found.parts.items()}
        | {"most_similar": nearest.get(image, "")}
        for rank, image in enumerate(found.order.tolist(), 1)
    ])  # fmt: skip
