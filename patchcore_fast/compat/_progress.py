"""The peers' progress bars: same text, shown as they show it. They all depend on tqdm; without it there is no bar."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def progress_bar(text: str, total: int, **options: object) -> Iterator[Callable[[int, int], None]]:
    """A tqdm bar of `total` steps as the `progress` of `k_center_greedy`; further options go to tqdm."""
    try:
        from tqdm import tqdm
    except ImportError:
        yield lambda done, k: None
        return
    with tqdm(total=total, desc=text, **options) as bar:
        yield lambda done, k: bar.update(min(done, total) - bar.n) and None
