"""Training dynamics of a proxy, kept epoch by epoch: what ELFS scores by, and a run that goes on where it stopped."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..inputs import Features
from ..kernels.checks import check_int
from ..kernels.surroundings import undisturbed
from ..progress import Progress, bar
from .proxy import Proxy, check_batch, check_labels
from .rows import CHUNK_SIZE, check_number, check_seed, read_rows

SCORES = ("aum", "forgetting", "el2n")
KEPT = ("loss", "confidence", "margin", "error", "correct")  # trajectories
State = dict[str, Tensor]
_TYPES = {"float16": torch.float16, "float32": torch.float32}
_ABOUT = ("rows", "columns", "classes", "hidden", "batch_size", "seed", "dtype")  # numbers of a state, in this order


@dataclass(frozen=True)
class Dynamics:
    """What a proxy thought of each row in each epoch, before the step that the row took part in; CPU tensors [T, N].

    loss : -log p_y, p the softmax outputs, y the row's label; 0 and more.
    confidence : p_y, in 0..1.
    margin : p_y - max of the other p, in -1..1.
    error : ||p - y||, y one-hot, in 0..sqrt(2).
    correct : bool, margin > 0.

    The first four are float32, or float16 where it was asked for. What follows of them is float32 [N].
    """

    loss: Tensor
    confidence: Tensor
    margin: Tensor
    error: Tensor
    correct: Tensor

    @property
    def epochs(self) -> int:
        """T."""
        return self.loss.shape[0]

    @property
    def aum(self) -> Tensor:
        """Mean margin of the epochs, easy is large (Pleiss et al., 2020)."""
        return _mean(self.margin)

    @property
    def forgetting(self) -> Tensor:
        """How often a row went from right to wrong from one epoch to the next; T where it was never right (Toneva et
        al., 2019)."""
        lost = torch.zeros(self.correct.shape[1], dtype=torch.float32)
        for before, now in zip(self.correct[:-1], self.correct[1:], strict=True):
            lost += before & ~now
        return torch.where(self.correct.any(0), lost, float(self.epochs))

    @property
    def el2n(self) -> Tensor:
        """Mean error of the first half of the epochs, rounded up; hard is large (Paul et al., 2021: early epochs)."""
        return _mean(self.error[: (self.epochs + 1) // 2])

    def score(self, name: str) -> Tensor:
        """[N] float32, hard is large: "aum" (-aum), "forgetting", "el2n", or "mean", that of the three.

        ValueError: another name.
        """
        if name == "mean":
            return self.mean(SCORES)
        if name not in SCORES:
            raise ValueError(f"Dynamics: score must be one of {', '.join(SCORES)}, mean, got {name!r}")
        return -self.aum if name == "aum" else getattr(self, name)

    def mean(self, names: Sequence[str] = SCORES, normalise: str = "rank") -> Tensor:
        """Mean of scores that are laid on 0..1 first: [N] float32, hard is large.

        normalise : "rank": by the place in the order, equals share the mean of theirs, divided by N - 1. "range":
            (s - min) / (max - min). A score that is the same for all rows counts as 1/2 by rank and as 0 by range.

        ValueError: no names, an unknown one, another `normalise`.
        """
        if normalise not in ("rank", "range"):
            raise ValueError(f'Dynamics: normalise must be "rank" or "range", got {normalise!r}')
        if isinstance(names, str) or not names:
            raise ValueError(f"Dynamics: names must be some of {', '.join(SCORES)}, got {names!r}")
        laid = torch.zeros(self.loss.shape[1], dtype=torch.float64)
        for name in names:
            if name not in SCORES:
                raise ValueError(f"Dynamics: names must be some of {', '.join(SCORES)}, got {name!r}")
            laid += (_ranks if normalise == "rank" else _range)(self.score(name).double())
        return (laid / len(names)).float()


@undisturbed
def train_proxy(
    features: Features,
    labels: Tensor | np.ndarray,
    *,
    epochs: int = 10,
    hidden: int = 64,
    batch_size: int | None = None,
    learning_rate: float = 5e-3,
    dtype: str = "float32",
    seed: int = 0,
    state: Mapping[str, Tensor] | None = None,
    on_epoch: Callable[[State], None] | None = None,
    device: torch.device | str | None = None,
    chunk_size: int = CHUNK_SIZE,
    progress: Progress = None,
) -> Dynamics:
    """Train a small classifier and keep what it thinks of each row in each epoch.

    The network and its training are those of `difficulty`, which keeps no trajectories: with the same labels and seed
    its AUM, forgetting and EL2N are these. Rows are images (global embeddings) or patches alike; they are read in
    chunks, and beside them 4 T N numbers and T N bytes are held on the CPU, 5 N numbers on the device.

    Parameters
    ----------
    features : [N, D] floating ndarray or tensor; N >= 2.
    labels : [N] integers >= 0 of at least two classes: `clustering_heads`, `k_means`, or true ones.
    epochs : T, passes over the rows.
    hidden, batch_size, learning_rate : as `difficulty`.
    dtype : of the trajectories, "float32" or "float16".
    seed : of initial weights and orders; all are drawn on the CPU.
    state : of `on_epoch`, of the same rows, labels and options: the run goes on from there, and ends bit for bit as one
        that never stopped, on the same device and number of threads. `epochs` may be more than it was then.
    on_epoch : called after each epoch with the state: a dictionary of tensors on the CPU, whose "epoch" says how many
        are done. Its trajectories are views that no later epoch writes to; the rest is a copy.
    device : where to compute; None: where the features are.
    chunk_size : rows gathered and moved at a time, in whole batches; changes speed and memory only.
    progress : see `patchcore_fast.progress.bar`; counts rows.

    Returns
    -------
    Dynamics.

    Raises
    ------
    TypeError : wrong type or dtype.  ValueError : wrong shape or range, fewer than two classes, rows that are not
    finite; a state of other rows, labels or options, or of more epochs.

    References
    ----------
    As of `difficulty`. H. Zheng et al., ELFS: label-free coreset selection with proxy training dynamics, ICLR 2025.
    """
    name = "train_proxy"
    epochs = check_int(name, "epochs", epochs, 1, 2**20)
    hidden = check_int(name, "hidden", hidden, 1, 2**20)
    rate = check_number(name, "learning_rate", learning_rate)
    if dtype not in _TYPES:
        raise ValueError(f"{name}: dtype must be float16 or float32, got {dtype!r}")
    seed = check_seed(name, seed)
    rows = read_rows(name, features, device, chunk_size)
    n = rows.shape[0]
    batch = check_batch(name, batch_size, n)
    given = check_labels(name, labels, n)
    proxy = Proxy(name, rows, given, hidden, batch, rate, torch.Generator().manual_seed(seed))
    about = {
        "about": torch.tensor([n, rows.shape[1], proxy.classes, hidden, batch, seed, 16 if dtype == "float16" else 32]),
        "learning_rate": torch.tensor([rate], dtype=torch.float64),
        "labels": _digest(given),
        "mean": proxy.mean.cpu(),
        "scale": proxy.scale.cpu(),
    }
    kept = {what: torch.zeros(epochs, n, dtype=torch.bool if what == "correct" else _TYPES[dtype]) for what in KEPT}
    done = 0 if state is None else _restore(name, proxy, about, kept, state)
    with bar(epochs * n, name, progress) as shown:
        shown.update(done * n)
        for epoch in range(done, epochs):
            now = {what: torch.empty(n, dtype=torch.float32, device=rows.device) for what in KEPT[:4]}
            for row, seen in proxy.epoch(shown.update, loss=True):
                assert seen.loss is not None
                for what, values in zip(KEPT[:4], (seen.loss, seen.confidence, seen.margin, seen.error), strict=True):
                    now[what][row] = values
            for what, values in now.items():
                kept[what][epoch] = values
            kept["correct"][epoch] = now["margin"] > 0
            if on_epoch is not None:
                on_epoch(_state(proxy, about, kept, epoch + 1))
    return Dynamics(**kept)


def _state(proxy: Proxy, about: State, kept: State, done: int) -> State:
    head = proxy.head
    parts = {"values": head.values, "first": head.adam.first, "second": head.adam.second}
    return {
        **about,
        "epoch": torch.tensor([done]),
        "generator": proxy.generator.get_state(),
        "steps": torch.tensor([head.adam.steps]),
        **{what: values.to("cpu", copy=True) for what, values in parts.items()},
        **{what: values[:done] for what, values in kept.items()},
    }


def _restore(name: str, proxy: Proxy, about: State, kept: State, state: Mapping[str, Tensor]) -> int:
    """Take a state over; the epochs that are done."""
    if not isinstance(state, Mapping):
        raise TypeError(f"{name}: state must be a dictionary of tensors, got {type(state).__name__}")
    head = proxy.head
    parts = {"values": head.values, "first": head.adam.first, "second": head.adam.second}
    wanted = {*about, "epoch", "generator", "steps", *parts, *kept}
    if missing := sorted(what for what in wanted if not isinstance(state.get(what), Tensor)):
        raise ValueError(f"{name}: state is not one of train_proxy: it has no tensor {missing[0]}")
    if state["about"].shape != about["about"].shape:
        raise ValueError(f"{name}: state is not one of this version")
    for what, there, here in zip(_ABOUT, state["about"].tolist(), about["about"].tolist(), strict=True):
        if there != here:
            raise ValueError(f"{name}: state is of {what} {there}, got {here}")
    for what in ("learning_rate", "labels", "mean", "scale"):
        if not torch.equal(state[what].cpu(), about[what]):
            raise ValueError(f"{name}: state is of other {'features' if what in ('mean', 'scale') else what}")
    done, epochs = int(state["epoch"]), len(kept["loss"])
    if not 0 < done <= epochs:
        raise ValueError(f"{name}: state has {done} epochs, epochs={epochs} were asked for")
    for what, into in {**parts, **{what: values[:done] for what, values in kept.items()}}.items():
        if state[what].shape != into.shape or state[what].dtype != into.dtype:
            raise ValueError(f"{name}: {what} of the state is {tuple(state[what].shape)} {state[what].dtype}, wanted "
                             f"{tuple(into.shape)} {into.dtype}")  # fmt: skip
        into.copy_(state[what])
    head.adam.steps = int(state["steps"])
    try:
        proxy.generator.set_state(state["generator"].cpu())
    except (RuntimeError, TypeError) as error:
        raise ValueError(f"{name}: generator of the state is none: {error}") from error
    return done


def _digest(labels: Tensor) -> Tensor:
    """[2] int64 that other labels do not have."""
    raw = hashlib.blake2b(labels.contiguous().numpy().tobytes(), digest_size=16).digest()
    return torch.from_numpy(np.frombuffer(raw, np.int64).copy())


def _mean(values: Tensor) -> Tensor:
    """Over the epochs, [T, N] -> [N] float32, added in their order."""
    total = torch.zeros(values.shape[1], dtype=torch.float32)
    for row in values:
        total += row
    return total / len(values)


def _ranks(score: Tensor) -> Tensor:
    """Places in the order over N - 1; equals share the mean of theirs."""
    if len(score) == 1:
        return torch.full_like(score, 0.5)
    _, inverse, counts = score.unique(return_inverse=True, return_counts=True)
    ends = counts.cumsum(0).double()
    return ((ends - (counts + 1) / 2)[inverse]) / (len(score) - 1)


def _range(score: Tensor) -> Tensor:
    low, high = score.aminmax()
    return (score - low) / (high - low) if high > low else torch.zeros_like(score)
