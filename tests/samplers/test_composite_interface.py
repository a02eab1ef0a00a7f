"""The composite preset as its users meet it: the documents' calls, labels and views, reports, messages."""

import json

import numpy as np
import pytest
import torch

from patchcore_fast.model import PatchCore, PatchCoreConfig
from patchcore_fast.samplers import ELFSCoresetSampler, describe_sampler
from patchcore_fast.samplers.projection import project
from patchcore_fast.scores import difficulty, instability, k_means, proxy_change

CALL = {
    "percentage": 0.1, "device": "cpu", "k_density": 10, "noise_std": 1e-3, "noise_T": 3, "w_repr": 1.0,
    "w_density": 1.0, "w_unc": 1.0, "topk_pool_multiplier": 5, "approximate_starting_points": 30, "dim_reduce": 128,
    "density_subsample": 1000, "batch_size_instability": 1024,
}  # fmt: skip
IMAGES, PER = 12, 25
N = IMAGES * PER


def rows(d=24, seed=0, n=N):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(
    "change",
    [{}, {"noise_T": 0}, {"percentage": 1}, {"percentage": 1.0, "noise_T": 0}, {"noise_T": 1, "noise_std": 0.0},
     {"w_repr": -1.0}, {"w_repr": -1, "w_density": -0.5, "w_unc": -20}, {"approximate_starting_points": 10},
     {"density_subsample": None}, {"dim_reduce": None}],
    ids=str,
)  # fmt: skip
def test_calls_of_the_documents_run_unchanged(change):
    call = CALL | change
    sampler = ELFSCoresetSampler(**call)
    x = rows(160).requires_grad_()
    out = sampler.run(x).numpy()
    assert out.shape == (int(N * call["percentage"]), 160) and sampler.preset == "composite"
    assert np.array_equal(out, x.detach().numpy()[sampler.indices_.numpy()])
    assert sampler.indices_.unique().numel() == len(out) and sampler.projection_.shape == (160, 128)
    again = ELFSCoresetSampler(**call)
    assert type(again.run(x.detach().numpy())) is np.ndarray and torch.equal(again.indices_, sampler.indices_)
    assert ("instability" in sampler.scores_) == (call["noise_T"] > 0 and call["noise_std"] > 0)


def test_the_newer_name_of_the_anchors_wins():
    both, new = ELFSCoresetSampler(**CALL), ELFSCoresetSampler(**CALL | {"approximate_starting_points": None})
    old = ELFSCoresetSampler(**CALL | {"density_subsample": None})
    for s in (both, new, old):
        s.select(rows())
    assert torch.equal(both.scores_["density"], new.scores_["density"]) and both.density_subsample == 1000
    assert not torch.equal(both.scores_["density"], old.scores_["density"]) and old.density_subsample == 30


@pytest.mark.parametrize(
    "named",
    [{"repr": "mean"}, {"density": "dense"}, {"density_subsample": 50}, {"batch_size_instability": 64},
     {"pool": "composite"}, {"proxy_steps": 2}, {"difficulty": "el2n"}, {"min_pool": 0}, {"alpha": 0.0}, {"beta": 1.0},
     {"clean": 0.0},
     {"dim_reduce": 8}, {"instability": "proxy"}, {"instability": "difficulty"}, {"noise_T": 0}],
    ids=str,
)  # fmt: skip
def test_names_of_the_preset_mean_it(named):
    sampler = ELFSCoresetSampler(0.1, **named)
    assert sampler.preset == "composite" and sampler.select(rows()).numel() == 30


def test_without_these_names_nothing_has_changed():
    for options in ({}, {"w_repr": -1.0, "topk_pool_multiplier": 5}, {"approximate_starting_points": 30}):
        sampler = ELFSCoresetSampler(0.1, **options)
        sampler.select(rows())
        assert sampler.preset is None and "composite" not in sampler.scores_ and "mode" in sampler.report_
        assert torch.equal(sampler.pool_, sampler.kept_) and set(sampler.report_["memory"]) == set(
            sampler.report_["seconds"]
        )
    with pytest.raises(ValueError, match=r"Percentage value not in \(0, 1\). Got 1"):
        ELFSCoresetSampler(1)
    with pytest.raises(ValueError, match='pseudo_labels and image_embeddings go with instability="proxy" or'):
        ELFSCoresetSampler(0.1).select(rows(), pseudo_labels=torch.arange(N) % 3)


