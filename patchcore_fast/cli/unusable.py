"""What a run could not use or draw, said at its end; exit code 3."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from os import PathLike
from typing import TYPE_CHECKING

from patchcore_fast.cli.process import PROGRAM, say
from patchcore_fast.names import printable

if TYPE_CHECKING:
    from patchcore_fast.report.problems import Problems

NAMED, CODE = 10, 3  # files named on the screen (scores.csv has all of them), and the exit code


def tell(unread: Iterable[tuple[str | PathLike[str], str]], problems: Problems | None = None) -> int:
    """Name files that could not be used and pictures that could not be drawn, on stderr.

    unread : (file, why); the reasons name their files themselves.

    Returns
    -------
    Exit code: 0 without any, else CODE.
    """
    files = [printable(why) for _, why in unread]
    undrawn = [f"{name} ({why})" for name, why in (problems.failed if problems else [])]
    _list(files, "file could not be used", "files could not be used")
    _list(
        undrawn,
        "output could not be written, the scores are complete",
        "outputs could not be written, the scores are complete",
    )
    return CODE if files or undrawn else 0


def _list(lines: Sequence[str], one: str, many: str) -> None:
    if not lines:
        return
    say(f"{PROGRAM}: {len(lines):,} {one if len(lines) == 1 else many}:")
    for line in lines[:NAMED]:
        say(f"  {line}")
    if len(lines) > NAMED:
        say(f"  and {len(lines) - NAMED:,} more")
