"""k-center leaves and k-NN from tiles of fast distances: what backends without whole-job kernels share."""

from .base import KCenterTiles, KnnTiles
from .kcenter import TiledKCenter
from .prepared import TiledPrepared
from .search import search

__all__ = ["KCenterTiles", "KnnTiles", "TiledKCenter", "TiledPrepared", "search"]
