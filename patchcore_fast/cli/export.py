"""export: a bank as a file that runs without this package, checked before it is written."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from patchcore_fast.cli.beforehand import check_bank, check_files, need_onnx, need_openvino, need_pipeline
from patchcore_fast.cli.outputs import check_outputs_differ, writable_file
from patchcore_fast.errors import DataError

if TYPE_CHECKING:
    import torch

SUFFIXES = (".pt2", ".onnx", ".xml")  # export's (a test compares)
PRECISIONS = ("fp32", "fp16", "int8")  # export's too
CHECKED = 8  # images of --images that are compared
CALIBRATED = 100  # images of --calibrate that are used, evenly spread


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Of the command."""
    parser.add_argument("bank", metavar="BANK", help="file written by fit or train")
    parser.add_argument("--output", required=True, metavar="FILE",
                        help="file to write: .pt2 (torch.export), .onnx, or .xml (OpenVINO, with a .bin)")  # fmt: skip
    parser.add_argument("--precision", choices=PRECISIONS, default="fp32",
                        help="of the backbone (default %(default)s); int8 for .onnx and .xml")  # fmt: skip
    parser.add_argument("--calibrate", metavar="DIR",
                        help=f"of int8: training images, of which up to {CALIBRATED} set the ranges")  # fmt: skip
    parser.add_argument("--dynamic", action="store_true",
                        help="take any image size that the strides of a CNN divide")  # fmt: skip
    parser.add_argument("--images", metavar="IMAGES", help="compare on these (folder or file) instead of seeded ones")
    parser.add_argument("--evaluate", metavar="DIR", help="AUROC of model and file on this set, in MVTec layout")


def export(args: argparse.Namespace) -> None:
    """Write, compare with the model, say how far the numbers are apart."""
    output = writable_file(args.output)
    if output.suffix not in SUFFIXES:
        raise DataError(f"--output must end in {', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]}, got {output.name}")
    int8 = args.precision == "int8"
    if int8 and output.suffix == ".pt2":
        raise DataError(f"--precision int8: for .onnx and .xml, got {output.name}")
    if int8 != (args.calibrate is not None):
        raise DataError("--precision int8 wants --calibrate DIR, and nothing else takes it: a bank keeps the names of "
                        "its images, not where they are")  # fmt: skip
    outputs = {"--output": output}
    if output.suffix == ".xml":
        outputs["the .bin of --output"] = writable_file(output.with_suffix(".bin"))
    check_outputs_differ({"BANK": args.bank, **outputs})
    check_bank(args.bank)
    check_files([path for path in (args.images, args.calibrate, args.evaluate) if path is not None])
    need_pipeline()
    if output.suffix != ".pt2":
        need_onnx()
    if output.suffix == ".xml":
        need_openvino(int8)

    from patchcore_fast.data import scan, scan_images
    from patchcore_fast.export import TOLERANCES, export_model, exported_size
    from patchcore_fast.methods import load_any

    given = getattr(args, "weights", None)
    model = load_any(args.bank, "cpu", weights=given, allow_download=args.allow_download, index="exact", progress=False)
    size = exported_size(model.config)
    found = export_model(
        model, output,
        None if args.images is None else _read("--images", scan_images([args.images])[:CHECKED], model.config),
        precision=args.precision, dynamic=args.dynamic,
        calibration=None if not int8 else _read("--calibrate", _spread(scan(args.calibrate).train), model.config),
        evaluate=None if args.evaluate is None else scan(args.evaluate),
    )  # fmt: skip
    bytes_ = sum(path.stat().st_size for path in outputs.values())
    sides = "H, W" if args.dynamic else f"{size[0]}, {size[1]}"
    print(f"Saved {output} ({bytes_ / 2**20:.1f} MB): images [B, 3, {sides}] in, scores [B] and maps [B, {sides}] out.")
    print(f"Run again from the file on {found.images} images: scores within {found.score:.1e} of this package's, maps "
          f"within {found.map:.1e} (relative, {TOLERANCES[args.precision]:g} allowed).")  # fmt: skip
    for what, pair in (("image AUROC", found.image_auroc), ("pixel AUROC", found.pixel_auroc)):
        if pair is not None:
            print(f"On {found.tested:,} test images: {what} {pair[1]:.4f}, the model's {pair[0]:.4f} "
                  f"({pair[1] - pair[0]:+.4f}).")  # fmt: skip
    if args.evaluate is not None and found.image_auroc is None:
        print(f"{args.evaluate} has no test images of both classes, so there is no AUROC.")
    if model.config.features.tile is not None:
        print("It takes single tiles; predict does not join them: docs/tiles.md says how to.")
        return
    print(f"Next:  patchcore-fast predict {Path(output)} IMAGES --output out")
    print(f"or, without this package:  python examples/run_exported.py {Path(output)} IMAGE ...")


def _spread(records: list[Any]) -> list[Any]:
    """Up to CALIBRATED of them, evenly spread."""
    step = max(1, -(-len(records) // CALIBRATED))
    return records[::step]


def _read(option: str, records: list[Any], config: Any) -> torch.Tensor:
    """[N, 3, H, W] as the model sees them; of a model that works in tiles there are none."""
    import torch

    from patchcore_fast.data import load_image

    f = config.features
    if f.tile is not None:
        raise DataError(f"export: {option} takes no images for a model that works in tiles")
    if not records:
        raise DataError(f"export: {option} has no normal training image")
    return torch.stack([load_image(r.path, config.resize, f.crop, f.aspect) for r in records])
