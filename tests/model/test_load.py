"""Who decides what when a bank is opened: the reader, about all that happens on the reader's machine."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import safetensors.torch
import timm
import torch

from patchcore_fast.cli import main
from patchcore_fast.errors import BankError, DataError
from patchcore_fast.features import weights
from patchcore_fast.memory_bank import MemoryBank
from patchcore_fast.model import PatchCore, PatchCoreConfig

from ..pictures import write_mvtec

TINY: dict[str, Any] = {"backbone": "resnet10t", "layers": (1, 2), "weights": "random", "image_size": 32, "ratio": 0.1}


@pytest.fixture(scope="module")
def fitted() -> PatchCore:
    images = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    return PatchCore(PatchCoreConfig(**TINY)).fit(images)


@pytest.fixture
def bank(fitted: PatchCore, tmp_path: Path) -> Callable[..., Path]:
    """A file of the fitted bank with other settings; its digest is right."""

    def write(**config: Any) -> Path:
        path = tmp_path / "bank.safetensors"
        replace(fitted.bank, config=fitted.bank.config | config, weights="").save(path)
        return path

    return write


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of networks that timm was asked to build with weights of its own; none is fetched."""
    asked: list[str] = []
    build = timm.create_model

    def create(name: str, **kwargs: Any) -> Any:
        if ":" in name or (kwargs.get("pretrained") and "pretrained_cfg_overlay" not in kwargs):
            asked.append(name)
            raise OSError("no network here")
        return build(name, **kwargs)

    monkeypatch.setattr(timm, "create_model", create)
    return asked


def test_the_reader_decides_how_it_runs(bank: Callable[..., Path]) -> None:
    path = bank(workers=40, batch_size=5000, device="cuda:7")
    config = PatchCore.load(path).config
    assert (config.workers, config.batch_size, config.device) == (0, 16, None)
    config = PatchCore.load(path, "cpu", workers=2, batch_size=3).config
    assert (config.workers, config.batch_size, config.device) == (2, 3, "cpu")
    assert MemoryBank.load(path).config["running"]["workers"] == 40, "still on record"


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"backbone": "hf-hub:somebody/model", "weights": "auto"}, "hf-hub:somebody/model.*--allow-download"),
        ({"backbone": "hf-hub:somebody/model"}, "hf-hub:somebody/model.*--weights"),
        ({"backbone": "hf_hub:somebody/model"}, "--allow-download"),
        ({"backbone": "HF-HUB:somebody/model"}, "--allow-download"),
        ({"backbone": "local-dir:/tmp"}, "--weights 'local-dir:/tmp'"),
        ({"weights": "auto"}, "would be downloaded: give them with --weights FILE .*--allow-download"),
        (
            {"weights": "/elsewhere/x.safetensors"},
            "was made with weights from '/elsewhere/x.safetensors': give them with --weights",
        ),
    ],
)
def test_a_bank_sends_nobody_anywhere(
    settings: dict[str, str], words: str, bank: Callable[..., Path], no_network: list[str], monkeypatch: Any
) -> None:
    def opened(path: object) -> None:
        raise AssertionError(f"{path} was opened")

    monkeypatch.setattr("patchcore_fast.features.networks.read_state_dict", opened)
    with pytest.raises(BankError, match=words) as caught:
        PatchCore.load(bank(**settings), "cpu")
    assert no_network == [] and "\n" not in str(caught.value)


def test_a_reader_may_allow_it(bank: Callable[..., Path], no_network: list[str]) -> None:
    for settings in ({"weights": "auto"}, {"weights": "auto", "backbone": "hf-hub:somebody/model"}):
        path = bank(**settings)
        with pytest.raises((ConnectionError, OSError)):
            PatchCore.load(path, "cpu", allow_download=True)
    assert no_network == ["resnet10t", "hf-hub:somebody/model"]
    path = bank(backbone="local-dir:/nowhere", weights="auto")
    with pytest.raises(BankError, match="say so with"):
        PatchCore.load(path, "cpu", allow_download=True)
    with pytest.raises(OSError, match="no network"):
        PatchCore.load(path, "cpu", weights="local-dir:/nowhere")
    assert no_network[2:] == ["local-dir:/nowhere"]


def test_weights_are_the_reader_s(fitted: PatchCore, bank: Callable[..., Path], tmp_path: Path) -> None:
    state = {k: v.contiguous() for k, v in fitted.extractor.backbone.net.state_dict().items()}
    safetensors.torch.save_file(state, tmp_path / "w.safetensors")
    for settings in ({"weights": "auto"}, {"weights": "/elsewhere/w.safetensors"}):
        model = PatchCore.load(bank(**settings), "cpu", weights=str(tmp_path / "w.safetensors"))
        assert model.extractor.backbone.fingerprint() == fitted.bank.weights
    with pytest.raises(DataError, match="no such weight file"):
        PatchCore.load(bank(), "cpu", weights=str(tmp_path / "gone.safetensors"))
    with pytest.raises(BankError, match="would be downloaded"):
        PatchCore.load(bank(weights="/elsewhere/w.safetensors"), "cpu", weights="auto")


