"""Uninitialised memory is poison here: a kernel that reads what it has not written shows it. And the engines."""

import pytest
import torch

from patchcore_fast.kernels.backends.device import knn as searching

from .engines import ASKED, ENGINES, NATIVE

WITHOUT = "other engines were asked for" if ASKED else "no native module"


@pytest.fixture(autouse=True)
def poisoned_empty(monkeypatch):
    empty = torch.empty

    def poisoned(*args, **kwargs):
        out = empty(*args, **kwargs)
        return out.fill_(torch.nan if out.is_floating_point() else 2**6 if out.element_size() == 1 else -(2**14))

    monkeypatch.setattr(torch, "empty", poisoned)


@pytest.fixture
def room(request):
    """The file that takes over a test of tiled_knn.py or tiled_kcenter.py, with what its backend has of its own."""
    return request.module


@pytest.fixture
def backend(request):
    """The backend of that file's folder."""
    return request.path.parent.name


@pytest.fixture
def plans(monkeypatch):
    """The plans that searches on a device were made by."""
    made, make_plan = [], searching.make_plan

    def remembered(*arguments):
        made.append(make_plan(*arguments))
        return made[-1]

    monkeypatch.setattr(searching, "make_plan", remembered)
    return made


@pytest.fixture
def rescued(monkeypatch):
    """How many of its queries were crowded, call by call."""
    seen, rescue = [], searching.DeviceSearch._rescue

    def counted(self, *arguments):
        seen.append(arguments[-1])
        rescue(self, *arguments)

    monkeypatch.setattr(searching.DeviceSearch, "_rescue", counted)
    return seen


@pytest.fixture(params=ENGINES, ids=str)
def engine(request):
    """Each engine in turn (engines.Engine)."""
    with request.param.forced() as engine:
        yield engine


@pytest.fixture(params=NATIVE or [pytest.param(None, marks=pytest.mark.skip(WITHOUT))], ids=str)
def native_engine(request):
    """The native backend with each instruction set."""
    with request.param.forced() as engine:
        yield engine