def test_proxy_and_difficulty_are_those_of_the_scores():
    x, labels = rows(), torch.arange(N) % 5
    for given, want in ((labels, {"labels": labels}), (None, {"clusters": 64})):
        sampler = ELFSCoresetSampler(0.1, instability="proxy", proxy_steps=3, dimension_to_project_features_to=None)
        sampler.select(x, pseudo_labels=given)
        assert torch.equal(sampler.scores_["instability"], proxy_change(x, steps=3, **want))
    found = difficulty(x, labels=labels, epochs=2)
    parts = {"aum": found.score, "forgetting": found.forgetting, "el2n": found.el2n}
    scaled = {name: (s - s.min()).double() / (s.max() - s.min()) for name, s in parts.items()}
    for name in ("aum", "forgetting", "el2n", "mean", "aum+el2n"):
        sampler = ELFSCoresetSampler(0.1, instability="difficulty", difficulty=name, epochs=2,
                                     dimension_to_project_features_to=None)  # fmt: skip
        sampler.select(x, pseudo_labels=labels)
        if name in parts:
            assert torch.equal(sampler.scores_["difficulty"], parts[name])
        else:
            names = parts if name == "mean" else name.split("+")
            want = sum(scaled[n] for n in names) / len(names)
            torch.testing.assert_close(sampler.scores_["difficulty"], want.float(), rtol=1e-5, atol=1e-6)


def test_labels_of_images_go_to_all_their_patches():
    x, order = rows(), torch.randperm(N, generator=torch.Generator().manual_seed(1))
    image = torch.arange(N) // PER
    of_image = torch.arange(IMAGES) % 4

    def found(x, **given):
        sampler = ELFSCoresetSampler(0.1, instability="proxy", n_clusters=3, dimension_to_project_features_to=None)
        sampler.select(x, **given)
        return sampler.scores_["instability"]

    want = proxy_change(x, labels=of_image[image])
    assert torch.equal(found(x, pseudo_labels=of_image), want)  # equally many rows an image, in their order
    assert torch.equal(found(x, pseudo_labels=of_image.numpy(), image_ids=image), want)
    mixed = proxy_change(x[order], labels=of_image[image[order]])
    where = torch.column_stack([image, torch.arange(N) % PER, torch.zeros(N, dtype=torch.int64)])
    assert torch.equal(found(x[order], pseudo_labels=of_image, positions=where[order]), mixed)
    assert torch.equal(found(x[order], pseudo_labels=of_image, image_ids=100 + image[order]), mixed)
    embedding = rows(7, 3, IMAGES)
    clusters = k_means(embedding, 3, seed=0).labels
    assert torch.equal(found(x, image_embeddings=embedding.numpy()), proxy_change(x, labels=clusters[image]))
    for given, message in (
        ({"pseudo_labels": of_image[:7]}, "7 images do not divide 300 rows"),
        ({"pseudo_labels": of_image[:7], "image_ids": image}, "are of 7 images, the rows of 12"),
        ({"pseudo_labels": of_image, "image_embeddings": embedding}, "pseudo_labels or image_embeddings, not both"),
        ({"pseudo_labels": torch.ones(N, dtype=torch.int64)}, "at least two classes are wanted"),
        ({"pseudo_labels": torch.full((N,), -1)}, "ELFSCoresetSampler: pseudo_labels must lie in"),
    ):
        with pytest.raises(ValueError, match=message):
            found(x, **given)


def test_views_are_projected_as_the_rows_are():
    x, views = rows(), [rows(seed=1), rows(seed=2)]
    sampler = ELFSCoresetSampler(0.1, preset="composite", instability="views", dimension_to_project_features_to=None)
    sampler.select(x, views=views)
    assert torch.equal(sampler.scores_["instability"], instability(x, views))
    low = ELFSCoresetSampler(0.1, instability="views", dim_reduce=5)
    low.select(x, views=torch.stack(views))
    place = torch.device("cpu")
    want = instability(project(x, low.projection_, place), [project(v, low.projection_, place) for v in views])
    torch.testing.assert_close(low.scores_["instability"], want)
    low.select(x, views=views[0].numpy())
    for given, message in ((None, "views are not given"), ([x[1:]], "views.0. must have the shape"), ([], "one view")):
        with pytest.raises(ValueError, match=message):
            low.select(x, views=given)


