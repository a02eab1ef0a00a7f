"""ELFSImageSampler: its double-ended choice restated, alone, under TwoLevelSampler and in PatchCore."""

from __future__ import annotations

import copy
import json

import numpy as np
import pytest
import torch

from patchcore_fast.kernels.ranks import Held
from patchcore_fast.model import PatchCore
from patchcore_fast.samplers import ELFSImageSampler, GreedyCoresetSampler, SupportedImages, TwoLevelSampler
from patchcore_fast.samplers.two_level import image_means
from patchcore_fast.scores import Layout, clustering_heads, k_means, train_proxy

from ..evaluated import tiny_config
from ..patches import fields, positions
from ..pictures import write_mvtec
from ..scores.test_difficulty import blobs

IMAGES, GRID = 30, (4, 5)
WHERE = positions(IMAGES, GRID)
X, TRUE = blobs(IMAGES, 6, 3, noise=0.4, seed=2)


def restated(x, labels, share, beta, score, epochs=20, seed=0):
    """The kept images by tables of what a proxy thought in each epoch."""
    found = train_proxy(x, labels, epochs=epochs, seed=seed)
    margin, right = found.margin.double().numpy(), found.correct.numpy()
    if score == "aum":
        hard = -margin.mean(0)
    elif score == "el2n":
        hard = found.error.double().numpy()[: (epochs + 1) // 2].mean(0)
    else:
        hard = np.array([epochs if not r.any() else (r[:-1] & ~r[1:]).sum() for r in right.T], dtype=float)
    order = sorted(range(len(x)), key=lambda i: (-hard[i], i))
    first = int(len(x) * beta)
    return sorted(order[first : first + int(len(x) * share)])


@pytest.mark.parametrize("score", ["aum", "forgetting", "el2n"])
@pytest.mark.parametrize(("share", "beta"), [(0.5, 0.2), (0.9, 0.1), (0.3, 0.0)])
def test_both_ends_go(score, share, beta):
    sampler = ELFSImageSampler(share, score=score, n_clusters=3, prune_hard=beta)
    kept = sampler.select(X)
    labels = k_means(X, 3).labels
    assert kept.tolist() == restated(X, labels, share, beta, score)
    assert torch.equal(sampler.labels_, labels) and sampler.dynamics_.epochs == 20
    told = json.loads(json.dumps(sampler.report_))
    assert told["kept"] == len(kept) and told["pruned_hard"] == int(IMAGES * beta)
    assert told["kept"] + told["pruned_hard"] + told["pruned_easy"] == told["images"] == IMAGES
    assert torch.equal(sampler.select(X), kept) and torch.equal(sampler.run(X), X[kept])


def test_where_labels_come_from():
    given = ELFSImageSampler(0.5, labels=TRUE)
    assert given.select(X).tolist() == restated(X, TRUE, 0.5, 0.1, "aum")
    assert given.report_["labels"] == "given" and given.report_["classes"] == 3
    heads = ELFSImageSampler(0.5, clustering="heads", n_clusters=3, seed=4, score="mean")
    heads.select(X)
    assert torch.equal(heads.labels_, clustering_heads(X, 3, seed=4).labels)
    assert torch.equal(heads.scores_["difficulty"], heads.dynamics_.mean())
    default = ELFSImageSampler(0.5)
    default.select(X)
    assert int(default.labels_.max()) == 2  # three clusters of 30 images


def test_wrong_labels_are_the_hard_end():
    x, labels = blobs(100, 8, 4, noise=0.3, seed=0)
    wrong = torch.tensor([3, 20, 41, 77, 90])
    labels[wrong] = (labels[wrong] + 1) % 4
    kept = ELFSImageSampler(0.95, labels=labels, prune_hard=0.05).select(x)
    assert not set(wrong.tolist()) & set(kept.tolist()) and len(kept) == 95


def test_images_of_rows():
    rows = fields(IMAGES, GRID, 8)
    layout = Layout.of("test", len(rows), None, WHERE)
    means = image_means(Held(None, rows), layout)
    sampler = ELFSImageSampler(0.5)
    assert torch.equal(sampler.select_images(rows, layout), sampler.select(means))
    for given in (ELFSImageSampler(0.5, embeddings=X.numpy()).select_images(rows, layout),
                  ELFSImageSampler(0.5, embeddings=means).select_images(rows, layout, X)):  # fmt: skip
        assert torch.equal(given, sampler.select(X))
    two = TwoLevelSampler(ELFSImageSampler(0.5), GreedyCoresetSampler(0.1))
    assert two.uses_embeddings and not TwoLevelSampler(SupportedImages(), sampler).uses_embeddings
    for more, images in (({"embeddings": X}, sampler.select(X)), ({}, sampler.select(means))):
        picks = two.select(rows, positions=WHERE, **more)
        assert torch.equal(two.images_, images)
        left = torch.isin(WHERE[:, 0], images).nonzero()[:, 0]
        assert torch.equal(picks, left[GreedyCoresetSampler(0.1).select(rows[left])])
    other = copy.copy(two)
    other.select(rows, positions=WHERE, embeddings=X)
    assert two.image_sampler.scores_ is not other.image_sampler.scores_
    with pytest.raises(ValueError, match="embeddings of 30 images are wanted, got 29"):
        two.select(rows, positions=WHERE, embeddings=X[1:])


def test_patchcore_hands_embeddings_over(tmp_path, monkeypatch):
    folder = write_mvtec(tmp_path / "weave", 10, 1, 1)
    config = tiny_config()
    seen: list[torch.Tensor] = []
    whole = ELFSImageSampler.select
    monkeypatch.setattr(ELFSImageSampler, "select", lambda self, x: (seen.append(x.clone()), whole(self, x))[1])

    def sampler() -> TwoLevelSampler:
        return TwoLevelSampler(ELFSImageSampler(0.7, n_clusters=2), GreedyCoresetSampler(0.1))

    one = sampler()
    bank = PatchCore(config, one, progress=False).fit(folder).bank
    first, folds = seen[0], seen[1:]
    with PatchCore(config, progress=False).extract(folder, tmp_path / "s") as store:
        embeddings = torch.from_numpy(store.embeddings)
        assert torch.equal(first, embeddings)
        images = set(bank.positions[:, 0].tolist())
        assert images <= set(one.images_.tolist()) and len(one.images_) == int(0.7 * len(embeddings))
        assert len(one.image_sampler.labels_) == len(embeddings)  # the folds' samplers are copies
        seen.clear()
        again = PatchCore(config, sampler(), progress=False).fit(store).bank
    assert torch.equal(again.indices, bank.indices) and again.threshold == bank.threshold
    for mine, theirs in zip(folds, seen[1:], strict=True):
        assert len(mine) < len(embeddings) and torch.equal(mine, theirs)
        rest = [i for i in range(len(embeddings)) if bool((mine == embeddings[i]).all(1).any())]
        assert torch.equal(mine, embeddings[rest])


@pytest.mark.parametrize(
    "change, words",
    [({"percentage": 1.0}, r"not in \(0, 1\)"), ({"score": "loss"}, "score must be"),
     ({"clustering": "gmm"}, "clustering must be"), ({"prune_hard": 0.6}, "prune_hard must lie"),
     ({"prune_hard": -0.1}, "prune_hard must lie"), ({"n_clusters": 1}, "n_clusters must be at least 2"),
     ({"epochs": 0}, "epochs must"), ({"labels": TRUE[1:]}, "labels must be 30 integers"),
     ({"labels": TRUE * 0}, "two classes"), ({"labels": TRUE.float()}, "labels must be 30 integers"),
     ({"n_clusters": 16}, "16 clusters need at least 32 images, got 30")],
    ids=lambda value: "-".join(f"{k}" for k in value) if isinstance(value, dict) else "",
)  # fmt: skip
def test_what_is_refused(change, words):
    with pytest.raises(ValueError, match=words):
        ELFSImageSampler(**{"percentage": 0.5, **change}).select(X)


def test_few_images():
    with pytest.raises(ValueError, match="at least 4 images are wanted, got 3"):
        ELFSImageSampler(0.5).select(X[:3])
    assert len(ELFSImageSampler(0.5).select(X[:4])) == 2


@pytest.mark.parametrize("clustering", ["kmeans", "heads"])
def test_long_stages_are_shown_where_that_is_asked(clustering, capsys):
    sampler = ELFSImageSampler(0.5, clustering=clustering, epochs=1)
    sampler.select(X)
    assert capsys.readouterr().err == ""
    sampler.show_progress = True
    sampler.select(X)
    told = capsys.readouterr().err
    assert {"kmeans": "k_means", "heads": "clustering_heads"}[clustering] in told and "train_proxy" in told
