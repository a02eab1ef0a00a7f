"""Each public function of the engine says what it received and what it wants."""

import numpy as np
import pytest
import torch

from patchcore_fast.kernels import Tuning, k_center_greedy, knn, knn_rarity

from .engines import BACKENDS

X = torch.randn(10, 3, generator=torch.Generator().manual_seed(0))
NAN = X.clone()
NAN[[4, 7], 1] = torch.nan
INF = X.clone()
INF[9, 0] = -torch.inf

K_CENTER = {
    "ndarray": ((np.zeros((4, 2)), 2), {}, TypeError, r"torch.Tensor \[N, D\], got ndarray \(torch.from_numpy"),
    "list": (([[1.0]], 1), {}, TypeError, "must be a torch.Tensor .* got list"),
    "integers": ((X.int(), 2), {}, TypeError, "must be float16, .* got torch.int32"),
    "complex": ((X.cfloat(), 2), {}, TypeError, "got torch.complex64"),
    "sparse": ((X.to_sparse(), 2), {}, TypeError, "must be dense"),
    "1-D": ((X[0], 1), {}, ValueError, r"must be 2-D \[N, D\], got shape \(3,\)"),
    "3-D": ((X[None], 1), {}, ValueError, r"got shape \(1, 10, 3\)"),
    "no rows": ((X[:0], 1), {}, ValueError, r"at least one row .* got shape \(0, 3\)"),
    "no columns": ((X[:, :0], 1), {}, ValueError, r"got shape \(10, 0\)"),
    "NaN": ((NAN, 2), {}, ValueError, "2 of 10 rows are not finite, the first is row 4"),
    "inf": ((INF, 2), {}, ValueError, "1 of 10 rows are not finite, the first is row 9"),
    "too large": ((X.double() * 1e200, 2), {}, ValueError, "rows exceed 1e150 in magnitude, the first is row 0"),
    "k = 0": ((X, 0), {}, ValueError, r"k must lie in 1..10 .*, got 0"),
    "k > N": ((X, 11), {}, ValueError, r"k must lie in 1..10 .*, got 11"),
    "k float": ((X, 2.0), {}, TypeError, "k must be an integer, got 2.0"),
    "k bool": ((X, True), {}, TypeError, "k must be an integer, got True"),
    "k with selected": ((X, 9), {"selected": [1, 2]}, ValueError, r"1..8 \(N = 10, already selected = 2\)"),
    "start": ((X, 2), {"start": 10}, ValueError, r"start must lie in 0..9, got 10"),
    "start < 0": ((X, 2), {"start": -1}, ValueError, r"start must lie in 0..9, got -1"),
    "start selected": ((X, 2), {"start": 3, "selected": [3]}, ValueError, "start = 3 is among"),
    "selected range": ((X, 2), {"selected": [0, 12]}, ValueError, r"selected must lie in 0..9, got 12 at 1"),
    "selected float": ((X, 2), {"selected": torch.ones(2)}, TypeError, "selected must be integers"),
    "selected 2-D": ((X, 2), {"selected": torch.ones(2, 2).long()}, ValueError, "selected must be 1-D"),
    "selected text": ((X, 2), {"selected": "abc"}, TypeError, "selected must be row numbers"),
    "weights shape": ((X, 2), {"weights": torch.ones(9)}, ValueError, r"weights must have shape \(10,\)"),
    "weights < 0": ((X, 2), {"weights": -torch.ones(10)}, ValueError, "weights must be >= 0 .* 10 of 10"),
    "weights NaN": ((X, 2), {"weights": NAN[:, 1]}, ValueError, "weights must be >= 0 and not NaN"),
    "weights inf": ((X, 2), {"weights": torch.full((10,), torch.inf)}, ValueError, "weights must be finite"),
    "weights list": ((X, 2), {"weights": [1.0] * 10}, TypeError, "weights must be a torch.Tensor"),
    "initial NaN": ((X, 2), {"initial_min_dist": NAN[:, 1].abs()}, ValueError, "the first at 4"),
    "initial dtype": ((X, 2), {"initial_min_dist": torch.ones(10).long()}, TypeError, "floating"),
    "generator": ((X, 2), {"generator": 7}, TypeError, "generator must be a torch.Generator, got int"),
    "tuning": ((X, 2), {"tuning": {}}, TypeError, "tuning must be a Tuning, got dict"),
    "progress": ((X, 2), {"progress": 3}, TypeError, "progress must be callable, got int"),
    "selected bool": ((X, 2), {"selected": torch.ones(10).bool()}, TypeError, "selected must be integers"),
    "backend list": ((X, 2), {"backend": ["torch"]}, TypeError, "backend must be a string, got list"),
    "backend": ((X, 2), {"backend": "tpu"}, ValueError, "must be one of auto, native, cuda, triton, torch, got 'tpu'"),
    "device": ((torch.empty(4, 2, device="meta"), 2), {}, ValueError, "no backend runs on meta"),
    "native device": ((torch.empty(4, 2, device="meta"), 2), {"backend": "native"}, ValueError, "cannot run on meta"),
    "named device": ((torch.empty(4, 2, device="meta"), 2), {"backend": "torch"}, ValueError, "cannot run on meta"),
}  # fmt: skip
KNN = {
    "query list": (([1.0], X, 1), TypeError, "query must be a torch.Tensor"),
    "bank empty": ((X, X[:0], 1), ValueError, r"bank must hold at least one row .* \(0, 3\)"),
    "bank 1-D": ((X, X[0], 1), ValueError, r"bank must be 2-D \[M, D\]"),
    "width": ((X[:, :2], X, 1), ValueError, "equal width, got 2 and 3"),
    "k = 0": ((X, X, 0), ValueError, "k must lie in 1..10"),
    "k > M": ((X, X, 11), ValueError, "the bank has 10 rows"),
    "query NaN": ((NAN, X, 1), ValueError, "query must be finite; 2 of 10 rows"),
    "bank NaN": ((X, NAN, 1), ValueError, "bank must be finite; 2 of 10 rows"),
    "devices": ((X, torch.empty(4, 3, device="meta"), 1), ValueError, "query is on cpu, bank is on meta"),
    "integers": ((X.long(), X, 1), TypeError, "query must be float16"),
    "no integer queries": ((X[:0].long(), X, 1), TypeError, "query must be float16"),
    "backend": ((X, X, 1, None), TypeError, "backend must be a string"),
}
RARITY = {
    "k": ((X, 10), {}, ValueError, r"k must lie in 1..9 \(10 anchors"),
    "anchors": ((X, 1), {"anchors": 0}, ValueError, "anchors must lie in 2"),
    "anchor rows": ((X, 1), {"anchors": torch.tensor([0, 99])}, ValueError, r"anchors must lie in 0..9, got 99 at 1"),
    "features": ((NAN, 1), {}, ValueError, "must be finite"),
    "generator": ((X, 1), {"generator": 7}, TypeError, "generator must be a torch.Generator, got int"),
    "one anchor": ((X, 1), {"anchors": torch.tensor([3])}, ValueError, "at least 2 anchors are wanted"),
}


