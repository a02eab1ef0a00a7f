"""What changes the speed and never the picks, and what a call may use."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from .checks import check_int

PRUNE = ("auto", "none", "triangle", "partial")
PRECISIONS = ("float32", "ieee", "tf32x3", "tf32", "bf16")
LEAST_MEMORY = 1 << 20


@dataclass(frozen=True)
class Budget:
    """What a call may use, for backends that have a choice.

    precision : "float32" gives the exact result by the arithmetic that suits the device, "ieee" and "tf32x3" the same
        result by this one. "tf32" and "bf16" permit less for the bulk of the work, on devices that have it: results
        then are those of that arithmetic. Other backends compute as ever.
    memory_limit : bytes of device memory beyond what the caller holds; None: what is free. Changes the speed only.
    """

    precision: str = "float32"
    memory_limit: int | None = None

    @classmethod
    def checked(cls, name: str, precision: Any, memory_limit: Any) -> Budget:
        """From the arguments of a public function."""
        if not isinstance(precision, str):
            raise TypeError(f"{name}: precision must be a string, got {type(precision).__name__}")
        if precision not in PRECISIONS:
            raise ValueError(f"{name}: precision must be one of {', '.join(PRECISIONS)}, got {precision!r}")
        if memory_limit is not None:
            memory_limit = check_int(name, "memory_limit", memory_limit, LEAST_MEMORY, 1 << 60, " bytes")
        return cls(precision, memory_limit)


@dataclass(frozen=True)
class Tuning:
    """Sizes that change the speed and never the picks."""

    batch: int | None = None  # candidates a pass; None: from k
    block: int = 512  # candidates settled at a time
    lazy: bool = True  # refresh only rows that could become candidates
    prune: str = "auto"  # native engine: how rows are compared with picks; "auto" takes what is cheapest as it runs
    graph: bool | None = None  # record a pass once as a CUDA graph and replay it; None: Triton does, CUDA does not

    def __post_init__(self) -> None:
        """Every size is a positive integer; `prune` is one of PRUNE."""
        for name in ("batch", "block"):
            if name != "batch" or self.batch is not None:
                check_int("Tuning", name, getattr(self, name), 1, 1 << 40)
        if self.graph is not None and not isinstance(self.graph, bool):
            raise TypeError(f"Tuning: graph must be True, False or None, got {self.graph!r}")
        if self.prune not in PRUNE:
            raise ValueError(f"Tuning: prune must be one of {', '.join(PRUNE)}, got {self.prune!r}")
