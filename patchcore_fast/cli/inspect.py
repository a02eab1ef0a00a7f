"""inspect: select a bank, or take one that exists, and draw what the selection knew and where its rows come from."""

from __future__ import annotations

import argparse
import inspect as signatures
import logging
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from patchcore_fast.cli.beforehand import check_bank, check_images, check_room, need_pipeline
from patchcore_fast.cli.exclusion import check_exclude, training_set
from patchcore_fast.cli.options import check_loaded, chosen_config
from patchcore_fast.cli.outputs import output_folder
from patchcore_fast.cli.photographs import covered_photograph
from patchcore_fast.cli.pipeline import load_bank
from patchcore_fast.cli.sampling import report_table, sampler_said
from patchcore_fast.cli.signals import FILES as SIGNAL_FILES
from patchcore_fast.cli.signals import POOL_FILES, Computed, compute, draw_pool, draw_signals, signal_facts, signal_text
from patchcore_fast.cli.signals import SHOWN as MAPPED
from patchcore_fast.errors import DataError
from patchcore_fast.written import INSPECTED, writing

if TYPE_CHECKING:
    from patchcore_fast.config import PatchCoreConfig
    from patchcore_fast.data import ImageSet
    from patchcore_fast.model import PatchCore
    from patchcore_fast.model.collect import FeatureRows

ALWAYS = ("plane.png", "patches.png", "provenance.png")
SHOWN, LISTED = 8, 3  # photographs in patches.png, images a reason in the printed table

log = logging.getLogger(__name__)


@dataclass
class Selection:
    """The picked rows [k] of all rows, and the sampler that picked them: None for a bank that was there already."""

    indices: Any
    sampler: Any = None
    seconds: dict[str, float] = field(default_factory=dict)
    ends: dict[str, Any] = field(default_factory=dict)  # end of pruning -> [N] bool ndarray
    computed: Computed | None = None  # of --signals

    @property
    def scores(self) -> dict[str, Any]:
        """Signal -> [N], empty for samplers that know distances only."""
        return dict(getattr(self.sampler, "scores_", None) or {})

    @property
    def pool(self) -> Any:
        """[N] bool ndarray, what the sampler's greedy chose from; None where it knows of no pool, or all is in it."""
        from patchcore_fast.report.selection import as_array

        pool = getattr(self.sampler, "pool_", None)
        pool = None if pool is None else as_array(pool)
        return None if pool is None or not len(pool) or pool.all() else pool

    @property
    def pictures(self) -> list[str]:
        """Names of the pictures that there is material for."""
        names = ["distributions.png"] if self.scores else []
        names += ALWAYS
        names += SIGNAL_FILES if self.computed is not None and self.computed.values else ()
        return [*names, *(POOL_FILES if self.pool is not None else ())]


