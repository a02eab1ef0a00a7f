"""Methods that are trained: the loop over epochs, its checkpoints and its curve."""

from __future__ import annotations

import math
import os
import time
from abc import abstractmethod
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import torch

from patchcore_fast.features.networks import own_random_state
from patchcore_fast.methods.base import Method, Read, Shapes
from patchcore_fast.methods.checkpoint import About, Checkpoints, State
from patchcore_fast.methods.curves import CSV, Row, finite, write_curves
from patchcore_fast.methods.file import Learned
from patchcore_fast.methods.identity import identity
from patchcore_fast.methods.kept_maps import KeptMaps
from patchcore_fast.methods.module import MethodModule
from patchcore_fast.model.batches import Batch, batches_of
from patchcore_fast.model.evaluation import evaluate_batches
from patchcore_fast.model.passes import predictions_of
from patchcore_fast.model.pixels import HeldOut
from patchcore_fast.model.results import Prediction
from patchcore_fast.model.threshold import ASKED
from patchcore_fast.progress import bar

if TYPE_CHECKING:
    from typing_extensions import Self

Modules = dict[str, torch.nn.Module]
LEAST_HELD = 2  # scores that make a threshold; images are held out where these are at most a quarter of all


class TrainedMethod(Method):
    """A method whose networks are trained by gradients, on the maps of the frozen backbone.

    A subclass gives, beside `name`, `title` and `settings_type` (with `epochs`, `batch_size` and `held_out`),
    `_modules`, `_optimizers`, `_loss` and `_scorer_of`.

    On the CPU the seed decides everything: two trainings give the same model bit for bit (with the same number of
    threads), and so does one that was stopped and gone on with. The result is that of the last epoch.

    Attributes
    ----------
    curve_ : of the last fit, a row for each epoch; see `methods.curves`.
    timings_ : also "features", of reading the images and running the backbone, once.
    """

    passes = 1  # over the images in an epoch

    def __init__(self, *args: Any, **named: Any) -> None:
        """As `Method`."""
        super().__init__(*args, **named)
        self.curve_: list[Row] = []
        self._trained: Modules | None = None

    # --- what a subclass gives ---------------------------------------------------------------------------------------

    @abstractmethod
    def _modules(self) -> Modules:
        """New networks by name, drawn from torch's global generator, which has been seeded; made of `map_shapes`.

        All their tensors are float32, but for counters. Also called where no memory may be taken (the "meta" device).
        """

    @abstractmethod
    def _optimizers(self, modules: Modules) -> dict[str, torch.optim.Optimizer]:
        """What trains them, by name; their learning rates are the largest, see `_rate`."""

    @abstractmethod
    def _loss(
        self, modules: Modules, maps: list[torch.Tensor], draws: torch.Generator
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """The loss of a batch and what else the curve has of it, means over batches.

        Parameters
        ----------
        maps : of the backbone, [B, C, h, w] on the device.  draws : a generator on the CPU, for noise.
        """

    @abstractmethod
    def _scorer_of(self, modules: Modules) -> torch.nn.Module:
        """The scorer of networks, see `Method._scorer`."""

    def _rate(self, epochs: float) -> float:
        """Factor of the learning rates after so many epochs, which may be a part of one."""
        return 1.0

    def _look_before(self, kept: KeptMaps, trained: torch.Tensor) -> None:
        """What there is to say of the images `trained` [n] before the first epoch."""

    def _learn_beside(self, modules: Modules, kept: KeptMaps, trained: torch.Tensor) -> None:
        """What else the model learns of the images `trained` [n] of those that are kept, after the last epoch.

        `curve_` is of this training by then.
        """

    # --- training ----------------------------------------------------------------------------------------------------

    def fit(
        self,
        data: Any,
        *,
        on_error: str = "raise",
        checkpoint: str | os.PathLike[str] | None = None,
        test: Any = None,
        evaluate_every: int = 1,
        on_epoch: Callable[[Row], None] | None = None,
        **options: Any,
    ) -> Self:
        """Train on normal images; see `Method.fit`.

        The share `held_out` of the images, drawn by the seed, is not trained on: their scores give the threshold. Of
        fewer than eight none is, and there is no threshold. The backbone's maps of all images are kept for the time of
        the training: in memory, or in a file without a name where they would take half of the memory that is free.

        Parameters
        ----------
        data, on_error : as there.
        checkpoint : a folder for a checkpoint of every epoch and for curves.csv. Where it has one of the same settings,
            weights and images, the training goes on from there, and ends with the model that it would have had. One of
            something else is replaced if its training had ended, and else an error.
        test : images with truth, as `evaluate` takes them: the curve has metrics of them at every epoch that
            `evaluate_every` divides, and at the last one. They decide nothing.
        on_epoch : called with the row of each epoch after its checkpoint.

        Raises
        ------
        ValueError : also, the loss or a weight is not finite; says where and what to try. No checkpoint has it.
        DataError : also, `checkpoint` has a training of something else which has not ended, or a damaged one.
        """
        if isinstance(evaluate_every, bool) or not isinstance(evaluate_every, int) or evaluate_every < 1:
            raise ValueError(f"{self.title}.fit: evaluate_every must be a positive integer, got {evaluate_every!r}")
        return super().fit(data, on_error=on_error, checkpoint=checkpoint, test=test, evaluate_every=evaluate_every,
                           on_epoch=on_epoch, **options)  # fmt: skip

    def _fit(
        self,
        batches: Read,
        count: int | None,
        *,
        checkpoint: str | os.PathLike[str] | None = None,
        test: Any = None,
        evaluate_every: int = 1,
        on_epoch: Callable[[Row], None] | None = None,
        **options: Any,
    ) -> HeldOut:
        if options:
            raise TypeError(f"{self.title}.fit: unknown option {next(iter(options))}")
        weights = self.source.fingerprint()
        saved = None if checkpoint is None else Checkpoints(checkpoint)
        if saved is not None:
            saved.refuse_settings(self.described, weights)
        kept = KeptMaps(count)

        def read() -> Iterator[Batch]:
            for batch in batches("features"):
                kept.add(self.maps(batch.images))
                yield batch

        clock = time.perf_counter()
        made = identity(self.described, weights, read())
        self.timings_["features"] = time.perf_counter() - clock
        if not kept.count:
            return HeldOut([], [])
        about = About(self.described.to_dict(), weights, made, self.settings.epochs, kept.count)
        held, trained = self._parts(kept.count)
        state = self._new_state()
        if saved is not None and saved.usable(about):
            saved.restore(state)
        else:
            self._look_before(kept, trained)
        run = _Run(self, state, kept, trained)
        with bar(about.epochs * run.steps, "training", self.progress) as shown:
            shown.at(state.epoch * run.steps, about.epochs * run.steps)
            while state.epoch < about.epochs:
                row = run.epoch(shown.update)
                if test is not None and (state.epoch % evaluate_every == 0 or state.epoch == about.epochs):
                    row |= self._measured(state.modules, test, about)
                state.curve.append(row)
                if saved is not None:
                    saved.write(state, about)
                    write_curves(saved.folder / CSV, state.curve)
                if on_epoch is not None:
                    on_epoch(row)
        for module in state.modules.values():
            module.eval().requires_grad_(False)
        self.curve_ = state.curve
        self._learn_beside(state.modules, kept, trained)
        self._trained = state.modules
        return self._held_scores(kept, held)

    def _parts(self, count: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Numbers of the images that are held out and of the others, ascending."""
        share: float = self.settings.held_out
        wanted = 0 if not share or count < 4 * LEAST_HELD else max(LEAST_HELD, round(share * count))
        order = torch.randperm(count, generator=torch.Generator().manual_seed(self.config.selection.seed))
        wanted = min(wanted, ASKED)
        return order[:wanted].sort().values, order[wanted:].sort().values

    def _new_state(self) -> State:
        seed = self.config.selection.seed
        with own_random_state(seed):
            modules = {name: module.to(self.device) for name, module in self._modules().items()}
        optimizers = self._optimizers(modules)
        for optimizer in optimizers.values():
            for group in optimizer.param_groups:
                group.setdefault("initial_lr", group["lr"])  # torch's own name for it, in its schedulers
        return State(0, modules, optimizers, torch.Generator().manual_seed(seed))

    def _held_scores(self, kept: KeptMaps, held: torch.Tensor) -> HeldOut:
        scorer, size = self._scorer(), self.described.input_size
        found = HeldOut([], [])
        for maps in kept.batches(held, self.config.running.batch_size, self.device) if len(held) else ():
            found.extend(self._held_out(scorer(maps, size)))
        return found

    def _measured(self, modules: Modules, test: Any, about: About) -> dict[str, float]:
        """Metrics of networks on test images."""
        batches = batches_of(test, self.config, "test", on_error="return")
        module = MethodModule(self.source, self._scorer_of(modules), self.config, self.of_map).eval()

        learned = Learned(None, None, about.config, [], about.weights, about.count)

        def predict(batch: Batch) -> Iterator[Prediction]:
            self._check_size(batch.images)
            with torch.inference_mode():
                scores, maps = module(batch.images.to(self.device))
            yield from predictions_of(batch, scores, maps, learned, self.config)

        shown = batches.shown("evaluate", self.progress)
        return finite(evaluate_batches(shown, predict, batches.name, learned, self.described).metrics)

    # --- the model ---------------------------------------------------------------------------------------------------

    def _scorer(self) -> torch.nn.Module:
        assert self._trained is not None
        return self._scorer_of(self._trained)

    def _tensors(self) -> dict[str, torch.Tensor]:
        assert self._trained is not None
        return {f"{name}.{key}": t for name, module in self._trained.items() for key, t in module.state_dict().items()}

    def _shapes(self, stored: dict[str, torch.Tensor]) -> Shapes:
        assert self.map_shapes  # the backbone is built before
        with torch.device("meta"), own_random_state(0):
            modules = self._modules()
        return {f"{name}.{key}": (t.dtype, tuple(t.shape)) for name, module in modules.items()
                for key, t in module.state_dict().items()}  # fmt: skip

    def _restore(self, tensors: dict[str, torch.Tensor]) -> None:
        modules = self._new_state().modules
        for name, module in modules.items():
            found = {key.removeprefix(f"{name}."): t for key, t in tensors.items() if key.startswith(f"{name}.")}
            if bad := [key for key, t in found.items() if key.endswith("running_var") and bool((t < 0).any())]:
                raise ValueError(f"{name}.{bad[0]} must not be negative")
            module.load_state_dict(found)
            module.eval().requires_grad_(False)
        self._trained = modules


class _Run:
    """The steps of a training.

    steps : in an epoch.
    """

    def __init__(self, method: TrainedMethod, state: State, kept: KeptMaps, trained: torch.Tensor) -> None:
        self._method, self._state, self._kept, self._trained = method, state, kept, trained
        self._batch: int = method.settings.batch_size
        self.steps = method.passes * -(-len(trained) // self._batch)
        self._groups = [(name, group, group["initial_lr"]) for name, optimizer in state.optimizers.items()
                        for group in optimizer.param_groups]  # fmt: skip

    def epoch(self, tick: Callable[[], None]) -> dict[str, float]:
        """Train for one; its row of the curve, means over the steps."""
        clock, state, sums = time.perf_counter(), self._state, dict[str, float]()
        for module in state.modules.values():
            module.train()
        for step, numbers in enumerate(self._order()):
            for _, group, rate in self._groups:
                group["lr"] = rate * self._method._rate(state.epoch + step / self.steps)
            for name, value in self._step(numbers, step).items():
                sums[name] = sums.get(name, 0.0) + value
            tick()
        state.epoch += 1
        self._check_weights()
        means = {name: total / self.steps for name, total in sums.items() if math.isfinite(total)}
        return {"epoch": state.epoch, **means, **self._rates(), "seconds": time.perf_counter() - clock}

    def _order(self) -> Iterator[torch.Tensor]:
        for _ in range(self._method.passes):
            drawn = torch.randperm(len(self._trained), generator=self._state.draws)
            yield from self._trained[drawn].split(self._batch)

    def _step(self, numbers: torch.Tensor, step: int) -> dict[str, float]:
        state = self._state
        maps = self._kept.take(numbers, self._method.device)
        with torch.enable_grad():
            loss, more = self._method._loss(state.modules, maps, state.draws)
            found = {"loss": float(loss.detach())} | {name: float(value) for name, value in more.items()}
            if not math.isfinite(found["loss"]):
                finite_maps = all(bool(torch.isfinite(m).all()) for m in maps)
                raise self._not_finite(f"the loss is {found['loss']} at step {step + 1} of {self.steps}", finite_maps)
            for optimizer in state.optimizers.values():
                optimizer.zero_grad(set_to_none=True)
            loss.backward()
        for optimizer in state.optimizers.values():
            optimizer.step()
        return found

    def _rates(self) -> dict[str, float]:
        rates = {name: group["lr"] for name, group, _ in reversed(self._groups)}
        if len(rates) == 1:
            return {"learning_rate": next(iter(rates.values()))}
        return {f"learning_rate_{name}": rate for name, rate in reversed(rates.items())}

    def _check_weights(self) -> None:
        """No checkpoint has numbers from which nothing can go on."""
        for name, module in self._state.modules.items():
            for key, t in module.state_dict().items():
                if t.is_floating_point() and not bool(torch.isfinite(t).all()):
                    raise self._not_finite(f"{name}.{key} has numbers that are not finite after it", True)

    def _not_finite(self, what: str, finite_maps: bool) -> ValueError:
        rates = ", ".join(f"{name} {rate:g}" for name, rate in self._rates().items())
        epoch = self._state.epoch + (what.startswith("the loss"))
        advice = ("take a tenth of the learning rate" if finite_maps else
                  "the backbone's features are not finite: look at its weights")  # fmt: skip
        return ValueError(f"{self._method.title}.fit: epoch {epoch} of {self._method.settings.epochs}: {what} "
                          f"({rates}): {advice}")  # fmt: skip
