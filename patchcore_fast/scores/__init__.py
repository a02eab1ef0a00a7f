"""Scores of feature rows, each one number a row in O(N) memory; larger is more of what the name says."""

from __future__ import annotations

from .clustering import KMeans, k_means
from .density import rarity, representativeness
from .difficulty import Difficulty, difficulty
from .foreign import Foreign, nearest_of_other_images, support_distance
from .instability import instability, noise_instability
from .layout import Layout
from .proxy import proxy_change
from .signals import Signals, signals
from .support import Support, deviations, support
from .suspicion import Suspicion, nearest_images, suspicion

__all__ = [
    "Difficulty",
    "Foreign",
    "KMeans",
    "Layout",
    "Signals",
    "Support",
    "Suspicion",
    "deviations",
    "difficulty",
    "instability",
    "k_means",
    "nearest_images",
    "nearest_of_other_images",
    "noise_instability",
    "proxy_change",
    "rarity",
    "representativeness",
    "signals",
    "support",
    "support_distance",
    "suspicion",
]
