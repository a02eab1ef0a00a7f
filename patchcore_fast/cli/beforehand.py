"""What can be told before torch, torchvision and timm are imported: it comes at once, and not after seconds."""

from __future__ import annotations

import errno
import importlib.util
import os
from pathlib import Path

from patchcore_fast.errors import BankError, DataError

# Modules of the extra "pipeline", and what says that it needs them where they are imported.
PIPELINE = {
    "timm": "patchcore_fast.features needs timm",
    "torchvision": "patchcore_fast.features needs torchvision",
    "PIL": "patchcore_fast.data needs Pillow",
    "safetensors": "patchcore_fast.memory_bank needs safetensors",
    "scipy": "patchcore_fast.metrics needs SciPy",
    "sklearn": "patchcore_fast.metrics needs scikit-learn",
    "matplotlib": "patchcore_fast.report needs matplotlib",
}
ONNX = ("onnx", "onnxruntime", "onnxscript")


def installed(module: str) -> bool:
    """Whether a top-level module can be found; it is not imported."""
    try:
        return importlib.util.find_spec(module) is not None
    except ValueError:  # one that is there already and was made by hand
        return True


def need(module: str, what: str, extra: str) -> None:
    """ImportError that says how to get a module which is missing."""
    if not installed(module):
        raise ImportError(f'{what}: pip install "patchcore_fast[{extra}]"')


def need_pipeline() -> None:
    """ImportError: something of the extra "pipeline" is missing."""
    for module, what in PIPELINE.items():
        need(module, what, "pipeline")


def need_index(kind: str) -> None:
    """ImportError: a search that wants faiss, without faiss."""
    if kind.startswith("faiss"):
        need("faiss", "a faiss index needs faiss", "faiss")


def need_onnx() -> None:
    """ImportError: a package that ONNX export wants is missing."""
    for module in ONNX:
        need(module, f"ONNX export needs {module}", "export")


def need_openvino(int8: bool) -> None:
    """ImportError: a package that OpenVINO export wants is missing.  int8 : NNCF too."""
    for module in ("openvino", *(("nncf",) if int8 else ())):
        need(module, f"OpenVINO export needs {module}", "openvino")


def need_log(backend: str) -> None:
    """ImportError: a package that logging wants is missing."""
    need(backend, f"--log {backend} needs {backend}", backend)


def check_images(folder: str) -> None:
    """DataError: no folder, and no list of images (a .json, or a class of one as FILE.json/CLASS)."""
    lists = (folder, os.path.dirname(folder))
    if not os.path.isdir(folder) and not any(os.path.isfile(name) and name.endswith(".json") for name in lists):
        raise DataError(f"{Path(folder)}: {'not a folder' if os.path.exists(folder) else 'no such folder'}")


def check_files(paths: list[str]) -> None:
    """DataError: a file or folder that is not there."""
    for path in paths:
        if not os.path.exists(path):
            raise DataError(f"{Path(path)}: no such file or folder")


def check_bank(path: str) -> None:
    """BankError: no file."""
    if not os.path.isfile(path):
        raise BankError(f"{Path(path)}: no such bank file")


def check_room(folder: str) -> None:
    """An output folder that can be made. DataError, OSError: a file is there or on the way, or nothing may be made."""
    path = Path(folder)
    if path.exists() and not path.is_dir():
        raise DataError(f"{path}: is a file, a folder is wanted")
    above = next(p for p in (path.absolute(), *path.absolute().parents) if p.exists())
    if not above.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), os.fspath(path))
    if not os.access(above, os.W_OK | os.X_OK):
        if above == path.absolute():
            raise DataError(f"{path}: the folder is not writable")
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), os.fspath(path))
