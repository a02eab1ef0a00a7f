"""Checkpoint folders that are damaged, foreign, or of somebody who means harm."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from patchcore_fast.errors import DataError
from patchcore_fast.methods.checkpoint import JSON, About, Checkpoints, State, read_about


def state(rate: float = 0.1) -> State:
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2))
    optimizer = torch.optim.Adam(net.parameters(), rate, betas=(0.5, 0.9))
    return State(0, {"net": net}, {"adam": optimizer}, torch.Generator().manual_seed(1))


def trained(steps: int) -> State:
    found = state()
    for _ in range(steps):
        found.modules["net"](torch.randn(4, 3, generator=found.draws)).square().sum().backward()
        found.optimizers["adam"].step()
    found.epoch, found.curve = 2, [{"epoch": 1, "loss": 0.5}, {"epoch": 2, "loss": 0.25}]
    return found


ABOUT = About({"method": "simplenet"}, "w", "0123456789abcdef", 5, 4)


def tensors(found: State) -> dict[str, torch.Tensor]:
    kept: dict[str, Any] = found.optimizers["adam"].state_dict()["state"]
    return found.modules["net"].state_dict() | {f"{i}.{k}": t for i, values in kept.items() for k, t in values.items()}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    Checkpoints(tmp_path).write(trained(3), ABOUT)
    return tmp_path


def test_all_that_changes_in_a_training_comes_back(folder, caplog):
    found, right = state(rate=0.7), trained(3)
    there = Checkpoints(folder)
    assert there.usable(ABOUT)
    assert not caplog.records
    there.restore(found)
    mine, wanted = tensors(found), tensors(right)
    assert mine.keys() == wanted.keys() and all(torch.equal(mine[name], wanted[name]) for name in wanted)
    group = found.optimizers["adam"].param_groups[0]
    assert (found.epoch, found.curve, group["lr"], group["betas"]) == (2, right.curve, 0.1, (0.5, 0.9))
    assert torch.equal(torch.randn(5, generator=found.draws), torch.randn(5, generator=right.draws))


def test_a_later_epoch_replaces_the_earlier_one_and_what_a_killed_process_left(folder):
    (folder / "epoch-000009-00000000.safetensors").touch()
    (folder / "notes.txt").touch()
    later = trained(4)
    later.epoch, later.curve = 3, [*later.curve, {"epoch": 3, "loss": 0.1}]
    Checkpoints(folder).write(later, ABOUT)
    assert sorted(p.name for p in folder.iterdir()) == [JSON, "epoch-000003-01234567.safetensors", "notes.txt"]


@pytest.mark.parametrize(
    "change",
    [
        {"format": "other"}, {"format_version": 2}, {"file": "../epoch-000002-01234567.safetensors"}, {"epoch": 6},
        {"epoch": True}, {"curve": []}, {"curve": [{"epoch": 1, "loss": "x"}] * 2}, {"config": None},
    ],
    ids=lambda change: next(iter(change)) + " " + str(next(iter(change.values())))[:12],
)  # fmt: skip
def test_a_json_that_says_something_else_is_no_checkpoint(folder, change):
    values = json.loads((folder / JSON).read_text())
    (folder / JSON).write_text(json.dumps(values | change))
    with pytest.raises(DataError, match=f"{JSON}: no checkpoint of a training, or a damaged one"):
        Checkpoints(folder)


@pytest.mark.parametrize("text", ["", "[1]", "[" * 100_000, "{}", '{"format": NaN}'], ids=lambda t: t[:5] or "empty")
def test_no_json(folder, text):
    (folder / JSON).write_text(text)
    with pytest.raises(DataError, match="no checkpoint of a training"):
        read_about(folder)


def test_a_training_at_its_end_is_replaced_with_a_word(folder, caplog):
    ended = trained(3)
    ended.epoch, ended.curve = ABOUT.epochs, [{"epoch": i + 1, "loss": 0.1} for i in range(ABOUT.epochs)]
    Checkpoints(folder).write(ended, ABOUT)
    for about, why in (
        (
            replace(ABOUT, config={"method": "rd", "rd": {"epochs": 5}}, identity="f"),
            "method 'simplenet' there and 'rd' here",
        ),
        (replace(ABOUT, identity="f"), "other training images"),
    ):
        caplog.clear()
        assert not Checkpoints(folder).usable(about)
        assert (
            f"{folder}: had a training that was at its end, but of something else ({why}); it is replaced"
            in caplog.text
        )


def test_tensors_that_are_damaged_missing_or_of_another_training(folder, tmp_path_factory):
    file = next(folder.glob("*.safetensors"))
    content = file.read_bytes()
    for bad in (content[:-8], content[:-1] + bytes([content[-1] ^ 1]), b"", b"x" * 100):
        file.write_bytes(bad)
        with pytest.raises(DataError, match=file.name):
            Checkpoints(folder).restore(state())
    other = tmp_path_factory.mktemp("other")
    Checkpoints(other).write(trained(3), About(ABOUT.config, "w", "01234567" + "0" * 8, 5, 4))
    file.write_bytes(next(other.glob("*.safetensors")).read_bytes())
    with pytest.raises(DataError, match="of another training than"):
        Checkpoints(folder).restore(state())
    file.unlink()
    with pytest.raises(DataError, match="no such checkpoint file"):
        Checkpoints(folder).restore(state())


def test_tensors_of_other_networks_do_not_fit(folder):
    wider = state()
    wider.modules["net"] = torch.nn.Sequential(torch.nn.Linear(4, 2), torch.nn.BatchNorm1d(2))
    with pytest.raises(DataError, match="size mismatch"):
        Checkpoints(folder).restore(wider)
    fewer = state()
    fewer.optimizers["adam"] = torch.optim.Adam(torch.nn.Linear(5, 2).parameters())
    with pytest.raises(DataError, match="no checkpoint of a training"):
        Checkpoints(folder).restore(fewer)


def test_a_file_where_the_folder_is_wanted(tmp_path):
    with pytest.raises(DataError) as caught:
        read_about(tmp_path)
    assert str(caught.value) == f"{tmp_path}: no checkpoint of a training, there is no {JSON}"
    (tmp_path / "f").touch()
    with pytest.raises(DataError, match="is a file, a folder for checkpoints is wanted"):
        Checkpoints(tmp_path / "f")
