"""export: a bank as one file that runs without this package, checked before it is written."""

from __future__ import annotations

import argparse
from pathlib import Path

from patchcore_fast.cli.beforehand import check_bank, check_files, need_onnx, need_pipeline
from patchcore_fast.cli.outputs import check_outputs_differ, writable_file
from patchcore_fast.errors import DataError

SUFFIXES = (".pt2", ".onnx")  # export's (a test compares)
CHECKED = 8  # images of --images that are compared


def export(args: argparse.Namespace) -> None:
    """Write, compare with the model, say how far the numbers are apart."""
    output = writable_file(args.output)
    if output.suffix not in SUFFIXES:
        raise DataError(f"--output must end in {' or '.join(SUFFIXES)}, got {output.name}")
    check_outputs_differ({"BANK": args.bank, "--output": output})
    check_bank(args.bank)
    check_files([] if args.images is None else [args.images])
    need_pipeline()
    if output.suffix == ".onnx":
        need_onnx()

    from patchcore_fast.export import TOLERANCE, export_model, exported_size
    from patchcore_fast.methods import load_any

    given = getattr(args, "weights", None)
    model = load_any(args.bank, "cpu", weights=given, allow_download=args.allow_download, index="exact", progress=False)
    images = None
    if args.images is not None:
        import torch

        from patchcore_fast.data import load_image, scan_images

        config = model.config
        exported_size(config)
        records = scan_images([args.images])[:CHECKED]
        if config.features.tile is not None:
            raise DataError("export: --images takes no images for a model that works in tiles")
        images = torch.stack([load_image(r.path, config.resize, config.features.crop, config.features.aspect)
                              for r in records])  # fmt: skip
    found = export_model(model, output, images)
    height, width = exported_size(model.config)
    print(f"Saved {output} ({output.stat().st_size / 2**20:.1f} MB): images [B, 3, {height}, {width}] in, scores [B] "
          f"and maps [B, {height}, {width}] out.")  # fmt: skip
    print(f"Run again from the file on {found.images} images: scores within {found.score:.1e} of this package's, maps "
          f"within {found.map:.1e} (relative, {TOLERANCE:g} allowed).")  # fmt: skip
    print(f"Next:  python examples/run_exported.py {Path(output)} IMAGE ...")
