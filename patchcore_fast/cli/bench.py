"""bench: how long `predict` takes with a bank, stage by stage."""

from __future__ import annotations

import argparse
import os
import tempfile
from pathlib import Path

from patchcore_fast.cli.beforehand import check_bank, check_files, need_pipeline
from patchcore_fast.cli.outputs import check_outputs_differ, writable_file
from patchcore_fast.errors import DataError

SIDE = 1024  # pixels of a picture that is made up
COUNT = 32


def numbers(text: str) -> tuple[int, ...]:
    """`1,16`."""
    found = tuple(int(part) for part in text.split(","))
    if not all(0 < n <= 65_536 for n in found):
        raise ValueError
    return found


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the command, beside those of running."""
    parser.add_argument("bank", metavar="BANK", help="what fit or train wrote")
    parser.add_argument("images", metavar="IMAGES", nargs="*",
                        help=f"files or folders; without them pictures of {SIDE} x {SIDE} are made up")  # fmt: skip
    parser.add_argument("--batches", type=numbers, default=(1, 16), metavar="N,N", help="batch sizes (default 1,16)")
    parser.add_argument("--threads", type=numbers, metavar="N,N", help="numbers of threads (default torch's alone)")
    parser.add_argument("--limit", type=int, default=COUNT, metavar="N", help="images at most (default %(default)s)")
    parser.add_argument(
        "--rounds", type=int, default=3, metavar="N", help="medians are of so many (default %(default)s)"
    )
    parser.add_argument("--json", metavar="FILE", help="write the table here, as JSON")


def bench(args: argparse.Namespace) -> None:
    """Print milliseconds an image by stage, and images a second as `predict` runs."""
    for option in ("limit", "rounds"):
        if not 0 < getattr(args, option) <= 65_536:
            raise DataError(f"--{option} must lie in 1..65536, got {getattr(args, option)}")
    check_bank(args.bank)
    check_files(args.images)
    check_outputs_differ({"--json": args.json}, [("the bank", args.bank), *(("IMAGES", i) for i in args.images)])
    file = None if args.json is None else writable_file(args.json)
    need_pipeline()

    import torch

    from patchcore_fast.cli.models import load_model, model_said
    from patchcore_fast.cli.pipeline import counted
    from patchcore_fast.data import scan_images
    from patchcore_fast.model.speed import speeds
    from patchcore_fast.report import metrics_table, shared_scale, write_json
    from patchcore_fast.report.files import PictureNames
    from patchcore_fast.report.gallery import Gallery

    model = load_model(args)
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        given = bool(args.images)
        records = scan_images(args.images if given else _made_up(place, args.limit))[: args.limit]
        root = Path(os.path.commonpath([r.path.absolute().parent for r in records]))
        first = next(iter(model.predict(records[:1])))
        gallery = Gallery(place / "drawn", *shared_scale([first.anomaly_map], model.threshold), lambda _: None)
        names = PictureNames(root)
        known = {record.path: names.of(record.path) for record in records}
        print(model_said(model))
        threads = args.threads or (torch.get_num_threads(),)
        found = speeds(model, records, threads, args.batches,
                       lambda record, p: gallery.add(record, p, known[record.path]), args.rounds)  # fmt: skip
    rows = {
        f"{s.threads} {'thread' if s.threads == 1 else 'threads'}, batch {s.batch}": s.milliseconds
        | {"sum": sum(s.milliseconds.values()), "images/s": s.images_per_second}
        for s in found
    }
    made = "" if given else f", made up, {SIDE} x {SIDE} pixels: IMAGES of yours tell what decoding and writing take"
    print(f"{counted(len(records))}{made}; medians of {args.rounds}. Milliseconds an image by stage, one after the "
          "other;\nimages/s with decoding, network and writing overlapped, as predict runs.")  # fmt: skip
    print(metrics_table(rows, digits=1, corner=str(model.device)))
    if file is not None:
        write_json(file, {"bank": str(args.bank), "images": len(records), "made_up": not given, "rounds": args.rounds,
                          "device": str(model.device), "speeds": [vars(s) for s in found]})  # fmt: skip


def _made_up(folder: Path, count: int) -> list[Path]:
    """Pictures with something to compress in them: soft blobs under noise, as photographs of a surface have."""
    import numpy as np
    from PIL import Image

    rng = np.random.default_rng(0)
    paths = []
    for i in range(count):
        soft = Image.fromarray(rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)).resize((SIDE, SIDE))
        noisy = np.asarray(soft, dtype=np.int16) + rng.integers(-4, 5, (SIDE, SIDE, 1))
        paths.append(folder / f"{i:05}.png")
        Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(paths[-1], compress_level=1)
    return paths
