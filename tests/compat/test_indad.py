"""compat.indad against the restated loop of ind_knn_ad."""

import sys
import types
import warnings

import numpy as np
import pytest
import torch

from patchcore_fast.compat import indad
from patchcore_fast.compat.indad import get_coreset_idx_randomp

from ..peers import restated_others
from ..peers.draws import generators, integers

pytestmark = pytest.mark.filterwarnings("ignore:get_coreset_idx_randomp. features are not projected")


@pytest.mark.parametrize("n, d, high", [(1, 2, 3), (60, 3, 3), (200, 8, 4), (500, 40, 6), (300, 1, 50)], ids=str)
@pytest.mark.parametrize("k", [0, 1, 2, 17, 60, 305])
def test_unprojected_integers_index_for_index(n, d, high, k):
    x = integers(n, d, high)
    np.random.seed(1)
    want, state = restated_others.indad(restated_others.sparse_projected(x), k), generators()
    np.random.seed(1)
    got = get_coreset_idx_randomp(x, k, float16=False, force_cpu=True)
    assert got.dtype == torch.int64 and got.device.type == "cpu"
    assert got.tolist() == want.tolist()
    assert generators() == state


@pytest.mark.parametrize("eps", [0.9, 0.99])
def test_projection_is_the_peers_and_picks_are_greedy_on_it(eps):
    x = torch.randn(400, 300, generator=torch.Generator().manual_seed(0))
    np.random.seed(7)
    projected, state = restated_others.sparse_projected(x, eps), generators()
    assert projected.shape[1] != x.shape[1]
    np.random.seed(7)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        got = get_coreset_idx_randomp(x, 120, eps, float16=False, force_cpu=True)
    assert generators() == state
    assert got.tolist() == restated_others.indad(projected.double(), 120).tolist()


def test_float16_takes_exact_distances_of_rounded_features():
    x = torch.randn(500, 20, generator=torch.Generator().manual_seed(0)) * 100
    got = get_coreset_idx_randomp(x, 100, force_cpu=True)
    assert got.tolist() == restated_others.indad(x.half().double(), 100).tolist()
    theirs = restated_others.indad(x, 100, float16=True)
    assert len(set(got.tolist()) & set(theirs.tolist())) > 50  # their distances are rounded too


def test_repeats_row_zero_when_nothing_is_left():
    x = integers(50, 2, 2)
    got = get_coreset_idx_randomp(x, 60, float16=False, force_cpu=True).tolist()
    assert got == restated_others.indad(x, 60).tolist()
    assert len(set(got[:4])) == 4 and set(got[4:]) == {0}


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_forms_of_input(dtype):
    x = integers(80, 6, 9)
    want = get_coreset_idx_randomp(x, 20, float16=False).tolist()
    wide = torch.stack([x, x + 1], 2).to(dtype)[:, :, 0].requires_grad_()
    assert not wide.is_contiguous()
    assert get_coreset_idx_randomp(wide, 20, float16=False).tolist() == want
    frozen = x.numpy()[::-1]
    frozen.flags.writeable = False
    assert get_coreset_idx_randomp(frozen, 1).tolist() == [0]


def test_prints_no_line_but_progress(capsys):
    with pytest.warns(UserWarning, match="not projected.*eps=0.9"):
        get_coreset_idx_randomp(integers(30, 4, 9), 5)
    out = capsys.readouterr()
    assert out.err == "" and "\n" not in out.out.strip()


@pytest.mark.parametrize("eps", [0.0, 1.5, "wide"])
def test_what_the_projection_refuses_stays_unprojected(eps):
    x = integers(40, 3, 9)
    with pytest.warns(UserWarning, match="not projected"):
        got = get_coreset_idx_randomp(x, 9, eps, float16=False)
    assert got.tolist() == restated_others.indad(x, 9).tolist()


@pytest.mark.parametrize(
    "z_lib, n, error, message",
    [
        ([[1.0]], 1, TypeError, "z_lib must be a torch.Tensor"),
        (torch.ones(4, 2, dtype=torch.int64), 1, TypeError, "z_lib must be float16.*int64"),
        (np.array([["a", None]]), 1, TypeError, "z_lib must be floating, got an ndarray of object"),
        (torch.ones(4), 1, ValueError, "2-D"),
        (torch.ones(0, 3), 1, ValueError, "at least one row"),
        (torch.ones(4, 2), -1, ValueError, "n must lie in 0"),
        (torch.ones(4, 2), 1.5, TypeError, "n must be an integer"),
        (torch.tensor([[0.0, 1.0], [float("nan"), 0.0]]), 1, ValueError, "1 of 2 rows are not finite.*row 1"),
        (torch.tensor([[0.0, 1.0], [1e5, 0.0]]), 1, ValueError, "float16=True.*65504, got 100000"),
    ],
    ids=lambda v: getattr(v, "__name__", None),
)
def test_bad_input(z_lib, n, error, message):
    with pytest.raises(error, match=message):
        get_coreset_idx_randomp(z_lib, n)


def test_says_so_without_scikit_learn(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.random_projection", None)
    with pytest.raises(ImportError, match="get_coreset_idx_randomp: the projection needs scikit-learn"):
        get_coreset_idx_randomp(integers(9, 2, 9), 3)


def test_install_into_modules(monkeypatch):
    package, utils, models = (types.ModuleType(f"indad{end}") for end in ("", ".utils", ".models"))
    package.__path__ = []
    utils.get_coreset_idx_randomp = models.get_coreset_idx_randomp = original = object()
    for module in (package, utils, models):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    with indad.install() as replacement:
        assert replacement.places == ["indad.utils.get_coreset_idx_randomp", "indad.models.get_coreset_idx_randomp"]
        assert utils.get_coreset_idx_randomp is models.get_coreset_idx_randomp is get_coreset_idx_randomp
    assert utils.get_coreset_idx_randomp is models.get_coreset_idx_randomp is original
    with pytest.raises(AttributeError, match="install: json has no get_coreset_idx_randomp"):
        indad.install(utils, __import__("json"))
    assert utils.get_coreset_idx_randomp is original


def test_install_into_a_class():
    class Features:
        def get_coreset_idx_randomp(self, z_lib, n=1000, eps=0.90, float16=True, force_cpu=False):
            return "theirs"

        def run_coreset(self, patch_lib):
            return self.get_coreset_idx_randomp(patch_lib, n=3, eps=0.9)

    class Static:
        get_coreset_idx_randomp = staticmethod(len)

    class RGBFeatures(Features):
        pass

    x = integers(20, 3, 9)
    with indad.install(Features):
        assert RGBFeatures().run_coreset(x).tolist() == get_coreset_idx_randomp(x, 3).tolist()
    assert RGBFeatures().run_coreset(x) == "theirs"
    with pytest.raises(TypeError, match="static"):
        indad.install(Static)
