"""The graph of an image's patches: its edges against brute force, and that the order of patches changes no bit."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from patchcore_fast.cli import main
from patchcore_fast.errors import BankError
from patchcore_fast.export import ExportedPatchCore
from patchcore_fast.features import Backbone, FeatureExtractor, TiledExtractor
from patchcore_fast.features.fusion import align_layers, channel_projection
from patchcore_fast.features.graph import graph_nodes, nearest_nodes, projected
from patchcore_fast.kernels.exact import squared_distance
from patchcore_fast.model import PatchCore, PatchCoreConfig

from ..pictures import write_mvtec


@functools.cache
def _backbone() -> Backbone:
    return Backbone("test_efficientnet", (1, 2), "random")


def _images(n: int = 3) -> torch.Tensor:
    return torch.rand(n, 3, 64, 64, generator=torch.Generator().manual_seed(0))


def _nodes(kind: str) -> torch.Tensor:
    """Patches whose distances are all different, or equal in masses: integers, both zeros, and the same ones again."""
    generator = torch.Generator().manual_seed(1)
    if kind == "different":
        return torch.randn(200, 12, generator=generator)
    x = torch.randint(-2, 3, (200, 5), generator=generator).float()
    x = x * torch.where(torch.rand(x.shape, generator=generator) > 0.5, 1.0, -1.0)
    x[150:] = x[torch.randint(0, 150, (50,), generator=generator)]
    return x


def _restated(x: torch.Tensor, k: int, dilation: int) -> torch.Tensor:
    """One patch after the other in float64; of patches at one distance the smaller numbers come first."""
    out, rows = [], x.double().numpy()
    for centre in rows:
        distance = ((rows - centre) ** 2).sum(axis=1)
        order = sorted(range(len(rows)), key=lambda j: (distance[j], rows[j].tolist()))[: k * dilation : dilation]
        out.append(np.concatenate([centre, (rows[order] - centre).max(axis=0)]))
    return torch.from_numpy(np.array(out)).float()


@pytest.fixture
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("kind", ["different", "equal"])
@pytest.mark.parametrize(("k", "dilation"), [(9, 1), (4, 3), (1, 1)])
def test_max_relative_by_hand(kind: str, k: int, dilation: int) -> None:
    x = _nodes(kind)
    got = graph_nodes(x, k, dilation)
    torch.testing.assert_close(got, _restated(x, k, dilation), rtol=1e-6, atol=1e-6)
    assert torch.equal(got[:, : x.shape[1]], x)
    assert bool((got[:, x.shape[1] :] >= 0).all()), "a patch is its own first neighbour"
    if k == 1:
        assert not got[:, x.shape[1] :].any()


def test_edges_are_those_of_float64_brute_force() -> None:
    x = FeatureExtractor(_backbone())(_images(1)).features
    distance = squared_distance(x[:, None], x[None])
    for k, dilation in ((9, 1), (5, 4)):
        want = distance.sort(dim=1, stable=True).indices[:, : k * dilation : dilation]
        assert torch.equal(nearest_nodes(x, x, k, dilation), want)


@pytest.mark.parametrize("kind", ["different", "equal"])
@pytest.mark.parametrize("dim", [None, 7])
def test_the_order_of_patches_changes_no_bit(kind: str, dim: int | None, threads: None) -> None:
    x = _nodes(kind)
    matrix = None if dim is None else channel_projection(2 * x.shape[1], dim, 3)
    generator = torch.Generator().manual_seed(2)
    for k, dilation in ((9, 1), (3, 4)):
        want = graph_nodes(x, k, dilation, matrix)
        for count in (1, 2):
            torch.set_num_threads(count)
            for _ in range(3):
                order = torch.randperm(len(x), generator=generator)
                got = graph_nodes(x[order], k, dilation, matrix)
                assert torch.equal(got.view(torch.int32), want[order].view(torch.int32))


def test_the_projection_is_that_of_fusion_and_exact() -> None:
    x, matrix = torch.randn(50, 300) * 10.0 ** torch.arange(-25, 25)[:, None], channel_projection(300, 20, 1)
    x[7] = 0
    got = projected(x, matrix)
    want = x.double() @ matrix.double().T
    length = x.double().norm(dim=1, keepdim=True) + 1e-300
    assert float(((got - want) / length).abs().max()) < 1e-4 and not got[7].any()
    for part in (slice(0, 1), slice(3, 50)):  # a BLAS may take other ways for other numbers of rows
        assert torch.equal(projected(x[part], matrix), got[part])


def test_the_extractor_makes_a_graph_of_each_image() -> None:
    images = _images()
    extractor = FeatureExtractor(_backbone(), "graph", dim=24, seed=5, graph=(4, 2))
    found, grid = extractor(images)
    aligned = align_layers(_backbone()(images))
    channels = aligned.shape[1]
    matrix = channel_projection(2 * channels, 24, 5)
    want = torch.cat([graph_nodes(m.flatten(1).T, 4, 2, matrix) for m in aligned])
    assert torch.equal(found, want) and grid == tuple(aligned.shape[2:]) and extractor.widths == (24,)
    whole = FeatureExtractor(_backbone(), "graph")(images).features
    assert whole.shape[1] == 2 * channels
    assert torch.equal(whole[:, :channels], FeatureExtractor(_backbone())(images).features)
    torch.testing.assert_close(
        FeatureExtractor(_backbone(), "graph", dim=2 * channels)(images).features, whole, rtol=0, atol=0
    )


BASE: dict[str, Any] = {"backbone": "test_efficientnet", "layers": (1, 2), "weights": "random", "image_size": 64,
                        "ratio": 0.2, "device": "cpu", "fusion": "graph"}  # fmt: skip


@pytest.mark.parametrize("changes", [
    {}, {"dim": 16, "graph_neighbours": 5, "graph_dilation": 3, "precision": "float16"},
    {"reduction": "pca", "dim": 6, "metric": "cosine"}], ids=["whole", "projected", "pca"])  # fmt: skip
def test_fit_file_and_predict(changes: dict[str, Any], tmp_path: Path) -> None:
    config = PatchCoreConfig(**(BASE | changes))
    assert PatchCoreConfig.from_dict(config.to_dict()) == config
    config.to_toml(tmp_path / "c.toml")
    assert PatchCoreConfig.from_toml(tmp_path / "c.toml") == config
    model = PatchCore(config, progress=False).fit(_images(4))
    assert model.bank.features.shape[1] == changes.get("dim", 2 * sum(_backbone().channels))
    model.save(tmp_path / "b.safetensors")
    again = PatchCore.load(tmp_path / "b.safetensors", "cpu", batch_size=1, progress=False)
    test = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(9))
    for ours, theirs in zip(model.predict(test), again.predict(test), strict=True):
        assert ours.score == pytest.approx(theirs.score, rel=1e-4) and ours.score > 0
    with pytest.raises(BankError, match='fusion must not be "graph"'):
        ExportedPatchCore(model)


def test_the_chain_of_commands_makes_the_bank_of_fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_mvtec(tmp_path / "weave", train=4)
    model = ["--backbone", "test_resnet", "--layers", "1,2", "--weights", "random", "--image-size", "32",
             "--fusion", "graph", "--dim", "20", "--graph-neighbours", "5"]  # fmt: skip
    run = ["--device", "cpu", "--workers", "0"]
    assert main(["fit", "weave", "--output", "f.safetensors", "--ratio", "0.1", *model, *run]) == 0
    assert main(["extract", "weave", "--output", "s", *model, *run]) == 0
    assert main(["fit", "--features", "s", "--output", "g.safetensors", "--ratio", "0.1", "--device", "cpu"]) == 0
    one, other = (PatchCore.load(f"{name}.safetensors", "cpu", progress=False) for name in "fg")
    assert torch.equal(one.bank.features, other.bank.features) and one.bank.features.shape[1] == 20


@pytest.mark.parametrize(("call", "words"), [
    (lambda: PatchCoreConfig(**BASE, tile=32, overlap=0), "features.tile has no part in fusion=\"graph\""),
    (lambda: PatchCoreConfig(**BASE, reduction="pool", dim=8), "pool averages neighbouring channels"),
    (lambda: PatchCoreConfig(**BASE, graph_neighbours=0), "graph_neighbours must be at least 1, got 0"),
    (lambda: PatchCoreConfig(**BASE, banks="layer"), 'fusion must be "concat", got \'graph\''),
    (lambda: TiledExtractor(_backbone(), "graph", tile=32), "tile must be None"),
    (lambda: FeatureExtractor(_backbone(), "graph", reduction="pool"), '"project" does'),
    (lambda: FeatureExtractor(_backbone(), "graph", dim=999), "got 999"),
    (lambda: FeatureExtractor(_backbone(), "graph", graph=(9, 60))(_images()),
     "among the 540 nearest patches, and the image has 256"),
    (lambda: projected(torch.zeros(1, 40_000), torch.zeros(2, 40_000)), "at most 32,768 columns"),
], ids=lambda x: x if isinstance(x, str) else "")  # fmt: skip
def test_what_does_not_go(call: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        call()
