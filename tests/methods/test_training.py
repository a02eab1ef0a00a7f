"""Trainings: the same bits from the same seed, stopped or not, and what is said when they cannot go on."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from patchcore_fast.config.methods import SimpleNetSettings
from patchcore_fast.errors import DataError
from patchcore_fast.methods import load_any, make_method
from patchcore_fast.methods.checkpoint import JSON, read_about
from patchcore_fast.methods.simplenet import SimpleNet

from ..pictures import write_mvtec
from .tiny import config, images

EPOCHS = 3


def model(epochs: int = EPOCHS, seed: int = 0, **settings) -> SimpleNet:
    made = SimpleNetSettings(epochs=epochs, steps=2, batch_size=4, **settings)
    return make_method("simplenet", config(seed=seed), made, progress=False)


def saved(trained: SimpleNet, path: Path) -> bytes:
    trained.save(path)
    return path.read_bytes()


def files(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> bytes:
    """The file of a training of images(9) that was not stopped."""
    return saved(model().fit(images(9)), tmp_path_factory.mktemp("whole") / "m.safetensors")


class Stopped(Exception):
    pass


def stop_at(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    """The training ends with an error in this step, of 4 an epoch."""
    loss, done = SimpleNet._loss, [0]

    def counted(*args):
        done[0] += 1
        if done[0] == step:
            raise Stopped
        return loss(*args)

    monkeypatch.setattr(SimpleNet, "_loss", counted)


def test_the_seed_decides_everything_and_a_file_is_read_as_it_was_trained(whole, tmp_path):
    again = model().fit(images(9))
    assert saved(again, tmp_path / "a.safetensors") == whole
    assert saved(model(seed=1).fit(images(9)), tmp_path / "b.safetensors") != whole
    read = load_any(tmp_path / "a.safetensors", weights="random")
    assert [p.score for p in read.predict(images(2, 1))] == [p.score for p in again.predict(images(2, 1))]
    assert [row["epoch"] for row in again.curve_] == [1, 2, 3]
    assert again.curve_[-1]["loss"] < again.curve_[0]["loss"]


@pytest.mark.parametrize("step", [3, 4, 5, 12], ids=lambda n: f"step {n}")
def test_stopped_anywhere_it_ends_as_if_it_had_not_been(step, whole, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        stop_at(patch, step)
        with pytest.raises(Stopped):
            model().fit(images(9), checkpoint=tmp_path / "c")
    done = (step - 1) // 4
    if done:
        assert read_about(tmp_path / "c")["epoch"] == done
    trained = []
    found = model().fit(images(9), checkpoint=tmp_path / "c", on_epoch=lambda row: trained.append(row["epoch"]))
    assert trained == list(range(done + 1, EPOCHS + 1))
    assert saved(found, tmp_path / "m.safetensors") == whole
    assert [row["epoch"] for row in found.curve_] == [1, 2, 3]
    names = files(tmp_path / "c")
    assert names[:2] == [JSON, "curves.csv"] and len(names) == 3 and names[2].startswith("epoch-000003-")
    assert len((tmp_path / "c/curves.csv").read_text().splitlines()) == 1 + EPOCHS


def test_stopped_between_tensors_and_json_only_that_epoch_is_lost(whole, tmp_path, monkeypatch):
    from patchcore_fast.methods import checkpoint

    with monkeypatch.context() as patch:
        write, calls = checkpoint.atomic_write, []

        def failing(path, *args, **named):
            calls.append(path)
            if len(calls) == 2:
                raise Stopped
            return write(path, *args, **named)

        patch.setattr(checkpoint, "atomic_write", failing)  # of the JSON alone
        with pytest.raises(Stopped):
            model().fit(images(9), checkpoint=tmp_path)
    assert [name[:12] for name in files(tmp_path)] == [JSON[:12], "curves.csv", "epoch-000001", "epoch-000002"]
    assert read_about(tmp_path)["epoch"] == 1
    assert saved(model().fit(images(9), checkpoint=tmp_path), tmp_path / "m.safetensors") == whole


def test_another_training_does_not_go_on_from_it_and_overwrites_only_what_had_ended(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        stop_at(patch, 6)
        with pytest.raises(Stopped):
            model().fit(images(9), checkpoint=tmp_path)
    kept = {name: (tmp_path / name).read_bytes() for name in files(tmp_path)}
    for other, data, said in (
        (model(margin=0.25), images(9), r"simplenet\.margin 0\.5 there and 0\.25 here"),
        (model(epochs=4), images(9), r"simplenet\.epochs 3 there and 4 here"),
        (model(), images(9, seed=5), "other training images"),
    ):
        with pytest.raises(DataError, match=f"1 of 3 epochs are over, and this is another one \\({said}"):
            other.fit(data, checkpoint=tmp_path)
    assert {name: (tmp_path / name).read_bytes() for name in files(tmp_path)} == kept
    model().fit(images(9), checkpoint=tmp_path)
    epochs = []
    model(epochs=1).fit(images(9, seed=5), checkpoint=tmp_path, on_epoch=epochs.append)  # that one had ended
    assert len(epochs) == 1 and read_about(tmp_path)["epochs"] == 1
    model(epochs=1).fit(images(9, seed=5), checkpoint=tmp_path, on_epoch=epochs.append)
    assert len(epochs) == 1  # all is there


def test_a_loss_that_is_not_finite_is_told_at_once_and_is_in_no_checkpoint(tmp_path, monkeypatch):
    loss, steps = SimpleNet._loss, []

    def broken(*args):
        steps.append(0)
        found, more = loss(*args)
        return (found * float("nan"), more) if len(steps) == 6 else (found, more)

    monkeypatch.setattr(SimpleNet, "_loss", broken)
    said = (r"SimpleNet\.fit: epoch 2 of 3: the loss is nan at step 2 of 4 \(learning_rate_adapter 0\.0001, "
            r"learning_rate_discriminator 0\.0002\): take a tenth of the learning rate")  # fmt: skip
    with pytest.raises(ValueError, match=said):
        model().fit(images(9), checkpoint=tmp_path)
    assert len(steps) == 6 and read_about(tmp_path)["epoch"] == 1


def test_weights_that_are_not_finite_are_in_no_checkpoint(tmp_path, monkeypatch):
    step = torch.optim.AdamW.step

    def broken(self, *args):
        step(self, *args)
        self.param_groups[0]["params"][1].data[0] = float("inf")

    monkeypatch.setattr(torch.optim.AdamW, "step", broken)
    with pytest.raises(ValueError, match=r"epoch 1 of 3: (adapter\.bias has numbers|the loss is)"):
        model().fit(images(5)[:4], checkpoint=tmp_path)
    assert files(tmp_path) == []


def test_metrics_along_the_curve_change_nothing(whole, tmp_path):
    data = write_mvtec(tmp_path / "weave", train=2, good=2, bad=2)
    found = model().fit(images(9), test=data, evaluate_every=2)
    assert saved(found, tmp_path / "m.safetensors") == whole
    assert ["image_auroc" in row for row in found.curve_] == [False, True, True]
    metrics = found.evaluate(data).metrics
    for name in ("image_auroc", "pixel_ap", "aupro"):
        assert found.curve_[-1][name] == metrics[name]
    with pytest.raises(ValueError, match="evaluate_every must be a positive integer, got 0"):
        model().fit(images(9), evaluate_every=0)
    with pytest.raises(TypeError, match="unknown option epoch"):
        model().fit(images(9), epoch=3)


@pytest.mark.parametrize("count, held", [(7, 0), (8, 2), (40, 4)])
def test_images_that_are_held_out(count, held):
    out, rest = model()._parts(count)
    assert len(out) == held and sorted([*out.tolist(), *rest.tolist()]) == list(range(count))
    assert len(model(held_out=0.0)._parts(count)[0]) == 0


def test_held_out_scores_are_those_of_predictions():
    found = model().fit(images(9))
    numbers = found._parts(9)[0]
    right = [p.score for p in found.predict(images(9)[numbers])]
    assert found.learned.normal_scores.tolist() == pytest.approx(right, rel=1e-6)
    assert found.threshold > max(right)


KILLED = """
import sys
from tests.methods.test_training import images, model
model(epochs=1000).fit(images(9), checkpoint=sys.argv[1])
"""


@pytest.mark.thorough
def test_killed_it_goes_on(tmp_path):
    root = Path(__file__).parents[2]
    environment = {**os.environ, "PYTHONPATH": str(root)}
    process = subprocess.Popen([sys.executable, "-c", KILLED, str(tmp_path / "c")], env=environment, cwd=root)
    try:
        end = time.monotonic() + 120
        while not (tmp_path / "c" / JSON).is_file() or read_about(tmp_path / "c")["epoch"] < 5:
            assert process.poll() is None and time.monotonic() < end
            time.sleep(0.01)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    epoch = read_about(tmp_path / "c")["epoch"]
    rows = []

    def stop(row):
        rows.append(row)
        if len(rows) == 2:
            raise Stopped

    with pytest.raises(Stopped):
        model(epochs=1000).fit(images(9), checkpoint=tmp_path / "c", on_epoch=stop)
    assert [row["epoch"] for row in rows] == [epoch + 1, epoch + 2]
    unbroken = []

    def until(row):
        unbroken.append(row)
        if row["epoch"] == epoch + 2:
            raise Stopped

    with pytest.raises(Stopped):
        model(epochs=1000).fit(images(9), checkpoint=tmp_path / "d", on_epoch=until)
    assert [row["loss"] for row in rows] == [row["loss"] for row in unbroken[-2:]]
    names = [next(p for p in (tmp_path / part).iterdir() if p.suffix == ".safetensors") for part in "cd"]
    assert names[0].read_bytes() == names[1].read_bytes()


def test_a_folder_of_checkpoints_is_a_model_without_a_threshold(tmp_path):
    trained = model().fit(images(9), checkpoint=tmp_path)
    read = load_any(tmp_path, weights="random")
    assert read.threshold is None and read.learned.count == 9
    assert [p.score for p in read.predict(images(2, 1))] == [p.score for p in trained.predict(images(2, 1))]
    with pytest.raises(DataError, match="no checkpoint of a training"):
        load_any(tmp_path.parent)
    values = json.loads((tmp_path / JSON).read_text())
    for change, said in (
        ({"method": ["simplenet"]}, "which this version does not know"),
        ({"simplenet": {"epochs": "many"}}, "simplenet.epochs must be an integer"),
        ({"features": values["config"]["features"] | {"layers": [1]}}, "is no SimpleNet of its settings"),
    ):
        (tmp_path / JSON).write_text(json.dumps(values | {"config": values["config"] | change}))
        with pytest.raises(ValueError, match=said) as caught:
            load_any(tmp_path, weights="random")
        assert str(caught.value).startswith(str(tmp_path))
