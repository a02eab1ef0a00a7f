"""The three formats: a program as the bytes of its files, and such files as a function that runs."""

from __future__ import annotations

import hashlib
import io
import json
import tempfile
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from patchcore_fast.errors import BankError

FACTS = "patchcore_fast.json"  # the extra file of a .pt2, the metadata entry of an .onnx, the rt_info of an .xml
SUFFIXES = (".pt2", ".onnx", ".xml")
BACKBONE = "backbone/"  # how the names of the backbone's nodes begin in an .onnx and an .xml
Files = dict[str, bytes]  # suffix -> content: of OpenVINO .bin and .xml, else one
Facts = dict[str, Any]
Run = Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor]]  # images [B, 3, H, W] -> scores [B], maps [B, H, W]
_ONNX_LIMIT = 2**31 - 1  # bytes of a protobuf message
_BACKBONES = ("net", "maps.net")  # where an `ExportedPatchCore` and a `MethodModule` have it


def need(name: str, extra: str, what: str) -> Any:
    """The module of a package; ImportError says which extra has it."""
    from importlib import import_module

    try:
        return import_module(name)
    except ImportError as error:
        raise ImportError(f'{what} needs {error.name}: pip install "patchcore_fast[{extra}]"') from error


def onnx_model(program: torch.export.ExportedProgram) -> Any:
    """The program as an onnx.ModelProto whose backbone nodes are named as such.

    Raises
    ------
    ImportError : a package of the extra is missing.
    """
    for name in ("onnx", "onnxruntime", "onnxscript"):  # torch's exporter needs the last, the check the second
        need(name, "export", "ONNX export")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of onnxscript's and torch's own internals
        written = torch.onnx.export(
            program, (), dynamo=True, verbose=False, input_names=["images"], output_names=["scores", "maps"]
        )
    assert written is not None
    proto = written.model_proto
    for node in proto.graph.node:
        scopes = next((p.value for p in node.metadata_props if p.key == "pkg.torch.onnx.name_scopes"), "")
        if any(f"'{name}'" in scopes for name in _BACKBONES):
            node.name = BACKBONE + node.name
    return proto


def onnx_bytes(proto: Any, about: Facts | None = None) -> bytes:
    """The file. BankError: it would be larger than ONNX takes."""
    import onnx

    if about is not None:
        onnx.helper.set_model_props(proto, {FACTS: json.dumps(about)})
    if (size := proto.ByteSize()) > _ONNX_LIMIT:
        raise BankError(f"export: the model has {size:,} bytes, ONNX takes 2 GB in one file: write .pt2 instead")
    return bytes(proto.SerializeToString())


def openvino_model(content: bytes) -> Any:
    """An .onnx file as an openvino.Model."""
    openvino = need("openvino", "openvino", "OpenVINO export")
    return openvino.Core().read_model(content)


def pack(suffix: str, model: Any, about: Facts) -> Files:
    """The files of an exported program, an onnx.ModelProto or an openvino.Model, with what they say of themselves."""
    if suffix == ".pt2":
        buffer = io.BytesIO()
        torch.export.save(model, buffer, extra_files={FACTS: json.dumps(about)})
        return {suffix: buffer.getvalue()}
    if suffix == ".onnx":
        return {suffix: onnx_bytes(model, about)}
    import openvino

    with tempfile.TemporaryDirectory() as folder:  # OpenVINO writes to names only
        xml, weights = Path(folder, "model.xml"), Path(folder, "model.bin")
        openvino.serialize(model, xml, weights)
        # The two files are replaced one after the other: the digest tells a pair that does not belong together.
        model.set_rt_info(json.dumps(about | {"weights": _digest(weights.read_bytes())}), [FACTS])
        openvino.serialize(model, xml, weights)
        return {".bin": weights.read_bytes(), ".xml": xml.read_bytes()}


def read_files(path: Path) -> Files:
    """What stands at a path, and of OpenVINO beside it. BankError: a file is missing."""
    if path.suffix not in SUFFIXES:
        raise BankError(f"{path}: an exported model ends in {', '.join(SUFFIXES)}")
    try:
        return {
            p.suffix: p.read_bytes() for p in (*((path.with_suffix(".bin"),) if path.suffix == ".xml" else ()), path)
        }
    except FileNotFoundError as error:
        raise BankError(f"{error.filename}: no such file") from error


def unpack(files: Mapping[str, bytes]) -> tuple[Facts, Run]:
    """What files say of themselves, and a function that runs them on the CPU.

    Raises
    ------
    ValueError : files that this package did not write, or an .xml with the .bin of another.
    ImportError : the format's runtime is missing.
    """
    if ".pt2" in files:
        return _open_pt2(files[".pt2"])
    return _open_onnx(files[".onnx"]) if ".onnx" in files else _open_openvino(files[".xml"], files[".bin"])


def _open_pt2(content: bytes) -> tuple[Facts, Run]:
    found = {FACTS: ""}
    try:
        program = torch.export.load(io.BytesIO(content), extra_files=found).module()
    except Exception as error:  # of a file that is none torch raises anything
        raise ValueError(f"torch.export cannot read it ({type(error).__name__})") from error

    def run(images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        with torch.no_grad():
            scores, maps = program(images)
        return scores, maps

    return _facts(found[FACTS]), run


def _open_onnx(content: bytes) -> tuple[Facts, Run]:
    onnxruntime = need("onnxruntime", "export", "an .onnx file")
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors: its warnings are of shapes in the middle of the graph
    try:
        session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its own types are not of one family
        raise ValueError(f"ONNX Runtime cannot read it ({type(error).__name__})") from error

    def run(images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        scores, maps = session.run(["scores", "maps"], {"images": images.numpy()})
        return torch.from_numpy(scores), torch.from_numpy(maps)

    return _facts(session.get_modelmeta().custom_metadata_map.get(FACTS, "")), run


def _open_openvino(xml: bytes, weights: bytes) -> tuple[Facts, Run]:
    openvino = need("openvino", "openvino", "an .xml file")
    core = openvino.Core()
    try:
        model = core.read_model(xml, weights)
        text = model.get_rt_info([FACTS]).value if model.has_rt_info([FACTS]) else ""
        about = _facts(text)
        if about.get("weights") not in (None, _digest(weights)):
            raise ValueError("the .bin file beside it is of another model")
        # Else processors with AMX or AVX512-BF16 compute in bfloat16, and scores differ from machine to machine.
        ready = core.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    except RuntimeError as error:
        raise ValueError("OpenVINO cannot read it") from error

    def run(images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        found = ready(images.numpy())
        return torch.from_numpy(found["scores"].copy()), torch.from_numpy(found["maps"].copy())

    return about, run


def _facts(text: str) -> Facts:
    try:
        about = json.loads(text)
    except ValueError as error:
        raise ValueError(f"it has no {FACTS}, which patchcore-fast export writes") from error
    if not isinstance(about, dict):
        raise ValueError(f"its {FACTS} is no object")
    return about


def _digest(content: bytes) -> str:
    return hashlib.blake2b(content, digest_size=16).hexdigest()
