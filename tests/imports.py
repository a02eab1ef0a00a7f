"""Who imports whom in a tree of Python files, read from the source.

Imports inside functions count: a lazy import delays a circle and does not open it. Those for types only count too: of
two files that need each other's types neither can be read first; what both need belongs below them. Not seen is what
`import_module` loads by a name that is put together at run time.
"""

from __future__ import annotations

import ast
import os
from collections.abc import Mapping, Set
from graphlib import CycleError, TopologicalSorter
from pathlib import Path


def sources(root: Path) -> list[Path]:
    """The Python files below a package's folder."""
    # os.walk, because kernels/ is a link and rglob does not follow it on every Python.
    walk = os.walk(root, followlinks=True)
    return sorted(Path(folder, name) for folder, _, names in walk for name in names if name.endswith(".py"))


def imports(path: Path, root: Path) -> set[tuple[str, str]]:
    """What a file imports: absolute name of the module, and the name taken from it ("" for the module itself)."""
    package = [root.name, *path.relative_to(root).parent.parts]
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {(alias.name, "") for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            found |= {(module, alias.name) for alias in node.names}
    return found


def names(path: Path, root: Path) -> set[str]:
    """The same as dotted names: modules, and everything taken from them."""
    return {name for module, taken in imports(path, root) for name in (module, f"{module}.{taken}".rstrip("."))}


def arrows(root: Path) -> dict[str, set[str]]:
    """File -> files of the same tree that it imports; as paths from the root, with "/".

    `from package import name` leads to the file of that name in the package, else to the package's __init__.py. That a
    package's __init__.py runs before any file in it is no arrow.
    """
    files = sources(root)
    modules = {".".join([root.name, *p.relative_to(root).with_suffix("").parts]).removesuffix(".__init__"): p
               for p in files}  # fmt: skip
    found = {}
    for path in files:
        pairs = imports(path, root)
        reached = {modules.get(f"{module}.{name}", modules.get(module)) for module, name in pairs} - {None, path}
        found[path.relative_to(root).as_posix()] = {p.relative_to(root).as_posix() for p in reached if p is not None}
    return found


def rooms(files: Mapping[str, Set[str]], folder: str) -> dict[str, set[str]]:
    """The same arrows between what stands directly in a folder ("" or "a/b/"): files, and folders taken as one."""

    def room(path: str) -> str:
        return folder + path.removeprefix(folder).split("/")[0]

    inside = {path: {p for p in reached if p.startswith(folder)} for path, reached in files.items()
              if path.startswith(folder)}  # fmt: skip
    found: dict[str, set[str]] = {room(path): set() for path in inside}
    for path, reached in inside.items():
        found[room(path)] |= {room(p) for p in reached} - {room(path)}
    return found


def circle(graph: Mapping[str, Set[str]]) -> list[str]:
    """Files (or rooms) that import each other in a loop: each the next one, the last is the first again; [] if none."""
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return list(reversed(error.args[1]))  # graphlib names what is imported first
    return []
