"""What is known of the last images: counts, scores, latencies, and what a page shows of them. Bounded, for threads."""

from __future__ import annotations

import threading
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from patchcore_fast.watch.drift import Drift, drift_of
from patchcore_fast.watch.journal import Entry

SCORES = 500  # on the chart
LATENCIES = 100_000  # that percentiles are of
CARDS = 24  # images on the page
PERCENTILES = (50, 95, 99)


@dataclass
class Card:
    """An image on the page. heat : its map [h, w], small, in the image's proportions; None after a restart."""

    entry: Entry
    heat: NDArray[np.float32] | None = None
    pictures: dict[str, bytes] = field(default_factory=dict)  # drawn when somebody looks


class Recent:
    """The last images of a watch.

    Parameters
    ----------
    normal : scores of the bank's held-out images.  threshold : in use.

    Attributes
    ----------
    counts : images of this journal by `Entry.verdict`.
    scale : (vmin, vmax) of heat maps, None before there is a map.
    """

    def __init__(self, normal: Sequence[float], threshold: float | None) -> None:
        """Nothing came yet."""
        self.normal, self.threshold = sorted(normal), threshold
        self.counts: Counter[str | None] = Counter()
        self.scale: tuple[float, float] | None = None
        self._scores: deque[Entry] = deque(maxlen=SCORES)
        self._latencies: deque[float] = deque(maxlen=LATENCIES)
        self._cards: deque[Card] = deque(maxlen=CARDS)
        self._lock = threading.Lock()

    def add(self, card: Card, latency: float | None = None) -> None:
        """An image is done; `latency` in seconds, None for one of an earlier run."""
        with self._lock:
            self.counts[card.entry.verdict] += 1
            if card.entry.score is not None:
                self._scores.append(card.entry)
            self._cards.append(card)
            if latency is not None:
                self._latencies.append(latency)

    def scores(self) -> list[Entry]:
        """Entries that have a score, the oldest first."""
        with self._lock:
            return list(self._scores)

    def cards(self) -> list[Card]:
        """The newest first."""
        with self._lock:
            return list(reversed(self._cards))

    def drift(self) -> Drift | str:
        """See `drift_of`."""
        return drift_of([e.score for e in self.scores() if e.score is not None], self.normal)

    def latency(self, last: int = LATENCIES) -> dict[str, float]:
        """Percentiles of the latencies of the last images in seconds, {"p50", "p95", "p99"}; empty without any."""
        with self._lock:
            values = list(self._latencies)[-last:]
        if not values:
            return {}
        return {f"p{p}": float(v) for p, v in zip(PERCENTILES, np.percentile(values, PERCENTILES), strict=True)}
