"""File names as text. A name may hold any byte but "/" and NUL; screens, pictures and JSON take less than that."""

from __future__ import annotations

import os


def encodable(name: str | os.PathLike[str]) -> str:
    r"""Text that UTF-8 can hold: a byte that was not UTF-8 (Python keeps it as a lone surrogate) becomes ``\xNN``."""
    text = os.fspath(name)
    if not any("\ud800" <= c <= "\udfff" for c in text):
        return text
    return "".join(_escaped(c) if "\ud800" <= c <= "\udfff" else c for c in text)


def printable(name: str | os.PathLike[str]) -> str:
    r"""One line for a screen, a picture or a page: what is not printable is written out.

    Control characters (a new line, a terminal's escape sequence), marks that turn the direction of reading, and bytes
    that were not UTF-8 become ``\n``, ``\x1b``, ``\u202e``, ``\xff``.
    """
    text = os.fspath(name)
    return text if text.isprintable() else "".join(c if c.isprintable() else _escaped(c) for c in text)


def _escaped(character: str) -> str:
    if "\udc80" <= character <= "\udcff":
        return f"\\x{ord(character) - 0xDC00:02x}"
    return character.encode("unicode_escape").decode("ascii")
