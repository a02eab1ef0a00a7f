"""The folder that cells start from, a copy of it for each, and the server of forked runs."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("timm", reason="the extra pipeline is not installed")

from ..compared import cells_here
from .place import build
from .zygote import Zygote


@pytest.hookimpl(tryfirst=True)  # before pytest leaves out what is marked
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Of each grid every eighth cell is usual, the others are thorough."""
    count: Counter[str] = Counter()
    for item in items:
        if isinstance(item, pytest.Function) and item.path.parent.name == "faults" and hasattr(item, "callspec"):
            count[item.originalname] += 1
            if count[item.originalname] % 8 != 1:
                item.add_marker(pytest.mark.thorough)


@pytest.fixture(autouse=True, scope="package")
def compared_here() -> Iterator[None]:
    """See `cells_here`; other rooms have processes again."""
    with pytest.MonkeyPatch.context() as patch:
        cells_here(patch.setattr)
        yield


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images, a bank, an evaluation, features."""
    return build(tmp_path_factory.mktemp("faults") / "template")


@pytest.fixture
def root(template: Path, tmp_path: Path) -> Iterator[Path]:
    """A copy of the template, removed after the cell: hundreds of them would fill a small disk."""
    copy = tmp_path / "cell"
    shutil.copytree(template, copy, symlinks=True)
    yield copy
    shutil.rmtree(copy, ignore_errors=True)


@pytest.fixture(scope="session")
def zygote(template: Path) -> Iterator[Zygote]:
    """One server for all forked runs."""
    server = Zygote(template, Path(__file__).parents[2])
    yield server
    server.stop()
