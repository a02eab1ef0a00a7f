"""Who may import whom (docs/architecture.md). Read from the source, so that lazy imports count too."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent / "patchcore_fast"
LAYER = {
    "errors": 0,
    "files": 0,
    "memory": 0,
    "names": 0,
    "npy": 0,
    "written": 0,
    "config": 0,
    "progress": 0,
    "inputs": 0,
    "kernels": 1,
    "scores": 2,
    "samplers": 2,
    "search": 2,
    "features": 2,
    "bank_file": 3,
    "memory_bank": 3,
    "scoring": 3,
    "scorers": 3,
    "metrics": 3,
    "bootstrap": 3,
    "data": 3,
    "coverage": 3,
    "compat": 3,
    "model": 4,
    "report": 4,
    "tracking": 5,
    "doctor": 5,
    "export": 5,
    "demo": 5,
    "cli": 6,
}
# Only these may import the package; everything else reaches it through them.
ONLY = {
    "triton": ("kernels/backends/triton_kernels/",),
    "patchcore_fast._native": ("kernels/backends/",),
    "timm": ("features/", "doctor.py"),
    "matplotlib": ("report/",),
    "sklearn": ("metrics.py", "compat/"),
    "faiss": ("search/faiss_index.py",),
    "onnx": ("export/",),
    "onnxruntime": ("export/",),
    "tensorboard": ("tracking.py",),
    "wandb": ("tracking.py",),
    "safetensors": ("memory_bank.py", "features/"),
}


def sources():
    # os.walk, because kernels/ is a link and rglob does not follow it on every Python.
    walk = os.walk(ROOT, followlinks=True)
    return sorted(Path(folder, name) for folder, _, names in walk for name in names if name.endswith(".py"))


def imports(path: Path) -> set[str]:
    """Absolute dotted names of everything that a file imports."""
    package = ["patchcore_fast", *path.relative_to(ROOT).parent.parts]
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            found.add(module)
            found |= {f"{module}.{alias.name}" for alias in node.names}
    return found


def unit(name: str) -> str | None:
    parts = name.split(".")
    return parts[1] if parts[0] == "patchcore_fast" and len(parts) > 1 and parts[1] in LAYER else None


def test_every_module_has_a_layer():
    known = {p.stem if p.parent == ROOT else p.relative_to(ROOT).parts[0] for p in sources()} - {"__init__"}
    assert known == set(LAYER)


@pytest.mark.parametrize("path", sources(), ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_go_down(path):
    own = path.relative_to(ROOT).parts[0].removesuffix(".py")
    names = imports(path)
    for name in names:
        other = unit(name)
        if other is not None and own != "__init__":
            assert LAYER[other] <= LAYER[own], f"{path} imports {name}"
    if own == "kernels":
        outside = {n.split(".")[0] for n in names} - set(sys.stdlib_module_names) - {"patchcore_fast"}
        assert outside <= {"torch", "numpy", "triton"}, f"{path} imports {outside}"
    for package, allowed in ONLY.items():
        if any(n == package or n.startswith(package + ".") for n in names):
            assert str(path.relative_to(ROOT)).startswith(allowed), f"{path} imports {package}"


def test_what_gpu_backends_share_knows_none_of_them():
    backends = ROOT / "kernels" / "backends"
    folders = {"device": ("triton_kernels", "cuda_kernels", "native"), "triton_kernels": ("cuda_kernels", "native"),
               "cuda_kernels": ("triton_kernels",)}  # fmt: skip
    for folder, others in folders.items():
        files = sorted((backends / folder).glob("*.py"))
        assert files
        for path in files:
            for name in imports(path):
                below = name.removeprefix("patchcore_fast.kernels.backends.")
                assert not below.startswith(others), f"{path} imports {name}"
                assert folder == "triton_kernels" or name.split(".")[0] != "triton", f"{path} imports {name}"


def test_references_import_torch_and_the_canonical_distance_only():
    references = [p for p in sources() if p.name == "reference.py"]
    assert len(references) == 2
    for path in references:
        inside = {n for n in imports(path) if n.startswith("patchcore_fast")}
        assert all(n.startswith("patchcore_fast.kernels.exact") for n in inside), path


def test_import_prints_nothing_and_loads_nothing_heavy():
    code = "import sys, patchcore_fast; print(sorted({'torch', 'timm', 'matplotlib', 'sklearn'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n" and done.stderr == ""


def test_kernels_import_prints_nothing():
    code = "import patchcore_fast.kernels, patchcore_fast.samplers"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "" and done.stderr == ""
