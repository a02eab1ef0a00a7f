"""`kCenterGreedy` of google/active-learning, and of the PatchCore repositories that copied it (hcw-00 and its forks).

The one line that changes in a script that uses the original:

    from patchcore_fast.compat.active_learning import kCenterGreedy

or, without touching its imports, `active_learning.install()` before `sampling_methods.constants` is imported.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from types import ModuleType
from typing import Any

import numpy as np
from torch import Tensor

from ..kernels import k_center_greedy, knn
from ..kernels.checks import check_int, raise_unusable
from ..kernels.surroundings import undisturbed
from ..samplers.base import as_tensor
from ._replace import Replacement, replace_all

__all__ = ["install", "kCenterGreedy"]

_NAME = "kCenterGreedy"
_METRICS = ("euclidean", "l2", "sqeuclidean")


class kCenterGreedy:
    """k-center greedy as a batch method of active learning.

    Parameters
    ----------
    X : [N, ...] ndarray, tensor or scipy sparse matrix of numbers; flattened to [N, D] for distances.
    y, seed : kept as attributes, not used; nothing is drawn.
    metric : "euclidean", "l2" or "sqeuclidean", which all give the same picks.

    Attributes
    ----------
    flat_X : X as [N, D].  features : what distances are measured in: flat_X until a transform succeeded.
    min_distances : [N, 1] float32 distance of every row to its nearest centre, or None while there is no centre;
        computed when it is read. Assigning None forgets all centres.
    already_selected : the rows given to the latest `select_batch`.  n_obs : N.  name : "kcenter".

    Raises
    ------
    TypeError : X is no array.  ValueError : a metric other than those.

    References
    ----------
    O. Sener and S. Savarese, Active learning for convolutional neural networks: a core-set approach, ICLR 2018.
    """

    def __init__(self, X: Any, y: Any, seed: Any, metric: str = "euclidean") -> None:
        if not isinstance(metric, str) or metric not in _METRICS:
            raise ValueError(f"{_NAME}: metric must be one of {', '.join(_METRICS)}, got {metric!r}")
        if not hasattr(X, "shape") or len(X.shape) == 0:
            raise TypeError(f"{_NAME}: X must be an ndarray, tensor or sparse matrix [N, ...], got {type(X).__name__}")
        self.X, self.y, self.seed, self.metric = X, y, seed, metric
        self.name = "kcenter"
        self.flat_X = self.flatten_X()
        self.features = self.flat_X
        self.n_obs = X.shape[0]
        self.already_selected: Any = []
        self._centers: list[int] = []

    def flatten_X(self) -> Any:
        """X as [N, D]; X itself if it has no more than two dimensions."""
        return self.X.reshape(self.X.shape[0], -1) if len(self.X.shape) > 2 else self.X

    def to_dict(self) -> None:
        """Nothing to log, as upstream."""

    @property
    def min_distances(self) -> np.ndarray | None:
        """[N, 1] float32, or None."""
        if not self._centers:
            return None
        rows = _matrix("features", self.features)
        distance = knn(rows, rows[self._centers], 1)[0]
        return (distance.square() if self.metric == "sqeuclidean" else distance).numpy()

    @min_distances.setter
    def min_distances(self, value: None) -> None:
        if value is not None:
            raise ValueError(f"{_NAME}: min_distances can only be set to None, got {type(value).__name__}")
        self._centers = []

    def update_distances(self, cluster_centers: Sequence[int], only_new: bool = True, reset_dist: bool = False) -> None:
        """Add centres.

        cluster_centers : row numbers; negative ones count from the end.  only_new : leave out rows that the latest
        `select_batch` was given as selected.  reset_dist : forget earlier centres first.
        """
        if reset_dist:
            self._centers = []
        known = {int(row) for row in self.already_selected} if only_new else set()
        n = self.features.shape[0]
        rows = [check_int(_NAME, "a row in cluster_centers", row, -n, n - 1) for row in cluster_centers]
        self._centers += [row % n for row in rows if row not in known]

    def select_batch(self, **kwargs: Any) -> list[int]:
        """`select_batch_`, all arguments by name."""
        return self.select_batch_(**kwargs)

    @undisturbed
    def select_batch_(self, model: Any, already_selected: Sequence[int], N: int, **kwargs: Any) -> list[int]:
        """The next N rows, each the farthest from all centres before it; row 0 where there is no centre yet.

        Where model.transform(X) works, distances are measured in what it returns and only `already_selected` are
        centres at the outset. Where it does not (also for model=None), in what they were measured in before, and the
        centres and picks of earlier calls on this object stay. Rows given as selected in the previous call bring in
        no distances when they are picked now, and are then picked until the end of the batch, as upstream does.

        Where two or more rows are new in a later call without a transform, upstream goes on with a matrix of distances
        in place of their minimum, and picks wrong rows or raises an IndexError; here their minimum counts.

        already_selected : [S] row numbers; negative ones count from the end. An array means what a list means.

        Returns
        -------
        N row numbers in selection order. When every row coincides with a centre, row 0 is repeated.

        Raises
        ------
        AssertionError : no row is left but row 0, and it is in `already_selected` (upstream's assertion).
        TypeError, ValueError : rows, N or features that cannot be used; features with NaN or infinities.
        """
        if isinstance(already_selected, (str, bytes)) or not hasattr(already_selected, "__iter__"):
            raise TypeError(f"{_NAME}: already_selected must be row numbers, got {type(already_selected).__name__}")
        count = check_int(_NAME, "N", N, 0, sys.maxsize)
        try:
            self.features = model.transform(self.X)
            transformed = True
        except Exception:  # upstream's contract: any model without a usable transform means plain X
            transformed = False
        features = _matrix("features", self.features)
        n = features.shape[0]
        given = [check_int(_NAME, "a row in already_selected", row, -n, n - 1) for row in already_selected]
        self.update_distances(given, only_new=not transformed, reset_dist=transformed)
        batch = self._greedy(features, count, set(given))
        self.already_selected = already_selected
        return batch

    def _greedy(self, features: Tensor, count: int, given: set[int]) -> list[int]:
        """The picks, which become centres. given : rows that must not be among them."""
        n = features.shape[0]
        if self._centers and max(self._centers) >= n:
            raise ValueError(f"{_NAME}: centre {max(self._centers)} of an earlier call, but features have {n} rows")
        known = {int(row) for row in self.already_selected}
        batch: list[int] = []
        free = n - len(set(self._centers))
        if count and free:
            # Without centres row 0 has the largest key; upstream's argmax of nothing is 0 too.
            result = k_center_greedy(features, min(count, free), selected=self._centers)
            for row, radius in zip(result.indices.tolist(), result.radii.tolist(), strict=True):
                if radius == 0:
                    break
                batch.append(row)
                if row in known and self._centers:
                    batch += [row] * (count - len(batch))
                    break
                self._centers.append(row)
        batch += [0] * (count - len(batch))  # the first of N zeros
        repeated = [row for row in batch if row in given]
        if repeated:
            raise AssertionError(
                f"{_NAME}: N = {count} is more than there are distinct rows left; row {repeated[0]} is selected already"
            )
        return batch


def _matrix(what: str, values: Any) -> Tensor:
    """[N, D] floating CPU tensor of an array, tensor or sparse matrix; integers become float64."""
    if hasattr(values, "toarray"):
        values = values.toarray()
    if isinstance(values, Tensor):
        rows = values.detach().to_dense().cpu()
    else:
        values = np.asarray(values)
        if values.dtype.kind not in "biufc":
            raise TypeError(f"{_NAME}: {what} must be numbers, got an array of {values.dtype}")
        rows = as_tensor(values)
    if rows.is_complex():
        raise TypeError(f"{_NAME}: {what} must be real numbers, got {rows.dtype}")
    rows = rows if rows.is_floating_point() else rows.double()
    if rows.ndim != 2 or 0 in rows.shape:
        raise ValueError(f"{_NAME}: {what} must be [N, D] with rows and columns, got shape {tuple(rows.shape)}")
    if not all(bool(part.isfinite().all()) for part in rows.split(8192)):
        raise_unusable(_NAME, what, rows)
    return rows


def install(*modules: ModuleType) -> Replacement:
    """Put the class into modules that hold upstream's.

    modules : without any, `sampling_methods.kcenter_greedy`, which is imported.

    Returns
    -------
    Replacement : `undo()` puts the original back; as a context manager it does so at the end of the block.

    Raises
    ------
    ImportError : upstream cannot be imported.  AttributeError : a module lacks the name.
    RuntimeError : `sampling_methods.constants` has put the original into its table already.
    """
    targets = modules or (importlib.import_module("sampling_methods.kcenter_greedy"),)
    table = getattr(sys.modules.get("sampling_methods.constants"), "AL_MAPPING", {})
    if not modules and table.get("kcenter", kCenterGreedy) is not kCenterGreedy:
        raise RuntimeError(
            "install: sampling_methods.constants is imported already and its AL_MAPPING holds the original; call "
            'install() before that import, or set AL_MAPPING["kcenter"] to this kCenterGreedy'
        )
    return replace_all(targets, {_NAME: kCenterGreedy})
