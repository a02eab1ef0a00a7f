"""Triton's interpreter with less to look up and less to make: names, types and shapes never change, and there are few.

Before each call of a kernel and of every function inside, it puts its own members in the place of those of
triton.language; here this is done once for a launch. Types of blocks, shapes of tensors and NumPy's name of a type are
made once for a process. With both a test takes less than half as long.
"""

from __future__ import annotations

import importlib.util
import inspect
from collections.abc import Callable
from typing import Any


class Lookup:
    """The module `inspect` as the interpreter sees it: of members, those that it would replace."""

    def __init__(self, is_builtin: Any) -> None:
        self._is_builtin = is_builtin
        self._names: dict[int, list[str]] = {}  # of modules and classes that live as long as triton does

    def __getattr__(self, name: str) -> Any:
        return getattr(inspect, name)

    def getmembers(self, owner: Any) -> list[tuple[str, Any]]:
        if id(owner) not in self._names:  # before the first replacement of this owner's: all of them are found
            self._names[id(owner)] = [name for name, value in inspect.getmembers(owner) if self._is_builtin(value)]
        return [(name, getattr(owner, name)) for name in self._names[id(owner)]]


class Patches:
    """_patch_lang: a function inside finds its launch's replacements, and makes those that its own file is short of."""

    def __init__(self, whole: Callable[[Any], Any], languages: tuple[Any, ...]) -> None:
        self._whole, self._languages = whole, languages
        self._seen: dict[int, frozenset[int]] = {}  # the languages among a file's names
        self._replaced: set[int] = set()
        self._scope: Any = None

    def __call__(self, fn: Any) -> Any:
        names = fn.__globals__
        if id(names) not in self._seen:
            self._seen[id(names)] = frozenset(id(x) for x in names.values() if any(x is y for y in self._languages))
        if not self._seen[id(names)] or not self._seen[id(names)] <= self._replaced:
            scope = self._whole(fn)
            self._scope = self._scope or scope
            self._replaced |= self._seen[id(names)]
        return self

    def restore(self) -> None:
        """The end of a launch."""
        scope, self._scope = self._scope, None
        self._replaced.clear()
        scope.restore()


def _parameters(function: Any) -> list[str]:
    return list(inspect.signature(function).parameters)


def _remember_types(core: Any, interpreter: Any) -> None:
    blocks: dict[tuple, dict[str, Any]] = {}
    shapes: dict[str, tuple[Any, Any]] = {}
    arrays: dict[str, Any] = {}
    make_block, make_tensor, find_array = core.block_type.__init__, core.tensor.__init__, interpreter._get_np_dtype

    def block(self: Any, element_ty: Any, shape: Any) -> None:
        key = (element_ty.name, *(s.value if isinstance(s, core.constexpr) else s for s in shape))
        if key not in blocks:
            make_block(self, element_ty, shape)
            blocks[key] = dict(vars(self))
        vars(self).update(blocks[key], element_ty=element_ty)

    def tensor(self: Any, handle: Any, type: Any) -> None:
        if type.name not in shapes:
            make_tensor(self, handle, type)
            shapes[type.name] = self.shape, self.numel
        self.handle, self.type, self.dtype = handle, type, type.scalar
        self.shape, self.numel = shapes[type.name]

    def array(tt_dtype: Any) -> Any:
        if tt_dtype.name not in arrays:
            arrays[tt_dtype.name] = find_array(tt_dtype)
        return arrays[tt_dtype.name]

    core.block_type.__init__, core.tensor.__init__, interpreter._get_np_dtype = block, tensor, array


def quicken() -> None:
    """For this process; twice is once. Of a triton whose functions are others, as little as goes."""
    if importlib.util.find_spec("triton") is None:
        return
    import triton.language as tl
    from triton.language import core
    from triton.runtime import interpreter

    if interpreter.inspect is not inspect:
        return
    interpreter.inspect = Lookup(core.is_builtin)
    if hasattr(interpreter, "_LangPatchScope") and _parameters(interpreter._patch_lang) == ["fn"]:
        interpreter._patch_lang = Patches(interpreter._patch_lang, (tl, core))
    makers = core.block_type.__init__, core.tensor.__init__, getattr(interpreter, "_get_np_dtype", quicken)
    known = [["self", "element_ty", "shape"], ["self", "handle", "type"], ["tt_dtype"]]
    if [*map(_parameters, makers)] == known and core.tuple.__name__ == "tuple":
        _remember_types(core, interpreter)
