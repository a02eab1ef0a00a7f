"""plan: what a fit will take, before it begins."""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING

from patchcore_fast.cli.beforehand import check_images, need_pipeline
from patchcore_fast.cli.budget import searched
from patchcore_fast.cli.exclusion import check_exclude, training_set
from patchcore_fast.cli.options import chosen_config
from patchcore_fast.cli.unusable import tell
from patchcore_fast.errors import DataError

if TYPE_CHECKING:
    from patchcore_fast.config import SelectionSettings
    from patchcore_fast.model.forecast import Forecast


def plan(args: argparse.Namespace) -> int:
    """Print rows, bytes, seconds of a fit with these settings; exit code 3 where it would not fit or files are bad."""
    config = chosen_config(args)
    check_images(args.folder)
    check_exclude(args)
    need_pipeline()

    from patchcore_fast.model.forecast import forecast

    images, config = training_set(args, config)
    if not images.train:
        raise DataError(f"{args.folder}: no normal images to fit on")
    found = forecast(config, images.train)
    if args.json:
        print(json.dumps(found.to_dict(), indent=2))
    else:
        print(_text(found, config.selection, config.selection.banks == "layer"))
    told = tell([("", why) for why in found.unread])
    return told if found.refusal() is None else 3


def _text(found: Forecast, chosen: SelectionSettings, layered: bool) -> str:
    of = " of each layer" if layered else ""
    where = "in a file" if found.on_disk_bytes else "in memory"
    lines = [
        f"{found.images:,} images give {found.rows:,} patches of {found.columns:,} numbers; "
        f"the bank keeps {found.picks:,}.",
        f"Features {_size(found.features_bytes)}, projected {_size(found.projected_bytes)} ({where}); "
        f"bank {_size(found.bank_bytes)}.",
        f"Memory {_size(found.memory_bytes)} of {_size(found.free_memory_bytes)} free, beside the backbone; "
        f"disk {_size(found.on_disk_bytes)} of {_size(found.free_disk_bytes)} free.",
        f"Time about {_time(found.seconds)}: features {_time(found.features_s)}, selection {_time(found.selection_s)}, "
        f"threshold {_time(found.threshold_s)}.",
    ]
    if found.budget is not None:
        searched_text = searched(1000 * (found.search_s or 0.0), found.device)
        lines.append(f"Budget {found.budget}: {found.picks:,} rows{of} in {_size(found.bank_bytes)}{searched_text}.")
    if found.unreadable:
        lines.append(f"{found.unreadable:,} of {found.looked_at:,} images that were looked at cannot be read.")
    if chosen.sampler not in ("greedy", "approximate"):
        lines.append(f"Times and memory are of the greedy sampler, not of {chosen.sampler_text}.")
    if (refusal := found.refusal()) is not None:
        lines.append(f"It does not fit here: {refusal}.")
    return "\n".join(lines)


def _size(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"


def _time(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
