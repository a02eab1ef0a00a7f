"""The engine: exact k-center greedy, exact k nearest neighbours, anchor rarity. Imported as patchcore_fast.kernels."""

from .autotune import tune_where_asked
from .backends import BackendStatus, explain_backends
from .backends.triton_kernels.tiles import install_tuner
from .kcenter import KCenterResult, Tuning, k_center_greedy
from .kcenter.additive import additive_greedy
from .knn import PreparedBank, knn, knn_rarity, prepare

__all__ = [
    "BackendStatus",
    "KCenterResult",
    "PreparedBank",
    "Tuning",
    "additive_greedy",
    "explain_backends",
    "k_center_greedy",
    "knn",
    "knn_rarity",
    "prepare",
]

install_tuner(tune_where_asked)  # it calls the functions above, so no backend may import it
