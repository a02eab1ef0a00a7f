"""Writing the module down: as a torch.export archive, or through it as ONNX."""

from __future__ import annotations

import io
import json
import os
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from patchcore_fast.config import PatchCoreConfig
from patchcore_fast.errors import BankError
from patchcore_fast.export.check import Difference, check_images, compare, run_onnx, run_pt2
from patchcore_fast.export.module import ExportedPatchCore
from patchcore_fast.files import atomic_write
from patchcore_fast.methods.base import Method

if TYPE_CHECKING:
    from patchcore_fast.model import PatchCore

FACTS = "patchcore_fast.json"  # name of the extra file in a .pt2, and of the metadata entry in an .onnx
SUFFIXES = (".pt2", ".onnx")
_ONNX_LIMIT = 2**31 - 1  # bytes of a protobuf message


def export_model(
    model: PatchCore | Method, path: str | os.PathLike[str], images: torch.Tensor | None = None
) -> Difference:
    """Write a model to one file, after what was written has been run and compared with the model.

    The file takes images [B, 3, H, W] float32 in [0, 1], any B, H and W as the config's, and gives scores [B] and maps
    [B, H, W]. Of a model that works in tiles it takes single tiles (docs/tiles.md). Nothing is left on disk where the
    comparison fails.

    Parameters
    ----------
    model : fitted or loaded, of whatever method; see `ExportedPatchCore` for what cannot be exported. Its search is
        exact in the file, whatever index the bank has.
    path : .pt2 or .onnx; the latter needs the extra `export`.
    images : [B, 3, H, W] to compare on; three seeded pictures when None.

    Returns
    -------
    The largest differences that were found, at most `TOLERANCE`.

    Raises
    ------
    ValueError : another suffix, or images of another size.  BankError : the model cannot be exported, or the file does
    not give the model's numbers.  ImportError : a package of the extra is missing.
    """
    path = Path(path)
    if path.suffix not in SUFFIXES:
        raise ValueError(f"export: the file must end in {' or '.join(SUFFIXES)}, got {path.name!r}")
    onnx = _import_onnx() if path.suffix == ".onnx" else None
    size = exported_size(model.config)
    module = model.module() if isinstance(model, Method) else ExportedPatchCore(model).eval()
    images = check_images(size, images)
    program = _program(module, size)
    content = _pt2_bytes(program, facts(model)) if onnx is None else _onnx_bytes(onnx, program, facts(model))
    found = compare(model, run_pt2 if onnx is None else run_onnx, content, images)
    with atomic_write(path) as f:
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


def facts(model: PatchCore | Method) -> dict[str, Any]:
    """What a program must know that runs the file: sizes of the images, the threshold, and where it comes from."""
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
        "scorer": c.scorer_name,
        **what,
        "config": known.config,
        "versions": known.versions,
    }


def _program(module: torch.nn.Module, size: tuple[int, int]) -> torch.export.ExportedProgram:
    example = torch.zeros(2, 3, *size)  # of 1 the batch would be taken for a constant
    with torch.no_grad():
        return torch.export.export(module, (example,), dynamic_shapes=({0: torch.export.Dim("batch", min=1)},))


def _pt2_bytes(program: torch.export.ExportedProgram, about: dict[str, Any]) -> bytes:
    buffer = io.BytesIO()
    torch.export.save(program, buffer, extra_files={FACTS: json.dumps(about)})
    return buffer.getvalue()


def _onnx_bytes(onnx: Any, program: torch.export.ExportedProgram, about: dict[str, Any]) -> bytes:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of onnxscript's and torch's own internals
        written = torch.onnx.export(
            program, (), dynamo=True, verbose=False, input_names=["images"], output_names=["scores", "maps"]
        )
    assert written is not None
    proto = written.model_proto
    onnx.helper.set_model_props(proto, {FACTS: json.dumps(about)})
    if (size := proto.ByteSize()) > _ONNX_LIMIT:
        raise BankError(f"export: the model has {size:,} bytes, ONNX takes 2 GB in one file: write .pt2 instead")
    return bytes(proto.SerializeToString())


def _import_onnx() -> Any:
    try:
        import onnx
        import onnxruntime  # noqa: F401  (the check runs the file)
        import onnxscript  # noqa: F401  (torch's exporter needs it)
    except ImportError as error:
        raise ImportError(f'ONNX export needs {error.name}: pip install "patchcore_fast[export]"') from error
    return onnx
