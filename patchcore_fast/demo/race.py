"""Our selection beside the plain loop: same features, same count, same start, picks compared before time is told."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from patchcore_fast.demo.baseline import one_pick_at_a_time
from patchcore_fast.kernels import k_center_greedy
from patchcore_fast.kernels.kcenter.trace import greedy_shortfall

TRACE_PICKS = 1000  # checking a trace in float64 costs twice as much as making it in float32
LOOP_LIMIT = 25.0  # seconds; a busy machine must not turn the demo into a coffee break
TOLERANCE = 1e-5  # relative; float32's rounding of distances


@dataclass(frozen=True)
class Race:
    """One count of picks, timed both ways.

    rows, dim, picks : the problem.
    ours, loop : seconds. The loop's are what it took, or its median time per pick times picks if that is less (all its
        picks cost the same: what sticks out is other work on the machine, and must not count against it) or if it
        was stopped early, after `loop_picks`.
    same : number of leading picks that agree, shared : picks that both chose, in whatever order; of `loop_picks`.
    loop_shortfall : see `greedy_shortfall`, over the first `traced` picks.
    """

    rows: int
    dim: int
    picks: int
    ours: float
    loop: float
    loop_picks: int
    same: int
    shared: int
    loop_shortfall: float
    traced: int

    @property
    def ratio(self) -> float:
        """How many times faster ours is."""
        return self.loop / self.ours


def race(
    features: torch.Tensor, counts: list[int], start: int, loop_limit: float = LOOP_LIMIT
) -> tuple[list[Race], list[float]]:
    """Select `counts` rows (ascending) from features [N, D] both ways.

    The loop runs once, to the largest count or for `loop_limit` seconds: greedy picks are a prefix of any longer run,
    and so is its time. The second result is that time per pick.

    Raises
    ------
    RuntimeError : the loop's picks are no greedy sequence, so that its time would mean nothing.
    """
    # The first calls of a process pay for thread pools and memory; neither side should.
    k_center_greedy(features, min(256, counts[0]), start=start)
    one_pick_at_a_time(features, min(16, counts[0]), start)
    times, picks = [], []
    for k in counts:
        clock = time.perf_counter()
        picks.append(k_center_greedy(features, k, start=start).indices.cpu())
        times.append(time.perf_counter() - clock)
    plain = one_pick_at_a_time(features, counts[-1], start, loop_limit)
    made = len(plain.seconds)
    traced = min(TRACE_PICKS, made)
    shortfall = greedy_shortfall(features, plain.indices[:traced])
    if shortfall > TOLERANCE:
        raise RuntimeError(f"race: the loop's picks are not greedy (short by {shortfall:.2e})")
    results = []
    for k, ours, seconds in zip(counts, picks, times, strict=True):
        n = min(k, made)
        loop = plain.indices[:n]
        differ = (ours[:n] != loop).nonzero()
        results.append(
            Race(
                rows=features.shape[0], dim=features.shape[1], picks=k, ours=seconds,
                loop=_undisturbed(plain.seconds[:n], k), loop_picks=n,
                same=int(differ[0]) if len(differ) else n,
                shared=len(set(ours[:n].tolist()) & set(loop.tolist())),
                loop_shortfall=shortfall, traced=min(traced, k),
            )
        )  # fmt: skip
    return results, plain.seconds


def _undisturbed(seconds: list[float], k: int) -> float:
    median = k * float(np.median(np.diff([0.0, *seconds])))
    return min(seconds[-1], median) if len(seconds) == k else median


def plot_race(results: list[Race], loop_seconds: list[float], path: str | os.PathLike[str]) -> None:
    """Seconds against number of picks, both ways."""
    from patchcore_fast.report.plots import ANOMALOUS, NORMAL, new_figure, quiet, save_figure

    figure = new_figure(6.4, 4.0)
    axes: Any = figure.add_subplot()
    axes.plot(range(1, len(loop_seconds) + 1), loop_seconds, color=ANOMALOUS, linewidth=2, label="one pick at a time")
    axes.plot([0, *(r.picks for r in results)], [0, *(r.ours for r in results)], "o-", color=NORMAL, linewidth=2,
              clip_on=False, label="patchcore_fast")  # fmt: skip
    last = results[-1]
    if last.loop_picks < last.picks:
        axes.plot([len(loop_seconds), last.picks], [loop_seconds[-1], last.loop], ":", color=ANOMALOUS, linewidth=2,
                  label="the same, extrapolated")  # fmt: skip
    axes.annotate(f"{last.ratio:.{0 if last.ratio >= 9.5 else 1}f} times as fast", (last.picks, last.ours), (0, 10),
                  textcoords="offset points", ha="right", color=NORMAL)  # fmt: skip
    axes.set(title=f"Selecting from {last.rows:,} patches of {last.dim} numbers", xlabel="patches selected",
             ylabel="seconds", xlim=(0, None), ylim=(0, None))  # fmt: skip
    axes.legend(frameon=False, loc="upper left")
    quiet(axes)
    save_figure(figure, path)
