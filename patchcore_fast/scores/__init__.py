"""Scores of feature rows, each one number a row in O(N) memory; larger is more of what the name says."""

from __future__ import annotations

from .change import proxy_change
from .clustering import KMeans, k_means
from .density import rarity, representativeness
from .difficulty import Difficulty, difficulty
from .dynamics import Dynamics, train_proxy
from .foreign import Foreign, nearest_of_other_images, support_distance
from .heads import Heads, clustering_heads
from .instability import instability, noise_instability
from .layout import Layout
from .signals import Signals, signals
from .support import Support, deviations, support
from .suspicion import Suspicion, nearest_images, suspicion

__all__ = [
    "Difficulty",
    "Dynamics",
    "Foreign",
    "Heads",
    "KMeans",
    "Layout",
    "Signals",
    "Support",
    "Suspicion",
    "clustering_heads",
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
    "train_proxy",
]
