"""The demo: real photographs, synthetic defects, a fit, an evaluation and a race. Nothing is downloaded."""

from __future__ import annotations

from patchcore_fast.demo.baseline import LoopResult, one_pick_at_a_time
from patchcore_fast.demo.run import run_demo
from patchcore_fast.demo.textures import write_dataset, write_texture

__all__ = [
    "LoopResult",
    "one_pick_at_a_time",
    "run_demo",
    "write_dataset",
    "write_texture",
]