def inspect(args: argparse.Namespace) -> None:
    """Extract features, select, draw; with --bank the selection is the bank's."""
    config = chosen_config(args)
    if args.bank is None:
        _check_whole(config)
    else:
        check_loaded(args, "selecting, and --bank brings a selection")
        check_bank(args.bank)
    check_images(args.folder)
    check_exclude(args)
    check_room(args.output)
    need_pipeline()

    from patchcore_fast.model import PatchCore
    from patchcore_fast.report import write_json
    from patchcore_fast.report.plane import load_umap

    if args.plane == "umap":
        load_umap()  # a missing package is told now and not after the long part
    images, config = training_set(args, config)
    if not images.train:
        raise DataError(f"{args.folder}: no training images (train/good)")
    names = [r.path.relative_to(images.root).as_posix() for r in images.train]
    model = load_bank(args) if args.bank is not None else PatchCore(config)
    if args.bank is not None:
        _check_names(args, model, names)
    _check_whole(model.config)
    backbone = model.extractor.backbone
    sampler = None if args.bank is not None else _sampler(model)
    output = output_folder(args.output)

    clock = time.perf_counter()
    rows, views = _material(model, sampler, images)
    if rows.grid is None:
        raise DataError(f"{args.folder}: inspect draws on one grid, and these images have several")
    seconds = {"features": time.perf_counter() - clock}
    if sampler is not None:
        from patchcore_fast.model.selection import Selector

        Selector(model.config, sampler, model.device).settle([rows], len(names))  # its budget or count
    done = _from_bank(args, model, rows) if sampler is None else _select(sampler, rows, views)
    done.seconds = seconds | done.seconds
    if args.signals:
        clock = time.perf_counter()
        done.computed = compute(args.signals, model, images, rows, done.scores)
        done.seconds["signals"] = time.perf_counter() - clock
    with writing(output, INSPECTED) as note:
        for file in (*done.pictures, "selection.json"):
            note(file)
        facts = _draw(output, args.plane, model, images, names, rows, done)
        facts = {"folder": images.root.resolve().name, "backbone": backbone.name,
                 "weights": backbone.fingerprint()} | facts  # fmt: skip
        write_json(output / "selection.json", facts)
    print(_text(facts))
    print(f"Pictures and selection.json: {output}")


def _sampler(model: PatchCore) -> Any:
    from patchcore_fast.config import SAMPLERS
    from patchcore_fast.config.selection import RATIO
    from patchcore_fast.samplers import make_sampler

    s = model.config.selection
    if s.sampler_parameters is not None:
        raise DataError(f"--config: sampler {s.sampler} is a record of an object; name one of {', '.join(SAMPLERS)}")
    ratio = RATIO if s.ratio is None else s.ratio  # with a budget or a count the rows say how many
    return make_sampler(s.sampler, ratio, seed=s.seed, device=model.device, prune_support=s.prune_support,
                        options=dict(s.sampler_options))  # fmt: skip


def _material(model: PatchCore, sampler: Any, images: ImageSet) -> tuple[FeatureRows, list[FeatureRows]]:
    """The rows to choose from, with embeddings and rows of changed images where the sampler asks for them."""
    from patchcore_fast.model.selection import Selector
    from patchcore_fast.model.training import material
    from patchcore_fast.model.views import views_of

    if not views_of(sampler) and not getattr(sampler, "uses_embeddings", False):
        return model.training_features(images), []
    found = material(model, images, Selector(model.config, sampler, model.device))
    rows: Any = found.rows  # one process: all are here
    return rows, found.views


def _select(sampler: Any, rows: FeatureRows, views: Sequence[FeatureRows] = ()) -> Selection:
    """Run a sampler, with positions or image numbers where its `select` takes them."""
    import torch

    from patchcore_fast.progress import bar
    from patchcore_fast.report.selection import pruned_ends

    n = len(rows.features)
    positions = rows.positions(torch.arange(n))
    offered: dict[str, Any] = {"positions": positions, "image_ids": positions[:, 0].long()}
    if (embeddings := rows.embeddings()) is not None:
        offered["embeddings"] = embeddings
    if views:
        offered["views"] = [view.features for view in views]
    takes = signatures.signature(sampler.select).parameters
    more = {name: value for name, value in offered.items() if name in takes}
    clock = time.perf_counter()
    with bar(None, "selection") as shown:
        if getattr(sampler, "progress", False) is None:
            sampler.progress = shown.at
        indices = torch.as_tensor(sampler.select(rows.features, **more)).cpu().long()
    if not len(indices):
        raise DataError(f"the coreset has 0 of {n:,} patches: give more images or a larger --ratio")
    if table := report_table([getattr(sampler, "report_", None) or {}]):
        log.debug("%s", table)
    ends = pruned_ends("inspect", getattr(sampler, "kept_", None), getattr(sampler, "pruned_", None), n)
    return Selection(indices, sampler, {"selection": time.perf_counter() - clock}, ends)


