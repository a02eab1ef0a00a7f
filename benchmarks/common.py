"""What every benchmark shares: the machine's description, real features, timing, peak memory, results on disk."""

from __future__ import annotations

import json
import os
import platform
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

import patchcore_fast
from patchcore_fast.files import atomic_write

HERE = Path(__file__).parent


def environment(device: str) -> dict[str, Any]:
    """Device, versions and commit: what a committed result must carry."""
    git = ["git", "-C", str(HERE)]
    commit = subprocess.run([*git, "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
    dirty = subprocess.run([*git, "status", "--porcelain", "-uno"], capture_output=True, text=True).stdout.strip()
    name = torch.cuda.get_device_name(device) if device.startswith("cuda") else _cpu_name()
    return {
        "device": name,
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "patchcore_fast": patchcore_fast.__version__,
        "commit": commit + ("+changes" if dirty else ""),
        "date": time.strftime("%Y-%m-%d"),
    }


def _cpu_name() -> str:
    info = Path("/proc/cpuinfo").read_text() if os.path.exists("/proc/cpuinfo") else ""
    model = re.search(r"model name\s*:\s*(.+)", info)
    flags = [f for f in ("avx2", "avx512f", "amx_bf16") if re.search(rf"\b{f}\b", info)]
    return f"{model.group(1) if model else platform.processor()}, {os.cpu_count()} cores, {' '.join(flags)}"


def real_features(rows: int = 156_800) -> torch.Tensor:
    """[rows, 128] float32 patch features: crops of scikit-image's photographs through EfficientNet-Lite0.

    224 px, strides 8 and 16 (28 x 28 patches of 152 values), 3 x 3 average, random projection to 128.
    """
    from patchcore_fast.demo.textures import photograph
    from patchcore_fast.features import Backbone, FeatureExtractor
    from patchcore_fast.samplers.projection import project, random_projection

    photos = [torch.from_numpy(photograph(name)).float() / 255 for name in ("brick", "grass", "gravel")]
    extract = FeatureExtractor(Backbone("tf_efficientnet_lite0", (2, 3)))
    random = np.random.default_rng(0)
    out: list[torch.Tensor] = []
    while 784 * len(out) < rows:
        y, x = random.integers(0, 512 - 224, 2)
        crop = photos[len(out) % 3][y : y + 224, x : x + 224]
        out.append(extract(crop.expand(1, 3, -1, -1)).features)
    features = torch.cat(out)[:rows]
    return project(features, random_projection(features.shape[1], 128, seed=0), torch.device("cpu"))


def interleaved(
    calls: dict[str, Callable[[], Any]], repeat: int, device: str
) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """Run each call `repeat` times in turn, so that a slow spell of the machine hits all.

    Returns the last result of each, and medians and spreads of the times.
    """
    times: dict[str, list[float]] = {name: [] for name in calls}
    results: dict[str, Any] = {}
    for _ in range(repeat):
        for name, call in calls.items():
            begin = time.perf_counter()
            results[name] = call()
            if device.startswith("cuda"):
                torch.cuda.synchronize()
            times[name].append(time.perf_counter() - begin)
    return results, {
        name: {"median_s": statistics.median(t), "min_s": min(t), "max_s": max(t), "runs": len(t)}
        for name, t in times.items()
    }


_MEMORY_SCRIPT = """
import re, sys
import numpy as np, torch
from patchcore_fast.kernels import k_center_greedy
def peak():  # not ru_maxrss, which a process inherits from its parent
    return int(re.search(r"VmHWM:\\s*(\\d+)", open("/proc/self/status").read())[1]) * 1024
features = torch.from_numpy(np.load(sys.argv[1]))
k_center_greedy(features[:5000], 50)
before = peak()
k_center_greedy(features, int(sys.argv[2]), start=0)
print(peak() - before)
"""


def selection_extra_bytes(features: torch.Tensor, k: int) -> int:
    """Resident memory that a selection adds on the CPU, from a process of its own.

    In a process that has worked before, memory that the allocator kept would hide the need.
    """
    with tempfile.TemporaryDirectory() as folder:
        np.save(f"{folder}/features.npy", features.cpu().numpy())
        command = [sys.executable, "-c", _MEMORY_SCRIPT, f"{folder}/features.npy", str(k)]
        return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def write_json(path: str, result: dict[str, Any]) -> None:
    """Write a result whole."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path, "w", encoding="utf-8") as f:
        json.dump(result, f, indent=2)
        f.write("\n")
