"""The compile clock, on a driver that only pretends to be there."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton", reason="triton is not installed")

CLOCK = """
import json, types
import torch, triton
from triton.backends.compiler import GPUTarget
from triton.runtime import driver
from patchcore_fast.kernels.backends.triton_kernels.clock import _hooks, compile_clock
from patchcore_fast.kernels.backends.triton_kernels.frame import look_kernel

class Driver:
    # As much of a CUDA driver as compiling without launching asks for.
    utils = types.SimpleNamespace(get_device_properties=lambda device: {"max_shared_mem": 101376})
    def get_current_device(self): return 0
    def get_current_stream(self, device=0): return 0
    def get_current_target(self): return GPUTarget("cuda", 86, 32)
    def get_active_torch_device(self): return torch.device("cpu")

driver.set_active(Driver())
x, largest, broken = torch.zeros(32, 32), torch.zeros(1, dtype=torch.int64), torch.zeros(1, dtype=torch.int32)
def compile(columns):
    look_kernel.warmup(x, 32, 1, 32, columns, largest, broken, M=32, K=32, enable_fp_fusion=False, grid=(1,))
owner, before, after = _hooks()
kept = getattr(owner, before), getattr(owner, after)
with compile_clock() as seconds:
    compile(32)
once = dict(seconds)
with compile_clock() as seconds:
    compile(32)
again = dict(seconds)
with compile_clock() as seconds:
    compile(33)
assert (getattr(owner, before), getattr(owner, after)) == kept
print(json.dumps([once, again, dict(seconds)]))
"""


def test_the_clock_times_what_triton_compiles(tmp_path: Path) -> None:
    place = os.environ | {"TRITON_INTERPRET": "0", "TRITON_CACHE_DIR": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", CLOCK], capture_output=True, text=True, env=place, timeout=300)
    assert done.returncode == 0, done.stderr
    once, again, other = json.loads(done.stdout)
    assert set(once) == set(other) == {"frame.look_kernel"} and 0 < once["frame.look_kernel"] < 120
    assert again == {}  # was compiled in this process
