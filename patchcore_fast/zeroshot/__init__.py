"""Unlabelled images score each other: no training images, no bank (MuSc, Li et al., ICLR 2024; docs/zeroshot.md)."""

from __future__ import annotations

from patchcore_fast.zeroshot.mutual import mutual_scores, neighbourhood_rows
from patchcore_fast.zeroshot.run import DEGREES, SHARE, ZeroShot

__all__ = ["DEGREES", "SHARE", "ZeroShot", "mutual_scores", "neighbourhood_rows"]
