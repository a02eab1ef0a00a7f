"""Cross-image support: against a plain restatement, on planted defects, and in its corners."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch

from patchcore_fast.kernels.kcenter.reference import k_center_greedy_reference
from patchcore_fast.scores import Layout, Support, deviations, support
from patchcore_fast.scores.support import _first_look

from ..patches import fields, plant, positions

GRID = (5, 6)


def plain_deviation(d, reference):
    """The robust scale, restated: logs against the lower median, the root mean square below it."""
    logs = np.log(np.asarray(reference, dtype=np.float64))
    middle = np.sort(logs)[(len(logs) - 1) // 2]
    return (np.log(np.asarray(d, dtype=np.float64)) - middle) / np.sqrt(np.mean((logs[logs <= middle] - middle) ** 2))


def dilated(rows, where, radius):
    """All rows of the same image within `radius` cells of a marked one, row by row."""
    out = rows.copy()
    for marked in np.flatnonzero(rows):
        image, row, column = where[marked]
        near = (np.abs(where[:, 1] - row) <= radius) & (np.abs(where[:, 2] - column) <= radius)
        out |= near & (where[:, 0] == image)
    return out


def plain_support(x, image, where, representatives):
    """All looks over full tables: distances [N], image distances [I] at the end and before concentration, rows trusted
    by the second look [N]."""
    x = x.double()
    images = int(image.max()) + 1
    table = torch.cdist(x, x, compute_mode="donot_use_mm_for_euclid_dist").numpy()
    chosen, own = [], np.empty(len(x), dtype=int)
    for j in range(images):
        members = np.flatnonzero(image == j)
        picks = k_center_greedy_reference(x[members], min(representatives, len(members)))[0].numpy()
        own[members] = table[np.ix_(members, members[picks])].argmin(1) + sum(map(len, chosen))
        chosen.append(members[picks])
    chosen = np.concatenate(chosen)
    to_image = np.stack([table[chosen][:, chosen[image[chosen] == j]].min(1) for j in range(images)], 1)
    to_image[np.arange(len(chosen)), image[chosen]] = np.inf
    first = np.sort(to_image, 1)[:, : max(2, round(0.02 * images))].mean(1)
    worst = np.array([first[image[chosen] == j].max() for j in range(images)])
    suspicious = plain_deviation(worst, worst)[image] > 2.0
    if where is not None:
        suspicious = dilated(suspicious & (plain_deviation(first[own], worst) > 0.0), where, 2)
    picks = k_center_greedy_reference(x, max(1, int(0.05 * len(x))))[0].numpy()
    bank = np.union1d(picks, chosen)

    def look(trusted):
        away = np.where(image[chosen][:, None] == image[bank][None], np.inf, table[np.ix_(chosen, bank)])
        nearest = np.where(trusted[bank], away, np.inf).min(1)
        return nearest, np.array([nearest[image[chosen] == j].max() for j in range(images)])

    nearest, raw = look(~suspicious)
    worst = raw
    for _ in range(3):
        nearest, worst = look(np.isin(image, np.argsort(worst, kind="stable")[: max(2, int(0.75 * images))]))
    return nearest[own], worst, raw, ~suspicious


@pytest.mark.parametrize("representatives", [4, 32])
@pytest.mark.parametrize("known", ["positions", "image_ids"])
@pytest.mark.parametrize("planted", [[], [2, 7]])
def test_looks_are_those_of_the_plain_restatement(representatives, known, planted):
    x, where = fields(12, GRID, seed=3), positions(12, GRID)
    plant(x, GRID, planted)
    given = {"positions": where} if known == "positions" else {"image_ids": where[:, 0]}
    found = support(x, **given, representatives=representatives)
    grid = where.numpy() if known == "positions" else None
    distance, worst, raw, trusted = plain_support(x, where[:, 0].numpy(), grid, representatives)
    assert not planted or not trusted.all()
    np.testing.assert_allclose(found.distance.numpy(), distance, rtol=1e-6)
    np.testing.assert_allclose(found.image_distance.numpy(), worst, rtol=1e-6)
    np.testing.assert_allclose(found.deviation.numpy(), plain_deviation(worst, worst), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found.raw_deviation.numpy(), plain_deviation(raw, raw), rtol=1e-4, atol=1e-5)
    assert found.distance.dtype == torch.float32 and found.deviation.dtype == torch.float64


@pytest.mark.parametrize("own", [20, 60, 300])
def test_rows_among_their_own_look_further(own):
    """Tight crowds, one an image: the nearest 32, then 256, of each row are its own image's."""
    generator = torch.Generator().manual_seed(0)
    centres = 3 * torch.randn(7, 1, 8, generator=generator)
    x = (centres + 0.01 * torch.randn(7, own, 8, generator=generator)).flatten(0, 1)
    ids = torch.arange(7).repeat_interleave(own)
    found = support(x, image_ids=ids, representatives=own)
    distance, worst, _, trusted = plain_support(x, ids.numpy(), None, own)
    assert trusted.all() and bool(found.distance.isfinite().all())
    np.testing.assert_allclose(found.distance.numpy(), distance, rtol=1e-6)
    np.testing.assert_allclose(found.image_distance.numpy(), worst, rtol=1e-6)


