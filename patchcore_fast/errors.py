"""Errors that callers may want to tell apart. All but one are ValueErrors: bad input, not a broken program."""

from __future__ import annotations


class PatchcoreFastError(ValueError):
    """Base of this package's own errors."""


class DataError(PatchcoreFastError):
    """An image, mask, folder or feature file that cannot be used; the message names the path."""


class BankError(PatchcoreFastError):
    """A memory-bank file that is damaged, foreign or of a newer format; the message names the path."""


class RankError(RuntimeError):
    """Another rank of a process group has failed, or no longer answers; the message names it."""
