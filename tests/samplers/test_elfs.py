"""ELFSCoresetSampler: greedy on clean sets, without what no other image shows on others, and what each option does."""

import pytest
import torch

from patchcore_fast.kernels import knn
from patchcore_fast.samplers import ApproximateGreedyCoresetSampler, ELFSCoresetSampler, GreedyCoresetSampler, elfs
from patchcore_fast.scores import difficulty, rarity, support

from ..patches import fields, plant, positions

IMAGES, GRID = 40, (6, 7)
N = IMAGES * 42
BAD = [2, 9, 13, 20]
WHERE = positions(IMAGES, GRID)


def clean(seed=0):
    return fields(IMAGES, GRID, 16, seed)


def contaminated(seed=0):
    """Rows, and which are planted."""
    x = clean(seed)
    return x, plant(x, GRID, BAD)


SHARES = [pytest.param(share, seed, marks=[pytest.mark.thorough] * (seed % 2 == (share == 0.1)))
          for share in (0.01, 0.1) for seed in range(4)]  # fmt: skip


@pytest.mark.parametrize("share, seed", SHARES)
def test_on_a_clean_set_the_cover_is_greedys(seed, share):
    x = clean(seed)
    want = GreedyCoresetSampler(share, seed=seed)
    rows = want.run(x)
    sampler = ELFSCoresetSampler(share, settle=0, seed=seed, prune_support="rule")
    assert torch.equal(sampler.run(x), rows) and torch.equal(sampler.indices_, want.indices_)
    assert torch.equal(sampler.radii_, want.radii_) and torch.equal(sampler.projection_, want.projection_)
    assert sampler.report_["support"]["contaminated"] is False and bool(sampler.kept_.all())
    assert torch.equal(sampler.select(x.numpy(), positions=WHERE.numpy()), want.indices_)
    assert torch.equal(sampler.select(x, image_ids=WHERE[:, 0].tolist()), want.indices_)
    assert not bool(sampler.pruned_["support"].any())


@pytest.mark.parametrize("make", [clean, lambda seed: contaminated(seed)[0]])
@pytest.mark.parametrize("seed", range(2))
def test_by_default_the_bank_is_greedys_and_nothing_is_pruned(make, seed):
    x = make(seed)
    for share in (0.01, 0.1):
        sampler = ELFSCoresetSampler(share, seed=seed)
        assert torch.equal(sampler.select(x, positions=WHERE), GreedyCoresetSampler(share, seed=seed).select(x))
        assert sampler.pruned_ == {} and sampler.suspects_ == [] and sampler.report_["prune_support"] is False


def test_ask_names_the_images_and_prunes_nothing():
    x, _ = contaminated()
    numbers = torch.arange(900, 900 + IMAGES)
    sampler = ELFSCoresetSampler(0.1, prune_support="ask")
    with pytest.warns(UserWarning, match="nothing was pruned; .* by number .*patchcore-fast audit DIR") as told:
        picks = sampler.select(x, positions=torch.cat([numbers[WHERE[:, :1]], WHERE[:, 1:]], 1))
    assert torch.equal(picks, GreedyCoresetSampler(0.1).select(x)) and bool(sampler.kept_.all())
    assert sampler.pruned_ == {} and len(told) == 1
    deviation = support(x, positions=WHERE).deviation
    order = deviation.argsort(descending=True)[:20]
    assert sampler.suspects_ == [(900 + int(i), float(deviation[i])) for i in order]
    assert {number - 900 for number, _ in sampler.suspects_[: len(BAD)]} == set(BAD)
    assert f"{sampler.suspects_[0][0]} ({sampler.suspects_[0][1]:.1f})" in str(told[0].message)
    assert sampler.report_["support"]["suspects"] == [list(pair) for pair in sampler.suspects_]
    assert sampler.report_["prune_support"] == "ask" and "contaminated" not in sampler.report_["support"]
    sampler.select(x[:336], image_ids=WHERE[:336, 0])  # 8 images: nobody can be named
    assert sampler.suspects_ == [] and "too few" in sampler.report_["support"]["skipped"]


@pytest.mark.parametrize("old", [True, "auto"])
def test_the_rules_old_names_are_taken_and_told(old):
    x, _ = contaminated()
    with pytest.warns(FutureWarning, match='is called "rule" now; False and "ask" prune nothing') as told:
        sampler = ELFSCoresetSampler(0.1, prune_support=old)
    assert len(told) == 1 and told[0].filename == __file__ and sampler.rule.said == "rule"
    wanted = ELFSCoresetSampler(0.1, prune_support="rule")
    assert torch.equal(sampler.select(x, positions=WHERE), wanted.select(x, positions=WHERE))