def test_weights_that_timm_fetched_before_are_taken_without_a_request(
    fitted: PatchCore, bank: Callable[..., Path], no_network: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub = timm.get_pretrained_cfg("resnet10t").hf_hub_id.replace("/", "--")
    snapshot = tmp_path / f"models--{hub}/snapshots/0123"
    snapshot.mkdir(parents=True)
    (tmp_path / f"models--{hub}/refs").mkdir()
    (tmp_path / f"models--{hub}/refs/main").write_text("0123")
    state = {k: v.contiguous() for k, v in timm.create_model("resnet10t").state_dict().items()}
    state |= {k: v.contiguous() for k, v in fitted.extractor.backbone.net.state_dict().items()}
    safetensors.torch.save_file(state, snapshot / "model.safetensors")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    model = PatchCore.load(bank(weights="auto"), "cpu")
    assert model.extractor.backbone.fingerprint() == fitted.bank.weights and no_network == []
    assert model.bank.config["features"]["weights"] == "auto"


def test_bundled_weights_are_found_without_a_word(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights, "bundled_path", lambda name: Path(name) if name == "tf_efficientnet_lite0" else None)
    assert weights.chosen_weights("tf_efficientnet_lite0.in1k", "auto", None, False) == "auto"
    with pytest.raises(ValueError, match="would be downloaded"):
        weights.chosen_weights("tf_efficientnet_lite4", "auto", None, False)
    assert weights.chosen_weights("tf_efficientnet_lite4", "random", None, False) == "random"


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"backbone": "no_such_model"}, "timm has no model"),
        ({"backbone": "x" * 100_000}, "at most 4096 characters"), ({"layers": [9]}, "layers 0 to"),
        ({"layers": [1] * 101}, "at most 100"), ({"image_size": 20_000}, "at most 16384"),
        ({"image_size": [32, 10**400]}, "at most 16384"), ({"crop": 0}, "at least 1"), ({"sigma": 33.0}, "sigma"),
        ({"sigma": 10**400}, "floats have"), ({"noise_scale": 1e300}, "noise_scale"),
        ({"noise_draws": 10**6}, "noise_draws"), ({"neighbours": 2000}, "neighbours"),
        ({"neighbours": 1000}, "1000 neighbours among"), ({"reweight_neighbours": 10**6}, "reweight_neighbours"),
        ({"patch_size": 10**9 + 1}, "patch_size"), ({"workers": 10**5}, "workers"),
        ({"augment": "flip"}, "augment must be one of"), ({"selection": ["a"]}, "selection must hold settings"),
        ({"batch_size": 10**9}, "batch_size"), ({"shots": 2**40}, "shots"),
        ({"augmentations": 10**9}, "augmentations"), ({"layer_dim": 10**9}, "layer_dim"),
        ({"dim": 10**9, "fusion": "amazon"}, "dim"), ({"seed": 2**64}, "seed"),
        ({"device": "cuda:99999999999999999999"}, "device"),
        ({"threshold_quantile": "much"}, "settings cannot be used"), ({"a\nb": 1}, "unknown fields a b"),
    ],
)  # fmt: skip
def test_settings_have_bounds(settings: dict[str, Any], words: str, bank: Callable[..., Path]) -> None:
    with pytest.raises(BankError, match=words) as caught:
        PatchCore.load(bank(**settings), "cpu")
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 600


@pytest.mark.parametrize("command", ["predict", "evaluate", "inspect", "export"])
def test_the_commands_ask_the_reader_too(
    command: str, bank: Callable[..., Path], tmp_path: Path, no_network: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    data, path = write_mvtec(tmp_path / "weave", 2, 1, 1), bank(weights="auto")
    arguments = {
        "predict": ["predict", str(path), str(data / "test"), "--output", str(tmp_path / "o")],
        "evaluate": ["evaluate", str(data), "--bank", str(path)],
        "inspect": ["inspect", str(data), "--bank", str(path), "--output", str(tmp_path / "o")],
        "export": ["export", str(path), "--output", str(tmp_path / "o.pt2")],
    }[command]
    assert main(arguments) == 2
    said = capsys.readouterr().err
    assert "--allow-download" in said and said.count("\n") == 1 and no_network == []
    assert main([*arguments, "--allow-download"]) == 2
    assert "could not fetch" in capsys.readouterr().err and no_network == ["resnet10t"]
