"""ELFSCoresetSampler as its users meet it: arguments, old names, messages, types, reports, the pipeline."""

import json
import random
import warnings

import numpy as np
import pytest
import torch

from patchcore_fast.model import PatchCore, PatchCoreConfig
from patchcore_fast.model.views import VIEWS, undone
from patchcore_fast.samplers import ELFSCoresetSampler, RandomSampler, describe_sampler, elfs_options, make_sampler
from patchcore_fast.scores import instability

from ..pictures import write_mvtec
from .test_elfs import WHERE, N, clean, contaminated


def test_instability_comes_from_views():
    x = clean()
    views = [x + 0.1, x.flip(1)]
    sampler = ELFSCoresetSampler(0.1, instability="views", w_unc=1.0, prune_support=False)
    picks = sampler.select(x, views=views)
    assert torch.equal(sampler.scores_["instability"], instability(x, views)) and len(picks) == 168
    assert torch.equal(sampler.run(x, None, views), x[picks])
    with pytest.raises(ValueError, match=r"ELFSCoresetSampler: views and .* go together; .* views are not given"):
        sampler.select(x)
    with pytest.raises(ValueError, match=r"ELFSCoresetSampler: views and .* go together; instability is None"):
        ELFSCoresetSampler(0.1).select(x, views=x)
    with pytest.raises(ValueError, match='ELFSCoresetSampler: w_unc needs mode="pseudo" or instability'):
        ELFSCoresetSampler(0.1, w_unc=1.0).select(x)


def test_noise_is_checked_at_once_recorded_and_shown(capsys):
    for std in (0, -1.0, float("nan"), "much"):
        with pytest.raises(ValueError, match=r"noise_std must be a number in \(0, 1e9\], got "):
            ELFSCoresetSampler(0.1, instability="noise", noise_std=std, w_unc=1.0)
    sampler = ELFSCoresetSampler(0.1, instability="noise", noise_T=3, w_unc=1.0)
    assert describe_sampler(sampler)[1]["noise_T"] == 3
    sampler.show_progress = True
    sampler.select(clean())
    assert "noise_instability" in capsys.readouterr().err


def test_names_that_users_already_type_are_taken(monkeypatch):
    monkeypatch.setattr(elfs_options, "_warned", set())
    with pytest.warns(UserWarning, match="noise_std and noise_T are used by instability='noise' only") as told:
        ELFSCoresetSampler(0.1, noise_std=0.05, noise_T=5)
    assert len(told) == 1 and told[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        old = ELFSCoresetSampler(
            percentage=0.1, device="cpu", mode="pseudo", w_repr=0.2, w_density=0.1, w_unc=0.1, k_density=3, anchors=100,
            topk_pool_multiplier=3.0, approximate_starting_points=10, reduce_dim=12, n_clusters=8, epochs=2,
            prune_hard=0.05, prune_easy=0.05, noise_std=0.1, noise_T=2, prune_support="rule", seed=3,
        )  # fmt: skip
        noisy = ELFSCoresetSampler(0.1, instability="noise", noise_std=0.1, noise_T=3, w_unc=1.0)
    assert old.run(clean()).shape == (168, 16) and old.projection_.shape == (16, 12)
    noisy.select(clean())
    assert noisy.scores_["instability"].shape == (N,) and set(old.scores_) == {
        "support", "representativeness", "rarity", "difficulty", "forgetting", "el2n", "weight",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"mode": "label"}, ValueError, "mode must be one of feature, pseudo, got 'label'"),
        ({"instability": "jitter"}, ValueError, "instability must be .* got 'jitter'"),
        ({"prune_support": "yes"}, TypeError, "prune_support must be .* got 'yes'"),
        ({"prune_support": 1.0}, ValueError, "prune_support must be .* got 1.0"),
        ({"prune_support": float("nan")}, ValueError, "prune_support must be .* got nan"),
        ({"prune_hard": 0.5}, ValueError, r"prune_hard must be in \[0, 0.5\), got 0.5"),
        ({"prune_easy": "a"}, TypeError, "prune_easy must be a number .* got 'a'"),
        ({"prune_easy": True}, TypeError, "prune_easy must be a number .* got True"),
        ({"w_repr": "a"}, ValueError, "w_repr must be a number in -10..10, got 'a'"),
        ({"w_unc": float("nan")}, ValueError, "w_unc must be a number in -10..10, got nan"),
        ({"w_density": 11}, ValueError, "w_density must be a number in -10..10, got 11"),
        ({"k_density": 0}, ValueError, "k_density must be >= 1, got 0"),
        ({"anchors": 2.5}, TypeError, "anchors must be an integer, got 2.5"),
        ({"n_clusters": 0}, ValueError, "n_clusters must be >= 1, got 0"),
        ({"epochs": "a"}, TypeError, "epochs must be an integer, got 'a'"),
        ({"topk_pool_multiplier": 0.5, "w_repr": 1}, ValueError, "topk_pool_multiplier must be >= 1 or None, got 0.5"),
        ({"topk_pool_multiplier": 3}, ValueError, "topk_pool_multiplier needs a weight"),
        ({"topk_pool_multiplier": "a", "w_repr": 1}, ValueError, "topk_pool_multiplier must be >= 1 or None, got 'a'"),
        ({"topk_pool_multiplier": float("inf"), "w_repr": 1}, ValueError, "topk_pool_multiplier must be .*got inf"),
        ({"settle": "a"}, ValueError, r"settle must be in \[0, 1\] or None, got 'a'"),
        ({"settle": 1.5}, ValueError, r"settle must be in \[0, 1\] or None, got 1.5"),
        ({"settle": True}, ValueError, r"settle must be in \[0, 1\] or None, got True"),
        ({"approximate_starting_points": 0}, ValueError, "approximate_starting_points must be >= 1, got 0"),
        ({"instability": "noise", "noise_T": 0}, ValueError, "noise_T must be >= 1, got 0"),
        ({"seed": -1}, ValueError, "seed must lie in"),
    ],
)
def test_what_makes_no_sense_is_refused(options, error, message):
    with pytest.raises(error, match=message):
        ELFSCoresetSampler(0.1, **options)