@pytest.mark.parametrize("backend", ["auto", *BACKENDS])
@pytest.mark.parametrize("case", K_CENTER)
def test_k_center_greedy(case, backend):
    args, kwargs, error, message = K_CENTER[case]
    if case == "device" and backend != "auto":
        message = "cannot run on meta"
    with pytest.raises(error, match=message) as caught:
        k_center_greedy(*args, **{"backend": backend, **kwargs})
    assert str(caught.value).startswith("k_center_greedy: ")


def test_prune():
    with pytest.raises(ValueError, match="Tuning: prune must be one of auto, none, triangle, partial, got 'some'"):
        Tuning(prune="some")


@pytest.mark.parametrize("size", ["batch", "block"])
@pytest.mark.parametrize("value, error", [(0, ValueError), (-1, ValueError), (2.5, TypeError)])
def test_tuning(size, value, error):
    with pytest.raises(error, match=f"Tuning: {size} must"):
        Tuning(**{size: value})


@pytest.mark.parametrize("backend", ["auto", *BACKENDS])
@pytest.mark.parametrize("args, error, message", KNN.values(), ids=list(KNN))
def test_knn(args, error, message, backend):
    with pytest.raises(error, match=message) as caught:
        knn(*args[:3], backend=args[3] if len(args) > 3 else backend)
    assert str(caught.value).startswith("knn: ")


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("args, kwargs, error, message", RARITY.values(), ids=list(RARITY))
def test_knn_rarity(args, kwargs, error, message, backend):
    with pytest.raises(error, match=message):
        knn_rarity(*args, backend=backend, **kwargs)
