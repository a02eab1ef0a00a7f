"""Shared fixtures. Real features come from photographs and weights that install with the test extra."""

from __future__ import annotations

import os
import shutil
import signal
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from zlib import crc32

import pytest

# Workers of pytest-xdist share the processors: each with threads for all of them is four times slower.
if (workers := int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))) > 1:
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // workers)))
# Tests that ask for two threads and more: those of OpenMP wait for each other by turning a loop, each time for a
# millisecond and longer where another process has the processor. Asleep they are up to sixteen times as fast there.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import torch

if not torch.cuda.is_available():
    # Triton kernels then run on the CPU, slowly. It has to be known before triton is imported, in subprocesses too.
    os.environ.setdefault("TRITON_INTERPRET", "1")
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # Shells start what runs in the background so, and children inherit it; the tests of Ctrl-C want it to work.
    signal.signal(signal.SIGINT, signal.default_int_handler)


HERE = Path(__file__).parent
HANDLED = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGPIPE)


@pytest.fixture(autouse=True, scope="module")
def handlers_as_they_were() -> Iterator[None]:
    """Programs that run in this process, in a fixture of a file too, set signal handlers; the next file meets none."""
    before = {number: signal.getsignal(number) for number in HANDLED}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


# Rooms where one battery runs on every engine, every type and every shape.
GRIDS = ("kernels/", "cuda/", "triton/", "ranks/", "compat/", "scores/", "model/test_numeric_modes.py")
WHOLE = ("tests/triton/test_compiled.py",)  # one fixture compiles for minutes, so all of its tests run together or none


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--share", metavar="I/N", help="of the thorough tests run the I-th of N parts, I from 0")


def pytest_configure(config: pytest.Config) -> None:
    """--dist loadfile in the order of the files: by their numbers of tests the longest would be last."""
    if hasattr(config.option, "loadscopereorder"):  # of pytest-xdist
        config.option.loadscopereorder = False


def thin(items: list[pytest.Item]) -> None:
    """Of GRIDS of two parameters and more those cells are usual whose places add up to a multiple of three, or of two
    where a parameter has two values: each value, and of three parameters each pair. The others are thorough, but not
    where a card is asked for, which is fast and rarely there."""
    if "cuda" in os.environ.get("PATCHCORE_FAST_TEST_ENGINES", ""):
        return
    grids: defaultdict[tuple[Path, str], list[pytest.Function]] = defaultdict(list)
    for item in items:
        place = os.path.relpath(item.path, HERE)
        if not (isinstance(item, pytest.Function) and hasattr(item, "callspec") and place.startswith(GRIDS)):
            continue
        if item.get_closest_marker("thorough") is None:
            grids[item.path, item.originalname].append(item)
    for cells in grids.values():
        values = [[tuple(id(cell.callspec.params[name]) for name in axis) for cell in cells] for axis in axes(cells[0])]
        places = [[list(dict.fromkeys(axis)).index(value) for value in axis] for axis in values]
        sizes = [max(axis) + 1 for axis in places if max(axis)]
        for cell, *here in zip(cells, *places, strict=True) if len(sizes) > 1 else ():
            if sum(here) % min(3, *sizes):
                cell.add_marker(pytest.mark.thorough)


def axes(cell: pytest.Function) -> list[list[str]]:
    """Names of parameters: those of one @parametrize vary together, any other (of a fixture) by itself."""
    marked = [mark.args[0] for mark in cell.iter_markers("parametrize")]
    found = [[name.strip() for name in names.split(",")] if isinstance(names, str) else [*names] for names in marked]
    return found + [[name] for name in cell.callspec.params if not any(name in axis for axis in found)]


@pytest.hookimpl(tryfirst=True)  # before pytest leaves out what is marked
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Part by the name of a test, so that N runs with other I run all of them."""
    thin(items)

    def drawn(item: pytest.Item) -> int:
        file = item.nodeid.partition("::")[0]
        return crc32((file if file in WHOLE else item.nodeid).encode())

    if share := config.getoption("share"):
        part, parts = map(int, share.split("/"))
        left_out = [i for i in items if i.get_closest_marker("thorough") and drawn(i) % parts != part]
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in set(left_out)]


@pytest.fixture(scope="session")
def real_features() -> torch.Tensor:
    """[31360, 128] float32: 40 crops of three photographs, EfficientNet-Lite0, strides 8 and 16, projected."""
    pytest.importorskip("timm", reason="the extra pipeline is not installed")
    from patchcore_fast.demo.textures import photograph
    from patchcore_fast.features import Backbone, FeatureExtractor
    from patchcore_fast.samplers.projection import project, random_projection

    photos = [torch.from_numpy(photograph(name)).float() / 255 for name in ("brick", "grass", "gravel")]
    crops = [photos[i % 3][s : s + 224, t : t + 224] for i, (s, t) in enumerate((5 * i, 7 * i) for i in range(40))]
    images = torch.stack(crops)[:, None].expand(-1, 3, -1, -1)
    extract = FeatureExtractor(Backbone("tf_efficientnet_lite0", (2, 3)))
    rows = torch.cat([extract(part).features for part in images.split(8)])
    return project(rows, random_projection(rows.shape[1], 128, seed=0), torch.device("cpu"))


@pytest.fixture(scope="session")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a data set, `weave`, and `bank.safetensors`, fitted on it; only to be read."""
    pytest.importorskip("timm", reason="the extra pipeline is not installed")
    from patchcore_fast.cli import main

    from .evaluated import TINY
    from .pictures import write_mvtec

    root = tmp_path_factory.mktemp("place")
    write_mvtec(root / "weave")
    assert main(["fit", str(root / "weave"), "--output", str(root / "bank.safetensors"), *TINY]) == 0
    return root


@pytest.fixture
def weave(place: Path) -> Path:
    return place / "weave"


@pytest.fixture
def bank(place: Path) -> Path:
    return place / "bank.safetensors"


@pytest.fixture
def data(place: Path, tmp_path: Path) -> Path:
    """A copy of that data set, to be spoilt."""
    return Path(shutil.copytree(place / "weave", tmp_path / "weave"))


@pytest.fixture
def no_drawing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures are saved as a few pixels: for tests of anything but pictures, whose time is matplotlib's."""
    from matplotlib.figure import Figure
    from PIL import Image

    def save(self: Figure, file: object, **_: object) -> None:
        Image.new("RGB", (4, 4)).save(file, "png")

    monkeypatch.setattr(Figure, "savefig", save)


@pytest.fixture
def threads():
    """Set the thread count inside a test; the old one comes back."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)