def test_rows_that_are_not_finite_are_named():
    x = clean()
    x[17, 3] = torch.nan
    for given in ({}, {"positions": WHERE}):
        with pytest.raises(ValueError, match="1 of 1680 rows are not finite, the first is row 17"):
            ELFSCoresetSampler(0.1).select(x, **given)
    with pytest.raises(ValueError, match=r"ELFSCoresetSampler: positions must have shape \(1680, 3\)"):
        ELFSCoresetSampler(0.1).select(x, positions=WHERE[1:])
    with pytest.raises(TypeError, match="ELFSCoresetSampler: features must be"):
        ELFSCoresetSampler(0.1).select(x.long())


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_what_came_in_comes_out(dtype, tmp_path):
    x = contaminated()[0].to(dtype)
    sampler = ELFSCoresetSampler(0.05, settle=0.5, prune_support="rule")
    rows = sampler.run(x)
    assert rows.dtype == dtype and rows.shape == (84, 16) and torch.equal(rows, x[sampler.indices_])
    np.save(tmp_path / "x.npy", x.numpy())
    for array in (x.numpy(), np.load(tmp_path / "x.npy", mmap_mode="r")):
        out = sampler.run(array)
        assert type(out) is np.ndarray and out.dtype == array.dtype and np.array_equal(out, rows.numpy())
    wide = torch.cat([x] * 20, 1)  # signals then look at the projection
    wide_picks = sampler.select(wide, positions=WHERE)
    assert wide_picks.unique().numel() == 84 and bool(sampler.pruned_["support"].any())


def test_too_few_rows_select_nothing():
    sampler = ELFSCoresetSampler(0.1)
    assert sampler.run(clean()[:9]).shape == (0, 16) and sampler.indices_.numel() == 0
    for n in (2, 3, 5):  # fewer rows than anchors, clusters and representatives
        picks = ELFSCoresetSampler(0.6, mode="pseudo", settle=1.0, w_density=1.0, w_repr=1.0).select(clean()[:n])
        assert picks.unique().numel() == int(n * 0.6)


def test_reports_are_json_and_random_state_is_left_alone():
    x, _ = contaminated()
    before, numpy_before, python_before = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()
    sampler = ELFSCoresetSampler(
        0.02, mode="pseudo", prune_easy=0.1, w_density=0.5, approximate_starting_points=5, prune_support="rule"
    )
    sampler.select(x, positions=WHERE)
    assert torch.equal(before, torch.get_rng_state()) and random.getstate() == python_before
    assert np.array_equal(numpy_before, np.random.get_state()[1])
    report = json.loads(json.dumps(sampler.report_))
    assert report["rows"] == N and report["mode"] == "pseudo" and report["selected"] == 33
    assert report["kept"] == int(sampler.kept_.sum()) and set(report["pruned"]) == {"support", "hard", "easy"}
    assert list(report["seconds"]) == list(report["memory"]) == ["projection", "support", "signals", "cover", "settle"]
    assert all(isinstance(b, int) and b > 1 << 20 for b in report["memory"].values())
    for values in (*sampler.scores_.values(), *sampler.pruned_.values(), sampler.kept_):
        assert values.shape == (N,) and values.device.type == "cpu"
    assert all(v.dtype == torch.float32 and bool(v.isfinite().all()) for v in sampler.scores_.values())


