"""Who may import whom (docs/architecture.md). Read from the source, so that lazy imports count too (imports.py)."""

from __future__ import annotations

import subprocess
import sys
from functools import cache
from itertools import pairwise
from pathlib import Path

import pytest

from .imports import arrows, circle, names, rooms, sources

ROOT = Path(__file__).parent.parent / "patchcore_fast"
# A file may import what stands as high as it does, or lower: here the rooms of the package, then those of the engine.
LAYER = {
    "__init__": 0,
    "__main__": 6,  # the command line
    "errors": 0,
    "files": 0,
    "feature_store": 0,
    "chain": 0,
    "memory": 0,
    "names": 0,
    "matrix_files": 0,
    "npy": 0,
    "scratch": 0,
    "ahead": 0,
    "stages": 0,
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
    "bank_size": 3,
    "memory_bank": 3,
    "layered_bank": 3,
    "scoring": 3,
    "scorers": 3,
    "metrics": 3,
    "regions": 3,
    "bootstrap": 3,
    "data": 3,
    "coverage": 3,
    "compat": 3,
    "model": 4,
    "report": 4,
    "tracking": 5,
    "doctor": 5,
    "comparison": 5,
    "experiments": 5,
    "export": 5,
    "methods": 5,
    "demo": 5,
    "watch": 5,
    "zeroshot": 5,
    "cli": 6,
}
KERNELS = {
    "__init__": 8,  # the engine's face; it puts the tuner in its place
    "autotune": 7,  # times the public functions
    "kcenter": 6,  # public functions, and their references
    "knn": 6,
    "ops": 6,
    "kcenter/traversal": 5,  # the driver, the same for all backends
    "ranks": 5,  # and the one for several processes
    "backends": 4,  # the registry, and how each backend enters it
    "backends/cuda_kernels": 3,
    "backends/triton_kernels": 3,
    "backends/native_backend": 2,
    "backends/native_prepared": 2,
    "backends/native_rows": 2,
    "backends/torch_backend": 2,
    "backends/base": 1,  # what backends share: a pass in steps, in tiles, on a device
    "backends/device": 1,
    "backends/native_library": 1,
    "backends/stepwise": 1,
    "backends/tiled": 1,
    "surroundings": 0,  # arithmetic and checks: what decides
    "checks": 0,
    "exact": 0,
    "processors": 0,
    "ranking": 0,
    "short_rows": 0,
    "together": 0,
    "rounding": 0,
    "tuning": 0,
}
# Only these may import the package; everything else reaches it through them.
ONLY = {
    "triton": ("kernels/backends/triton_kernels/",),
    "patchcore_fast._native": ("kernels/backends/",),
    "timm": ("features/",),
    "matplotlib": ("report/",),
    "sklearn": ("metrics.py", "compat/"),
    "faiss": ("search/faiss_index.py",),
    "onnx": ("export/",),
    "onnxruntime": ("export/",),
    "openvino": ("export/",),
    "nncf": ("export/",),
    "tensorboard": ("tracking.py",),
    "wandb": ("tracking.py",),
    "watchdog": ("watch/source.py",),
    "safetensors": ("memory_bank.py", "features/"),
}


@cache
def found_arrows() -> dict[str, set[str]]:
    """File -> files that it imports."""
    return arrows(ROOT)


def floor(path: str, table: dict[str, int]) -> int:
    """How high a file stands: the number of its own entry, else of the innermost folder that has one."""
    parts = path.removesuffix(".py").split("/")
    entries = ("/".join(parts[:n]) for n in range(len(parts), 0, -1))
    found = next((entry for entry in entries if entry in table), None)
    assert found is not None, f"{path} has no floor: give it one in {Path(__file__).name}"
    return table[found]


@pytest.mark.parametrize(("folder", "table"), [("", LAYER), ("kernels/", KERNELS)], ids=["package", "engine"])
def test_every_room_has_a_floor_and_imports_go_down(folder, table):
    inside = {path.removeprefix(folder): reached for path, reached in found_arrows().items() if path.startswith(folder)}
    for path, reached in inside.items():
        for other in (p.removeprefix(folder) for p in reached if p.startswith(folder)):
            assert floor(other, table) <= floor(path, table), f"{folder}{path} imports {folder}{other}"
    gone = {room for room in table if not any(p == f"{room}.py" or p.startswith(f"{room}/") for p in inside)}
    assert not gone, f"no file stands at {gone}"


