"""A model into a file: as a torch.export archive, or through it as ONNX, or through that as OpenVINO."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from patchcore_fast.config import PatchCoreConfig
from patchcore_fast.errors import BankError
from patchcore_fast.export.check import PRECISIONS, TOLERANCES, Difference, check_images, compare, exact
from patchcore_fast.export.formats import (
    SUFFIXES,
    Facts,
    Run,
    need,
    onnx_bytes,
    onnx_model,
    openvino_model,
    pack,
    unpack,
)
from patchcore_fast.export.module import ExportedPatchCore, Halved
from patchcore_fast.export.quantize import quantized_onnx, quantized_openvino
from patchcore_fast.export.running import ExportedModel
from patchcore_fast.files import atomic_write
from patchcore_fast.methods.base import Method

if TYPE_CHECKING:
    from patchcore_fast.model import PatchCore

COMPARED = 8  # calibration images that an INT8 file is compared on
LARGEST = 4096  # pixels of a side that a dynamic size may have


def export_model(
    model: PatchCore | Method,
    path: str | os.PathLike[str],
    images: torch.Tensor | None = None,
    *,
    precision: str = "fp32",
    dynamic: bool = False,
    calibration: torch.Tensor | None = None,
    evaluate: Any = None,
) -> Difference:
    """Write a model, after what was written has been run and compared with the model.

    The file takes images [B, 3, H, W] float32 in [0, 1], any B, H and W as the config's, and gives scores [B] and maps
    [B, H, W]. Of a model that works in tiles it takes single tiles (docs/tiles.md). Nothing is left on disk where the
    comparison fails.

    Parameters
    ----------
    model : fitted or loaded, of whatever method; see `ExportedPatchCore` for what cannot be exported. Its search is
        exact in the file, whatever index the bank has.
    path : .pt2; .onnx, which needs the extra `export`; or .xml, beside which a .bin is written (extra `openvino`).
    images : [B, 3, H, W] to compare on; when None three seeded pictures, of INT8 the first calibration images.
    precision : of the backbone's weights and arithmetic, the search and all that follows are float32: "fp32"; "fp16",
        as far as the runtime computes in it, else the weights alone; "int8" (.onnx and .xml), after training.
    dynamic : take any H and W that are multiples of the backbone's stride, from twice that to `LARGEST`.
    calibration : [N, 3, H, W] of "int8": normal images, best those of training.
    evaluate : a folder in MVTec layout or an ImageSet: AUROC of model and file on its test images.

    Returns
    -------
    The largest differences that were found, at most `TOLERANCES[precision]`.

    Raises
    ------
    ValueError : another suffix or precision, images of another size, or calibration images that are missing or not
        wanted, or `evaluate` of a model that works in tiles.  BankError : the model cannot be exported so, or the file
        does not give the model's numbers.
    ImportError : a package of the extra is missing.
    """
    path = Path(path)
    if path.suffix not in SUFFIXES:
        raise ValueError(
            f"export: the file must end in {', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]}, got {path.name!r}"
        )
    if precision not in PRECISIONS:
        raise ValueError(f"export: precision must be one of {', '.join(PRECISIONS)}, got {precision!r}")
    if precision == "int8" and path.suffix == ".pt2":
        raise ValueError('export: precision "int8" is for .onnx and .xml, got .pt2')
    if (calibration is None) == (precision == "int8"):
        raise ValueError('export: precision "int8" needs calibration images, and no other takes them')
    if path.suffix == ".xml":
        need("openvino", "openvino", "OpenVINO export")
    if evaluate is not None and model.config.features.tile is not None:
        raise ValueError("export: evaluate takes no model that works in tiles, whose file takes single ones")
    size = exported_size(model.config)
    if calibration is not None:
        calibration = check_images(size, calibration)
        images = calibration[:COMPARED] if images is None else images
    module = _module(model, dynamic)
    batches = [check_images(size, images)]
    if (multiple := getattr(module, "multiple", None)) is not None:
        batches.append(check_images((4 * multiple[0], 3 * multiple[1])))
    if precision == "fp16":
        _halve(module)
    written = _converted(path.suffix, _program(module, size), calibration)
    about = facts(model) | {
        "precision": precision, "size_multiple": None if multiple is None else list(multiple),
        "calibrated_on": 0 if calibration is None else len(calibration),
    }  # fmt: skip
    found, run = _checked(model, pack(path.suffix, written, about), batches, precision)
    if evaluate is not None:
        found = _evaluated(model, ExportedModel(about, run, progress=model.progress), evaluate, found)
    files = pack(path.suffix, written, about | {"difference": found._asdict()})
    _checked(model, files, [batch[:1] for batch in batches], precision)  # as it will lie there
    for suffix, content in files.items():
        with atomic_write(path.with_suffix(suffix)) as f:
            f.write(content)
    return found


def exported_size(config: PatchCoreConfig) -> tuple[int, int]:
    """(height, width) of the images that a file takes: of a tile, where the model works in tiles.

    Raises
    ------
    BankError : images of the model have no one size.
    """
    f = config.features
    if f.seen_size is None:
        raise BankError('export: a file takes images of one size, and aspect is "keep": give crop or tile')
    return f.seen_size


def facts(model: PatchCore | Method) -> Facts:
    """What a program must know that runs the file: sizes of the images, the thresholds, and where it comes from."""
    c, f = model.config, model.config.features
    known = model.learned if isinstance(model, Method) else model.bank
    what = {"method": model.name} if isinstance(model, Method) else {"bank_rows": len(model.bank)}
    return {
        "resize": None if f.resize is None else list(f.resize),
        "aspect": f.aspect,
        "crop": None if f.crop is None or f.input_size is None else list(f.input_size),
        "tile": f.tile,
        "overlap": None if f.tile is None else f.overlap,
        "input_size": list(exported_size(c)),
        "threshold": known.threshold,
        "pixel_threshold": known.pixel_threshold,
        "scorer": c.scorer_name,
        **what,
        "config": known.config,
        "versions": known.versions,
    }


def _module(model: PatchCore | Method, dynamic: bool) -> torch.nn.Module:
    if not isinstance(model, Method):
        return ExportedPatchCore(model, dynamic).eval()
    if dynamic:
        raise BankError(f"export: no dynamic size: a model of the method {model.name} is of one size")
    return model.module()


def _halve(module: torch.nn.Module) -> None:
    owner: Any = module if isinstance(module, ExportedPatchCore) else module.maps
    owner.net = Halved(owner.net)


def _program(module: torch.nn.Module, size: tuple[int, int]) -> torch.export.ExportedProgram:
    sides: dict[int, Any] = {0: torch.export.Dim("batch", min=1)}
    if (multiple := getattr(module, "multiple", None)) is not None:
        for axis, (name, step) in enumerate(zip(("rows", "columns"), multiple, strict=True), start=2):
            sides[axis] = step * torch.export.Dim(name, min=2, max=LARGEST // step)
        size = (5 * multiple[0], 7 * multiple[1])  # of equal sides one would be taken for the other
    example = torch.zeros(2, 3, *size)  # of 1 the batch would be taken for a constant
    with torch.no_grad():
        return torch.export.export(module, (example,), dynamic_shapes=(sides,))


def _converted(suffix: str, program: torch.export.ExportedProgram, calibration: torch.Tensor | None) -> Any:
    """What `pack` takes."""
    if suffix == ".pt2":
        return program
    proto = onnx_model(program)
    if suffix == ".onnx":
        return proto if calibration is None else quantized_onnx(proto, calibration)
    model = openvino_model(onnx_bytes(proto))
    return model if calibration is None else quantized_openvino(model, calibration)


def _checked(
    model: PatchCore | Method, files: dict[str, bytes], batches: list[torch.Tensor], precision: str
) -> tuple[Difference, Run]:
    run = unpack(files)[1]
    # Rows that were rounded to half precision may be rounded the other way.
    rounded = model.config.features.precision != "float32" and not isinstance(model, Method)
    tolerance = max(TOLERANCES[precision], TOLERANCES["fp16"] if rounded else 0.0)
    return compare(model, run, batches, tolerance), run


def _evaluated(model: PatchCore | Method, exported: ExportedModel, data: Any, found: Difference) -> Difference:
    ours, theirs = exact(model).evaluate(data).metrics, exported.evaluate(data).metrics

    def both(name: str) -> tuple[float, float] | None:
        pair = float(ours[name]), float(theirs[name])
        return None if any(value != value for value in pair) else pair  # NaN: one class only

    return found._replace(
        image_auroc=both("image_auroc"), pixel_auroc=both("pixel_auroc"), tested=int(theirs["n_test"])
    )
