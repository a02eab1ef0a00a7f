"""The options of each sampler that has a name: what they may be, for settings, the command line and help; no torch.

A sampler's constructor checks its arguments too. The table is here so that a wrong one is told before anything slow is
imported; a test holds it against the constructors.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import isfinite
from numbers import Integral, Real
from typing import Any

from patchcore_fast.config.base import nearest

IMAGE_SHARE = 0.8  # of two-level with images=elfs
_MANY = 10**6  # bounds beyond it are against nonsense, and no message need name them
VIEW_KINDS = ("mixed", "rotations", "flips", "both")  # model.views' (a test compares)
# Arguments of constructors that are settings of their own, and how they are given.
ELSEWHERE = {
    "percentage": "--ratio, --count or --budget (selection.ratio)",
    "ratio": "--ratio (selection.ratio)",
    "count": "--count (selection.count)",
    "seed": "--seed (selection.seed)",
    "device": "--device (running.device)",
    "prune_support": "--prune-support (selection.prune_support)",
}


@dataclass(frozen=True)
class Option:
    """One argument of a sampler.

    Attributes
    ----------
    help : what it does.  default : of the constructor; None where the sampler decides.
    words : texts that it may be.
    kind : "integer" or "number" where it may be one, within low..high; `above`, `below`: more than low, less than high.
        "" for words alone.
    joined : words of which several may be given, with + between them.
    """

    help: str
    default: Any = None
    words: tuple[str, ...] = ()
    kind: str = ""
    low: float = -float("inf")
    high: float = float("inf")
    above: bool = False
    below: bool = False
    joined: tuple[str, ...] = ()

    @property
    def wanted(self) -> str:
        """What it may be, for messages and help."""
        said = list(self.words)
        said += [f"several of {', '.join(self.joined)} with + between them"] if self.joined else []
        if self.kind:
            what = {"integer": "an integer", "number": "a number"}[self.kind]
            low, high = self.low >= -_MANY, self.high <= _MANY
            if low and high:
                what += f" in {'(' if self.above else '['}{self.low:g}, {self.high:g}{')' if self.below else ']'}"
            elif low:
                what += f" {'>' if self.above else '>='} {self.low:g}"
            elif high:
                what += f" {'<' if self.below else '<='} {self.high:g}"
            said.append(what)
        return " or ".join([", ".join(said[:-1]), said[-1]] if len(said) > 1 else said)

    def parsed(self, text: str) -> Any:
        """The value of a text as it is typed; a text that is none stays a text, for `checked` to refuse."""
        if text in self.words or not self.kind:
            return text
        try:
            return int(text) if self.kind == "integer" else float(text)
        except ValueError:
            return text

    def checked(self, value: Any) -> Any:
        """The value, numbers as int or float. ValueError: what is wanted, and what came."""
        if isinstance(value, str):
            several = value.split("+")
            if value in self.words or (len(set(several)) == len(several) and set(several) <= set(self.joined)):
                return value
        number = Integral if self.kind == "integer" else Real
        if self.kind and isinstance(value, number) and not isinstance(value, bool):
            try:
                found: float = int(value) if isinstance(value, Integral) and self.kind == "integer" else float(value)
            except OverflowError:  # an integer beyond all floats
                found = float("inf")
            low = found > self.low if self.above else found >= self.low
            high = found < self.high if self.below else found <= self.high
            if isfinite(found) and low and high:
                return found
        near = nearest(value, self.words) if isinstance(value, str) else ""
        raise ValueError(f"must be {self.wanted}, got {value!r}{near}")


def _weight(of: str, default: str, most: float) -> Option:
    return Option(f"weight of {of}; below 0 its opposite ({default})", kind="number", low=-most, high=most)


def _count(text: str, default: int | None, least: int = 1) -> Option:
    return Option(text, default, kind="integer", low=least, high=2**31 - 1)


def _share(text: str) -> Option:
    return Option(text, kind="number", low=0, high=0.5, below=True)


_VIEW_KINDS = Option(
    "of instability=views, how images are changed: mixed (mirrored, darker, less contrast), quarter turns, flips, or "
    "turns and flips", "mixed", VIEW_KINDS,
)  # fmt: skip
_K_DENSITY = _count("nearest anchors that rarity averages over", 4)
_ANCHORS = _count("random rows that rarity is measured to", 1024)
_CLUSTERS = _count("k-means clusters, of representativeness and pseudo-labels", 64)
_ELFS = {
    "mode": Option("signals of geometry, or of a network trained on pseudo-labels", "feature", ("feature", "pseudo")),
    "prune_hard": _share("share of the rows pruned at the hard end"),
    "prune_easy": _share("share of the rows pruned at the easy end"),
    "w_repr": _weight("representativeness", "0", 10),
    "w_density": _weight("density", "0", 10),
    "w_unc": _weight("uncertainty (difficulty or instability)", "0", 10),
    "k_density": _K_DENSITY,
    "anchors": _ANCHORS,
    "n_clusters": _CLUSTERS,
    "epochs": _count("of the training on pseudo-labels", 4),
    "topk_pool_multiplier": Option("only so many times the picks may be picked, the best by weight", kind="number",
                                   low=1, high=1e9, below=True),
    "settle": Option("share of the picks, the latest, that move to the middle of their cells (0.15 of small banks)",
                     kind="number", low=0, high=1),
    "approximate_starting_points": _count("start from the mean distance to so many random rows", None),
    "instability": Option("what w_unc weighs", None, ("views", "noise")),
    "noise_std": Option("of instability=noise (0.05)", kind="number", low=0, high=1e9, above=True),
    "noise_T": _count("draws of instability=noise (5)", None),
    "view_kinds": _VIEW_KINDS,
}  # fmt: skip
_MEASURES = ("aum", "forgetting", "el2n")
_COMPOSITE = {
    "w_repr": _weight("representativeness", "1", _MANY),
    "w_density": _weight("density", "1", _MANY),
    "w_unc": _weight("instability or difficulty", "1", _MANY),
    "repr": Option("distance to the mean of all rows, or to the nearest of n_clusters centres (mean)", None,
                   ("mean", "clusters")),
    "n_clusters": _CLUSTERS,
    "density": Option("mean distance to near anchors, or one over it (rarity)", None, ("rarity", "dense")),
    "k_density": _K_DENSITY,
    "density_subsample": _count("random rows that density is measured to (1024)", None, 2),
    "approximate_starting_points": _count("earlier name of density_subsample", None, 2),
    "instability": Option("the third signal: noise, views, a proxy's steps, or difficulty (none)", None,
                          ("noise", "views", "proxy", "difficulty")),
    "noise_std": Option("of instability=noise (0.05)", kind="number", low=0, high=1e30),
    "noise_T": _count("noisy copies of a row, 0: no such signal (5)", None, 0),
    "batch_size_instability": _count("rows at a time (1024)", None),
    "proxy_steps": _count("gradient steps of instability=proxy (8)", None),
    "difficulty": Option("of instability=difficulty: its measure, or the mean of all or of some (aum)", None,
                         (*_MEASURES, "mean"), joined=_MEASURES),
    "epochs": _count("of the training of instability=difficulty", 4),
    "pool": Option(
        "the best by the composite, the first picks of plain greedy, or of these the best alone (composite)", None,
        ("composite", "diversity", "refined"),
    ),
    "topk_pool_multiplier": Option("rows of the pool, in times of the picks (5)", kind="number", low=1, high=1e9),
    "min_pool": _count("rows of the pool at least (0)", None, 0),
    "alpha": Option("weight of the distance to earlier picks inside greedy, 0: plain k-center (0)", kind="number",
                    low=0, high=1e30),
    "beta": Option("weight of the composite beside alpha (1)", kind="number", low=-1e30, high=1e30),
    "clean": Option("share of the picks that the criteria take out again, others in their place (0)", kind="number",
                    low=0, high=1),
    "dim_reduce": _count("width of the random projection (128)", None),
    "view_kinds": _VIEW_KINDS,
}  # fmt: skip
_TWO_LEVEL = {
    "images": Option("which images: those that the others support, or by ELFS proper", "support", ("support", "elfs")),
    "prune": Option("of images=support: by the rule, or the share of images to leave out", "auto", ("auto",), "number",
                    0, 1, above=True, below=True),
    "image_share": Option("of images=elfs: share of the images that is kept", IMAGE_SHARE, (), "number", 0, 1,
                          above=True, below=True),
    "difficulty": Option("of images=elfs: its measure, or the mean of all", "aum", (*_MEASURES, "mean")),
    "clustering": Option("of images=elfs: what makes pseudo-labels", "kmeans", ("kmeans", "heads")),
    "n_clusters": _count("of images=elfs: an eighth of the images, 2 to 10, where it is not given", None, 2),
    "epochs": _count("of images=elfs: of the proxy", 20),
    "prune_hard": Option("of images=elfs: share of the images that goes at the hard end", 0.1, (), "number", 0, 1,
                         below=True),
    "patches": Option("what chooses among the patches of these images", "greedy", ("greedy", "elfs")),
}  # fmt: skip
OPTIONS: Mapping[str, Mapping[str, Option]] = {
    "greedy": {},
    "elfs": _ELFS,
    "composite": _COMPOSITE,
    "two-level": _TWO_LEVEL,
    "lowest-density": {
        "k_density": _count("nearest anchors that density averages over", 10),
        "anchors": _count("random rows that density is measured to", 1000, 2),
    },
    "approximate": {"number_of_starting_points": _count("random rows that the traversal starts from", 10)},
    "random": {},
    "identity": {},
}


def checked_options(sampler: str, given: Any) -> tuple[tuple[str, Any], ...]:
    """Options of a sampler of OPTIONS as sorted pairs; those that are None are left out.

    Parameters
    ----------
    given : names with values, a mapping or pairs.

    Raises
    ------
    TypeError : no names with values.  ValueError : an option that the sampler has not, or a value that it cannot be.
    """
    try:
        found = dict(given.items() if isinstance(given, Mapping) else given)
    except (TypeError, ValueError):
        raise TypeError(f"must be names with values, got {given!r}") from None
    for name, value in found.items():
        option = option_of(sampler, name)
        if value is not None:
            try:
                found[name] = option.checked(value)
            except ValueError as error:
                raise ValueError(f"{name} of sampler {sampler} {error}") from None
    found = {name: value for name, value in found.items() if value is not None}
    _together(sampler, found)
    return tuple(sorted(found.items()))


def parsed_options(sampler: str, typed: Iterable[str]) -> dict[str, Any]:
    """`KEY=VALUE` texts as values by name, the last of a name; None for `KEY=none`, which takes an option away.

    ValueError: no such text, option or value. What options say of each other is left to `checked_options`.
    """
    found: dict[str, Any] = {}
    for text in typed:
        name, equals, value = (part.strip() for part in text.partition("="))
        if not equals:
            raise ValueError(f"{text!r} must be KEY=VALUE")
        option = option_of(sampler, name)
        try:
            found[name] = None if value == "none" else option.checked(option.parsed(value))
        except ValueError as error:
            raise ValueError(f"{name} of sampler {sampler} {error}") from None
    return found


def option_of(sampler: str, name: Any) -> Option:
    """ValueError: the sampler has no such option; the message names those that it has."""
    known = OPTIONS[sampler]
    if name in known:
        return known[name]
    if name in ELSEWHERE:
        raise ValueError(f"{name} is a setting and no option of a sampler: give {ELSEWHERE[name]}")
    has = f"it has {', '.join(known)}" if known else "it has none"
    raise ValueError(f"sampler {sampler} has no option {name!r}{nearest(name, known)}: {has}")


def sampler_text(name: Any, options: Any) -> str:
    """A sampler for people: its name, and in brackets the options that were given, a mapping or pairs."""
    pairs = list(options.items() if isinstance(options, Mapping) else options or ())
    said = ", ".join(f"{key} {value:g}" if type(value) is float else f"{key} {value}" for key, value in pairs)
    return f"{name} ({said})" if said else str(name)


def _together(sampler: str, given: Mapping[str, Any]) -> None:
    """ValueError: options that say nothing without others."""
    weights = [given.get(name, 0.0) for name in ("w_repr", "w_density", "w_unc")]
    if sampler == "elfs":
        if given.get("w_unc", 0.0) and given.get("mode") != "pseudo" and "instability" not in given:
            raise ValueError("w_unc of sampler elfs needs mode=pseudo or instability")
        if "topk_pool_multiplier" in given and not any(weights):
            raise ValueError("topk_pool_multiplier of sampler elfs needs a weight: w_repr, w_density or w_unc")
        for name in ("noise_std", "noise_T"):
            if name in given and given.get("instability") != "noise":
                raise ValueError(f"{name} of sampler elfs goes with instability=noise")
    if sampler == "composite":
        _together_composite(given)
    if "view_kinds" in given and given.get("instability") != "views":
        raise ValueError(f"view_kinds of sampler {sampler} goes with instability=views")
    if sampler == "two-level":
        if "prune" in given and given.get("images", "support") != "support":
            raise ValueError("prune of sampler two-level goes with images=support")
        for name in ("image_share", "difficulty", "clustering", "n_clusters", "epochs", "prune_hard"):
            if name in given and given.get("images") != "elfs":
                raise ValueError(f"{name} of sampler two-level goes with images=elfs")
        kept, hard = (float(given.get(name, _TWO_LEVEL[name].default)) for name in ("image_share", "prune_hard"))
        if kept + hard > 1 + 1e-9:
            raise ValueError(
                f"image_share and prune_hard of sampler two-level are more than 1 together: {kept} and {hard}"
            )


def _together_composite(given: Mapping[str, Any]) -> None:
    noise = {"noise_std", "noise_T"} & given.keys()
    instability = given.get("instability", "noise" if noise else None)
    needs = dict.fromkeys(noise, "noise") | {"proxy_steps": "proxy", "difficulty": "difficulty"}
    for name, of in needs.items():
        if name in given and instability != of and given.get(name) != 0:  # noise_T=0 asks for no noise
            raise ValueError(f"{name} of sampler composite goes with instability={of}, got {instability}")
