"""The native module, loaded when first asked for; where it cannot be, the reason is kept and raised at the call."""

from __future__ import annotations

from functools import cache
from types import ModuleType

_MODULE = "patchcore_fast._native"


def native() -> ModuleType:
    """The native module.

    Raises
    ------
    RuntimeError : it was not built, or cannot be loaded; the message gives the reason.
    """
    module = _load()
    if isinstance(module, str):
        raise RuntimeError(f"no native CPU engine: {module}")
    return module


def native_refusal() -> str | None:
    """Why the native module is not here, or None if it is."""
    module = _load()
    return module if isinstance(module, str) else None


@cache
def _load() -> ModuleType | str:
    try:
        import patchcore_fast._native as module
    except ModuleNotFoundError as e:
        if e.name != _MODULE:
            return f"{_MODULE} cannot be loaded: {e}"
        return (
            "patchcore_fast was installed without a C++ compiler or with PATCHCORE_FAST_NATIVE=0; "
            "installing it again with PATCHCORE_FAST_NATIVE=1 builds it or says what is missing"
        )
    except ImportError as e:  # another Python's, another architecture's, a library or a symbol missing
        return f"{_MODULE} cannot be loaded: {e}"
    return module
