"""Few-shot fits: the draw, turned copies, transforms, provenance, thresholds, and what rotation buys."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from patchcore_fast.cli import main
from patchcore_fast.config import recorded
from patchcore_fast.memory_bank import MemoryBank
from patchcore_fast.model import PatchCore, PatchCoreConfig
from patchcore_fast.model.collect import FeatureRows
from patchcore_fast.model.fewshot import Augmentation, described, draw_shots, rotate

from ..evaluated import tiny_config
from ..pictures import write_mvtec


def _images(n: int = 5, height: int = 64, width: int = 64) -> torch.Tensor:
    return torch.rand(n, 3, height, width, generator=torch.Generator().manual_seed(1))


def _reseed(image: torch.Tensor) -> torch.Tensor:
    """A transform that draws: noise, clamped."""
    return (image + 0.1 * torch.randn_like(image)).clamp(0, 1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_mvtec(tmp_path_factory.mktemp("few") / "weave", train=6)


def test_draws_are_seeded_and_nested() -> None:
    eight = draw_shots(20, 8, 3)
    assert torch.equal(eight, draw_shots(20, 8, 3)) and torch.equal(eight, eight.sort().values)
    assert eight.unique().numel() == 8
    for shots in (1, 2, 4):
        assert set(draw_shots(20, shots, 3).tolist()) < set(eight.tolist())
    assert len({tuple(draw_shots(20, 2, seed).tolist()) for seed in range(10)}) > 5
    assert torch.equal(draw_shots(4, None, 0), torch.arange(4))
    for wrong in (0, 21, True, 1.0):
        with pytest.raises(ValueError, match=r"shots must lie in 1\.\.20"):
            draw_shots(20, wrong, 0)  # type: ignore[arg-type]


@pytest.mark.parametrize("seed", [0, 7])
def test_shots_are_a_fit_on_the_drawn_images(folder: Path, seed: int) -> None:
    model = PatchCore(tiny_config(seed=seed)).fit(folder, shots=2)
    paths = sorted((folder / "train/good").iterdir())
    chosen = draw_shots(6, 2, seed).tolist()
    alone = PatchCore(tiny_config(seed=seed)).fit([paths[i] for i in chosen])
    assert torch.equal(model.bank.features, alone.bank.features)
    assert model.threshold == alone.threshold is not None
    assert model.bank.images == [f"train/good/{i:03d}.png" for i in chosen]
    assert model.bank.config["selection"]["shots"] == 2 and model.config.shots is None
    images = _images()
    few = PatchCore(tiny_config(seed=seed, shots=2)).fit(images)
    assert torch.equal(
        few.bank.features, PatchCore(tiny_config(seed=seed)).fit(images[draw_shots(5, 2, seed)]).bank.features
    )


def test_one_shot_has_no_threshold_and_loaders_are_no_pool() -> None:
    model = PatchCore(tiny_config()).fit(_images(), shots=1, augment="rotate")
    assert model.threshold is None and model.predict(_images(1))[0].is_anomalous is None
    with pytest.raises(TypeError, match="shots are drawn from"):
        PatchCore(tiny_config()).fit([_images()], shots=1)


def test_quarter_turns_move_pixels_only() -> None:
    images = _images()
    for quarters in range(5):
        assert torch.equal(rotate(images, 90 * quarters), torch.rot90(images, quarters, (2, 3)))
    oblong = _images(1, 32, 48)
    assert torch.equal(rotate(oblong, 180), torch.rot90(oblong, 2, (2, 3)))
    assert rotate(oblong, 90).shape == oblong.shape


def test_other_angles_interpolate_and_mirror_the_border() -> None:
    images = _images(2, 33, 33)
    whole = rotate(torch.full((1, 3, 40, 56), 0.7), 37.0)
    torch.testing.assert_close(whole, torch.full((1, 3, 40, 56), 0.7))  # no black corner
    # What is exact for quarter turns is the limit of what is interpolated beside them.
    torch.testing.assert_close(rotate(images, 90 + 1e-4), rotate(images, 90), rtol=0, atol=1e-3)
    # A smooth picture turned there and back is the picture again, inside.
    y, x = torch.meshgrid(torch.linspace(0, 3, 96), torch.linspace(0, 3, 96), indexing="ij")
    smooth = (0.5 + 0.2 * torch.sin(2 * x + y))[None, None].expand(1, 3, -1, -1)
    back = rotate(rotate(smooth, 30.0), -30.0)
    assert float((back - smooth)[:, :, 24:72, 24:72].abs().max()) < 2e-3
    assert float((rotate(smooth, 30.0) - smooth)[:, :, 24:72, 24:72].abs().max()) > 0.05


def test_oblong_quarter_turn_keeps_lengths() -> None:
    """A disc stays a disc: the turn is in pixels and not in the unit square."""
    y, x = torch.meshgrid(torch.arange(40.0), torch.arange(80.0), indexing="ij")
    dot = (((y - 19.5) ** 2 + (x - 49.5) ** 2) < 36).float()[None, None].expand(1, 3, -1, -1)
    turned = rotate(dot, 90.0)
    # 10 pixels to the right of the centre becomes 10 above it, counter-clockwise.
    want = (((y - 9.5) ** 2 + (x - 39.5) ** 2) < 36).float()
    inside = slice(20, 60)  # beyond is the mirrored picture
    torch.testing.assert_close(turned[0, 0, :, inside], want[:, inside], rtol=0, atol=1e-3)


@pytest.mark.parametrize("copies", [3, 7])
@pytest.mark.parametrize("size", [(64, 64), (48, 80)])
def test_patches_are_traced_back_to_their_place(copies: int, size: tuple[int, int]) -> None:
    """Features that are the mean coordinates of a patch: a turned copy's say where its pixels came from."""
    height, width = size
    y, x = torch.meshgrid((torch.arange(height) + 0.5) / height, (torch.arange(width) + 0.5) / width, indexing="ij")
    image = torch.stack([y, x, torch.zeros_like(x)])[None]
    augmentation, rows = Augmentation("rotate", copies), FeatureRows(None)
    for block in augmentation.blocks(image.repeat(2, 1, 1, 1), 0):
        cells = torch.nn.functional.avg_pool2d(block, 8)[:, :2]
        rows.add(cells.permute(0, 2, 3, 1).reshape(-1, 2), (height // 8, width // 8))
    everything = torch.arange(rows.used)
    sources = augmentation.sources(rows, everything)
    per_view = height * width // 64
    assert torch.equal(sources[:, 0].long(), everything // (per_view * (1 + copies)))
    assert torch.equal(sources[:per_view], rows.positions(everything)[:per_view])
    grid = torch.tensor(rows.grids[0])
    assert bool((sources[:, 1:] >= 0).all()) and bool((sources[:, 1:] < grid).all())
    off = (rows.features * grid - sources[:, 1:] - 0.5).abs()
    # The centre of a turned patch lies inside the cell that is named. Where the patch spans the mirror line its mean
    # is not its centre's, by less than another half cell.
    assert float(off.max()) < 1.1 and float(off.median()) < 0.5


def test_none_is_the_plain_fit() -> None:
    images = _images()
    plain, none = PatchCore(tiny_config()).fit(images), PatchCore(tiny_config()).fit(images, augment="none")
    assert torch.equal(plain.bank.features, none.bank.features) and plain.threshold == none.threshold
    assert none.bank.patches == 5 * 256


def test_copies_enrich_what_the_selection_sees(tmp_path: Path) -> None:
    images = _images(3)
    model = PatchCore(tiny_config(sampler="identity", neighbours=1, price=0.0)).fit(images, augment="rotate")
    bank = model.bank
    assert bank.patches == len(bank) == 3 * 4 * 256 and bank.grid == (16, 16)
    assert bank.config["selection"]["augment"] == "rotate" and bank.config["selection"]["augmentations"] == 3
    assert bank.positions is not None and bank.positions[:, 0].bincount().tolist() == [1024] * 3
    # Every copy is in the bank: turned training images score nothing.
    for quarters in range(4):
        assert max(p.score for p in model.predict(torch.rot90(images, quarters, (2, 3)))) < 1e-3
    model.save(tmp_path / "b.safetensors")
    again = PatchCore.load(tmp_path / "b.safetensors", batch_size=model.config.batch_size)
    assert again.config == PatchCoreConfig.from_dict(bank.config)
    assert [p.score for p in again.predict(images)] == [p.score for p in model.predict(images)]


def test_a_seed_gives_one_bank() -> None:
    images = _images()
    first = PatchCore(tiny_config()).fit(images, shots=2, augment=_reseed).bank
    state = torch.random.get_rng_state()
    torch.rand(7)
    again = PatchCore(tiny_config(batch_size=1)).fit(images, shots=2, augment=_reseed).bank
    assert torch.equal(first.indices, again.indices)
    torch.testing.assert_close(first.features, again.features, rtol=1e-4, atol=1e-5)
    other = PatchCore(tiny_config(seed=1)).fit(images, shots=2, augment=_reseed).bank
    assert not torch.equal(first.features, other.features)
    torch.random.set_rng_state(state)
    expected = torch.rand(3)
    torch.random.set_rng_state(state)
    PatchCore(tiny_config()).fit(images, shots=2, augment=_reseed)
    assert torch.equal(torch.rand(3), expected), "the caller's generator is left as it was"


def test_copies_of_one_image_differ() -> None:
    made = list(Augmentation(_reseed, 3).blocks(_images(2), 0))
    copies = torch.cat(made)
    assert copies.shape == (8, 3, 64, 64)
    assert len({float(c.sum()) for c in copies}) == 8


def test_torchvision_transforms(tmp_path: Path) -> None:
    v2 = pytest.importorskip("torchvision.transforms.v2", reason="the extra pipeline is not installed")
    transform = v2.Compose([v2.RandomHorizontalFlip(), v2.RandomRotation(10), v2.ColorJitter(0.1, 0.1)])
    model = PatchCore(tiny_config(augmentations=2)).fit(_images(3), augment=transform)
    assert model.bank.patches == 3 * 3 * 256 and model.bank.config["selection"]["augment"] == "custom"
    model.save(tmp_path / "b.safetensors")
    again = PatchCore.load(tmp_path / "b.safetensors")
    assert again.predict(_images(1))[0].score == model.predict(_images(1))[0].score
    with pytest.raises(ValueError, match="stands for a transform"):
        again.fit(_images())


@pytest.mark.parametrize(
    ("augment", "words"),
    [
        ("flip", 'must be "none", "rotate" or a transform'),
        (3, 'must be "none", "rotate" or a transform'),
        (lambda image: image[:, :32], r"must return a floating image \(3, 64, 64\), got shape \(3, 32, 64\)"),
        (lambda image: (image * 255).byte(), "got shape .* torch.uint8"),
        (lambda image: image * 2 - 1, r"image in \[0, 1\], got -1 to 1"),
        (lambda image: image * float("nan"), r"image in \[0, 1\], got nan"),
    ],
)
def test_bad_augmentations(augment: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        PatchCore(tiny_config()).fit(_images(1), augment=augment)


def test_elfs_compares_images_and_takes_no_copies() -> None:
    with pytest.raises(ValueError, match="does not go with a sampler that compares images"):
        PatchCore(tiny_config(sampler="elfs")).fit(_images(), augment="rotate")


@pytest.mark.parametrize("changes", [{"shots": 0}, {"augment": "flip"}, {"augmentations": 0}, {"shots": True}])
def test_bad_settings(changes: dict[str, Any]) -> None:
    with pytest.raises((ValueError, TypeError), match=next(iter(changes))):
        tiny_config(**changes)


def test_rotation_makes_turned_photographs_normal() -> None:
    """One shot of brickwork: another piece, turned by 90 degrees, is odd to the plain bank and not to the enriched one.

    The network itself is not symmetric (its strides pad on one side), so the four orientations agree to some percent.
    """
    from patchcore_fast.demo.textures import photograph

    photo = torch.from_numpy(photograph("brick")).float() / 255
    shot, new = (photo[None, None, s : s + 192, s : s + 192].expand(1, 3, -1, -1) for s in (0, 200))
    config = tiny_config(backbone="tf_efficientnet_lite0", layers=(2, 3), weights="auto", sampler="identity")
    scores = {}
    for augment in ("none", "rotate"):
        model = PatchCore(config).fit(shot, augment=augment)
        turned = [torch.rot90(new, quarters, (2, 3)) for quarters in range(4)]
        # Means over patches: no single odd patch decides.
        scores[augment] = [float(model.predict(t)[0].anomaly_map.mean()) for t in turned]
    plain, rich = scores["none"], scores["rotate"]
    assert min(plain[1], plain[3]) > 1.2 * plain[0]
    assert max(rich) < 1.1 * min(rich), "all four orientations score alike"
    assert max(rich) < min(plain[1], plain[3]) / 1.1
    assert all(r <= p * (1 + 1e-5) for r, p in zip(rich, plain, strict=True)), "a larger bank is never farther away"


def test_command_line(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tiny = ["--backbone", "test_resnet", "--layers", "1,2", "--weights", "random", "--image-size", "64"]
    given = ["--shots", "2", "--augment", "rotate", "--augmentations", "3", "--seed", "4", "--precision", "float16",
             "--fusion", "interpolated", "--dim", "20", "--reduction", "pool"]  # fmt: skip
    assert main(["fit", str(folder), "--output", str(tmp_path / "b.safetensors"), *tiny, *given]) == 0
    bank = MemoryBank.load(tmp_path / "b.safetensors")
    assert bank.features.shape[1] == 20 and bank.features.dtype == torch.float16
    names = ("shots", "augment", "augmentations", "precision", "fusion", "dim", "reduction")
    assert [recorded(bank.config, n) for n in names] == [2, "rotate", 3, "float16", "interpolated", 20, "pool"]
    capsys.readouterr()
    assert main(["evaluate", str(folder), "--bank", str(tmp_path / "b.safetensors")]) == 0
    assert "2 + rotate x 3" in capsys.readouterr().out
    assert main(["evaluate", str(folder), *tiny, "--shots", "1"]) == 0  # a bank of two rows, fewer than three
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split()[-1] == "shots" and lines[2].split()[-1] == "1"
    assert main(["evaluate", str(folder), *tiny]) == 0
    assert "shots" not in capsys.readouterr().out
    assert main(["fit", str(folder), "--output", str(tmp_path / "c.safetensors"), *tiny, "--shots", "7"]) == 2
    assert "shots must lie in 1..6" in capsys.readouterr().err
    for more in (["--shots", "2"], ["--augment", "rotate"]):
        assert main(["inspect", str(folder), "--output", str(tmp_path / "look"), *tiny, *more]) == 2
        assert "whole training sets" in capsys.readouterr().err


def test_described() -> None:
    assert described({}) == "all"
    assert described({"selection": {"shots": 4, "augment": "none"}}) == "4"
    assert described({"selection": {"shots": None, "augment": "rotate", "augmentations": 7}}) == "all + rotate x 7"
