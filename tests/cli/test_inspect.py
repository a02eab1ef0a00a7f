"""patchcore-fast inspect: from a folder of photographs to pictures and selection.json, and back from a bank."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from patchcore_fast.cli import main
from patchcore_fast.config.signals import SIGNALS
from patchcore_fast.coverage import border_shares, spatial_coverage
from patchcore_fast.memory_bank import MemoryBank
from patchcore_fast.model import PatchCore, PatchCoreConfig
from patchcore_fast.model.signals import view_instability
from patchcore_fast.report.ranks import spearman, tail_shares
from patchcore_fast.report.signals import described
from patchcore_fast.samplers import ELFSCoresetSampler, GreedyCoresetSampler
from patchcore_fast.scores import signals
from patchcore_fast.written import INSPECTED

from ..pictures import write_mvtec

TINY = ["--backbone", "test_resnet", "--layers", "1,2", "--weights", "random", "--image-size", "64", "--ratio", "0.1"]
PICTURES = {"plane.png", "patches.png", "provenance.png"}
SIGNAL_PICTURES = {"signals.png", "signal_maps.png", "signal_correlations.png"}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("skimage", reason="the extra demo is not installed")
    from patchcore_fast.demo.textures import write_texture

    return write_texture("brick", tmp_path_factory.mktemp("inspect"))


@pytest.fixture(scope="module")
def bank(data: Path) -> Path:
    path = data.parent / "brick.safetensors"
    assert main(["fit", str(data), "--output", str(path), *TINY]) == 0
    return path


class KnowingSampler(GreedyCoresetSampler):
    """Greedy over what is left when the rows with the largest norms are pruned; has what ELFSCoresetSampler has."""

    def select(self, features: Any, image_ids: Any = None, views: Any = None, positions: Any = None) -> torch.Tensor:
        assert views is None and (positions[:, 0].long() == image_ids).all() and positions.shape == (len(features), 3)
        norm = features.norm(dim=1).cpu()
        hard = norm > norm.quantile(0.9)
        rows = (~hard).nonzero()[:, 0]
        picked = super().select(features[rows])
        self.indices_, self.kept_, self.pruned_ = rows[picked], ~hard, {"hard": hard}
        self.scores_ = {"difficulty": norm, "weight": torch.ones(len(norm))}
        self.report_ = {"thresholds": {"hard": float(norm.quantile(0.9)), "easy": float("nan")}}
        return self.indices_


@pytest.fixture
def knowing(monkeypatch: pytest.MonkeyPatch) -> list[KnowingSampler]:
    made: list[KnowingSampler] = []

    def make(name: str, ratio: float, *, seed: int, device: Any, prune_support: str, options: Any) -> KnowingSampler:
        assert name == "greedy" and prune_support == "none" and options == {}
        made.append(KnowingSampler(ratio, device, seed=seed))
        return made[-1]

    monkeypatch.setattr("patchcore_fast.samplers.make_sampler", make)
    return made


def strict(path: Path) -> dict[str, Any]:
    def refuse(value: str) -> None:
        raise AssertionError(f"{value} is no JSON")

    found: dict[str, Any] = json.loads(path.read_text(), parse_constant=refuse)
    return found


def sizes(folder: Path) -> dict[str, tuple[int, int]]:
    found = {}
    for path in folder.glob("*.png"):
        with Image.open(path) as im:
            found[path.name] = im.size
    return found


def test_greedy_is_the_fit_and_has_no_distributions(
    data: Path, bank: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["inspect", str(data), "--output", str(tmp_path / "new" / "o"), *TINY]) == 0
    out = capsys.readouterr()
    pictures = sizes(tmp_path / "new/o")
    assert set(pictures) == PICTURES and all(600 < w < 1800 and 400 < h < 1800 for w, h in pictures.values())
    facts, fitted = strict(tmp_path / "new/o/selection.json"), MemoryBank.load(bank)
    assert fitted.positions is not None and fitted.grid is not None
    wanted = spatial_coverage(fitted.positions, 32, fitted.grid)
    assert facts["coverage"] == wanted.to_dict(), "the selection of fit"
    assert facts["border"] == border_shares([fitted.grid] * 32, fitted.positions).to_dict() and "signals" not in facts
    assert (facts["picked"], facts["patches"], facts["images"]) == (len(fitted), fitted.patches, 32)
    assert facts["weights"] == fitted.weights and facts["config"] == fitted.config
    assert facts["pruned"] == {} and facts["scores"] == {} and facts["report"] is None and facts["new_selection"]
    assert set(facts["pictures"]) == PICTURES and facts["folder"] == "brick"
    text = out.out
    assert f"{len(fitted):,} of {fitted.patches:,} patches of 32 images picked (greedy; features" in text
    assert "Pruned" not in text and "pruned" not in text and out.err == ""
    best = facts["by_image"][int(wanted.per_image.argmax())]
    line = next(x for x in text.splitlines() if x.startswith(best["image"]))
    assert line.split() == [best["image"], str(int(wanted.per_image.max()))]


def test_a_sampler_that_knows_more_shows_more(
    data: Path, tmp_path: Path, knowing: list[KnowingSampler], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["inspect", str(data), "--output", str(tmp_path), *TINY, "--seed", "3"]) == 0
    assert set(sizes(tmp_path)) == PICTURES | {"distributions.png"}
    (sampler,), facts = knowing, strict(tmp_path / "selection.json")
    assert sampler.seed == 3 and sampler.indices_ is not None
    hard = sampler.pruned_["hard"]
    assert facts["pruned"] == {"hard": int(hard.sum())} and facts["kept"] == int((~hard).sum())
    assert facts["report"]["thresholds"] == {"hard": sampler.report_["thresholds"]["hard"], "easy": None}
    of = torch.arange(len(hard)) // (len(hard) // 32)
    assert [r["pruned"] for r in facts["by_image"]] == torch.bincount(of[hard], minlength=32).tolist()
    assert [r["picked"] for r in facts["by_image"]] == torch.bincount(of[sampler.indices_], minlength=32).tolist()
    assert facts["scores"]["difficulty"]["q0.5"] == pytest.approx(float(np.median(sampler.scores_["difficulty"])))
    text = capsys.readouterr().out
    most = max(facts["by_image"], key=lambda r: r["pruned"])
    assert f"Pruned before: hard {int(hard.sum()):,} (10 %); {facts['kept']:,} kept." in text
    rows = [x.split() for x in text.splitlines() if x.startswith("train/")]
    assert [most["image"], str(most["picked"]), str(most["pruned"])] in [[r[0], *r[2:]] for r in rows]
    assert {r[1] for r in rows} <= {"picked", "pruned"} and 3 <= len(rows) <= 6


@pytest.mark.thorough
def test_equal_calls_give_equal_pictures(data: Path, tmp_path: Path, knowing: list[KnowingSampler]) -> None:
    for name in ("a", "b"):
        assert main(["inspect", str(data), "--output", str(tmp_path / name), *TINY]) == 0
    for name in PICTURES | {"distributions.png"}:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    first, second = (strict(tmp_path / n / "selection.json") for n in "ab")
    assert {k: v for k, v in first.items() if k != "seconds"} == {k: v for k, v in second.items() if k != "seconds"}


def test_a_bank_is_shown_as_it_is(data: Path, bank: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    args = ["--weights", "random", "--batch-size", "5"]
    assert main(["inspect", str(data), "--bank", str(bank), "--output", str(tmp_path), *args]) == 0
    assert set(sizes(tmp_path)) == PICTURES
    facts, fitted = strict(tmp_path / "selection.json"), MemoryBank.load(bank)
    assert not facts["new_selection"] and "selection" not in facts["seconds"]
    assert fitted.positions is not None
    per_image = torch.bincount(fitted.positions[:, 0].long(), minlength=32)
    assert [r["picked"] for r in facts["by_image"]] == per_image.tolist()
    assert "a bank that was there, greedy" in capsys.readouterr().out


def test_the_crop_is_what_the_grid_covers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Photographs of 120 x 200 pixels, resized to 64 x 64, centre 32 x 48 of it: a half high, three quarters wide."""
    folder = write_mvtec(tmp_path / "d", train=3, side=64)
    ramp = np.add.outer(np.arange(120), np.arange(200)).astype(np.uint8)[..., None].repeat(3, 2) % 200
    for path in (folder / "train/good").iterdir():
        Image.fromarray(ramp).save(path)
    seen: list[Any] = []
    monkeypatch.setattr("patchcore_fast.report.provenance.plot_kept_patches", lambda x, *a, **k: seen.append((x, k)))
    assert main(["inspect", str(folder), "--output", str(tmp_path / "o"), *TINY, "--crop", "32x48"]) == 0
    ((images, given),) = seen
    assert sorted(images) == [0, 1, 2]
    assert all(np.allclose(x.transpose(1, 2, 0), ramp[30:90, 25:175] / 255) for x in images.values())
    assert {text.split(": ")[1] for text in given["captions"].values()} == {"most picked", "typical"}


