"""Images first, then patches of the chosen images."""

import numpy as np
import pytest
import torch

from patchcore_fast.kernels.ranks import Held
from patchcore_fast.samplers import (
    ELFSCoresetSampler,
    GreedyCoresetSampler,
    IdentitySampler,
    RandomSampler,
    SupportedImages,
    TwoLevelSampler,
)
from patchcore_fast.samplers.two_level import image_means
from patchcore_fast.scores import Layout, support

from ..patches import fields, plant, positions

IMAGES, GRID = 40, (6, 7)
WHERE = positions(IMAGES, GRID)
BAD = [2, 9, 13, 20]
NAMES = torch.arange(IMAGES) * 10 + 300  # what the caller calls the images


def rows(bad=(), seed=0):
    x = fields(IMAGES, GRID, 16, seed)
    plant(x, GRID, list(bad))
    return x


def named():
    where = WHERE.clone()
    where[:, 0] = NAMES[where[:, 0]]
    return where


@pytest.mark.parametrize("known", ["positions", "image_ids", "inferred"])
@pytest.mark.parametrize("bad", [BAD, []])
def test_images_that_nothing_supports_are_left_out(bad, known):
    x = rows(bad)
    given = {"positions": {"positions": WHERE}, "image_ids": {"image_ids": WHERE[:, 0]}, "inferred": {}}[known]
    sampler = TwoLevelSampler(SupportedImages(), GreedyCoresetSampler(0.1))
    picks = sampler.select(x, **given)
    assert not set(bad) & set(sampler.images_.tolist())
    deviation = support(x, image_ids=WHERE[:, 0]).deviation
    facts = sampler.image_sampler.report_
    assert facts["contaminated"] is bool(bad) and facts["images_pruned"] == IMAGES - len(sampler.images_)
    if bad:
        assert len(sampler.images_) > IMAGES / 2
        if known == "image_ids":
            assert torch.equal(sampler.images_, (deviation <= facts["high"]).nonzero()[:, 0])
    else:
        assert sampler.images_.tolist() == list(range(IMAGES))
    left = torch.isin(WHERE[:, 0], sampler.images_).nonzero()[:, 0]
    alone = GreedyCoresetSampler(0.1)
    assert torch.equal(picks, left[alone.select(x[left])]) and len(picks) == int(len(left) * 0.1)
    assert torch.equal(sampler.radii_, alone.radii_) and torch.equal(sampler.projection_, alone.projection_)
    assert torch.equal(sampler.indices_, picks)
    if not bad:
        assert torch.equal(picks, GreedyCoresetSampler(0.1).select(x))


def test_a_share_of_images_is_left_out_whatever_the_data_say():
    x = rows()
    images = SupportedImages(0.2)
    sampler = TwoLevelSampler(images, GreedyCoresetSampler(0.1))
    sampler.select(x, image_ids=named()[:, 0])
    worst = support(x, image_ids=WHERE[:, 0]).deviation.argsort(descending=True)[:8]
    assert sorted(sampler.images_.tolist()) == sorted(set(NAMES.tolist()) - set(NAMES[worst].tolist()))
    assert images.report_["images_pruned"] == 8 and images.report_["contaminated"] is False


@pytest.mark.parametrize("chooser", [GreedyCoresetSampler(0.25), RandomSampler(0.25, 3), IdentitySampler()])
@pytest.mark.parametrize("make", [torch.as_tensor, lambda t: t.numpy()])
def test_any_sampler_chooses_among_image_means(chooser, make):
    x = rows(BAD)
    means = image_means(Held(None, x), Layout.of("f", len(x), image_ids=WHERE[:, 0]))
    torch.testing.assert_close(means, x.view(IMAGES, 42, 16).double().mean(1).float())
    sampler = TwoLevelSampler(chooser, RandomSampler(0.1))
    out = sampler.run(make(x), positions=named())
    images = chooser.select(means)
    assert torch.equal(sampler.images_, NAMES[images])  # in the order in which they were chosen
    picks = sampler.indices_
    assert bool(torch.isin(WHERE[picks, 0], images).all()) and len(picks) == int(len(images) * 42 * 0.1)
    assert picks.unique().numel() == len(picks) and type(out) is type(make(x))
    assert np.array_equal(np.asarray(out), x[picks].numpy())


def test_image_means_are_of_rows_wherever_they_lie():
    x = rows()
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    layout = Layout.of("f", len(x), image_ids=WHERE[order, 0])
    want = x.view(IMAGES, 42, 16).mean(1)[layout.names]
    torch.testing.assert_close(image_means(Held(None, x[order]), layout), want, rtol=1e-5, atol=1e-6)