def test_false_never_looks_for_support(monkeypatch):
    monkeypatch.setattr(elfs, "support", lambda *a, **k: pytest.fail("support was computed"))
    x, _ = contaminated()
    for off in (False, None, 0, 0.0):
        sampler = ELFSCoresetSampler(0.1, settle=0, prune_support=off)
        assert torch.equal(sampler.select(x, positions=WHERE), GreedyCoresetSampler(0.1).select(x))
        assert sampler.scores_ == {} and sampler.pruned_ == {} and "support" not in sampler.report_


@pytest.mark.parametrize("share, seed", SHARES)
def test_planted_patches_are_pruned_and_none_is_selected(seed, share):
    x, planted = contaminated(seed)
    assert int(planted[GreedyCoresetSampler(share).select(x)].sum()) > 0  # what greedy runs after
    sampler = ELFSCoresetSampler(share, prune_support="rule")
    picks = sampler.select(x, positions=WHERE)
    assert len(picks) == int(N * share) == picks.unique().numel()
    assert (
        not bool(sampler.kept_[planted].any()) and not bool(planted[picks].any()) and bool(sampler.kept_[picks].all())
    )
    assert torch.equal(sampler.kept_, ~sampler.pruned_["support"]) and list(sampler.pruned_) == ["support"]
    assert int(sampler.kept_.sum()) > 0.75 * N
    facts = sampler.report_["support"]
    assert facts["contaminated"] is True and facts["layout"] == "given" and facts["images"] == IMAGES
    assert set(BAD) <= set(facts["most_isolated"]) and facts["outlying_share"] >= len(BAD) / IMAGES
    assert torch.equal(sampler.scores_["support"], -support(x, positions=WHERE).distance)
    assert torch.equal(ELFSCoresetSampler(share, prune_support="rule").select(x, positions=WHERE), picks)
    assert torch.equal(sampler.select(x, positions=WHERE), picks)
    alone = ELFSCoresetSampler(share, prune_support="rule")
    assert torch.equal(alone.run(x), x[picks]) and alone.report_["support"]["layout"] == "inferred"


def test_image_numbers_alone_prune_whole_images():
    x, _ = contaminated()
    ids = torch.arange(900, 900 + IMAGES).flip(0)[WHERE[:, 0]]
    sampler = ELFSCoresetSampler(0.1, prune_support="rule")
    picks = sampler.select(x, image_ids=ids)
    gone = ids[sampler.pruned_["support"]].unique()
    assert set((939 - torch.tensor(BAD)).tolist()) <= set(gone.tolist()) and len(gone) < IMAGES / 2
    assert torch.equal(sampler.pruned_["support"], torch.isin(ids, gone))
    assert len(gone) == sampler.report_["support"]["images_pruned"] and not bool(torch.isin(ids[picks], gone).any())
    assert set((939 - torch.tensor(BAD)).tolist()) <= set(sampler.report_["support"]["most_isolated"])


def test_a_share_of_images_is_pruned_whatever_the_data_say():
    x = clean()
    sampler = ELFSCoresetSampler(0.1, prune_support=0.2)
    sampler.select(x, image_ids=WHERE[:, 0])
    deviation = support(x, image_ids=WHERE[:, 0]).deviation
    gone = WHERE[sampler.pruned_["support"], 0].unique()
    assert gone.tolist() == sorted(deviation.argsort(descending=True)[:8].tolist())
    assert sampler.report_["support"]["images_pruned"] == 8 and not sampler.report_["support"]["contaminated"]


