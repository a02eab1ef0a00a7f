"""The ELFS sampler inside the real repositories, by the scripts that users start, where the repositories can be had."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from ..pictures import write_mvtec
from .repositories import peer_module

ROOT = Path(__file__).parents[2]
MODULES = {"amazon": "patchcore.patchcore", "anomalib": "anomalib.models.image.patchcore.torch_model"}


@pytest.mark.thorough
@pytest.mark.parametrize("name", MODULES)
def test_the_script_selects_and_scores(name: str, tmp_path: Path) -> None:
    module = peer_module(MODULES[name])
    assert module.__file__ is not None
    above = Path(module.__file__).parents[MODULES[name].count(".")]
    folder = write_mvtec(tmp_path / "weave", train=12, good=2, bad=2)
    path = os.pathsep.join([str(ROOT), str(above), *filter(None, [os.environ.get("PYTHONPATH")])])
    script = [sys.executable, str(ROOT / "examples" / f"{name}_elfs_after.py"), str(folder), "--ratio", "0.05"]
    done = subprocess.run(script, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": path}, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    found = dict(re.findall(r"^(coreset rows|selection|image AUROC) ([\d.]+)", done.stdout, re.M))
    assert set(found) == {"coreset rows", "selection", "image AUROC"} and 0 <= float(found["image AUROC"]) <= 1
    rows = {"amazon": 12 * 28 * 28, "anomalib": 12 * 32 * 32}[name]
    assert int(found["coreset rows"]) == rows // 20, "the share that was asked for"
    named = re.search(r"images that the others support least, by number \(deviation\): (.*)\. `", done.stderr)
    assert named and sorted(int(x.split()[0]) for x in named[1].split(", ")) == list(range(12)), "each image once"
