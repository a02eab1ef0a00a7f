"""`get_coreset_idx_randomp` of ind_knn_ad, which M3DM, BTF and other 3-D repositories carry too, also as a method.

One line in a script that uses ind_knn_ad:

    from patchcore_fast.compat import indad; indad.install()

and for a repository with the function in modules of its own, or as a method of a class:

    indad.install(feature_extractors.features.Features)

Of 1,000 picks from 20,000 real patch features of 128 columns, upstream makes the same 1,000 in the same order with
float16=False. With float16=True, on the CPU, 65 to 78 % are the same: upstream's distances are rounded to half.
"""

from __future__ import annotations

import importlib
import inspect
import sys
import warnings
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..kernels import k_center_greedy
from ..kernels.checks import check_int, check_matrix, raise_unusable
from ..kernels.surroundings import undisturbed
from ..samplers.base import as_tensor
from ._progress import progress_bar
from ._replace import Replacement

__all__ = ["get_coreset_idx_randomp", "install"]

_NAME = "get_coreset_idx_randomp"
_LARGEST_HALF = 65504.0


@undisturbed
def get_coreset_idx_randomp(
    z_lib: Tensor | np.ndarray,
    n: int = 1000,
    eps: float = 0.90,
    float16: bool = True,
    force_cpu: bool = False,
) -> Tensor:
    """Row numbers of n rows by farthest-point traversal from row 0, on sparsely projected features.

    Picks are upstream's as far as rounding decides nothing. With `float16`, upstream rounds the features and every
    distance to half precision, which makes many distances equal; here only the features are rounded. Once every row
    coincides with a pick, row 0 is repeated, as upstream does.

    Parameters
    ----------
    z_lib : [N, D] floating tensor, or ndarray.
    n : number of picks; 0 gives row 0 too, as upstream does, and more than N repeat row 0.
    eps : of scikit-learn's SparseRandomProjection, drawn from NumPy's global generator. Where it refuses (its width
        4 ln N / (eps^2 / 2 - eps^3 / 3) exceeds D, or eps is not in (0, 1)) the features stay as they are and a
        UserWarning says so; upstream prints a line.
    float16 : round the features to half precision before distances are taken.
    force_cpu : select on the CPU; else on the GPU where there is one, as upstream does.

    Returns
    -------
    [max(n, 1)] int64 CPU tensor, in selection order. Progress goes to standard output where tqdm is installed.

    Raises
    ------
    TypeError : not a tensor or ndarray, or not floating.  ValueError : not [N, D], not finite, or too large for
    half precision.  ImportError : scikit-learn is missing.

    References
    ----------
    ind_knn_ad (R. Hordijk), after K. Roth et al., Towards total recall in industrial anomaly detection, CVPR 2022.
    """
    if isinstance(z_lib, np.ndarray):
        if z_lib.dtype.kind != "f":
            raise TypeError(f"{_NAME}: z_lib must be floating, got an ndarray of {z_lib.dtype}")
        z_lib = as_tensor(z_lib)
    check_matrix(_NAME, "z_lib", z_lib)
    n = check_int(_NAME, "n", n, 0, sys.maxsize)
    features = z_lib.detach()
    if not all(bool(part.isfinite().all()) for part in features.split(8192)):
        raise_unusable(_NAME, "z_lib", features)  # else scikit-learn's refusal would read as "not projected"
    features = _project(features, eps)
    if float16:
        most = max(abs(float(end)) for end in features.aminmax())
        if most > _LARGEST_HALF:
            raise ValueError(f"{_NAME}: float16=True wants values within +-{_LARGEST_HALF:.0f}, got {most:g}")
        features = features.half()
    if force_cpu:
        features = features.cpu()
    elif torch.cuda.is_available():
        features = features.cuda()
    count = min(max(n, 1), len(features))
    with progress_bar("Selecting", count, file=sys.stdout) as follow:
        result = k_center_greedy(features, count, start=0, progress=follow)
    picks = torch.zeros(max(n, 1), dtype=torch.int64)
    picks[:count] = result.indices.masked_fill(result.radii == 0, 0).cpu()
    return picks


def _project(features: Tensor, eps: float) -> Tensor:
    """[N, D] -> [N, d] on the CPU, or the features themselves."""
    try:
        from sklearn.random_projection import SparseRandomProjection
    except ImportError as error:
        raise ImportError(
            f"{_NAME}: the projection needs scikit-learn (pip install 'patchcore_fast[pipeline]')"
        ) from error
    # NumPy has no bfloat16; scikit-learn itself makes float64 of half precision.
    rows = (features.float() if features.dtype == torch.bfloat16 else features).cpu().numpy()
    try:
        return torch.from_numpy(SparseRandomProjection(eps=eps).fit_transform(rows))
    except ValueError as error:
        reason = " ".join(str(error).split())
        warnings.warn(f"{_NAME}: features are not projected; a larger eps may help ({reason})", stacklevel=4)
        return features


def install(*places: ModuleType | type) -> Replacement:
    """Put the function into modules, or into classes that have it as a method.

    places : modules or classes. None: `indad.utils`, which is imported, and every module of `indad` that is imported
        already and holds the name (`indad.models` does).

    Returns
    -------
    Replacement : `undo()` puts the originals back; as a context manager it does so at the end of the block.

    Raises
    ------
    ImportError : ind_knn_ad cannot be imported.  AttributeError : a place lacks the name.
    TypeError : a class has it as a static method. Nothing is changed then.
    """
    targets: list[Any] = list(places)
    if not targets:
        first = importlib.import_module("indad.utils")
        targets = [first] + [
            module
            for name, module in sorted(sys.modules.items())
            if name.startswith("indad.") and module is not first and hasattr(module, _NAME)
        ]
    for place in targets:
        label = getattr(place, "__name__", repr(place))
        if not hasattr(place, _NAME):
            raise AttributeError(f"install: {label} has no {_NAME}")
        if isinstance(inspect.getattr_static(place, _NAME), (staticmethod, classmethod)):
            raise TypeError(f"install: {label}.{_NAME} must be a plain method or a function, got a static one")
    replacement = Replacement()
    for place in targets:
        replacement.set(place, _NAME, _METHOD if isinstance(place, type) else get_coreset_idx_randomp)
    return replacement


class _Method:
    """The function as an attribute of a class: unlike a function it takes no `self`, also when called on an object."""

    def __call__(self, *args: Any, **options: Any) -> Tensor:
        return get_coreset_idx_randomp(*args, **options)


_METHOD = _Method()
