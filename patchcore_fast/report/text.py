"""Text in pictures. matplotlib takes $...$ for a formula and leaves labels that begin with "_" out of a legend."""

from __future__ import annotations

import os

from patchcore_fast.names import printable


def plot_text(text: str) -> str:
    """Text that is drawn as it is; lines stay lines."""
    return "\n".join(printable(line) for line in text.split("\n")).replace("$", r"\$")


def plot_label(name: str | os.PathLike[str], most: int = 40) -> str:
    """A name in one line of at most `most` characters, that legends show."""
    text = plot_text(shorten(printable(name), most))
    return f" {text}" if text.startswith("_") else text


def shorten(name: str, most: int = 30) -> str:
    """Keep the end of a long name: files differ there."""
    return name if len(name) <= most else "..." + name[-most + 3 :]