@pytest.mark.parametrize("seed", range(3))
def test_planted_defects_stand_out(seed):
    x = fields(12, GRID, seed=seed)
    images = [1, 6, 10]
    planted = plant(x, GRID, images)
    found = support(x, positions=positions(12, GRID))
    assert float(found.distance[planted].min()) > float(found.distance[~planted].max())
    assert sorted(found.deviation.argsort(descending=True)[:3].tolist()) == images
    assert found.outlying(3.0) == 3 / 12
    assert bool(found.unsupported(1.0, -1.0)[planted].all())
    image = positions(12, GRID)[:, 0]
    assert not bool(found.unsupported(3.0, -1.0)[~torch.isin(image, torch.tensor(images))].any())


def test_the_order_of_images_and_their_numbers_change_no_row():
    x, where = fields(9, GRID, seed=5), positions(9, GRID)
    plant(x, GRID, [4])
    found = support(x, positions=where)
    order = torch.tensor([4, 7, 0, 8, 2, 6, 1, 5, 3])
    rows = (order[:, None] * 30 + torch.arange(30)).flatten()
    moved = support(x[rows], positions=where[rows])
    assert torch.equal(moved.distance, found.distance[rows])
    assert torch.equal(moved.deviation, found.deviation[order]) and moved.layout.names.tolist() == order.tolist()
    renamed = where.clone()
    renamed[:, 0] = torch.tensor([40, -7, 3, 99, 12, 0, 5, 1000, -1])[where[:, 0]]
    assert torch.equal(support(x, positions=renamed).distance, found.distance)


def test_read_off_layouts_give_what_given_ones_give():
    x, where = fields(9, (6, 7), seed=2), positions(9, (6, 7))
    read = support(x)
    assert read.layout.source == "inferred"
    given = support(x, positions=where)
    assert torch.equal(read.distance, given.distance) and torch.equal(read.deviation, given.deviation)
    ids = torch.tensor([8, 3, 70, -5, 6, 2, 1, 0, 44])[where[:, 0]]
    by_ids = support(x.numpy(), image_ids=ids.numpy())
    assert by_ids.layout.row is None and torch.equal(by_ids.deviation, given.deviation)
    assert torch.equal(by_ids.distance, given.distance)  # clean: all looks trust the same rows


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_chunks_and_seeds_change_nothing(dtype, tmp_path):
    x = fields(10, GRID, seed=1).to(dtype)
    plant(x, GRID, [3])
    where = positions(10, GRID)
    steps: list[tuple[int, int]] = []
    want = support(x, positions=where, progress=lambda done, total: steps.append((done, total)))
    assert steps[-1] == (24, 24) and steps == sorted(steps)
    for chunk_size, seed in ((1, 0), (37, 1), (10**9, 2)):
        found = support(x, positions=where, chunk_size=chunk_size, seed=seed)
        assert torch.equal(found.distance, want.distance) and torch.equal(found.deviation, want.deviation)
    np.save(tmp_path / "x.npy", x.numpy())
    mapped = support(np.load(tmp_path / "x.npy", mmap_mode="r"), positions=where)
    assert torch.equal(mapped.distance, want.distance)


