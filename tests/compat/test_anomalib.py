"""`compat.anomalib` against the peer's loop restated; anomalib itself is not needed (tests/peers has the real one)."""

import sys
from types import ModuleType

import pytest
import torch

from patchcore_fast.compat import anomalib as fast
from patchcore_fast.compat.anomalib import KCenterGreedy
from patchcore_fast.kernels.kcenter.reference import k_center_greedy_reference
from tests.peers import restated_anomalib as peer
from tests.peers.restated_anomalib import generators, grid, near_tie, seed

VERSIONS = ("2.0", "2.2", "2.4")


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize(
    "shape, ratio, top",
    [*peer.UNPROJECTED, ((700, 64, 1), 0.05, 9), ((64, 5, 2), 0.02, 4), ((1, 3, 3), 1.0, 4)],
    ids=str,
)
def test_same_rows_without_projection(version, shape, ratio, top):
    for value in range(3):
        embedding = grid(*shape, top=top, value=value)
        seed(value)
        want, _ = peer.run(embedding, ratio, version)
        after = generators()
        seed(value)
        sampler = KCenterGreedy(embedding, ratio, version=version)
        assert sampler.coreset_size == len(want)
        got = sampler.select_coreset_idxs()
        assert got == want and all(type(row) is int for row in got)
        assert generators() == after
        assert torch.equal(sampler.features, embedding.reshape(shape[0], -1))
        seed(value)
        assert torch.equal(KCenterGreedy(embedding, ratio, version=version).sample_coreset(), embedding[want])


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize(
    ("n", "d", "ratio"), [(300, 16, 0.1), (1000, 64, 0.05), (500, 384, 0.1), (77, 1, 0.5), (2, 5, 1.0), (1, 5, 1.0)]
)
def test_with_projection(version, n, d, ratio):
    embedding = torch.randint(0, 50, (n, d), generator=torch.Generator().manual_seed(n)).float()
    embedding[n // 2 :: 7] = embedding[0].clone()
    seed(5)
    want, features = peer.run(embedding, ratio, version)
    after = generators()
    seed(5)
    matrix = peer.sparse_projection_matrix(n, d)
    start = int(torch.randint(n, (1,)))
    seed(5)
    sampler = KCenterGreedy(embedding, ratio, version=version)
    got = sampler.select_coreset_idxs()
    assert generators() == after
    assert sampler.model.n_components == peer.components(n) == matrix.shape[0]
    assert torch.equal(sampler.model.sparse_random_matrix, matrix)
    assert torch.equal(sampler.features, features) and sampler.features.shape == (n, matrix.shape[0])
    if version == "2.4":
        assert got[0] == want[0] == start
        got, want = got[1:], want[1:]
    near_tie(sampler.features, start, got, want, version)
    if n > 2:  # the picks are those of the plain float64 loop
        rows, radii = k_center_greedy_reference(sampler.features, len(got) + 1, start=start)
        sure = int((radii[1:] > 0).sum())
        assert got[:sure] == rows[1 : sure + 1].tolist()


def test_versions_agree_but_for_the_start():
    embedding = grid(400, 6, 3, top=9)
    lists = {}
    for version in VERSIONS:
        seed(1)
        lists[version] = KCenterGreedy(embedding, 0.2, version=version).select_coreset_idxs()
    assert lists["2.4"][1:] == lists["2.2"][:-1] == lists["2.0"][:-1]
    assert lists["2.2"] == lists["2.0"] and lists["2.4"][0] not in lists["2.2"]


@pytest.mark.parametrize("version", VERSIONS)
def test_attributes_and_single_steps(version):
    embedding = grid(120, 5, 2)
    sampler = KCenterGreedy(embedding, 0.1, version=version)
    assert sampler.embedding is embedding and sampler.n_observations == 120 and sampler.coreset_size == 12
    assert sampler.min_distances is None and not hasattr(sampler, "features")
    with pytest.raises(TypeError, match=r"min_distances must be of type Tensor\. Got <class 'NoneType'>"):
        sampler.get_new_idx()
    seed(3)
    picks = sampler.select_coreset_idxs()
    seed(3)
    start = int(torch.randint(120, (1,)))
    after = picks[1:] if version == "2.4" else picks
    # What is left behind: distances to all centres but the last pick, which is zeroed by hand.
    want = torch.cdist(sampler.features.double(), sampler.features[[start, *after[:-1]]].double()).amin(1)
    want[after] = 0
    got = sampler.min_distances
    assert got.shape == (120, 1) and got.dtype == torch.float32
    torch.testing.assert_close(got[:, 0].double(), want, rtol=1e-6, atol=4e-6)
    assert got[after].eq(0).all()
    # The same selection by hand.
    sampler.reset_distances()
    row, by_hand = start, []
    for _ in after:
        sampler.update_distances([row] if version == "2.0" else torch.tensor([row]))
        row = sampler.get_new_idx()
        assert isinstance(row, int) if version == "2.0" else (isinstance(row, torch.Tensor) and row.ndim == 0)
        sampler.min_distances[int(row)] = 0
        by_hand.append(int(row))
    assert by_hand == after
    torch.testing.assert_close(sampler.min_distances, got)


def test_coinciding_rows_by_hand_keep_the_distance_of_version_2_0():
    sampler = KCenterGreedy(torch.zeros(5, 4, 1), 1.0, version="2.0")
    sampler.select_coreset_idxs()
    sampler.reset_distances()
    sampler.update_distances(cluster_centers=[2])
    torch.testing.assert_close(sampler.min_distances, torch.full((5, 1), 2e-6))
    sampler.update_distances(cluster_centers=[])  # nothing
    later = KCenterGreedy(torch.zeros(5, 4, 1), 1.0)
    later.select_coreset_idxs()
    later.reset_distances()
    assert later.update_distances(None) is None and later.min_distances is None
    later.update_distances(cluster_center=3)
    assert later.min_distances.eq(0).all()


def test_selected_idxs_of_version_2_0():
    line = 64.0 * torch.tensor([0, 1, 2, 50, 100, 101]).reshape(6, 1, 1)
    seed(0)
    start = int(torch.randint(6, (1,)))
    far = 0 if start >= 4 else 4
    seed(0)
    chosen = KCenterGreedy(line, 0.2, version="2.0").select_coreset_idxs([far])
    assert chosen == [3] and start not in (3, far)  # the rows chosen earlier count as centres
    flat = torch.randn(50, 8)
    seed(0)
    free = KCenterGreedy(flat, 0.1, version="2.0").select_coreset_idxs()
    seed(0)
    with pytest.raises(ValueError, match="New indices should not be in selected indices"):
        KCenterGreedy(flat, 0.1, version="2.0").sample_coreset([free[2]])  # projected ones do not
    with pytest.raises(TypeError, match=r'selected_idxs exists in version "2\.0" only'):
        KCenterGreedy(flat, 0.1).select_coreset_idxs([1])


def test_second_selection_goes_on_in_version_2_0_without_projection():
    embedding = torch.randn(80, 3, 3, generator=torch.Generator().manual_seed(0))
    seed(2)
    sampler = KCenterGreedy(embedding, 0.1, version="2.0")
    first, second = sampler.select_coreset_idxs(), sampler.select_coreset_idxs()
    seed(2)
    starts = [int(torch.randint(80, (1,))) for _ in range(2)]
    x = embedding.flatten(1).double()
    nearest = torch.cdist(x, x[[starts[0], *first[:-1]]]).amin(1)
    nearest[first] = 0
    want, _ = k_center_greedy_reference(x, len(first) + 1, start=starts[1], initial_min_dist=nearest)
    assert second == want[1:].tolist() and not set(first) & set(second)


@pytest.mark.parametrize("version", VERSIONS)
def test_start_is_drawn_by_attribute(version, monkeypatch):
    calls = []

    def fake(*args, **kwargs):
        calls.append(kwargs)
        return torch.tensor(7)

    embedding = grid(100, 4, 4)
    monkeypatch.setattr(torch, "randint", fake)
    picks = KCenterGreedy(embedding, 0.1, version=version).select_coreset_idxs()
    device = None if version == "2.0" else torch.device("cpu")
    assert calls == [{"high": 100, "size": (1,), "device": device}]
    assert picks == peer.select(embedding.flatten(1), 10, 7, version)


@pytest.mark.parametrize(("version", "total"), [("2.0", 10), ("2.2", 10), ("2.4", 9)])
def test_progress_bar(version, total, capsys):
    KCenterGreedy(grid(100, 1, 1, top=5), 0.1, version=version).select_coreset_idxs()
    assert "Selecting Coreset Indices.: 100%" in (err := capsys.readouterr().err) and f"{total}/{total} " in err


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_types(dtype):
    embedding = grid(200, 3, 2, top=8).to(dtype)
    seed(4)
    single = KCenterGreedy(embedding.float(), 0.2).select_coreset_idxs()
    seed(4)
    sampler = KCenterGreedy(embedding, 0.2)
    assert sampler.select_coreset_idxs() == single
    assert sampler.min_distances.dtype == dtype
    flat = torch.randn(300, 40).to(dtype)
    sampler = KCenterGreedy(flat, 0.1)
    coreset = sampler.sample_coreset()
    assert sampler.features.dtype == dtype and coreset.dtype == dtype and coreset.shape == (30, 40)


def test_awkward_embeddings():
    embedding = torch.randn(400, 24)
    seed(6)
    want = KCenterGreedy(embedding.clone(), 0.1).select_coreset_idxs()
    before = embedding.clone()
    wide = torch.zeros(400, 48)
    wide[:, ::2] = embedding
    with torch.inference_mode():
        inference = embedding * 1
    for same in (wide[:, ::2], embedding.t().contiguous().t(), embedding.clone().requires_grad_(), inference):
        seed(6)
        sampler = KCenterGreedy(same, 0.1)
        got = sampler.select_coreset_idxs()
        near_tie(sampler.features, got[0], got[1:], want[1:], "2.4")
        assert not sampler.features.requires_grad and sampler.min_distances.shape == (400, 1)
    assert KCenterGreedy(embedding.requires_grad_(), 0.1).sample_coreset().requires_grad  # as indexing gives it
    with torch.inference_mode():
        assert KCenterGreedy(inference, 0.1).sample_coreset().shape == (40, 24)
    assert torch.equal(embedding.detach(), before)


@pytest.mark.parametrize("version", VERSIONS)
def test_sizes_at_the_edge(version):
    embedding = torch.randn(10, 4)
    if version == "2.4":
        with pytest.raises(ValueError, match="coreset_size must be a positive integer, got 0"):
            KCenterGreedy(embedding, 0.01)
        with pytest.raises(ValueError, match="coreset_size must be a positive integer, got -10"):
            KCenterGreedy(embedding, -1)
        with pytest.raises(ValueError, match="coreset_size must be a positive integer, got 0"):
            KCenterGreedy(torch.empty(0, 4), 0.5)
        seed(0)
        sampler = KCenterGreedy(embedding, 0.1)
        assert len(sampler.select_coreset_idxs()) == 1 and sampler.min_distances is None
    else:
        seed(0)
        assert peer.run(embedding, 0.01, version)[0] == []
        after = generators()
        seed(0)
        sampler = KCenterGreedy(embedding, 0.01, version=version)
        assert sampler.sample_coreset().shape == (0, 4) and sampler.min_distances is None
        assert generators() == after
        with pytest.raises(ValueError, match=r"sampling_ratio must be >= 0, got -1"):
            KCenterGreedy(embedding, -1, version=version)
        with pytest.raises(ValueError, match=r"at least one row and column, got shape \(0, 4\)"):
            KCenterGreedy(torch.empty(0, 4), 0.5, version=version)


def test_bad_input():
    good = torch.randn(10, 4)
    for bad, kind, text in [
        (good.numpy(), TypeError, "must be a torch.Tensor, got ndarray"),
        (good.int(), TypeError, "got torch.int32"),
        (good.to_sparse(), TypeError, "layout torch.sparse_coo"),
        (torch.tensor(1.0), ValueError, "at least one dimension"),
        (torch.empty(5, 0), ValueError, r"at least one row and column, got shape \(5, 0\)"),
    ]:
        with pytest.raises(kind, match=text):
            KCenterGreedy(bad, 0.5)
    for ratio, kind in [("a", TypeError), (True, TypeError), (float("nan"), ValueError), (float("inf"), ValueError)]:
        with pytest.raises(kind, match=r"sampling_ratio must be .*(got|finite)"):
            KCenterGreedy(good, ratio)
    with pytest.raises(ValueError, match=r"version must be one of 2.0, 2.2, 2.4, got '2.1'"):
        KCenterGreedy(good, 0.5, version="2.1")
    with pytest.raises(fast.NotFittedError, match="has not been called"):
        KCenterGreedy(good, 0.5).model.transform(good)
    with pytest.raises(ValueError, match="must be 2-D"):
        KCenterGreedy(good, 0.5).model.fit(good[0])
    sampler = KCenterGreedy(good, 0.5)
    assert len(sampler.select_coreset_idxs()) == 5
    with pytest.raises(ValueError, match=r"cluster_center must lie in 0..9, got 10"):
        sampler.update_distances(10)
    for n, row in [(10, 3), (1, 0)]:
        for value in (float("nan"), float("inf")):
            bad = torch.randn(n, 4)
            bad[row, 1] = value
            with pytest.raises(ValueError, match=f"KCenterGreedy: embedding must be finite.* first is row {row}"):
                KCenterGreedy(bad, 1.0).select_coreset_idxs()


class _Theirs:
    """Has what patch() looks at: what selection takes, and whether size 0 is an error."""

    def __init__(self, embedding, sampling_ratio):
        if self.strict and int(len(embedding) * sampling_ratio) == 0:
            raise ValueError("coreset_size")


def _theirs(version):
    def takes_rows(self, selected_idxs=None):
        raise NotImplementedError

    def takes_nothing(self):
        raise NotImplementedError

    method = takes_rows if version == "2.0" else takes_nothing
    return type("KCenterGreedy", (_Theirs,), {"select_coreset_idxs": method, "strict": version == "2.4"})


@pytest.fixture
def installed(monkeypatch, request):
    """A package called anomalib with the modules that hold the class, of the version that is asked for."""
    theirs = _theirs(request.param)
    home = "anomalib.models.components.sampling.k_center_greedy"
    holders = [home, "anomalib.models.components.sampling", "anomalib.models.components", "anomalib.other.deep"]
    for name in [n for n in sys.modules if n.split(".")[0] == "anomalib"]:
        monkeypatch.delitem(sys.modules, name)
    for name in ["anomalib", "anomalib.models", "anomalib.other", "anomalib_extra", *holders]:
        module = ModuleType(name)
        module.__path__ = []
        monkeypatch.setitem(sys.modules, name, module)
    for name in [*holders, "anomalib_extra"]:
        sys.modules[name].KCenterGreedy = theirs
    yield request.param, theirs, lambda: [sys.modules[n].KCenterGreedy for n in holders]
    fast.unpatch()


@pytest.mark.parametrize("installed", VERSIONS, indirect=True)
def test_patch_and_unpatch(installed):
    version, theirs, held = installed
    assert fast.installed_version() == version
    fast.patch()
    (ours,) = set(held())
    assert issubclass(ours, KCenterGreedy) and sys.modules["anomalib_extra"].KCenterGreedy is theirs
    sampler = ours(embedding=torch.randn(30, 4, 1), sampling_ratio=0.5)
    assert isinstance(sampler, KCenterGreedy) and sampler.version == version == fast.installed_version()
    fast.patch()
    assert set(held()) == {ours}
    fast.unpatch()
    assert set(held()) == {theirs}
    fast.unpatch()
    assert set(held()) == {theirs}


@pytest.mark.parametrize("installed", ["2.4"], indirect=True)
def test_patch_as_context_manager(installed, monkeypatch):
    _, theirs, held = installed

    def version():
        (held_class,) = set(held())
        return None if held_class is theirs else held_class(torch.zeros(4, 1, 1), 0.5).version

    with fast.patch():
        assert version() == "2.4"
        with fast.patch("2.2"):
            assert version() == "2.2"
            with fast.patch(version="2.0"):
                assert version() == "2.0"
            assert version() == "2.2"
        assert version() == "2.4"
    assert version() is None
    with pytest.raises(KeyError), fast.patch():
        raise KeyError
    assert version() is None
    outer, inner = fast.patch("2.0"), fast.patch("2.2")
    outer.__exit__(None, None, None)  # in the wrong order
    assert version() == "2.2"
    late = ModuleType("anomalib.late")
    late.KCenterGreedy = held()[0]  # imported while patched
    monkeypatch.setitem(sys.modules, "anomalib.late", late)
    inner.__exit__(None, None, None)
    assert version() is None and late.KCenterGreedy is theirs
    with fast.patch():
        fast.unpatch()
        assert version() is None
    with pytest.raises(ValueError, match=r"patch: version must be None or one of 2.0, 2.2, 2.4, got '3'"):
        fast.patch("3")
    assert version() is None


def test_patch_without_anomalib(monkeypatch):
    for name in [n for n in sys.modules if n.split(".")[0] == "anomalib"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "anomalib", None)
    for call in (fast.patch, fast.installed_version):
        with pytest.raises(ImportError, match=r"anomalib 2\.0 or later must be installed"):
            call()
    fast.unpatch()
