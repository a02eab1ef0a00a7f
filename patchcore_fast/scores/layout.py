"""Which image and grid cell a row came from: as given, or read off the rows' own order."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..inputs import Features, as_rows
from ..kernels.ranks import Ranks
from ..kernels.surroundings import undisturbed

_SIDES = range(4, 513)  # of a patch grid
_CONTRAST, _SIGMAS = 1.02, 8.0  # how much larger, and how surely, a step is where a line of the grid or an image ends
_ROWS, _COLUMNS = 1 << 18, 16  # looked at


@dataclass(frozen=True)
class Layout:
    """Where rows lie.

    image : [N] int64, images numbered 0..I-1 in the order of their first row.
    names : [I] int64, the caller's number of each.
    row, column : [N] int64 on the image's patch grid, or None where only the image is known.
    source : "given" or "inferred".
    """

    image: Tensor
    names: Tensor
    row: Tensor | None = None
    column: Tensor | None = None
    source: str = "given"

    @property
    def images(self) -> int:
        """I."""
        return self.names.shape[0]

    def given(self) -> dict[str, Any]:
        """image_ids [N] or, where the grid is known, positions [N, 3], as the caller numbers the images."""
        ids = self.names[self.image]
        if self.row is None or self.column is None:
            return {"image_ids": ids}
        return {"positions": torch.column_stack([ids, self.row, self.column])}

    @classmethod
    @undisturbed
    def of(
        cls, name: str, n: int, image_ids: Any = None, positions: Any = None, ranks: Ranks | None = None
    ) -> Layout | None:
        """From image numbers [N], or (image, row, column) [N, 3]; None where neither is given.

        With ranks, n rows are this rank's, and so is what is given; the layout is that of all, in the order of ranks.

        Raises
        ------
        TypeError : no integers.  ValueError : wrong shape, negative rows or columns, or both given and not agreeing.
        """
        ids, where = _read(name, n, image_ids, positions, ranks)
        if where is not None:
            if ids is not None and not torch.equal(ids, where[:, 0]):
                raise ValueError(f"{name}: image_ids and positions[:, 0] must agree, they differ")
            if where.shape[0] and int(where[:, 1:].min()) < 0:
                raise ValueError(f"{name}: positions must have rows and columns >= 0, got {int(where[:, 1:].min())}")
            ids = where[:, 0]
        if ids is None:
            return None
        image, names = _numbered(ids)
        return cls(image, names, *(() if where is None else (where[:, 1].contiguous(), where[:, 2].contiguous())))

    @classmethod
    @undisturbed
    def inferred(cls, features: Features, ranks: Ranks | None = None) -> Layout | None:
        """The layout of rows that are ordered image by image, line by line, on one common grid; None without such.

        Neighbouring patches overlap, so a step to the next row is small; it is larger at the end of a grid line, and a
        step to the next line is larger at the end of an image. The width is the period at which steps stand out most,
        the height likewise. Where they hardly stand out, as with shuffled rows, the layout is unknown.

        features : [N, D] floating ndarray or tensor; with ranks this rank's part of them.
        """
        rows = as_rows("Layout.inferred", features)
        counts = [rows.shape[0]] if ranks is None else ranks.counts(rows.shape[0])
        n, first = sum(counts), 0 if ranks is None else sum(counts[: ranks.rank])
        thin = rows[: max(0, _ROWS - first), :: -(-rows.shape[1] // _COLUMNS)].float().cpu()
        thin = thin if ranks is None else ranks.gather(thin)
        width = _period(_steps(thin, 1), n)
        if width is None:
            return None
        lines = _steps(thin[: thin.shape[0] // width * width], width).view(-1, width).mean(1)  # from line to line
        height = _period(lines, n // width)
        if height is None:
            return None
        height *= _beyond(lines[height - 1 :: height], n // (width * height))
        i = torch.arange(n)
        count = n // (width * height)
        return cls(i // (width * height), torch.arange(count), i // width % height, i % width, "inferred")


def _read(
    name: str, n: int, image_ids: Any, positions: Any, ranks: Ranks | None
) -> tuple[Tensor | None, Tensor | None]:
    """Image numbers [N] and positions [N, 3] of all rows, where they are given."""

    def here() -> tuple[Tensor | None, Tensor | None]:
        return (
            None if image_ids is None else _integers(name, "image_ids", image_ids, (n,)),
            None if positions is None else _integers(name, "positions", positions, (n, 3)),
        )

    if ranks is None:
        return here()
    ids, where = ranks.agree(here)
    ranks.same(image_ids=_given(ids), positions=_given(where))
    return None if ids is None else ranks.gather(ids), None if where is None else ranks.gather(where)


def _given(values: Tensor | None) -> str:
    return "none" if values is None else "given"


def _integers(name: str, what: str, values: Any, shape: tuple[int, ...]) -> Tensor:
    try:
        values = torch.as_tensor(values)
    except (TypeError, ValueError, RuntimeError):
        raise TypeError(f"{name}: {what} must be integers {list(shape)}, got {type(values).__name__}") from None
    if values.is_floating_point() or values.is_complex() or values.dtype == torch.bool:
        raise TypeError(f"{name}: {what} must be integers, got {values.dtype}")
    if tuple(values.shape) != shape:
        raise ValueError(f"{name}: {what} must have shape {shape}, one entry a row, got {tuple(values.shape)}")
    return values.detach().cpu().long()


def _numbered(ids: Tensor) -> tuple[Tensor, Tensor]:
    """0..I-1 by first appearance, and the number that each had."""
    names, inverse = ids.unique(return_inverse=True)
    n = ids.shape[0]
    first = torch.full((names.shape[0],), n).scatter_reduce(0, inverse, torch.arange(n), "amin")
    order = first.argsort()
    rank = torch.empty_like(order)
    rank[order] = torch.arange(order.shape[0])
    return rank[inverse], names[order]


def _steps(rows: Tensor, lag: int) -> Tensor:
    """[N - lag] float64: how far row i + lag lies from row i."""
    return (rows[lag:] - rows[:-lag]).double().square_().sum(1).sqrt_()


def _period(steps: Tensor, n: int) -> int | None:
    """The p that divides n at whose multiples steps are larger most surely; None if they are not."""
    found, best = None, _SIGMAS
    total, square = float(steps.sum()), float(steps.square().sum())
    for p in _SIDES:
        ends = steps[p - 1 :: p]
        if n % p or ends.shape[0] < 2:
            continue
        inside = steps.shape[0] - ends.shape[0]
        mean = (total - float(ends.sum())) / inside
        spread = max((square - float(ends.square().sum())) / inside - mean * mean, 0.0) ** 0.5
        excess = float(ends.mean()) - mean
        # A multiple of the period has steps as large, but fewer; a divisor has more, but smaller ones.
        sigmas = excess * ends.shape[0] ** 0.5 / spread if spread else 0.0
        if sigmas > best and excess >= (_CONTRAST - 1) * mean:
            found, best = p, sigmas
    return found


def _beyond(ends: Tensor, images: int) -> int:
    """How many seeming images make one: where every m-th end stands out among the ends, only those are ends.

    That is so where images share a strong horizontal edge half-way down. Ends of true images differ by chance alone.
    """
    for m in (2, 3, 4, 5):
        strong = ends[m - 1 :: m]
        if images % m or strong.shape[0] < 2:
            continue
        inside = (ends.sum() - strong.sum()) / (ends.shape[0] - strong.shape[0])
        spread = float(ends.std())
        if spread and float(strong.mean() - inside) * strong.shape[0] ** 0.5 > _SIGMAS / 2 * spread:
            return m
    return 1
