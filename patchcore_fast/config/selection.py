"""Settings of the selection: which images and copies of them the bank is chosen from, and how."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import isfinite
from typing import Any, ClassVar

from patchcore_fast.config.base import Settings, setting
from patchcore_fast.config.budget import parse_budget
from patchcore_fast.config.sampler_options import OPTIONS, checked_options, sampler_text

SAMPLERS = tuple(OPTIONS)  # samplers.NAMED's (a test compares)
SIZES = ("ratio", "budget", "count")  # settings that say how large the bank is: one of them is given
RATIO = 0.01  # where none of these is given
# Of what is recorded of a sampler that was given as an object: characters of a text, parameters, numbers in a list.
TEXT, PARAMETERS, LIST = 200, 100, 20


@dataclass(frozen=True)
class SelectionSettings(Settings):
    """How the rows of the bank are chosen.

    Parameters
    ----------
    sampler, ratio : the coreset; see `samplers.make_sampler`. A ratio that is not given is 0.01, or none with a budget
        or a count.
    sampler_options : further arguments of the sampler (`config.sampler_options`), (name, value) pairs by name; a
        mapping is taken too.
    budget : in place of a ratio how large the bank may be: a number of rows ("2000"), bytes ("20MB", "512KiB"), or the
        time of the search for one image ("5ms"); of all layers' banks together (docs/budget.md). At most all rows.
    count : in place of a ratio so many rows of the bank, of each layer's with banks="layer"; all where there are fewer.
    sampler_parameters : None, or what is recorded where `PatchCore` was given a sampler as an object: its public
        constructor parameters, (name, value) pairs. `sampler` is then its registered name or its class, and `ratio` is
        None, for it was not asked. Such settings describe a bank; to fit with them the object must be given again.
    prune_support : of sampler "elfs": "ask" names the training images that the others support least, "rule" prunes
        their patches where it takes the set to be contaminated; "none" does neither. See `samplers.ELFSCoresetSampler`.
    banks : "joint" chooses one bank of the layers' joined features; "layer" a bank for each layer, of its own features,
        and joins their scores (docs/layers.md).
    seed : of all random choices, those of other groups (random weights, projections, noise, k-means) too.
    shots : training images that `fit` draws by `seed`, all when None.
    augment, augmentations : copies that `fit` makes of each training image to enrich the bank, and how many: "none",
        "rotate", or "custom" where `fit` was given a transform; see `model.fewshot`.
    excluded : training images that a list left out (`fit --exclude`, docs/audit.md): a record, which leaves out none.
    """

    group: ClassVar[str] = "selection"
    sampler: str = setting("greedy", "how the bank is chosen; greedy is exact k-center", choices=SAMPLERS)
    ratio: float | None = setting(
        None, "part of the patches that the memory bank keeps (default 0.01)", parse=float, metavar="R"
    )
    budget: str | None = setting(
        None, "instead of --ratio: rows (2000), bytes (20MB) or search time per image (5ms) of the bank",
        parse=str, metavar="B",
    )  # fmt: skip
    count: int | None = setting(
        None, "instead of --ratio: so many rows of the bank, or of each layer's", least=1, most=2**40, metavar="N"
    )
    sampler_options: tuple[tuple[str, Any], ...] = setting(())
    sampler_parameters: tuple[tuple[str, Any], ...] | None = setting(None)
    prune_support: str = setting(
        "none", 'of --sampler elfs: "ask" names images that no other supports, "rule" prunes their patches',
        choices=("none", "ask", "rule"),
    )  # fmt: skip
    banks: str = setting("joint", "one bank of all layers, or one for each layer", choices=("joint", "layer"))
    seed: int = setting(0, "of the projection and of random choices", least=0, most=2**63 - 1, metavar="N")
    shots: int | None = setting(
        None, "use so many of the training images, drawn by --seed", least=1, most=2**31, metavar="N"
    )
    augment: str = setting(
        "none", '"rotate" enriches the bank with turned copies of the training images',
        choices=("none", "rotate", "custom"), untyped=("custom",),
    )  # fmt: skip
    augmentations: int = setting(
        3, "copies of each image; 3 turns by 90, 180 and 270 degrees", least=1, most=10_000, metavar="N"
    )
    excluded: int = setting(0, least=0, most=2**31)

    def _settle(self) -> None:
        if isinstance(self.budget, int) and not isinstance(self.budget, bool):
            self._set("budget", str(self.budget))
        if all(getattr(self, name) is None for name in (*SIZES, "sampler_parameters")):
            self._set("_followed", ("ratio",))
            self._set("ratio", RATIO)

    def _choice(self, name: str, value: Any, allowed: Any) -> None:
        if name != "sampler" or self.sampler_parameters is None:
            super()._choice(name, value, allowed)

    def _check(self) -> None:
        if self.sampler_parameters is not None:
            for size in ("budget", "count"):
                if getattr(self, size) is not None:
                    self._wrong(size, f"is of a sampler by its name; one that is given as an object, "
                                f"here {self.sampler}, has a size of its own")  # fmt: skip
            if self.sampler_options:
                self._wrong("sampler_options", f"are of a sampler by its name, {self.sampler} was given as an object")
            self._set("sampler_options", ())
            self._text("sampler", TEXT)
            self._set("sampler_parameters", self._parameters(self.sampler_parameters))
            self._set("ratio", None)
            self._set("prune_support", "none")
        elif self.budget is not None or self.count is not None:
            self._check_size("budget" if self.count is None else "count")
        elif not 0 < self._real("ratio") < 1:
            self._wrong("ratio", f"must be in (0, 1), got {self.ratio}; sampler 'identity' keeps all")
        if self.sampler_parameters is None:
            try:
                self._set("sampler_options", checked_options(self.sampler, self.sampler_options or ()))
            except (TypeError, ValueError) as error:
                self._wrong("sampler_options", str(error), type(error))
        if self.prune_support != "none" and self.sampler_parameters is None and self.sampler != "elfs":
            self._wrong("prune_support", f"{self.prune_support!r} is of sampler 'elfs', got sampler {self.sampler!r}")

    def _check_size(self, name: str) -> None:
        value = getattr(self, name)
        for other in SIZES:
            if other != name and getattr(self, other) is not None:
                self._wrong(name, f"goes in place of {other}: give one of them, got {name}={value!r} and "
                            f"{other}={getattr(self, other)}")  # fmt: skip
        if self.sampler == "identity":
            self._wrong(name, f"{value!r} would leave rows out, which sampler 'identity' keeps")
        if name == "count":
            return
        self._text("budget", TEXT)
        try:
            parse_budget(str(self.budget))
        except ValueError as error:
            self._wrong("budget", str(error))

    @property
    def sampler_text(self) -> str:
        """The sampler with its options, for people."""
        return sampler_text(self.sampler, self.sampler_options)

    def _parameters(self, given: Any) -> tuple[tuple[str, Any], ...]:
        pairs = given.items() if isinstance(given, Mapping) else given
        try:
            found = {name: tuple(v) if isinstance(v, list) else v for name, v in pairs}
        except (TypeError, ValueError):
            self._wrong("sampler_parameters", f"must be names with values, got {given!r}", TypeError)
        if len(found) > PARAMETERS:
            self._wrong("sampler_parameters", f"must be at most {PARAMETERS}, got {len(found)}")
        for name, value in found.items():
            parts = value if isinstance(value, tuple) and len(value) <= LIST else (value,)
            if not isinstance(name, str) or len(name) > TEXT or not all(map(is_plain, parts)):
                self._wrong("sampler_parameters", f"must be texts, numbers and lists of them, got {name!r}: {value!r}")
        return tuple(found.items())


def is_plain(value: object) -> bool:
    """What JSON holds and is not nested: None, a truth, a number of 64 bits, a text of at most TEXT characters."""
    if isinstance(value, str):
        return len(value) <= TEXT
    if isinstance(value, float):
        return isfinite(value)
    return value is None or (isinstance(value, int) and abs(value) < 1 << 63)
