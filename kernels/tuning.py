"""What changes the speed and never the picks."""

from __future__ import annotations

from dataclasses import dataclass

from .checks import check_int

PRUNE = ("auto", "none", "triangle", "partial")


@dataclass(frozen=True)
class Tuning:
    """Sizes that change the speed and never the picks."""

    batch: int | None = None  # candidates a pass; None: from k
    block: int = 512  # candidates settled at a time
    lazy: bool = True  # refresh only rows that could become candidates
    prune: str = "auto"  # native engine: how rows are compared with picks; "auto" takes what is cheapest as it runs

    def __post_init__(self) -> None:
        """Every size is a positive integer; `prune` is one of PRUNE."""
        for name in ("batch", "block"):
            if name != "batch" or self.batch is not None:
                check_int("Tuning", name, getattr(self, name), 1, 1 << 40)
        if self.prune not in PRUNE:
            raise ValueError(f"Tuning: prune must be one of {', '.join(PRUNE)}, got {self.prune!r}")
