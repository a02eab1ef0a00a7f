"""Settings of the decision: which scores are called anomalous."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from patchcore_fast.config.base import Settings, setting


@dataclass(frozen=True)
class DecisionSettings(Settings):
    """Where the threshold of `fit` lies.

    Parameters
    ----------
    max_false_alarms : share of new normal images that may exceed it, in (0, 1); see docs/threshold.md.
    """

    group: ClassVar[str] = "decision"
    max_false_alarms: float = setting(
        0.05, "share of normal images that may lie above the threshold", parse=float, metavar="S"
    )

    def _check(self) -> None:
        if not 0 < self._real("max_false_alarms") < 1:
            self._wrong("max_false_alarms", f"must be in (0, 1), got {self.max_false_alarms}")
