"""Room in a file where memory is short: the same numbers, nothing left behind, errors that name the folder."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from patchcore_fast import scratch
from patchcore_fast.model import PatchCore
from patchcore_fast.samplers import GreedyCoresetSampler

from .evaluated import tiny_config


@pytest.fixture
def short(monkeypatch):
    """Little memory is free."""
    monkeypatch.setattr(scratch, "SMALL", 1000)
    monkeypatch.setattr(scratch, "available_memory", lambda: 10_000)


def mapped() -> int:
    """Files without a name that this process has mapped."""
    return Path("/proc/self/maps").read_text().count("(deleted)")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
def test_a_file_without_a_name(short, tmp_path, dtype):
    before, files = mapped(), os.listdir("/proc/self/fd")
    room = scratch.room_for((300, 40), dtype, tmp_path)
    assert room.shape == (300, 40) and room.dtype == dtype and room.is_contiguous()
    room.copy_(torch.arange(300)[:, None].expand(300, 40))
    assert mapped() == before + 1 and not list(tmp_path.iterdir())
    assert len(os.listdir("/proc/self/fd")) <= len(files) + 1
    assert torch.equal(room[:, 7], torch.arange(300).to(dtype))
    del room
    assert mapped() == before and len(os.listdir("/proc/self/fd")) == len(files)


def test_memory_where_there_is_some(short, tmp_path):
    before = mapped()
    assert scratch.room_for((10, 40), torch.float32, tmp_path).shape == (10, 40)
    assert scratch.room_for((0, 40), torch.float32, tmp_path).shape == (0, 40)
    assert mapped() == before


def test_errors_name_the_folder(short, tmp_path, monkeypatch):
    with pytest.raises(OSError, match=r"48,000 bytes wanted for features.*nowhere"):
        scratch.room_for((300, 40), torch.float32, tmp_path / "nowhere")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(OSError, match="No space left on device") as caught:
        scratch.room_for((300, 40), torch.float32, tmp_path)
    assert caught.value.errno == 28 and caught.value.filename == str(tmp_path)


def test_a_folder_that_lies_in_memory_is_no_help(monkeypatch, tmp_path):
    monkeypatch.setattr(scratch, "_kind", lambda folder: "tmpfs" if folder == tmp_path else "ext4")
    monkeypatch.setattr(scratch.tempfile, "gettempdir", lambda: str(tmp_path))
    assert scratch.scratch_folder() == Path("/var/tmp")
    monkeypatch.setattr(scratch, "_kind", lambda folder: "ext4")
    assert scratch.scratch_folder() == tmp_path


def test_file_systems():
    if not Path("/proc/self/mounts").exists():
        pytest.skip("no /proc")
    assert scratch._kind(Path("/proc")) == "proc"
    assert scratch._kind(Path("/nowhere/at/all"))  # that of the root


def test_a_fit_with_little_memory_is_the_same_fit(short, monkeypatch):
    images = torch.rand(6, 3, 64, 64, generator=torch.Generator().manual_seed(2))
    with monkeypatch.context() as enough:
        enough.setattr(scratch, "available_memory", lambda: 1 << 40)
        expected = PatchCore(tiny_config()).fit(images)
    before = mapped()
    model = PatchCore(tiny_config()).fit(images)
    assert torch.equal(model.bank.features, expected.bank.features) and model.threshold == expected.threshold
    assert torch.equal(model.bank.indices, expected.bank.indices)
    assert mapped() == before


def test_a_selection_with_little_memory_is_the_same(short, monkeypatch):
    x = torch.randn(900, 200, generator=torch.Generator().manual_seed(3))
    found = GreedyCoresetSampler(0.1).select(x)
    monkeypatch.setattr(scratch, "available_memory", lambda: 1 << 40)
    assert torch.equal(found, GreedyCoresetSampler(0.1).select(x))