def test_no_files_import_each_other_in_a_circle():
    assert not (found := circle(found_arrows())), " -> ".join(found)


def test_no_rooms_of_a_folder_import_each_other_in_a_circle():
    files = found_arrows()
    for folder in ["", *sorted({f"{folder}/" for p in files if (folder := p.rpartition("/")[0])})]:
        found = circle(rooms(files, folder))
        ties = [f"{p} -> {q}" for a, b in pairwise(found) for p in files for q in files[p]
                if f"{p}/".startswith(f"{a}/") and f"{q}/".startswith(f"{b}/")]  # fmt: skip
        assert not found, "\n".join([folder, " -> ".join(found), *ties])


@pytest.mark.parametrize(
    ("last", "ring"),
    [
        ("from house.a import B", "a/__init__.py -> a/b.py -> c.py"),  # the name stands in the package's own file
        ("from .a import b", "a/b.py -> c.py"),  # the name is a file
        ("def late():\n    import house.a.b", "a/b.py -> c.py"),
        ("if TYPE_CHECKING:\n    from . import a", "a/__init__.py -> a/b.py -> c.py"),
        ("from house.a import leaf\nimport json, a", ""),
    ],
)
def test_the_finder_finds_what_closes_a_circle(tmp_path, last, ring):
    files = {"__init__": "", "a/__init__": "from .b import B", "a/b": "from ..c import C", "a/leaf": "", "c": last}
    for name, text in files.items():
        path = tmp_path / "house" / f"{name}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    found = arrows(tmp_path / "house")
    first, *others = circle(found) or [""]
    assert sorted({first, *others}) == sorted(ring.split(" -> ")) and (not ring or first == others[-1])
    assert all(q in found[p] for p, q in pairwise([first, *others]))
    assert set(circle(rooms(found, ""))) == {"a", "c.py"}  # the leaf closes a circle of rooms, if none of files


def test_packages_are_imported_where_they_may_be():
    for path in sources(ROOT):
        place, taken = path.relative_to(ROOT).as_posix(), names(path, ROOT)
        if place.startswith("kernels/"):
            outside = {n.split(".")[0] for n in taken} - set(sys.stdlib_module_names) - {"patchcore_fast"}
            assert outside <= {"torch", "numpy", "triton"}, f"{path} imports {outside}"
        for package, allowed in ONLY.items():
            if any(n == package or n.startswith(package + ".") for n in taken):
                assert place.startswith(allowed), f"{path} imports {package}"


def test_gpu_backends_know_nothing_of_each_other_and_what_they_share_nothing_of_them():
    strangers = {
        "device": ("native",),
        "triton_kernels": ("cuda_kernels", "native"),
        "cuda_kernels": ("triton_kernels",),
    }
    for folder, others in strangers.items():
        inside = {p: reached for p, reached in found_arrows().items() if p.startswith(f"kernels/backends/{folder}/")}
        ties = [(p, q) for p in inside for q in inside[p] if q.removeprefix("kernels/backends/").startswith(others)]
        assert inside and not ties, ties


def test_references_import_torch_and_the_canonical_distance_only():
    references = [reached for path, reached in found_arrows().items() if path.endswith("/reference.py")]
    assert references == [{"kernels/exact.py"}] * 2


def test_import_prints_nothing_and_loads_nothing_heavy():
    code = "import sys, patchcore_fast; print(sorted({'torch', 'timm', 'matplotlib', 'sklearn'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n" and done.stderr == ""


def test_what_imports_print_and_load():
    """One after the other in one process: import, and which of these packages are there then."""
    code = (
        "import sys; loaded = lambda *names: print(sorted({*names} & set(sys.modules)), flush=True)\n"
        "import patchcore_fast.kernels, patchcore_fast.samplers; loaded('triton')\n"
        "import patchcore_fast.compat.anomalib; loaded('anomalib', 'sklearn', 'scipy')\n"
        "from patchcore_fast import doctor; doctor.collect(); loaded('triton')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n" * 3 and done.stderr == ""
