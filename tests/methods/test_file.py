"""Model files: they give the model back bit for bit, and whatever is wrong with one is a BankError of one line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from patchcore_fast.bank_file import read_file
from patchcore_fast.errors import BankError
from patchcore_fast.memory_bank import MemoryBank, write_tensors
from patchcore_fast.methods import load_any, make_method, method_class
from patchcore_fast.methods.base import Method
from patchcore_fast.methods.file import _check_format, _span
from patchcore_fast.model import PatchCore

from .tiny import config, images

METHODS = ("padim", "subspace")
Parts = tuple[dict[str, str], dict[str, torch.Tensor], dict[str, Any]]  # metadata, tensors, facts


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Method, Path]]:
    folder, found = tmp_path_factory.mktemp("models"), {}
    for name in METHODS:
        model = make_method(name, config(image_size=32), progress=False).fit(images(4)[:, :, :32, :32])
        model.save(path := folder / f"{name}.safetensors")
        found[name] = (model, path)
    return found


def changed(path: Path, to: Path, change: Callable[[Parts], Any]) -> Path:
    """A file with other parts and the right digest of them."""
    metadata, tensors, _ = read_file(path, _check_format, _span)
    facts = json.loads(metadata.pop("facts"))
    metadata.pop("digest")
    change((metadata, tensors, facts))
    write_tensors(to, tensors, metadata, facts)
    return to


@pytest.mark.parametrize("name", METHODS)
def test_a_loaded_model_predicts_the_same_bit_for_bit(name, models, tmp_path):
    model, path = models[name]
    again = load_any(path, progress=False)
    assert isinstance(again, method_class(name)) and again.said() == model.said()
    assert again.learned.config == model.learned.config and again.threshold == model.threshold
    pictures = images(3, seed=5)[:, :, :32, :32]
    for one, other in zip(model.predict(pictures), again.predict(pictures), strict=True):
        assert one.score == other.score and one.is_anomalous == other.is_anomalous
        np.testing.assert_array_equal(one.anomaly_map, other.anomaly_map)
    again.save(tmp_path / "again.safetensors")
    assert (tmp_path / "again.safetensors").read_bytes() == path.read_bytes()


def facts(**values: Any) -> Callable[[Parts], Any]:
    return lambda parts: parts[2].update(values)


def about(**values: str) -> Callable[[Parts], Any]:
    return lambda parts: parts[0].update(values)


def tensor(name: str, change: Callable[[torch.Tensor], torch.Tensor | None]) -> Callable[[Parts], Any]:
    def edit(parts: Parts) -> None:
        made = change(parts[1].pop(name))
        parts[1].update({} if made is None else {name: made})

    return edit


def filled(value: float) -> Callable[[torch.Tensor], torch.Tensor]:
    def fill(t: torch.Tensor) -> torch.Tensor:
        t.view(-1)[0] = value
        return t

    return fill


def setting(group: str, name: str, value: Any) -> Callable[[Parts], Any]:
    return lambda parts: parts[2]["config"][group].update({name: value})


WRONG: dict[str, tuple[Callable[[Parts], Any], str]] = {
    "another format": (about(format="something"), "but not a memory bank"),
    "a newer version": (about(format_version="9"), "model format 9 is newer than 2"),
    "no version": (about(format_version="x"), "is not a number"),
    "an unknown method": (about(method="magic"), "which this version does not know"),
    "a method of other settings": (about(method="subspace"), "of method 'subspace', its settings of 'padim'"),
    "no settings": (facts(config={}), "method must be one of"),
    "settings of nothing": (facts(config=[]), "config must be a dict"),
    "an unknown setting": (setting("padim", "dims", 3), "unknown fields padim.dims (did you mean dim?)"),
    "a setting out of range": (setting("padim", "ridge", -1.0), "ridge must lie in (0, 1e+06]"),
    "a setting of a bank": (setting("selection", "sampler", "elfs"), "selection.sampler means nothing"),
    "a backbone that there is not": (setting("features", "backbone", "no_net"), "its backbone cannot be built"),
    "layers that there are not": (setting("features", "layers", [1, 77]), "its backbone cannot be built"),
    "other weights": (facts(weights="0" * 32), "was made with other weights"),
    "weights that are none": (facts(weights=3), "weights must be a str"),
    "a threshold that is none": (facts(threshold="high"), "threshold must be a finite number"),
    "names of other images": (facts(images=["a.png"]), "1 names of 4 images"),
    "no images": (facts(count=0), "at most"),
    "a fact too few": (lambda parts: parts[2].pop("count"), "'count' is missing"),
    "a tensor too few": (tensor("factor", lambda t: None), "factor is missing"),
    "a tensor too many": (lambda parts: parts[1].update(more=torch.zeros(2)), "has no 'more'"),
    "a wrong shape": (tensor("mean", lambda t: t[1:]), "mean must be [64, 56]"),
    "a wrong type": (tensor("mean", lambda t: t.double()), "mean must be [64, 56] torch.float32"),
    "another number of channels": (setting("padim", "dim", 12), "channels must be [12]"),
    "another size": (setting("features", "image_size", 48), "mean must be [144, 56]"),
    "channels out of order": (tensor("channels", lambda t: t.flip(0)), "channels must be ascending"),
    "channels that there are not": (tensor("channels", lambda t: t + 1), "channels must be ascending and below 56"),
    "infinite": (tensor("factor", filled(float("inf"))), "factor has numbers that are not finite"),
    "not a number": (tensor("normal_scores", filled(float("nan"))), "normal_scores must be finite"),
    "too many scores": (tensor("normal_scores", lambda t: t.repeat(2)), "n at most 4"),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_what_a_file_says_is_held_against_itself_and_against_the_backbone(case, models, tmp_path):
    change, words = WRONG[case]
    path = changed(models["padim"][1], tmp_path / "wrong.safetensors", change)
    with pytest.raises(BankError, match=r"wrong\.safetensors: ") as caught:
        load_any(path, progress=False)
    assert words in str(caught.value) and "\n" not in str(caught.value)


def test_files_of_others_are_told_apart(models, tmp_path, place):
    padim, subspace = (models[name][1] for name in METHODS)
    bank = place / "bank.safetensors"
    with pytest.raises(BankError, match="a model of the method padim, and subspace is wanted"):
        method_class("subspace").load(padim)
    for read in (PatchCore.load, MemoryBank.load):
        with pytest.raises(BankError, match="a model of the method subspace, and a memory bank is wanted"):
            read(subspace)
    with pytest.raises(BankError, match="not a method's model"):
        method_class("padim").load(bank)
    assert isinstance(load_any(bank, progress=False), PatchCore)
    for name, content, words in (("text", b"hello, this is no model", "damaged"), ("empty", b"", "damaged")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(BankError, match=words):
            method_class("padim").load(tmp_path / name)
        with pytest.raises(BankError, match=words):
            load_any(tmp_path / name)
    with pytest.raises(BankError, match="no such model file"):
        method_class("padim").load(tmp_path / "none")
    wrong = changed(subspace, tmp_path / "skewed", tensor("directions", lambda t: t * 2))
    with pytest.raises(BankError, match="at right angles"):
        load_any(wrong)


@pytest.mark.parametrize("name", METHODS)
def test_no_changed_byte_and_no_cut_goes_unnoticed(name, models, tmp_path):
    content, rng = models[name][1].read_bytes(), np.random.default_rng(0)
    header = 8 + int.from_bytes(content[:8], "little")
    places = [*rng.integers(0, header, 120), *rng.integers(header, len(content), 30)]
    spoilt = [content[:at] + bytes([content[at] ^ int(rng.integers(1, 256))]) + content[at + 1 :] for at in places]
    spoilt += [content[:cut] for cut in rng.integers(0, len(content), 50)] + [content + b"\0"]
    path = tmp_path / "spoilt.safetensors"
    for bad in spoilt:
        path.write_bytes(bad)
        with pytest.raises(BankError) as caught:
            load_any(path, progress=False)
        assert str(path) in str(caught.value) and "\n" not in str(caught.value)