def test_above_512_images_the_seed_chooses_which_are_compared():
    images, x = 530, fields(530, (2, 3), d=4, seed=4)
    ids = torch.arange(images).repeat_interleave(6)
    first = support(x, image_ids=ids, representatives=1, seed=7)
    assert torch.equal(first.distance, support(x, image_ids=ids, representatives=1, seed=7).distance)

    def look(seed: int, count: int) -> torch.Tensor:
        generator = torch.Generator().manual_seed(seed)
        return _first_look(x[: count * 6], ids[: count * 6], count, generator, lambda _: None)

    assert not torch.equal(look(0, images), look(1, images)) and bool(look(0, images).isfinite().all())
    assert torch.equal(look(0, 20), look(1, 20))


def test_equal_images_are_all_supported():
    x = fields(1, GRID).repeat(6, 1)
    found = support(x, positions=positions(6, GRID))
    assert not bool(found.distance.any()) and not bool(found.deviation.any()) and found.outlying(0.0) == 0.0
    assert not bool(found.unsupported(0.0, -1.0).any())
    x[30 * 5 :] += 100  # one that none repeats
    found = support(x, positions=positions(6, GRID))
    assert bool(found.deviation.isfinite().all()) and bool((found.distance[150:] > 100).all())


def test_deviations_are_of_logs_and_only_the_lower_half_sets_the_scale():
    d = torch.tensor([1.0, 1.1, 1.3, 1.2, 0.9, 1.15, 50.0, 4.0])
    got = deviations(d)
    assert got.dtype == torch.float64
    np.testing.assert_allclose(got.numpy(), plain_deviation(d, d), rtol=1e-9)
    np.testing.assert_allclose(deviations(8 * d).numpy(), got.numpy(), rtol=1e-6, atol=1e-6)
    wilder = d.clone()
    wilder[6:] *= 100
    assert torch.equal(deviations(wilder)[:6], got[:6])
    assert not bool(deviations(torch.full((5,), 2.0)).any()) and not bool(deviations(torch.zeros(4)).any())
    some = deviations(torch.tensor([0.0, 0.0, 1.0, 1.1, 1.2]))  # repeats lie at zero distance
    assert bool(some.isfinite().all()) and float(some[0]) < float(some[2])


@pytest.mark.parametrize("radius", [0, 1, 2])
def test_what_is_unsupported_takes_its_surroundings_along(radius):
    where = positions(3, (7, 9))
    where = where[torch.randperm(len(where), generator=torch.Generator().manual_seed(0))[:150]]  # not every cell
    distance = torch.rand(150, generator=torch.Generator().manual_seed(1)) + 0.5
    layout = Layout.of("f", 150, positions=where)
    worst = torch.tensor([float(distance[layout.image == i].max()) for i in range(3)])
    worst[1] *= 3
    deviation = torch.tensor([0.0, 4.0, 2.0], dtype=torch.float64)
    found = Support(distance, worst, deviation, deviation, layout)
    low = float(np.quantile(plain_deviation(distance, worst), 0.9))
    marked = np.isin(layout.image.numpy(), [1, 2]) & (plain_deviation(distance, worst) > low)
    assert 1 <= marked.sum() <= 20
    ordered = np.column_stack([layout.image, where[:, 1], where[:, 2]])
    assert np.array_equal(found.unsupported(1.0, low, radius).numpy(), dilated(marked, ordered, radius))
    assert not bool(found.unsupported(5.0, low, radius).any())
    blind = Support(distance, worst, deviation, deviation, Layout.of("f", 150, image_ids=where[:, 0]))
    assert torch.equal(blind.unsupported(3.0, low, radius), blind.layout.image == 1)


@pytest.mark.parametrize("deviation", [-0.5, 1.0, 50.0])
def test_what_is_missed_is_the_plain_ratio(deviation):
    x, where = fields(12, GRID, seed=3), positions(12, GRID)
    plant(x, GRID, [2, 7])
    found = support(x, positions=where, representatives=8)
    bank, image = found.bank, where[:, 0].numpy()
    assert bank is not None and torch.equal(bank.features, x[bank.rows]) and bank.representative.shape == (12 * 8, 8)
    gone = torch.rand(len(x), generator=torch.Generator().manual_seed(0)) < 0.3
    table = torch.cdist(bank.representative.double(), x[bank.rows].double()).numpy()
    table[bank.image.numpy()[:, None] == image[bank.rows][None]] = np.inf
    asked = found.deviation.numpy()[bank.image] <= deviation
    assert 0 < asked.sum() < len(asked) or deviation == 50.0
    ratio = table[:, ~gone[bank.rows].numpy()].min(1) / table.min(1)
    assert found.missed(gone, deviation) == pytest.approx(np.log(ratio[asked]).mean(), rel=1e-6) and ratio.max() > 1
    assert found.missed(torch.zeros_like(gone), deviation) == 0.0
    assert found.missed(torch.ones_like(gone), deviation) == pytest.approx(np.log(10.0))  # nobody is left to be near
    assert found.missed(gone, -1e9) == 0.0  # nobody is asked