def _check_whole(config: PatchCoreConfig) -> None:
    """The pictures are of all training images and of no copies."""
    s = config.selection
    if s.banks != "joint":
        raise DataError(f"inspect shows one selection, got banks={s.banks}")
    if s.shots is not None or s.augment != "none":
        raise DataError(f"inspect shows selections from whole training sets, got shots={s.shots} augment={s.augment}")


def _check_names(args: argparse.Namespace, model: PatchCore, names: list[str]) -> None:
    bank = model.bank
    if bank.positions is None or bank.grid is None:
        raise DataError(f"{args.bank}: does not say which image and place its rows come from")
    if not bank.images or bank.images == names:
        return  # a bank made of tensors has no names: the features will tell
    here = f"{args.folder}: its {len(names)} training images are not those {len(bank.images)} of {args.bank}"
    mine, theirs = next(((a, b) for a, b in zip(names, bank.images, strict=False) if a != b), ("", ""))
    raise DataError(here + (f" ({mine} where the bank has {theirs})" if mine else ""))


def _from_bank(args: argparse.Namespace, model: PatchCore, rows: FeatureRows) -> Selection:
    """The bank's selection, after a look whether these features are those that it was made of."""
    (bank,) = model.bank.parts
    indices = bank.indices.cpu()
    same = bank.patches == len(rows.features) and bank.grid == rows.grid
    if same:
        # Other devices and batch sizes round differently, by far less than this; other photographs differ by more.
        mine, theirs = rows.features[indices], bank.features.cpu()
        same = float((mine - theirs).norm()) <= 0.02 * float(theirs.norm())
    if not same:
        raise DataError(f"{args.folder}: the training images give other features than {args.bank} was made of")
    return Selection(indices)


