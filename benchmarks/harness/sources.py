"""Which sources are measured. Imports no torch: gpu/run.py asks before it has looked at the device."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence

from benchmarks import ROOT

VARIABLE = "PATCHCORE_FAST_COMMIT"
UNKNOWN = "unknown"


def commit() -> str:
    """The checkout's commit, "+changes" behind it where tracked files differ, results aside.

    In a copy without git: what PATCHCORE_FAST_COMMIT says, or "unknown".
    """
    git = ["git", "-C", str(ROOT)]
    found = said([*git, "rev-parse", "--short", "HEAD"]) or os.environ.get(VARIABLE, "")
    changes = said([*git, "status", "--porcelain", "-uno", "--", ":/", ":(top,exclude)benchmarks/results"])
    return (found or UNKNOWN) + ("+changes" if changes else "")


def said(command: Sequence[str]) -> str:
    """What a program prints; empty where it is not there, fails, or hangs."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
