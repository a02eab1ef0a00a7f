"""Several processes with a part of the rows each: the same picks and neighbours as one process with all of them."""

from ...errors import RankError
from .group import Ranks
from .held import Held
from .kcenter import rows_of
from .knn import anchors_over_ranks, knn_over_ranks
from .select import select_over_ranks

__all__ = ["Held", "RankError", "Ranks", "anchors_over_ranks", "knn_over_ranks", "rows_of", "select_over_ranks"]