def test_scores_pool_and_report():
    before = torch.get_rng_state(), np.random.get_state()[1].copy()
    sampler = ELFSCoresetSampler(**CALL | {"clean": 0.2, "alpha": 0.1, "instability": "difficulty"})
    picks = sampler.select(rows(160))
    assert torch.equal(before[0], torch.get_rng_state()) and np.array_equal(before[1], np.random.get_state()[1])
    assert set(sampler.scores_) == {"representativeness", "density", "difficulty", "composite"}
    assert all(s.shape == (N,) and s.dtype == torch.float32 for s in sampler.scores_.values())
    assert sampler.pool_.shape == (N,) and bool(sampler.pool_[picks].all()) and sampler.radii_.shape == (30,)
    report = json.loads(json.dumps(sampler.report_))
    parts = ["projection", "representativeness", "density", "difficulty", "pool", "select", "clean"]
    assert list(report["seconds"]) == list(report["memory"]) == parts
    assert all(s >= 0 for s in report["seconds"].values()) and all(b > 1 << 20 for b in report["memory"].values())
    asked = {"preset": "composite", "percentage": 0.1, "selected": 30, "pool_rows": 150, "cleaned": 6, "clean": 0.2}
    assert asked.items() <= report.items()
    name, settings = describe_sampler(sampler)
    again = ELFSCoresetSampler(**settings | {"device": "cpu"})
    assert name == "composite" and torch.equal(again.select(rows(160)), picks)
    assert sampler.select(rows(160)[:9]).numel() == 0 and sampler.report_["selected"] == 0


def test_progress_is_told_and_bars_are_shown_where_asked(capsys):
    for options in ({}, {"alpha": 0.2}, {"pool": "refined"}, {"pool": "diversity", "alpha": 0.2}):
        told = []
        sampler = ELFSCoresetSampler(0.1, preset="composite", **options)
        sampler.progress = lambda *made: told.append(made)  # noqa: B023
        sampler.select(rows())
        assert told[-1] == (30, 30) and all(0 <= a <= b == 30 for a, b in told)
    assert capsys.readouterr() == ("", "")
    pytest.importorskip("tqdm")
    sampler = ELFSCoresetSampler(0.1, instability="proxy", repr="clusters")
    sampler.show_progress = True
    sampler.select(rows())
    shown = capsys.readouterr().err
    assert all(stage in shown for stage in ("k_means", "rarity", "proxy_change", "picks"))


