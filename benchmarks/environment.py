"""What a result was measured on: device, threads, versions, commit, date."""

from __future__ import annotations

import os
import platform
import re
import subprocess
import time
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

import patchcore_fast

HERE = Path(__file__).resolve().parent
LIBRARIES = (
    "numpy", "anomalib", "torch-quickfps", "torch-fps", "k-center", "fpsample", "faiss-cpu", "faiss-gpu",
    "faiss-gpu-cu12", "scikit-learn", "pykeops",
)  # fmt: skip


def describe(device: str) -> dict[str, Any]:
    """Device, versions and commit: what a committed result must carry.

    Returns
    -------
    device, threads, python, torch, patchcore_fast, commit ("+changes" where tracked files differ from it, results
    aside), date, and versions: name -> version of every library that is installed and could be a provider.
    """
    git = ["git", "-C", str(HERE)]
    commit = subprocess.run([*git, "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
    code = [*git, "status", "--porcelain", "-uno", "--", ":/", ":(top,exclude)benchmarks/results"]
    changes = subprocess.run(code, capture_output=True, text=True).stdout.strip()
    return {
        "device": torch.cuda.get_device_name(device) if device.startswith("cuda") else cpu_name(),
        "kind": "cuda" if device.startswith("cuda") else "cpu",
        "memory_bytes": _memory(device),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "patchcore_fast": patchcore_fast.__version__,
        "commit": (commit or "unknown") + ("+changes" if changes else ""),
        "date": time.strftime("%Y-%m-%d"),
        "versions": versions(),
    }


def versions() -> dict[str, str]:
    """Of the libraries that are installed."""
    found = {}
    for name in LIBRARIES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def cpu_name() -> str:
    """Model, cores, and the instructions that matter here."""
    info = Path("/proc/cpuinfo").read_text() if os.path.exists("/proc/cpuinfo") else ""
    model = re.search(r"model name\s*:\s*(.+)", info)
    flags = [f for f in ("avx2", "avx512f", "avx512_vnni", "amx_bf16") if re.search(rf"\b{f}\b", info)]
    return f"{model.group(1) if model else platform.processor()}, {os.cpu_count()} cores, {' '.join(flags)}"


def available_bytes() -> int:
    """Memory that this machine could still give out."""
    found = re.search(r"MemAvailable:\s*(\d+) kB", Path("/proc/meminfo").read_text())
    return int(found[1]) * 1024 if found else 1 << 33


def _memory(device: str) -> int:
    if device.startswith("cuda"):
        return int(torch.cuda.get_device_properties(device).total_memory)
    return int(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
