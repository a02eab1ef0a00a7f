"""What of anomalib is installed; and its models AnomalyDINO and SuperADD on our engine, for `anomalib.patch`.

Nothing of anomalib is imported before somebody asks.
"""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Callable, Iterator
from importlib import import_module
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from ..kernels import k_center_greedy, knn
from ..samplers.measures import farthest_from_mean
from ._progress import progress_bar
from ._replace import Replacement

_HOME = "anomalib.models.components.sampling.k_center_greedy"
_DINO, _SUPERADD = "anomalib.models.image.anomaly_dino.torch_model", "anomalib.models.image.super_add.torch_model"
_THINNING = "subsampling_distance_based_fast"
_PRODUCTS = (torch.matmul, torch.mm, Tensor.matmul, Tensor.mm, Tensor.__matmul__)
_UNIT = 1e-3  # how far the length of a row may be from 1


def home() -> ModuleType:
    """The module of anomalib's `KCenterGreedy`. Raises ImportError where there is none."""
    try:
        return import_module(_HOME)
    except ImportError as error:
        raise ImportError(
            f"patchcore_fast.compat.anomalib: anomalib 2.0 or later must be installed to be patched ({error})"
        ) from error


def behaviour(original: Any) -> str:
    """Told by the class itself: version numbers of development checkouts do not tell what they hold."""
    if "selected_idxs" in inspect.signature(original.select_coreset_idxs).parameters:
        return "2.0"
    try:
        original(torch.zeros(1, 1), 0.0)
    except ValueError:
        return "2.4"
    return "2.2"


def holders(*classes: Any) -> Iterator[tuple[ModuleType, str]]:
    """Modules of anomalib that hold one of the classes, and its name there."""
    for name, module in list(sys.modules.items()):
        if name.split(".")[0] == "anomalib" and isinstance(module, ModuleType):
            for attribute, value in list(vars(module).items()):
                if any(value is c for c in classes):
                    yield module, attribute


def check_superadd() -> None:
    """ImportError: anomalib has no SuperADD, or one that chooses its banks in another way."""
    model = _class(_SUPERADD, "SuperADDModel")
    if not hasattr(model, _THINNING):
        raise ImportError(f"patch: superadd=True wants anomalib 2.6 or later, with SuperADDModel.{_THINNING}")


def replace_models(replacement: Replacement, superadd: bool) -> None:
    """Let AnomalyDINO search by our engine and, if `superadd`, SuperADD choose its banks by it."""
    dino = _class(_DINO, "AnomalyDINOModel")
    if dino is not None:
        replacement.set(dino, "forward", _searching(dino.forward))
    if superadd:
        replacement.set(_class(_SUPERADD, "SuperADDModel"), _THINNING, thinned)


def _class(module: str, name: str) -> Any:
    try:
        return getattr(import_module(module), name, None)
    except ImportError:  # older than this model, or without what it needs
        return None


def _searching(forward: Callable[..., Any]) -> Callable[..., Any]:
    """AnomalyDINO's forward, in which the memory bank answers for its nearest rows alone."""

    @functools.wraps(forward)
    def forward_searching(self: Any, *args: Any, **kwargs: Any) -> Any:
        bank = self.memory_bank
        if self.training or not _searchable(bank) or torch.jit.is_tracing() or torch.compiler.is_compiling():
            return forward(self, *args, **kwargs)
        vars(self)["memory_bank"] = Bank(bank, max(1, self.num_neighbours))  # in front of the buffer
        try:
            return forward(self, *args, **kwargs)
        finally:
            vars(self).pop("memory_bank", None)  # a pass in another thread may have ended before

    return forward_searching


def _searchable(bank: Any) -> bool:
    """Rows of unit length, as AnomalyDINO makes them: the nearest are then those of the largest product."""
    if not isinstance(bank, Tensor) or bank.ndim != 2 or bank.numel() == 0:
        return False
    if bank.dtype not in (torch.float32, torch.float64):
        return False
    return bool(((bank.norm(dim=1) - 1).abs() <= _UNIT).all())


class Bank:
    """A memory bank [M, D] whose product with rows [Q, D] has the columns of each row's k nearest bank rows only.

    `rows @ bank.T` is [Q, k] in place of [Q, M]: the k largest products, largest first, by exact neighbours. All else
    that torch does with it, it does with the bank.
    """

    def __init__(self, rows: Tensor, k: int, transposed: bool = False) -> None:
        self.rows, self.k, self.transposed = rows, min(k, len(rows)), transposed

    @property
    def T(self) -> Bank:
        """The same turned."""
        return Bank(self.rows, self.k, not self.transposed)

    @property
    def tensor(self) -> Tensor:
        """The bank as it is."""
        return self.rows.T if self.transposed else self.rows

    def __getattr__(self, name: str) -> Any:
        return getattr(self.tensor, name)

    def __getitem__(self, index: Any) -> Tensor:
        return self.tensor[index]

    def __len__(self) -> int:
        return len(self.tensor)

    @classmethod
    def __torch_function__(
        cls, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if function in _PRODUCTS and len(args) == 2 and isinstance(args[1], cls) and args[1].transposed and not kwargs:
            return args[1].products(args[0])
        plain = [a.tensor if isinstance(a, cls) else a for a in args]
        return function(*plain, **{k: v.tensor if isinstance(v, cls) else v for k, v in (kwargs or {}).items()})

    def products(self, query: Tensor) -> Tensor:
        """[Q, k]."""
        if query.ndim != 2 or query.dtype != self.rows.dtype:
            return query @ self.rows.T
        _, nearest = knn(query, self.rows, self.k)
        found = [(query.double() * self.rows[column].double()).sum(1) for column in nearest.T]
        return torch.stack(found, dim=1).to(query.dtype)


def thinned(
    self: Any,
    features: Tensor,
    target_number_of_samples: int,
    iterations: int = 100,
    normalize: bool = False,
    knn_neighbors: int = 100,
) -> Tensor:
    """SuperADD's `subsampling_distance_based_fast` by exact greedy k-center: `target_number_of_samples` rows of
    `features` [n, d] in their order, all where there are not more.

    The first pick is the row farthest from the mean; distances are of all d numbers, of rows of unit length where
    `normalize`. `iterations` and `knn_neighbors` mean nothing, and nothing is drawn at random.
    """
    count = min(int(target_number_of_samples), len(features))
    if count == len(features):
        return features
    rows = torch.nn.functional.normalize(features, dim=-1) if normalize else features
    with progress_bar("Subsampling embeddings", count) as show:
        picks = k_center_greedy(rows, count, start=farthest_from_mean(rows), progress=show).indices
    return features[picks.sort().values.to(features.device)]
