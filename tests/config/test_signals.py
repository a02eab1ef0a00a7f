"""Names of signals: all, some, in the table's order."""

from __future__ import annotations

from typing import Any

import pytest

from patchcore_fast.config.signals import SIGNALS, chosen_signals


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ("all", tuple(SIGNALS)),
        (["all"], tuple(SIGNALS)),
        ("support, rarity", ("rarity", "support")),
        (["aum"], ("aum",)),
    ],
    ids=["all", "list-of-all", "text", "list"],
)
def test_chosen(given: Any, wanted: tuple[str, ...]) -> None:
    assert chosen_signals(given) == wanted


@pytest.mark.parametrize(
    ("given", "message"),
    [("rarety", "got 'rarety'"), ("", "got 'none'"), ([], "got none"), ("rarity,all", "got 'all'")],
    ids=["typo", "empty", "nothing", "all-and-more"],
)
def test_bad(given: Any, message: str) -> None:
    with pytest.raises(ValueError, match=f"all, or some of representativeness, .*{message}"):
        chosen_signals(given)


def test_every_signal_says_its_unit_and_what_large_means() -> None:
    assert all(s.label and s.unit and s.large for s in SIGNALS.values())
