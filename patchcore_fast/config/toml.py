"""Settings as a TOML file: one table a group."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from typing import Any

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


def read_toml(path: str | os.PathLike[str]) -> dict[str, Any]:
    """What a file holds. ValueError: it is no TOML."""
    with open(path, "rb") as f:
        try:
            return tomllib.load(f)
        except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
            raise ValueError(f"is no TOML: {error}") from error


def toml_text(groups: Mapping[str, Mapping[str, Any]]) -> str:
    """The text that `read_toml` gives back; None is left out, for TOML has no word for it."""
    tables = []
    for group, values in groups.items():
        lines = [f"{name} = {_value(value)}" for name, value in values.items() if value is not None]
        if lines:
            tables.append("\n".join([f"[{group}]", *lines, ""]))
    return "\n".join(tables)


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        # JSON's escapes are TOML's, but for DEL, which JSON leaves as it is, and surrogates, which neither can hold.
        return json.dumps(value.encode("utf-8", "replace").decode(), ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_value, value))}]"
    if isinstance(value, Mapping):
        pairs = (f"{json.dumps(k)} = {_value(v)}" for k, v in value.items() if v is not None)
        return f"{{{', '.join(pairs)}}}"
    return repr(value)
