"""What a budget came to, for the screen."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from patchcore_fast.bank_size import BankSize


def budget_text(size: BankSize) -> str:
    """Rows, bytes and search time of a bank, and a line for each step of its curve."""
    lines = [f"Budget {size.budget}: {size.rows:,} rows in {size.bytes_said}{searched(size.search_ms, size.device)}."]
    some = any(step.radius for step in size.curve)
    lines.append(f"{'rows':>10}{'radius':>12}{'held-out score':>16}" if some else f"{'rows':>10}{'held-out score':>16}")
    for step in size.curve:
        radius = f"{' '.join(f'{r:.4g}' for r in step.radius) or 'n/a':>12}" if some else ""
        lines.append(f"{step.rows:>10,}{radius}{'n/a' if step.score is None else f'{step.score:.4g}':>16}")
    if not some:
        lines.append("No radius: exact greedy alone measures one.")
    return "\n".join(lines)


def searched(ms: float | None, device: str) -> str:
    """How long the search for an image takes; nothing where it was not measured."""
    return "" if ms is None else f", searched in about {ms:.3g} ms an image on {device}"
