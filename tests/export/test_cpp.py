"""examples/cpp: built by CMake against ONNX Runtime, its scores and maps are those of Python."""

from __future__ import annotations

import os
import shutil
import subprocess
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, features

from patchcore_fast.export import TOLERANCE, export_model

from .test_export import fitted

SOURCE = Path(__file__).parents[2] / "examples" / "cpp"
# Headers of ONNX Runtime: a folder that the variable names (docs/environment.md), or Debian's.
HEADERS = [Path(p) for p in (os.environ.get("PATCHCORE_FAST_ONNXRUNTIME_HEADERS"), "/usr/include/onnxruntime",
                             "/usr/local/include/onnxruntime") if p]  # fmt: skip
STB = [Path("/usr/include/stb"), Path("/usr/include")]


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The example, linked with the library that the Python package brings."""
    for package in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(package, reason="the extra `export` is not installed")
    if not (shutil.which("cmake") and shutil.which("c++")):
        pytest.skip("no CMake or no C++ compiler")
    headers = next((p for p in HEADERS if (p / "onnxruntime_cxx_api.h").is_file()), None)
    if headers is None:
        pytest.skip("no headers of ONNX Runtime: Debian 13's libonnxruntime-dev, or PATCHCORE_FAST_ONNXRUNTIME_HEADERS")
    if not any((p / "stb_image.h").is_file() for p in STB):
        pytest.skip("no stb_image.h: Debian's libstb-dev")
    spec = find_spec("onnxruntime")
    assert spec is not None and spec.origin is not None
    library = next(Path(spec.origin).parent.glob("capi/libonnxruntime.so.*"), None)
    if library is None:
        pytest.skip("this onnxruntime brings no libonnxruntime.so")
    folder = tmp_path_factory.mktemp("cpp")
    (folder / "lib").mkdir()
    for name in ("libonnxruntime.so", "libonnxruntime.so.1"):
        (folder / "lib" / name).symlink_to(library)
    (folder / "include").symlink_to(headers)
    build = ["cmake", "-S", str(SOURCE), "-B", str(folder / "build"), f"-DONNXRUNTIME_ROOT={folder}"]
    for command in (build, ["cmake", "--build", str(folder / "build")]):
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
    return folder / "build" / "score"


def scored(program: Path, *argv: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(program), *map(str, argv)], capture_output=True, text=True, timeout=120)


def test_scores_and_maps(program: Path, tmp_path: Path) -> None:
    model = fitted(image_size=72, crop=(64, 60), ratio=0.1)
    export_model(model, tmp_path / "m.onnx")
    draw = np.random.default_rng(0)
    old = int(features.version("pil").split(".")[0]) < 13  # shrinks the width first, always
    for number, (height, width) in enumerate([(72, 72), (200, 310), (50, 40), (*((90, 100) if old else (300, 80)),)]):
        path = tmp_path / f"{number}.png"
        Image.fromarray(draw.integers(0, 256, (height, width, 3), dtype=np.uint8)).save(path)
        want = model.predict([path])[0]
        done = scored(program, tmp_path / "m.onnx", path, tmp_path / "map.csv")
        assert done.returncode == 0, done.stderr
        score, verdict = done.stdout.split()
        assert float(score) == pytest.approx(want.score, rel=TOLERANCE)
        assert verdict == ("anomalous" if want.is_anomalous else "normal")
        heat = np.loadtxt(tmp_path / "map.csv", delimiter=",")
        np.testing.assert_allclose(heat, want.anomaly_map, atol=TOLERANCE * float(want.anomaly_map.max()))
    assert scored(program, tmp_path / "m.onnx", path, tmp_path / "map.pgm").returncode == 0
    drawn = np.asarray(Image.open(tmp_path / "map.pgm"))
    assert np.abs(drawn - 255 * want.anomaly_map / want.anomaly_map.max()).max() <= 1.01


def test_what_is_wrong_is_said(program: Path, tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(b"no model")
    for argv, said in (((), "usage: score"), ((tmp_path / "m.onnx", tmp_path / "a.png"), "m.onnx")):
        done = scored(program, *argv)
        assert done.returncode == 2 and said in done.stderr