def test_repeats_are_missed_only_when_all_of_them_go():
    x, where = fields(1, GRID).repeat(6, 1), positions(6, GRID)
    found = support(x, positions=where)
    assert found.missed(where[:, 0] == 3) == 0.0
    assert found.missed(where[:, 0] >= 1) == pytest.approx(np.log(10.0) / 6)  # image 0's: no other is left


def test_missed_says_what_it_wants():
    x, where = fields(4, GRID), positions(4, GRID)
    found = support(x, positions=where)
    with pytest.raises(ValueError, match=r"missed: gone must be \(120,\) bool, got \(119,\) torch.bool"):
        found.missed(torch.zeros(119, dtype=torch.bool))
    with pytest.raises(ValueError, match=r"missed: gone must be \(120,\) bool, got \(120,\) torch.int64"):
        found.missed(torch.zeros(120, dtype=torch.int64))
    bare = Support(found.distance, found.image_distance, found.deviation, found.raw_deviation, found.layout)
    with pytest.raises(ValueError, match="missed: there is no bank to ask"):
        bare.missed(torch.zeros(120, dtype=torch.bool))


def test_what_cannot_be_used_is_refused():
    x, where = fields(4, GRID), positions(4, GRID)
    shuffled = x[torch.randperm(120, generator=torch.Generator().manual_seed(0))]
    with pytest.raises(ValueError, match="support: image_ids or positions are wanted; the order of the 120 rows shows"):
        support(shuffled)
    with pytest.raises(ValueError, match="support: at least 3 images are wanted, got 2"):
        support(x[:60], positions=where[:60])
    with pytest.raises(ValueError, match=r"support: positions must have shape \(120, 3\).*got \(119, 3\)"):
        support(x, positions=where[1:])
    with pytest.raises(ValueError, match=r"support: representatives must lie in .*got 0"):
        support(x, positions=where, representatives=0)
    with pytest.raises(ValueError, match=r"support: chunk_size must lie in .*got 0"):
        support(x, positions=where, chunk_size=0)
    with pytest.raises(TypeError, match=r"support: features must be an ndarray or torch.Tensor"):
        support([1.0], positions=where)
    with pytest.raises(ValueError, match="support: features must be 2-D"):
        support(x[0], positions=where)
    with pytest.raises(ValueError, match="support: device must be one that torch can use"):
        support(x, positions=where, device="nowhere")
    x[17, 3] = torch.nan
    with pytest.raises(ValueError, match=r"support: features .*(17|row)"):
        support(x, positions=where)


def test_first_look_averages_two_percent_of_what_is_compared(monkeypatch):
    monkeypatch.setattr(sys.modules["patchcore_fast.scores.support"], "_IMAGES", 100)  # the package hides its module
    images = 2000
    x = torch.randn(images, 4, generator=torch.Generator().manual_seed(0))
    got = _first_look(x, torch.arange(images), images, torch.Generator().manual_seed(0), lambda _: None)
    some = torch.randperm(images, generator=torch.Generator().manual_seed(0))[:100]
    d = torch.cdist(x, x[some]).double()
    d[some, torch.arange(100)] = torch.inf
    torch.testing.assert_close(got, d.sort(1).values[:, :2].mean(1), rtol=1e-4, atol=1e-4)


def test_repeated_positions_keep_every_mark():
    where = torch.tensor([[0, 2, 2], [0, 2, 2], [0, 2, 3], [1, 0, 0], [2, 0, 0]])  # two rows at one cell
    deviation = torch.tensor([5.0, 0, 0], dtype=torch.float64)
    found = Support(torch.tensor([9.0, 0.1, 0.1, 1.0, 1.1]), torch.tensor([9.0, 1.0, 1.1]), deviation, deviation,
                    Layout.of("f", 5, positions=where))  # fmt: skip
    assert found.unsupported(3.0, 3.0).tolist() == [True, True, True, False, False]