def test_the_pipeline_fits_with_it(capsys):
    images = torch.rand(6, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    config = PatchCoreConfig(weights="random", image_size=64, device="cpu")
    sampler = ELFSCoresetSampler(0.1, instability="proxy", pool="diversity", alpha=0.2, clean=0.1)
    model = PatchCore(config, sampler, progress=True).fit(images)
    assert "proxy_change" in capsys.readouterr().err and sampler.show_progress is False
    again = ELFSCoresetSampler(0.1, instability="proxy", pool="diversity", alpha=0.2, clean=0.1)
    x = model.training_features(images)
    assert torch.equal(again.select(x.features, positions=x.positions(torch.arange(x.used))), model.bank.indices)
    said = {"preset": "composite", "pool": "diversity", "alpha": 0.2, "instability": "proxy"}
    assert said.items() <= model.bank.config["selection"]["sampler_parameters"].items()


BAD = [
    ({"preset": "best"}, ValueError, "preset must be \"composite\" or None, got 'best'"),
    ({"repr": "median"}, ValueError, "repr must be one of mean, clusters, got 'median'"),
    ({"density": 3}, ValueError, "density must be one of rarity, dense, got 3"),
    ({"pool": "all"}, ValueError, "pool must be one of composite, diversity, refined, got 'all'"),
    ({"density_subsample": 1}, ValueError, "density_subsample must be >= 2"),
    ({"approximate_starting_points": 1, "pool": "composite"}, ValueError, "approximate_starting_points must be >= 2"),
    ({"noise_T": -1, "pool": "composite"}, ValueError, "noise_T must be >= 1, got -1"),
    ({"noise_T": False, "pool": "composite"}, TypeError, "noise_T must be an integer, got False"),
    ({"noise_std": -1.0, "pool": "composite"}, ValueError, "noise_std must be a number in 0..1e.30, got -1.0"),
    ({"batch_size_instability": 0}, ValueError, "batch_size_instability must be >= 1, got 0"),
    ({"proxy_steps": 0}, ValueError, "proxy_steps must be >= 1, got 0"),
    ({"difficulty": "loss"}, ValueError, "difficulty must be one of aum, forgetting, el2n, .* got 'loss'"),
    ({"difficulty": "aum+aum"}, ValueError, "difficulty must be"),
    ({"min_pool": -1}, ValueError, "min_pool must be >= 1, got -1"),
    ({"topk_pool_multiplier": 0.5, "min_pool": 3}, ValueError, "topk_pool_multiplier must be a number in 1..1e.09"),
    ({"alpha": -0.1}, ValueError, "alpha must be a number in 0..1e.30, got -0.1"),
    ({"beta": float("nan")}, ValueError, "beta must be a number in .* got nan"),
    ({"clean": 1.5}, ValueError, "clean must be a number in 0..1, got 1.5"),
    ({"w_unc": "a", "clean": 0.1}, ValueError, "w_unc must be a number in .* got 'a'"),
    ({"dim_reduce": 0}, ValueError, "dimension_to_project_features_to must be >= 1, got 0"),
    ({"instability": "jitter", "clean": 0.1}, ValueError, "instability must be None or one of noise, views, proxy"),
    ({"mode": "pseudo", "clean": 0.1}, ValueError, "mode has no part in preset=.composite., got 'pseudo'"),
    ({"prune_support": "rule", "clean": 0.1}, ValueError, "prune_support has no part in preset"),
    ({"prune_hard": 0.1, "clean": 0.1}, ValueError, "prune_hard has no part in preset"),
    ({"settle": 0.1, "clean": 0.1}, ValueError, "settle has no part in preset"),
]


@pytest.mark.parametrize(("options", "error", "message"), BAD, ids=[f"{o}" for o, _, _ in BAD])
def test_bad_settings_are_named(options, error, message):
    with pytest.raises(error, match=message):
        ELFSCoresetSampler(0.1, **options)


def test_radius_and_rows_that_are_not_finite_are_refused():
    sampler = ELFSCoresetSampler(0.1, preset="composite")
    sampler.radius = 0.5
    with pytest.raises(ValueError, match="radius goes with the greedy samplers alone"):
        sampler.select(rows())
    x = rows()
    x[17, 3] = torch.nan
    with pytest.raises(ValueError, match="1 of 300 rows are not finite, the first is row 17"):
        ELFSCoresetSampler(0.1, preset="composite").select(x)


@pytest.mark.parametrize("third", ["proxy", "difficulty"])
def test_rows_that_are_all_alike_have_no_third_signal_and_are_picked(third):
    sampler = ELFSCoresetSampler(0.1, instability=third)
    x = torch.full((50, 4), 3.0)
    assert len(sampler.select(x)) == 5 and not sampler.scores_["composite"].any()
    sampler.select(x + torch.eye(50, 4))  # a single row that differs is enough
    assert sampler.scores_["composite"].any()


@pytest.mark.parametrize(
    ("options", "unit"),
    [({}, "mean distance to near anchors"), ({"density": "dense"}, "1 / mean distance to near anchors"),
     ({"instability": "noise"}, "mean distance to noisy copies"),
     ({"instability": "difficulty"}, "minus the area under the margin"),
     ({"instability": "difficulty", "difficulty": "el2n"}, "el2n"),
     ({"repr": "clusters"}, "distance to the nearest centre")],
    ids=str,
)  # fmt: skip
def test_every_score_has_a_unit(options, unit):
    sampler = ELFSCoresetSampler(0.1, preset="composite", **options)
    sampler.run(rows())
    units = sampler.composite.units()
    assert all(units[name] for name in sampler.scores_) and unit in units.values()