def _draw(
    output: Path, plane: Any, model: PatchCore, images: ImageSet, names: list[str], rows: FeatureRows, done: Selection
) -> dict[str, Any]:
    """All pictures that this selection has the material for; returns what selection.json says."""
    import numpy as np
    import torch

    from patchcore_fast.coverage import border_shares, spatial_coverage
    from patchcore_fast.report.plane import plot_plane
    from patchcore_fast.report.provenance import choose_images, plot_kept_patches, plot_provenance
    from patchcore_fast.report.selection import plot_score_distributions, quantiles

    assert rows.grid is not None, "the command looked"
    n, m = len(rows.features), len(names)
    kept = np.ones(n, bool)
    for mask in done.ends.values():
        kept &= ~mask
    positions = rows.positions(done.indices)
    coverage = spatial_coverage(positions, m, rows.grid)
    lost = rows.positions(torch.from_numpy(np.flatnonzero(~kept)))
    lost_of = torch.bincount(lost[:, 0].long(), minlength=m)
    border = border_shares(rows, done.indices)
    name = images.root.resolve().name
    if done.scores:
        composite = getattr(done.sampler, "composite", None)
        plot_score_distributions(done.scores, kept, done.indices, output / "distributions.png", pruned=done.ends,
                                 units=None if composite is None else composite.units(),
                                 title=f"{name}: scores of the training patches")  # fmt: skip
    plot_plane(rows.features, done.indices, kept, output / "plane.png", method=plane, pruned=done.ends,
               seed=model.config.seed, title=f"{name}: the bank among all patches")  # fmt: skip
    shown = choose_images(coverage.per_image, lost_of, SHOWN)
    where = {end: rows.positions(torch.from_numpy(np.flatnonzero(mask))) for end, mask in done.ends.items()}
    photos = {i: covered_photograph(images.train[i].path, model.config) for i in shown}
    captions = {i: f"{names[i].rsplit('/', 1)[-1]}: {reason}" for i, reason in shown.items()}
    plot_kept_patches(photos, positions, rows.grid, output / "patches.png", pruned=where, captions=captions,
                      title=f"{name}: which patches the bank keeps")  # fmt: skip
    plot_provenance(coverage, output / "provenance.png", names=[x.rsplit("/", 1)[-1] for x in names], border=border,
                    title=f"{name}: where the bank comes from")  # fmt: skip
    more: dict[str, Any] = {}
    if done.computed is not None:
        more |= signal_facts(done.computed, done.indices)
        if done.computed.values:
            mapped = list(shown)[:: -(-len(shown) // MAPPED)]  # of every reason
            lines = {i: captions[i].replace(f": {shown[i]}", f"\n{shown[i]}") for i in mapped}
            draw_signals(output, done.computed, more, {i: photos[i] for i in mapped}, lines, positions, done.indices,
                         rows.grid, name)  # fmt: skip
    if done.pool is not None:
        more["pool"] = draw_pool(output, done.pool, rows, done.indices, photos, captions, plane, model.config.seed,
                                 name)  # fmt: skip
    return {
        "images": m,
        "patches": n,
        "dim": rows.features.shape[1],
        "picked": len(done.indices),
        "new_selection": done.sampler is not None,
        "config": model.config.to_dict(),
        "kept": int(kept.sum()),
        "pruned": {end: int(mask.sum()) for end, mask in done.ends.items()},
        "scores": {signal: quantiles(values) for signal, values in done.scores.items()},
        "report": getattr(done.sampler, "report_", None),
        "coverage": coverage.to_dict(),
        "border": border.to_dict(),
        "by_image": [{"image": x, "picked": int(a), "pruned": int(b)}
                     for x, a, b in zip(names, coverage.per_image, lost_of, strict=True)],
        "seconds": done.seconds,
        "pictures": done.pictures,
    } | more  # fmt: skip


def _text(facts: dict[str, Any]) -> str:
    """The short table: what was done, and the images that gave or lost most."""
    from patchcore_fast.report import metrics_table
    from patchcore_fast.report.selection import patches, percent

    n, found, config = facts["patches"], facts["coverage"], facts["config"]
    spent = ", ".join(f"{what} {seconds:.1f} s" for what, seconds in facts["seconds"].items())
    how = sampler_said(config)
    how = how if facts["new_selection"] else f"a bank that was there, {how}"
    lines = [f"{facts['picked']:,} of {n:,} patches of {facts['images']:,} images picked ({how}; {spent})."]
    if facts["pruned"]:
        parts = ", ".join(f"{end} {count:,} ({percent(count, n)})" for end, count in facts["pruned"].items())
        lines.append(f"Pruned before: {parts}; {facts['kept']:,} kept.")
    h, w = found["grid"]
    lines.append(
        f"Of the {h} x {w} places of the grid {percent(found['share'], 1)} occur, entropy {found['entropy']:.3f}; "
        f"as even as {found['effective_images']:.1f} of {facts['images']:,} images, "
        f"{found['empty_images']:,} of them gave none."
    )
    border = facts["border"]
    lines.append(
        f"{percent(border['picked'], 1)} of the picks lie within {patches(border['margin'])} of the image's border, "
        f"where {percent(border['rows'], 1)} of all patches are: {border['ratio']:.2f} times as many as expected."
    )
    if "pool" in facts:
        pool = facts["pool"]
        lines.append(f"The pool had {pool['rows']:,} patches ({percent(pool['share'], 1)}).")
    whats = ("picked", "pruned") if facts["pruned"] else ("picked",)
    rows = {row["image"]: row for row in facts["by_image"]}
    table: dict[str, dict[str, Any]] = {}
    for what in whats:
        order = Counter[str]({image: row[what] for image, row in rows.items() if row[what]})
        for image, _ in order.most_common(LISTED):
            why = {"most": what} if len(whats) > 1 else {}
            table.setdefault(image, why | {w: rows[image][w] for w in whats})
    lines += ["", metrics_table(table, corner="image"), ""]
    return "\n".join(lines + (signal_text(facts) if "signals" in facts else []))
