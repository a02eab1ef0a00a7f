"""Patch scores beyond the distance: which dimensions they come from, and what noise in those does to them."""

from __future__ import annotations

from patchcore_fast.scorers.choice import SCORERS, Scorer, make_scorer
from patchcore_fast.scorers.influence import Influence, influence, typical_influence
from patchcore_fast.scorers.noise import NoiseProposal

__all__ = ["SCORERS", "Influence", "NoiseProposal", "Scorer", "influence", "make_scorer", "typical_influence"]
