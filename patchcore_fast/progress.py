"""Progress bars that stay silent when nobody watches, and that need no package of their own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

Progress = bool | Callable[[int, int], None] | None


class _Bar:
    """What `bar` gives: counts, and tells whoever wants to know. A context manager."""

    def __init__(self, total: int | None, tell: Callable[[int, int], None] | None, shown: Any) -> None:
        self.n, self._total, self._tell, self._shown = 0, total, tell, shown

    def update(self, count: int = 1) -> None:
        """`count` more are done."""
        self.n += count
        if self._tell is not None and self._total is not None:
            self._tell(self.n, self._total)
        if self._shown is not None:
            self._shown.update(count)

    def at(self, done: int, total: int) -> None:
        """`done` of `total` are done: a callback for those who count themselves."""
        self._total = total
        if self._shown is not None:
            self._shown.total = total
        self.update(done - self.n)

    def __enter__(self) -> _Bar:
        return self

    def __exit__(self, *_: object) -> None:
        if self._shown is not None:
            self._shown.close()


def bar(total: int | None, what: str, progress: Progress = None) -> _Bar:
    """A progress bar for `total` steps of `what`.

    progress : True shows one, False does not, None shows one on a terminal (tqdm's, where it is installed); a callable
        is called with (done, total) instead.
    """
    if callable(progress):
        return _Bar(total, progress, None)
    if progress is False:
        return _Bar(total, None, None)
    try:
        from tqdm import tqdm
    except ImportError:
        if progress:
            raise ImportError('a progress bar needs tqdm: pip install "patchcore_fast[pipeline]"') from None
        return _Bar(total, None, None)
    return _Bar(total, None, tqdm(total=total, desc=what, disable=None if progress is None else False, leave=False))