def test_the_pipeline_hands_over_positions(tmp_path):
    folder = write_mvtec(tmp_path / "weave", train=32)
    config = PatchCoreConfig(
        backbone="test_efficientnet", layers=(1, 2), weights="random", image_size=64, ratio=0.05, batch_size=8,
        sampler="elfs", prune_support="rule",
    )  # fmt: skip
    sampler = ELFSCoresetSampler(0.05, seed=config.seed, prune_support="rule")
    ours, named = PatchCore(config, sampler).fit(folder), PatchCore(config).fit(folder)
    assert torch.equal(ours.bank.indices, named.bank.indices)
    assert ours.bank.config["selection"]["sampler_parameters"]["prune_support"] == "rule"
    assert named.bank.config["selection"]["prune_support"] == "rule"
    plain = PatchCore(config.replace(prune_support="none")).fit(folder).bank
    assert plain.config["selection"]["prune_support"] == "none"
    assert torch.equal(
        plain.indices, PatchCore(config.replace(sampler="greedy", prune_support="none")).fit(folder).bank.indices
    )
    assert sampler.report_["support"]["layout"] == "given" and sampler.report_["support"]["images"] == 32
    assert len(ours.bank.indices) == int(ours.bank.patches * 0.05) and len(named.predict(folder)) > 0

    class Watch:
        uses_positions = True

        def select(self, features, positions=None):
            self.seen = positions
            return torch.arange(20)

    watch = Watch()
    rows = PatchCore(config, watch).training_features(folder)
    PatchCore(config, watch).fit(folder)
    assert torch.equal(watch.seen, rows.positions(torch.arange(rows.used)))
    watch.seen, Watch.uses_positions = None, False
    PatchCore(config, watch).fit(folder)
    assert watch.seen is None


def test_make_sampler_makes_one():
    sampler = make_sampler("elfs", 0.05, seed=4, device="cpu", projection=None)
    assert type(sampler) is ELFSCoresetSampler and sampler.uses_positions and sampler.seed == 4
    assert sampler.rule.said is False and make_sampler("elfs", prune_support="ask").rule.said == "ask"
    assert sampler.percentage == 0.05 and sampler.dimension_to_project_features_to is None


def test_report_of_nothing_selected_has_its_counts():
    sampler = ELFSCoresetSampler(0.1)
    assert len(sampler.select(clean()[:9])) == 0
    assert sampler.report_["selected"] == 0 and sampler.report_["kept"] == 9 and sampler.report_["pruned"] == {}


def test_report_says_how_it_was_made():
    sampler = ELFSCoresetSampler(0.1, prune_support=0.2, prune_hard=0.05, w_density=0.1, seed=7)
    sampler.select(clean())
    asked = {"percentage": 0.1, "seed": 7, "prune_support": 0.2, "prune_hard": 0.05, "mode": "feature", "settle": None}
    assert asked.items() <= sampler.report_.items() and sampler.report_["weights"]["density"] == 0.1


class Views(RandomSampler):
    """Keeps the views that it is handed."""

    instability = "views"

    def select(self, features, views=None):
        self.seen = (features, views)
        return super().select(features)


def test_the_pipeline_hands_over_views_whose_patches_are_in_place():
    images = torch.rand(3, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    sampler = Views(0.2)
    model = PatchCore(PatchCoreConfig(weights="random", image_size=64, device="cpu"), sampler, progress=False).fit(
        images
    )
    features, views = sampler.seen
    assert torch.equal(features, model.training_features(images).features)
    for view, rows in zip(VIEWS.values(), views, strict=True):
        changed = view.change(images)
        assert changed.shape == images.shape and 0 <= float(changed.min()) <= float(changed.max()) <= 1
        assert torch.equal(undone(view, model.training_features(changed).features, (8, 8)), rows)
        assert not torch.equal(rows, features)
    pixels = VIEWS["mirrored"].change(images).permute(0, 2, 3, 1).reshape(-1, 3)  # each its own feature
    assert torch.equal(undone(VIEWS["mirrored"], pixels, (64, 64)), images.permute(0, 2, 3, 1).reshape(-1, 3))


class Doubts(RandomSampler):
    """Says that images 1 and 3 hold rows that nothing supports."""

    def select(self, features):
        self.pruned_ = {"support": torch.zeros(len(features), dtype=torch.bool)}
        self.pruned_["support"][[64 + 5, 3 * 64 + 9]] = True
        return super().select(features)


def test_the_threshold_asks_no_image_that_the_sampler_doubts(monkeypatch):
    images = torch.rand(6, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 0.2
    images[1], images[3] = 1 - images[1], 1 - images[3]
    config = PatchCoreConfig(weights="random", image_size=64, device="cpu")
    doubting = PatchCore(config, Doubts(0.2), progress=False).fit(images).threshold
    trusting = PatchCore(config, RandomSampler(0.2), progress=False).fit(images).threshold
    assert doubting < trusting
