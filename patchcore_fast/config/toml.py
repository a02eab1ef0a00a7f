"""Settings as a TOML file: one table a group."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Mapping
from typing import Any

from patchcore_fast.files import atomic_write

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


_BARE = re.compile(r"[A-Za-z0-9_-]+")  # a key without quotes


def read_toml(path: str | os.PathLike[str]) -> dict[str, Any]:
    """What a file holds. ValueError: it is no TOML."""
    with open(path, "rb") as f:
        try:
            return tomllib.load(f)
        except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
            raise ValueError(f"is no TOML: {error}") from error


def toml_text(groups: Mapping[str, Mapping[str, Any]]) -> str:
    """The text that `read_toml` gives back; None is left out, for TOML has no word for it.

    A setting that holds names with values is a table below its group's, `[group.setting]`.
    """
    tables = []
    for group, values in groups.items():
        inner = {name: value for name, value in values.items() if isinstance(value, Mapping)}
        for table, given in ((group, values), *((f"{group}.{name}", value) for name, value in inner.items())):
            lines = [f"{_key(k)} = {_value(v)}" for k, v in given.items() if v is not None and k not in inner]
            if lines or table != group:
                tables.append("\n".join([f"[{table}]", *lines, ""]))
    return "\n".join(tables)


def _key(name: str) -> str:
    return name if _BARE.fullmatch(name) else _value(name)


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        # JSON's escapes are TOML's, but for DEL, which JSON leaves as it is, and surrogates, which neither can hold.
        return json.dumps(value.encode("utf-8", "replace").decode(), ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_value, value))}]"
    return repr(value)


def kept_toml(text: str, path: str | os.PathLike[str] | None) -> str:
    """The text, written whole where a path is given."""
    if path is not None:
        with atomic_write(path, "w", encoding="utf-8") as f:
            f.write(text)
    return text
