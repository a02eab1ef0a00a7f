"""The engine: exact k-center greedy, exact k nearest neighbours, anchor rarity. Imported as patchcore_fast.kernels."""

from .backends import BackendStatus, explain_backends
from .kcenter import KCenterResult, Tuning, k_center_greedy
from .knn import knn, knn_rarity

__all__ = [
    "BackendStatus",
    "KCenterResult",
    "Tuning",
    "explain_backends",
    "k_center_greedy",
    "knn",
    "knn_rarity",
]
