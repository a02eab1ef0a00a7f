"""anomalib's `KCenterGreedy` on our engine, and patch() to put it where anomalib uses its own.

    from patchcore_fast.compat import anomalib as fast
    fast.patch()  # from here on Patchcore and AnomalyDINO select with it, and AnomalyDINO searches by our engine;
                  # patch(superadd=True): SuperADD selects with it too; fast.unpatch() takes all of it out again

Same constructor, attributes, random draws (torch's generators, NumPy's global one) and returned rows as anomalib;
anomalib itself is only needed by `patch`. Its result changed twice, hence `version`:

"2.0" (2.0, 2.1) : the random start is not in the result; it is drawn on the CPU; `selected_idxs` can be given.
"2.2" (2.2, 2.3) : the start is not in the result; it is drawn on the device of the features.
"2.4" (2.4 on) : the start is the first of the result; a coreset of size 0 is an error.

Where results differ: the projected features are the peer's, bit for bit, but every choice between rows is made on
exact Euclidean distances, the peer's on distances rounded to the features' type (8 bits of bfloat16; float32 overflows
from about 1e19), in "2.0" moreover after adding 1e-6 to each coordinate's difference. Rows that are equally far up to
that rounding may change places. Non-finite rows are an error.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from numbers import Real
from types import TracebackType
from typing import Any

import torch
from torch import Tensor

from ..kernels import k_center_greedy, knn
from ..kernels.checks import FLOAT_DTYPES, check_int, check_rows, raise_unusable
from ..kernels.exact import halving_sum, paired_squared, root
from ..kernels.surroundings import undisturbed
from ._anomalib_models import behaviour, check_superadd, holders, home, replace_models
from ._progress import progress_bar
from ._replace import Replacement
from ._sparse_projection import NotFittedError, SparseRandomProjection

__all__ = ["KCenterGreedy", "NotFittedError", "SparseRandomProjection", "installed_version", "patch", "unpatch"]

_VERSIONS = ("2.0", "2.2", "2.4")
_EPS = 1e-6  # "2.0" adds it to each coordinate's difference (the default of torch's pairwise_distance)
_CHUNK_BYTES = 8 << 20


class KCenterGreedy:
    """Coreset selection with anomalib's interface.

    Parameters
    ----------
    embedding : [N, D] floating tensor: distances are measured after a sparse random projection. [N] or three and more
        dimensions: flattened to [N, D] and not projected.
    sampling_ratio : the coreset has int(N * sampling_ratio) rows. Above 1 rows repeat, as they do in anomalib.
    version : whose behaviour, see the module.

    Attributes
    ----------
    embedding, coreset_size, n_observations : as given, and N.
    model : `SparseRandomProjection`, fitted by a selection of a 2-D embedding.
    features : [N, d] what distances are measured on, after a selection.
    min_distances : [N, 1] distances to the picks so far except the last, zero where picked; None before any. After a
        selection they are computed when read.

    Raises
    ------
    TypeError, ValueError : embedding or ratio cannot be used; from "2.4" on a coreset of size 0.
    """

    embedding: Tensor
    features: Tensor
    model: SparseRandomProjection
    coreset_size: int
    n_observations: int
    version: str

    def __init__(self, embedding: Tensor, sampling_ratio: float, *, version: str = "2.4") -> None:
        if version not in _VERSIONS:
            raise ValueError(f"KCenterGreedy: version must be one of {', '.join(_VERSIONS)}, got {version!r}")
        _check_embedding(embedding)
        if isinstance(sampling_ratio, bool) or not isinstance(sampling_ratio, Real):
            raise TypeError(f"KCenterGreedy: sampling_ratio must be a number, got {type(sampling_ratio).__name__}")
        if not math.isfinite(sampling_ratio):
            raise ValueError(f"KCenterGreedy: sampling_ratio must be finite, got {sampling_ratio}")
        n = embedding.shape[0]
        size = int(n * float(sampling_ratio))
        if size <= 0 and version == "2.4":  # the wording is anomalib's, which callers match
            raise ValueError(
                f"coreset_size must be a positive integer, got {size}. "
                f"Check sampling_ratio ({sampling_ratio}) and embedding size ({n})."
            )
        if embedding.numel() == 0:
            raise ValueError(
                f"KCenterGreedy: embedding must hold at least one row and column, got shape {tuple(embedding.shape)}"
            )
        if sampling_ratio < 0:
            raise ValueError(f"KCenterGreedy: sampling_ratio must be >= 0, got {sampling_ratio}")
        self.embedding = embedding
        self.coreset_size = size
        self.model = SparseRandomProjection(eps=0.9)
        self.n_observations = n
        self.version = version
        self._minima: Tensor | None = None
        self._unread: tuple[list[int], list[int]] | None = None  # centres and picks that _minima does not know yet

    @property
    def min_distances(self) -> Tensor | None:
        """[N, 1] in the features' type, or None."""
        if self._unread is not None:
            centres, picks = self._unread
            self._lower(self._nearest(centres))
            assert self._minima is not None
            self._minima[picks] = 0
            self._unread = None
        return self._minima

    @min_distances.setter
    def min_distances(self, value: Tensor | None) -> None:
        self._minima, self._unread = value, None

    def reset_distances(self) -> None:
        """Forget all centres."""
        self.min_distances = None

    @undisturbed
    def update_distances(self, cluster_center: Any = None, *, cluster_centers: Any = None) -> None:
        """Lower `min_distances` to the distances to one centre: a row number, a tensor with one, or None for nothing.

        In version "2.0" the argument is a list of rows, also by the name `cluster_centers`. Values are rounded once
        from float64.
        """
        given = cluster_center if cluster_centers is None else cluster_centers
        if given is None:
            return
        if self.version == "2.0":
            rows = check_rows("update_distances", "cluster_centers", given, self.n_observations, self.features.device)
            centres = rows.tolist()
        else:
            row = given.item() if isinstance(given, Tensor) and given.numel() == 1 else given
            centres = [check_int("update_distances", "cluster_center", row, 0, self.n_observations - 1)]
        base = self.min_distances  # reads what the last selection left
        if centres:
            self._minima = base
            self._lower(torch.stack([self._distances(row) for row in centres]).amin(0))

    @undisturbed
    def get_new_idx(self) -> int | Tensor:
        """The row with the largest of `min_distances`, the lowest among equals: an int in "2.0", later a 0-d tensor.

        Raises
        ------
        TypeError : there are no distances yet.
        """
        distances = self.min_distances
        if not isinstance(distances, Tensor):
            raise TypeError(f"self.min_distances must be of type Tensor. Got {type(distances)}")
        row = distances.reshape(-1).argmax()
        return int(row) if self.version == "2.0" else row

    @undisturbed
    def select_coreset_idxs(self, selected_idxs: list[int] | None = None) -> list[int]:
        """Rows of the coreset in the order of selection.

        selected_idxs : "2.0" only: rows chosen earlier. As in anomalib they count as centres unless the embedding is
        2-D, and picking one of them is a ValueError.

        Raises
        ------
        TypeError : selected_idxs in a later version.  ValueError : non-finite rows; a pick is in selected_idxs.
        """
        if selected_idxs is not None and self.version != "2.0":
            raise TypeError(f'selected_idxs exists in version "2.0" only, this is "{self.version}"')
        n = self.n_observations
        given = [] if selected_idxs is None else selected_idxs
        selected = check_rows("select_coreset_idxs", "selected_idxs", given, n, self.embedding.device)
        embedding = self.embedding.detach()
        if embedding.ndim == 2:
            self.features = self.model.fit(embedding).transform(embedding)
            self.reset_distances()
        else:
            self.features = embedding.reshape(n, -1)
            if self.version == "2.0":  # the peer goes on from what earlier calls left
                self.update_distances(selected)
            else:
                self.reset_distances()
        device = None if self.version == "2.0" else self.features.device
        start = int(torch.randint(high=n, size=(1,), device=device))  # by attribute: anomalib's tests replace it
        wanted = self.coreset_size - (self.version == "2.4")
        with progress_bar("Selecting Coreset Indices.", wanted) as show:
            picks = self._greedy(start, wanted, show) if self.coreset_size else []
            show(wanted, wanted)
        known = set(selected.tolist())
        if any(row in known for row in picks):
            raise ValueError("New indices should not be in selected indices.")
        if picks:
            self._unread = ([start, *picks[:-1]], picks)
        return [start, *picks] if self.version == "2.4" else picks

    def sample_coreset(self, selected_idxs: list[int] | None = None) -> Tensor:
        """The rows of `embedding` that `select_coreset_idxs` chose: [coreset_size, ...]. Raises as it does."""
        return self.embedding[self.select_coreset_idxs(selected_idxs)]

    def _greedy(self, start: int, wanted: int, show: Callable[[int, int], None]) -> list[int]:
        """`wanted` picks after the start."""
        n, d = self.features.shape
        base = self.min_distances
        picks: list[int] = []
        if d == 0:  # a single row has no components; its values are still checked
            if not bool(self.embedding.isfinite().all()):
                raise_unusable("KCenterGreedy", "embedding", self.embedding.detach().reshape(n, -1))
        else:
            # "2.0" leaves this much between equal rows; the engine has to see them as equal.
            initial = None if base is None else torch.where(base > self._floor, base, 0.0).reshape(-1)
            try:
                result = k_center_greedy(
                    self.features,
                    min(wanted, n - 1) + 1,
                    start=start,
                    initial_min_dist=initial,
                    progress=lambda done, k: show(max(done - 1, 0), wanted),
                )
            except ValueError:
                if not bool(self.embedding.isfinite().all()):
                    raise_unusable("KCenterGreedy", "embedding", self.embedding.detach().reshape(n, -1))
                raise
            distinct = int((result.radii[1:] > 0).sum())
            picks = result.indices[1 : distinct + 1].tolist()
        # What is left lies on a pick. The peer's largest distance is then the lowest row that is not zeroed by hand
        # ("2.0", where rows on a pick keep a small distance, the start among them), and at last row 0, repeatedly.
        if self.version == "2.0" and len(picks) < wanted and d:
            left = torch.ones(n, dtype=torch.bool) if base is None else (base.reshape(-1) != 0).cpu()
            left[picks] = False
            picks += left.nonzero().reshape(-1)[: wanted - len(picks)].tolist()
        return picks + [0] * (wanted - len(picks))

    @property
    def _floor(self) -> float:
        """The distance of a row to itself."""
        return _EPS * math.sqrt(self.features.shape[1]) if self.version == "2.0" else 0.0

    def _lower(self, distances: Tensor) -> None:  # [N] float64
        new = distances.to(self.features.dtype).reshape(-1, 1)
        self._minima = new if self._minima is None else torch.minimum(self._minima, new)

    def _distances(self, row: int) -> Tensor:  # -> [N] float64
        shift = _EPS if self.version == "2.0" else 0.0
        centre = self.features[row].double()
        out = torch.zeros(self.n_observations, dtype=torch.float64, device=centre.device)
        if centre.shape[0]:
            step = max(1, _CHUNK_BYTES // (8 * centre.shape[0]))
            for lo in range(0, out.shape[0], step):
                difference = (self.features[lo : lo + step].double() - centre).add_(shift)
                out[lo : lo + step] = halving_sum(difference.square_())
        return root(out)

    def _nearest(self, centres: list[int]) -> Tensor:  # -> [N] float64
        """Distance of every row to its nearest centre."""
        device = self.features.device
        if self.features.shape[1] == 0:
            return torch.zeros(self.n_observations, dtype=torch.float64, device=device)
        rows = torch.tensor(centres, device=device).unique()
        nearest = rows[knn(self.features, self.features[rows], 1)[1][:, 0]]
        squared = paired_squared(self.features, torch.arange(len(nearest), device=device), self.features, nearest)
        return root(squared).clamp_(min=self._floor)


class _KCenterGreedy20(KCenterGreedy):
    def __init__(self, embedding: Tensor, sampling_ratio: float) -> None:
        super().__init__(embedding, sampling_ratio, version="2.0")


class _KCenterGreedy22(KCenterGreedy):
    def __init__(self, embedding: Tensor, sampling_ratio: float) -> None:
        super().__init__(embedding, sampling_ratio, version="2.2")


class _KCenterGreedy24(KCenterGreedy):
    def __init__(self, embedding: Tensor, sampling_ratio: float) -> None:
        super().__init__(embedding, sampling_ratio, version="2.4")


def _check_embedding(embedding: Any) -> None:
    if not isinstance(embedding, Tensor):
        raise TypeError(f"KCenterGreedy: embedding must be a torch.Tensor, got {type(embedding).__name__}")
    if embedding.layout != torch.strided or embedding.dtype not in FLOAT_DTYPES:
        raise TypeError(
            f"KCenterGreedy: embedding must be dense float16, bfloat16, float32 or float64, "
            f"got {embedding.dtype}, layout {embedding.layout}"
        )
    if embedding.ndim == 0:
        raise ValueError("KCenterGreedy: embedding must have at least one dimension, got a 0-d tensor")


_CLASSES: dict[str, type[KCenterGreedy]] = {"2.0": _KCenterGreedy20, "2.2": _KCenterGreedy22, "2.4": _KCenterGreedy24}


class _Patch:
    """One call of patch(); leaving its block takes this call back."""

    def __init__(self, version: str, superadd: bool) -> None:
        self.version, self.superadd = version, superadd

    def __enter__(self) -> _Patch:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.undo()

    def undo(self) -> None:
        """Take this call back; nothing happens where unpatch() came first."""
        if self in _active:
            _active.remove(self)
            _install()


_active: list[_Patch] = []
_replacement = Replacement()
_original: Any = None


def patch(version: str | None = None, *, superadd: bool = False) -> _Patch:
    """Let every anomalib module that holds `KCenterGreedy` use ours; as a context manager, until the end of the block.

    Modules that are imported later get it too. AnomalyDINO's search is ours then, with its results but without its
    matrix of all patches by all rows of the bank. A second call replaces the first until its block ends; unpatch() ends
    all.

    Parameters
    ----------
    version : whose behaviour: "2.0", "2.2" or "2.4"; None: that of the anomalib that is installed.
    superadd : let SuperADD choose its banks by exact greedy k-center too, in place of thinning by density at random.
        That changes its results.

    Raises
    ------
    ImportError : anomalib is not installed or cannot be imported; superadd, and it has none.  ValueError : unknown
    version.
    """
    global _original
    if version is not None and version not in _VERSIONS:
        raise ValueError(f"patch: version must be None or one of {', '.join(_VERSIONS)}, got {version!r}")
    theirs = home()
    if superadd:
        check_superadd()
    if not _active:
        _original = theirs.KCenterGreedy
    _active.append(_Patch(version or behaviour(_original), superadd))
    _install()
    return _active[-1]


def unpatch() -> None:
    """Give anomalib its own class back; nothing happens where nothing is patched."""
    _active.clear()
    _install()


def installed_version() -> str:
    """ "2.0", "2.2" or "2.4": how the anomalib that is installed behaves. Raises ImportError where there is none."""
    theirs = home()
    return behaviour(_original if _active else theirs.KCenterGreedy)


def _install() -> None:
    """Put in place what the last active call wants."""
    _replacement.undo()
    for module, name in holders(*_CLASSES.values()):  # imported while ours was in place
        setattr(module, name, _original)
    if _active:
        for module, name in holders(_original):
            _replacement.set(module, name, _CLASSES[_active[-1].version])
        replace_models(_replacement, _active[-1].superadd)