def test_training_features_are_those_that_fit_chooses_from(data: Path) -> None:
    model = PatchCore(
        PatchCoreConfig(backbone="test_resnet", layers=(1, 2), weights="random", image_size=64, ratio=0.1)
    )
    rows = model.training_features(data)
    with pytest.raises(ValueError, match="no memory bank yet"):
        _ = model.bank
    model.fit(data)
    assert torch.equal(rows.features[model.bank.indices], model.bank.features)
    assert model.bank.positions is not None and torch.equal(rows.positions(model.bank.indices), model.bank.positions)
    assert rows.grid == model.bank.grid and rows.used == model.bank.patches


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("bad")
    write_mvtec(root / "data")
    assert main(["fit", str(root / "data"), "--output", str(root / "bank.safetensors"), *TINY]) == 0
    whole = (root / "bank.safetensors").read_bytes()
    (root / "cut.safetensors").write_bytes(whole[: len(whole) // 2])
    write_mvtec(root / "fewer", train=4)
    write_mvtec(root / "other")
    for path in (root / "other/train/good").iterdir():
        Image.fromarray(255 - np.asarray(Image.open(path))).save(path)
    b = MemoryBank.load(root / "bank.safetensors")
    MemoryBank(b.features, b.indices, config=b.config).save(root / "placeless.safetensors")
    (root / "file").write_text("text")
    return root


BANK = ["--bank", "bank.safetensors"]
CASES: dict[str, tuple[list[str], str]] = {
    "no-folder": (["nowhere", *TINY], "nowhere: no such folder"),
    "no-output": (["data"], "required: --output"),
    "output-is-file": (["data", "--output", "file", *TINY], "file: is a file, a folder is wanted"),
    "no-train": (["data/test", *BANK], "training images are not those 6 of bank.safetensors"),
    "ratio": (["data", *TINY, "--ratio", "2"], "ratio must be in (0, 1)"),
    "sampler": (["data", *TINY, "--sampler", "best"], "invalid choice: 'best' (choose from"),
    "weights": (["data", *TINY, "--weights", "no.pth"], "no.pth"),
    "plane": (["data", *TINY, "--plane", "tsne"], "invalid choice: 'tsne'"),
    "umap": (["data", *TINY, "--plane", "umap"], "pip install umap-learn"),
    "signals": (["data", *TINY, "--signals", "rarity,speed"], "signals must be all, or some of representativeness,"),
    "bank-missing": (["data", "--bank", "no.safetensors"], "no.safetensors: no such bank file"),
    "bank-cut": (["data", "--bank", "cut.safetensors"], "cut.safetensors: damaged"),
    "bank-placeless": (["data", "--bank", "placeless.safetensors"], "does not say which image"),
    "bank-and-model": (["data", *BANK, "--ratio", "0.1"], "--ratio: belongs to selecting"),
    "bank-of-more": (["fewer", *BANK], "its 4 training images are not those 6 of bank.safetensors"),
    "bank-other-names": (["data/train/good", *BANK], "(000.png where the bank has train/good/000.png)"),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_bad_input(place: Path, name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    args, message = CASES[name]
    monkeypatch.chdir(place)
    monkeypatch.setitem(sys.modules, "umap", None)
    given = args if "--output" in args or name == "no-output" else [*args, "--output", "out"]
    assert main(["inspect", *given]) == 2
    out, err = capsys.readouterr()
    assert message in err and "Traceback" not in err and out == ""
    assert not (place / "out").exists()


def test_a_bank_of_other_photographs_is_refused(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    args = ["inspect", str(place / "other"), "--bank", str(place / "bank.safetensors"), "--output", str(tmp_path / "o")]
    assert main(args) == 2
    assert "give other features than" in capsys.readouterr().err
    assert not list((tmp_path / "o").iterdir())


def test_a_selection_of_nothing_is_refused(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(place / "data"), "--output", str(tmp_path), *TINY, "--ratio", "1e-9"]) == 2
    assert "the coreset has 0 of" in capsys.readouterr().err


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The composite samplers that the command makes; seed and ratio are the command's."""
    kept: list[Any] = []

    def make(name: str, ratio: float, *, seed: int, **more: Any) -> Any:
        given = {"preset": "composite", "topk_pool_multiplier": 4.0, "w_density": -1.0}
        kept.append(ELFSCoresetSampler(ratio, seed=seed, **given))  # type: ignore[arg-type]
        return kept[-1]

    monkeypatch.setattr("patchcore_fast.samplers.make_sampler", make)
    return kept


def test_signals_and_the_pool(place: Path, tmp_path: Path, made: list[Any], capsys: pytest.CaptureFixture[str]) -> None:
    args = ["inspect", str(place / "data"), "--output", str(tmp_path / "o"), *TINY, "--seed", "2", "--signals", "all"]
    assert main([*args, "-v"]) == 0
    out, err = capsys.readouterr()
    pictures = PICTURES | SIGNAL_PICTURES | {"distributions.png", "pool_plane.png", "pool_patches.png"}
    assert set(sizes(tmp_path / "o")) == pictures == INSPECTED - {"selection.json"}
    facts, (sampler,) = strict(tmp_path / "o/selection.json"), made
    assert set(facts["pictures"]) == pictures
    settings = {"backbone": "test_resnet", "layers": (1, 2), "weights": "random", "image_size": 64, "seed": 2}
    model = PatchCore(PatchCoreConfig(**settings))  # type: ignore[arg-type]
    rows = model.training_features(place / "data")
    picks = sampler.indices_
    assert picks is not None
    found = signals(rows.features, positions=rows.positions(torch.arange(rows.total)), seed=2).values
    found["views"] = view_instability(model, place / "data", rows)
    found |= {f"sampler: {name}": values for name, values in sampler.scores_.items()}
    assert {"sampler: composite", "sampler: density"} < set(found)
    assert set(facts["signals"]) == set(found) > set(SIGNALS) and facts["signals_missing"] == {}
    for name, values in found.items():
        one = facts["signals"][name]
        assert one["unit"] == described(name).unit and one["all"]["q0.5"] == pytest.approx(float(np.median(values)))
        assert one["picked"]["q1"] == pytest.approx(float(values[picks].max()))
        assert {k: one[k] for k in ("mean_rank", "tails")} == tail_shares(values, picks)
    names = facts["correlations"]["names"]
    at = [names.index(name) for name in found]
    assert np.array(facts["correlations"]["spearman"])[np.ix_(at, at)] == pytest.approx(spearman(found))
    pool = sampler.pool_
    assert facts["pool"]["rows"] == int(pool.sum()) and facts["pool"]["picked_inside"] == 1
    assert facts["pool"]["border"] == border_shares(rows, pool.nonzero()[:, 0]).to_dict()
    assert facts["border"] == border_shares(rows, picks).to_dict()
    assert f"The pool had {int(pool.sum()):,} patches (40 %)." in out
    assert f"{facts['border']['ratio']:.2f} times as many as expected" in out
    line = next(x for x in out.splitlines() if x.startswith("rarity"))
    assert line.split()[1] == f"{facts['signals']['rarity']['mean_rank']:.3f}"
    assert "signals, rarity: " in err and "part of the selection" in err


def test_signals_of_a_bank(place: Path, tmp_path: Path) -> None:
    given = [str(place / "data"), "--bank", str(place / "bank.safetensors"), "--weights", "random"]
    assert main(["inspect", *given, "--output", str(tmp_path), "--signals", "support,noise"]) == 0
    assert set(sizes(tmp_path)) == PICTURES | SIGNAL_PICTURES
    facts = strict(tmp_path / "selection.json")
    assert list(facts["signals"]) == ["support", "noise"] and set(facts["signals_seconds"]) == {"support", "noise"}
    assert facts["signals"]["support"]["note"] == "each row with all rows of other images"
