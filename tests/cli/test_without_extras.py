"""Engine and samplers need torch and NumPy alone. `.ci/run` runs this where the extras, hidden here, are missing."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

EXTRAS = ("timm", "torchvision", "PIL", "safetensors", "tqdm", "matplotlib", "sklearn", "scipy", "skimage")


@pytest.mark.parametrize(
    ("args", "code", "words"),
    [
        (["doctor"], 0, "No problems found"),
        (["select", "f.npy", "--ratio", "0.5", "--output", "c.npy"], 0, "Picked 5 of 10 rows"),
        (["check", "."], 2, 'needs Pillow: pip install "patchcore_fast[pipeline]"'),
        (["fit", ".", "--output", "b"], 2, 'pip install "patchcore_fast[pipeline]"'),
        (["demo"], 2, 'pip install "patchcore_fast['),
    ],
    ids=lambda v: v[0] if isinstance(v, list) else "",
)
def test_without_the_extras(tmp_path: Path, args: list[str], code: int, words: str) -> None:
    np.save(tmp_path / "f.npy", np.arange(30, dtype=np.float32).reshape(10, 3))
    start = f"import sys; sys.modules.update(dict.fromkeys({EXTRAS!r})); from patchcore_fast.cli import main; "
    done = subprocess.run([sys.executable, "-c", start + f"sys.exit(main({args!r}))"], cwd=tmp_path, text=True,
                          capture_output=True, timeout=120)  # fmt: skip
    assert done.returncode == code and words in done.stdout + done.stderr, done.stderr
    assert "Traceback" not in done.stderr