def test_rows_without_a_layout_are_said_to_be_and_covered():
    x, _ = contaminated()
    x = x[torch.randperm(N, generator=torch.Generator().manual_seed(3))]
    sampler = ELFSCoresetSampler(0.1, settle=0, prune_support="rule")
    assert torch.equal(sampler.select(x), GreedyCoresetSampler(0.1).select(x))
    assert sampler.report_["support"] == {
        "layout": None,
        "images": None,
        "skipped": "the images of the rows are not known: pass image_ids or positions",
    }
    sampler.select(x, image_ids=torch.arange(N) // (N // 8))
    assert sampler.report_["support"]["skipped"] == "8 images are too few, at least 10 are wanted"
    sampler.select(x, image_ids=torch.zeros(N, dtype=torch.int64))
    assert sampler.report_["support"]["skipped"].startswith("1 images are too few")
    assert bool(sampler.kept_.all()) and sampler.pruned_ == {}


@pytest.mark.parametrize("mode", ["feature", "pseudo"])
def test_ends_are_pruned_by_share(mode):
    x = clean()
    sampler = ELFSCoresetSampler(0.1, mode=mode, prune_support=False, prune_hard=0.2, prune_easy=0.1, n_clusters=8)
    picks = sampler.select(x)
    if mode == "feature":
        hard = rarity(x)
        assert torch.equal(sampler.scores_["rarity"], hard)
    else:
        found = difficulty(x, clusters=8)
        hard = found.score
        for name, values in (("difficulty", hard), ("forgetting", found.forgetting), ("el2n", found.el2n)):
            assert torch.equal(sampler.scores_[name], values)
    order = hard.argsort(descending=True, stable=True)
    assert set(sampler.pruned_["hard"].nonzero()[:, 0].tolist()) == set(order[:336].tolist())
    easy = (-hard).argsort(descending=True, stable=True)[:168]
    assert set(sampler.pruned_["easy"].nonzero()[:, 0].tolist()) == set(easy.tolist())
    assert torch.equal(sampler.kept_, ~(sampler.pruned_["hard"] | sampler.pruned_["easy"]))
    assert bool(sampler.kept_[picks].all()) and len(picks) == picks.unique().numel() == 168
    assert sampler.report_["pruned"] == {"hard": 336, "easy": 168} and sampler.report_["kept"] == N - 504


def test_mode_pseudo_prunes_a_tenth_at_the_hard_end_unless_told():
    assert ELFSCoresetSampler(0.1, mode="pseudo").prune_hard == 0.1 and ELFSCoresetSampler(0.1).prune_hard == 0.0
    assert ELFSCoresetSampler(0.1, mode="pseudo", prune_hard=0).prune_hard == 0.0
    sampler = ELFSCoresetSampler(0.1, mode="pseudo", prune_support=False)
    sampler.select(clean())
    assert int(sampler.pruned_["hard"].sum()) == 168 and "easy" not in sampler.pruned_


def test_pruned_rows_come_last():
    x = clean()
    sampler = ELFSCoresetSampler(0.9, prune_support=False, prune_hard=0.3, settle=0)
    with pytest.warns(UserWarning, match="1512 rows are wanted, pruning left 1176; 336 pruned ones follow"):
        picks = sampler.select(x)
    kept = int(sampler.kept_.sum())
    assert sampler.report_["refilled"] == 336
    assert len(picks) == picks.unique().numel() == int(N * 0.9) > kept
    assert bool(sampler.kept_[picks[:kept]].all()) and not bool(sampler.kept_[picks[kept:]].any())


def test_weights_pull_picks_towards_what_they_weigh():
    x = clean()
    plain = ELFSCoresetSampler(0.05, settle=0).select(x)
    rare = rarity(x)
    dense = ELFSCoresetSampler(0.05, settle=0, w_density=2.0)
    assert float(rare[dense.select(x)].mean()) < float(rare[plain].mean())
    assert float(rare[ELFSCoresetSampler(0.05, settle=0, w_density=-2.0).select(x)].mean()) > float(rare[plain].mean())
    assert torch.equal(dense.scores_["rarity"], rare)
    ordered = (-rare).double().sort().values
    low, middle, high = (float(ordered[int(q * N)]) for q in (0.25, 0.5, 0.75))
    z = ((-rare.double() - middle) / ((high - low) / 1.349)).clamp(-3, 3)
    torch.testing.assert_close(dense.scores_["weight"], (2.0 * z).exp().float())
    typical = ELFSCoresetSampler(0.05, settle=0, w_repr=2.0, n_clusters=8)
    chosen = typical.select(x)
    score = typical.scores_["representativeness"]
    assert float(score[chosen].mean()) > float(score[plain].mean())
    hard = ELFSCoresetSampler(0.05, settle=0, mode="pseudo", prune_hard=0, w_unc=-2.0, n_clusters=8)
    chosen = hard.select(x)
    assert float(hard.scores_["difficulty"][chosen].mean()) < float(hard.scores_["difficulty"][plain].mean())


def test_a_pool_restricts_picks_to_the_largest_weights():
    x = clean()
    sampler = ELFSCoresetSampler(0.05, prune_support=False, w_density=1.0, topk_pool_multiplier=2.5)
    picks = sampler.select(x)
    pool = sampler.scores_["weight"].argsort(descending=True, stable=True)[:210]
    assert int((~sampler.pruned_["pool"]).sum()) == 210 and bool(torch.isin(picks, pool).all())


def test_approximate_starts_are_those_of_the_approximate_sampler():
    x, _ = contaminated()
    sampler = ELFSCoresetSampler(0.1, prune_support=False, settle=0, approximate_starting_points=7, seed=5)
    want = ApproximateGreedyCoresetSampler(0.1, number_of_starting_points=7, seed=5).select(x)
    assert torch.equal(sampler.select(x), want)
    pruning = ELFSCoresetSampler(0.1, settle=0, approximate_starting_points=7, prune_support="rule")
    picks = pruning.select(x, positions=WHERE)
    assert bool(pruning.kept_[picks].all()) and int(pruning.pruned_["support"].sum()) > 0


@pytest.mark.parametrize("settle", [0.25, 0.5, 1.0])
def test_settled_picks_cover_better_on_average(settle):
    x, _ = contaminated()
    still, settled = (ELFSCoresetSampler(0.05, None, None, settle=s, prune_support="rule") for s in (0, settle))
    before, after = still.select(x, positions=WHERE), settled.select(x, positions=WHERE)
    late = round(settle * 84)
    assert torch.equal(after[: 84 - late], before[: 84 - late]) and torch.equal(settled.radii_, still.radii_)
    assert settled.report_["settled"] == int((after != before).sum()) > 0 and still.report_["settled"] == 0
    assert after.unique().numel() == 84 and bool(settled.kept_[after].all())
    kept = x[settled.kept_]
    assert float(knn(kept, x[after], 1)[0].mean()) < float(knn(kept, x[before], 1)[0].mean())


@pytest.mark.parametrize(("share", "late"), [(0.001, 0.15), (0.0049, 0.15), (0.0055, 0.0)])
def test_how_many_settle_depends_on_the_size_of_the_bank(share, late):
    x = fields(300, (6, 7), 4)
    own = ELFSCoresetSampler(share, None, None, prune_support=False).select(x)
    for settle in (0.0, 0.15, 0.5):
        told = ELFSCoresetSampler(share, None, None, prune_support=False, settle=settle).select(x)
        assert torch.equal(own, told) == (settle == late)


def test_settled_picks_stay_unique_among_equal_rows_with_weights():
    g = torch.Generator().manual_seed(0)
    x = torch.randn(50, 8, generator=g)[torch.randint(50, (1280,), generator=g)]
    sampler = ELFSCoresetSampler(0.1, settle=1.0, w_density=-1.0, anchors=64, prune_support=False)
    assert sampler.select(x).unique().numel() == 128


def test_the_pool_is_of_rows_that_are_left():
    sampler = ELFSCoresetSampler(0.1, prune_support=False, prune_hard=0.3, w_density=-1.0, topk_pool_multiplier=2.0)
    picks = sampler.select(clean())
    assert bool(sampler.kept_[picks].all()) and int(sampler.kept_.sum()) == 336


def test_pruning_everything_is_said():
    sampler = ELFSCoresetSampler(0.1, prune_hard=0.499, prune_easy=0.499, prune_support=0.99)
    with pytest.raises(ValueError, match="ELFSCoresetSampler: all 1680 rows are pruned"):
        sampler.select(clean(), image_ids=WHERE[:, 0])


def test_pruned_rows_do_not_return_in_place_of_equal_ones():
    x = torch.zeros(1000, 8)
    x[:200] = (
        torch.randn(200, 8, generator=torch.Generator().manual_seed(0))
        * torch.tensor([9.0] * 100 + [1.0] * 100)[:, None]
    )
    sampler = ELFSCoresetSampler(0.3, None, None, prune_support=False, prune_hard=0.1, anchors=900)
    picks = sampler.select(x)
    assert len(picks) == 300 and int(sampler.kept_.sum()) == 900 and bool(sampler.kept_[picks].all())
    assert sampler.report_["refilled"] == 0


def test_a_small_weight_changes_little():
    x = clean()
    plain = ELFSCoresetSampler(0.1, prune_support=False).select(x)
    weighed = ELFSCoresetSampler(0.1, prune_support=False, w_repr=1e-12, n_clusters=8).select(x)
    assert torch.equal(plain, weighed)


def test_a_share_that_cannot_be_pruned_is_said():
    with pytest.raises(ValueError, match=r"prune_support=0\.25 cannot be done: 8 images are too few"):
        ELFSCoresetSampler(0.1, prune_support=0.25).select(clean()[:336], image_ids=WHERE[:336, 0])
