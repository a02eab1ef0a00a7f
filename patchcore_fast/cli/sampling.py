"""What a selection was made by and what it took, for the screen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from patchcore_fast.config import recorded
from patchcore_fast.config.sampler_options import sampler_text

if TYPE_CHECKING:
    from patchcore_fast.layered_bank import Bank


def sampler_said(config: Mapping[str, Any]) -> str:
    """The sampler with its options, of the settings of a bank; "" where they do not say."""
    return sampler_text(recorded(config, "sampler", ""), recorded(config, "sampler_options"))


def bank_said(bank: Bank) -> str:
    """Rows of a bank, and what chose them."""
    said = sampler_said(bank.config)
    by = f", chosen by {said}" if said else ""
    return f"Bank of {len(bank):,} rows of {bank.patches:,} patches{by}."


def report_table(reports: Sequence[Mapping[str, Any]]) -> str:
    """Seconds and peak memory of each part of a selection, a line each; "" where the sampler reports none.

    reports : `PatchCore.report_`; with more than one a part is named after its number, and so are parts of samplers
        within a sampler.
    """
    parts: dict[str, tuple[str, str]] = {}
    for number, report in enumerate(reports):
        for name, row in _parts(report, f"layer {number}: " if len(reports) > 1 else ""):
            parts[name] = row
    if not parts:
        return ""
    lines = {"part of the selection": ("seconds", "peak memory")} | parts
    width = max(map(len, lines))
    return "\n".join(f"{name.ljust(width)}{row[0]:>10}{row[1]:>14}" for name, row in lines.items())


def _parts(report: Mapping[str, Any], before: str) -> list[tuple[str, tuple[str, str]]]:
    seconds, memory = report.get("seconds"), report.get("memory")
    seconds = seconds if isinstance(seconds, Mapping) else {}
    memory = memory if isinstance(memory, Mapping) else {}
    found = [
        (
            before + part,
            (f"{seconds[part]:.2f}" if part in seconds else "", _size(memory[part]) if part in memory else ""),
        )
        for part in dict.fromkeys([*seconds, *memory])
    ]
    for name, inner in report.items():
        if name not in ("seconds", "memory") and isinstance(inner, Mapping) and {"seconds", "memory"} & inner.keys():
            found += _parts(inner, f"{before}{name}: ")
    return found


def _size(count: float) -> str:
    return f"{count / 1e9:.2f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"
