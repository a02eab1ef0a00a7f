"""Engine and samplers need torch and NumPy alone. `.ci/run` runs this where the extras, hidden here, are missing."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np

EXTRAS = ("timm", "torchvision", "PIL", "safetensors", "tqdm", "matplotlib", "sklearn", "scipy", "skimage")


CASES = [
    (["doctor"], 0, "No problems found"),
    (["select", "f.npy", "--ratio", "0.5", "--output", "c.npy"], 0, "Picked 5 of 10 rows"),
    (["check", "."], 2, 'needs Pillow: pip install "patchcore_fast[pipeline]"'),
    (["fit", ".", "--output", "b"], 2, 'pip install "patchcore_fast[pipeline]"'),
    (["demo"], 2, 'pip install "patchcore_fast['),
]
RUN = """
import contextlib, io, json, sys
sys.modules.update(dict.fromkeys(json.loads(sys.argv[1])))
from patchcore_fast.cli import main
for args in json.loads(sys.argv[2]):
    with contextlib.redirect_stdout(io.StringIO()) as said, contextlib.redirect_stderr(said):
        code = main(args)
    print(json.dumps([code, said.getvalue()]))
"""


def test_without_the_extras(tmp_path: Path) -> None:
    np.save(tmp_path / "f.npy", np.arange(30, dtype=np.float32).reshape(10, 3))
    given = (json.dumps(value) for value in (EXTRAS, [args for args, _, _ in CASES]))
    done = subprocess.run(
        [sys.executable, "-c", RUN, *given], cwd=tmp_path, text=True, capture_output=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    for (args, code, words), line in zip(CASES, done.stdout.splitlines(), strict=True):
        found, said = json.loads(line)
        assert found == code and words in said and "Traceback" not in said, (args, said)
