"""What a result was measured on: device, threads, versions, commit, date. As a script: prints it."""

from __future__ import annotations

import json
import os
import platform
import re
import sys
import time
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

import patchcore_fast
from benchmarks.harness.sources import commit, said

LIBRARIES = (
    "numpy", "anomalib", "torch-quickfps", "torch-fps", "k-center", "fpsample", "faiss-cpu", "faiss-gpu",
    "faiss-gpu-cu12", "scikit-learn", "pykeops", "triton", "hnswlib",
)  # fmt: skip


def describe(device: str) -> dict[str, Any]:
    """Device, versions and commit: what a committed result must carry.

    Returns
    -------
    device, threads, python, torch, patchcore_fast, commit ("+changes" where tracked files differ from it, results
    aside; in a copy without git: what PATCHCORE_FAST_COMMIT says), date, and versions: name -> version of every library
    that is installed and could be a provider. With CUDA also cuda: capability, processors, driver, runtime, triton.
    """
    more = {"cuda": _cuda(device)} if device.startswith("cuda") else {}
    return {
        **more,
        "device": torch.cuda.get_device_name(device) if device.startswith("cuda") else cpu_name(),
        "kind": "cuda" if device.startswith("cuda") else "cpu",
        "memory_bytes": _memory(device),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "patchcore_fast": patchcore_fast.__version__,
        "commit": commit(),
        "date": time.strftime("%Y-%m-%d"),
        "versions": versions(),
    }


def _cuda(device: str) -> dict[str, Any]:
    """Of the card and what drives it."""
    card = torch.cuda.get_device_properties(device)
    found = versions().get("triton")
    driver = said(["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]).splitlines()
    return {
        "name": card.name,
        "capability": f"{card.major}.{card.minor}",
        "processors": card.multi_processor_count,
        "memory_bytes": int(card.total_memory),
        "driver": driver[0] if driver else "unknown",
        "runtime": torch.version.cuda or "none",
        "triton": found or "none",
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


if __name__ == "__main__":
    asked = sys.argv[1] if len(sys.argv) > 1 else "cpu"
    if asked.startswith("cuda") and not torch.cuda.is_available():
        sys.exit("torch finds no CUDA device")
    print(json.dumps(describe(asked)))
