"""Progress bars that stay silent when nobody watches."""

from __future__ import annotations

from typing import Any

try:
    from tqdm import tqdm
except ImportError as error:
    raise ImportError('patchcore_fast.model needs tqdm: pip install "patchcore_fast[pipeline]"') from error


def bar(total: int | None, what: str, progress: bool | None) -> Any:
    """A tqdm bar; progress None leaves it to tqdm: shown on a terminal only."""
    return tqdm(total=total, desc=what, disable=None if progress is None else not progress, leave=False)