def test_the_patch_sampler_gets_the_positions_of_the_chosen_rows():
    class Watch:
        uses_positions = True

        def select(self, features, positions=None, image_ids=None):
            self.seen = features, positions, image_ids
            return torch.arange(5)

    x, watch = rows(), Watch()
    sampler = TwoLevelSampler(RandomSampler(0.3, 1), watch)
    picks = sampler.select(x, positions=named())
    left = torch.isin(named()[:, 0], sampler.images_).nonzero()[:, 0]
    features, where, ids = watch.seen
    assert torch.equal(features, x[left]) and torch.equal(where[:, 1:], WHERE[left, 1:]) and ids is None
    assert torch.equal(where[:, 0].unique(return_inverse=True)[1], WHERE[left, 0].unique(return_inverse=True)[1])
    assert torch.equal(picks, left[:5]) and sampler.radii_ is None and sampler.projection_ is None
    sampler.select(x, image_ids=named()[:, 0])
    assert watch.seen[1] is None and watch.seen[2].shape == (len(left),)


def test_both_levels_may_look_for_support():
    x = rows(BAD)
    patches = ELFSCoresetSampler(0.1, prune_support="rule")
    sampler = TwoLevelSampler(RandomSampler(0.75, 2), patches)
    picks = sampler.select(x, positions=WHERE)
    assert patches.report_["support"]["layout"] == "given" and patches.report_["support"]["images"] == 30
    left = torch.isin(WHERE[:, 0], sampler.images_).nonzero()[:, 0]
    alone = ELFSCoresetSampler(0.1, prune_support="rule")
    assert torch.equal(picks, left[alone.select(x[left], positions=WHERE[left])])
    assert torch.equal(sampler.select(x, positions=WHERE), picks)


def test_too_few_images_are_all_kept_and_said_to_be():
    x = rows()[: 8 * 42]
    sampler = TwoLevelSampler(SupportedImages(), GreedyCoresetSampler(0.1))
    assert torch.equal(sampler.select(x, positions=WHERE[: 8 * 42]), GreedyCoresetSampler(0.1).select(x))
    assert sampler.image_sampler.report_ == {"skipped": "8 images are too few, at least 10 are wanted"}


def test_what_cannot_be_used_is_refused():
    x, greedy = rows(), GreedyCoresetSampler(0.1)
    with pytest.raises(TypeError, match="TwoLevelSampler: image_sampler must be a sampler, got int"):
        TwoLevelSampler(3, greedy)
    with pytest.raises(TypeError, match="TwoLevelSampler: patch_sampler must be a sampler, got SupportedImages"):
        TwoLevelSampler(greedy, SupportedImages())
    for prune in (False, 0, None, "ask"):
        with pytest.raises(ValueError, match=r'SupportedImages: prune must be "auto" or a share in \(0, 1\), got'):
            SupportedImages(prune)
    with pytest.raises(TypeError, match=r"must be .* got 'some'"):
        SupportedImages("some")
    shuffled = x[torch.randperm(len(x), generator=torch.Generator().manual_seed(1))]
    sampler = TwoLevelSampler(SupportedImages(), greedy)
    with pytest.raises(ValueError, match="TwoLevelSampler: image_ids or positions are wanted; the order of the rows"):
        sampler.select(shuffled)
    with pytest.raises(ValueError, match=r"TwoLevelSampler: positions must have shape \(1680, 3\)"):
        sampler.select(x, positions=WHERE[1:])
    with pytest.raises(ValueError, match="TwoLevelSampler: the image sampler chose none of 40 images"):
        TwoLevelSampler(GreedyCoresetSampler(0.01), greedy).select(x, positions=WHERE)
    with pytest.raises(TypeError, match=r"TwoLevelSampler: features must be an ndarray or torch.Tensor"):
        sampler.select([[1.0]])
    x[17, 3] = torch.nan
    with pytest.raises(ValueError, match="1 of 1680 rows are not finite, the first is row 17"):
        sampler.select(x, positions=WHERE)


def test_the_patch_sampler_gets_its_progress_back():
    told = []
    sampler = TwoLevelSampler(SupportedImages(), GreedyCoresetSampler(0.1))
    sampler.progress = lambda done, total: told.append((done, total))
    sampler.select(rows(BAD), positions=WHERE)
    assert sampler.patch_sampler.progress is None and told[-1][0] == told[-1][1]


def test_the_patch_sampler_hears_the_callers_image_numbers():
    inner = ELFSCoresetSampler(0.1, prune_support="rule")
    TwoLevelSampler(GreedyCoresetSampler(0.9), inner).select(rows(BAD), positions=named())
    assert set(inner.report_["support"]["most_isolated"]) <= set(NAMES.tolist())
