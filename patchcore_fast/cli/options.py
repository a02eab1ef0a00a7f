"""The settings of a model as options: one argument group for each group of `patchcore_fast.config`."""

from __future__ import annotations

import argparse
from collections.abc import Collection
from typing import TYPE_CHECKING, Any

from patchcore_fast.cli.decision import REGIONS, TARGETS
from patchcore_fast.config import GROUP_OF, GROUPS, PRESETS, RESCORED
from patchcore_fast.config.base import settings_of
from patchcore_fast.config.sampler_options import OPTIONS, checked_options, parsed_options
from patchcore_fast.config.selection import SIZES
from patchcore_fast.config.toml import read_toml
from patchcore_fast.errors import DataError

if TYPE_CHECKING:
    from patchcore_fast.config import PatchCoreConfig

SCORED = tuple(name for name in RESCORED if GROUP_OF[name] == "scoring")  # of a bank that is there already
LOADED = (*SCORED, "weights", *TARGETS, *REGIONS)  # what goes with a bank, beside all of "running"

STORED = ("seed", "shots", "augment", "augmentations")  # of "selection": what the rows of a store are (a test compares)


def flag(name: str) -> str:
    """The option of a setting."""
    return f"--{name.replace('_', '-')}"


def add_group(
    parser: argparse.ArgumentParser, group: str, only: Collection[str] = (), note: str | None = None
) -> argparse._ArgumentGroup:
    """The options of a group, of all its settings or of some; a setting without a help text has none."""
    part = parser.add_argument_group(group, note)
    for f in settings_of(GROUPS[group]):
        facts = f.metadata
        if not facts["help"] or (only and f.name not in only):
            continue
        shown = ",".join(map(str, f.default)) if isinstance(f.default, tuple) else f.default
        text = facts["help"] if f.default is None else f"{facts['help']} (default {shown})"
        # SUPPRESS: only what the user typed reaches the config, which owns defaults and validation.
        given: dict[str, Any] = {"type": facts["parse"], "choices": facts["offered"] or None,
                                 "default": argparse.SUPPRESS}  # fmt: skip
        part.add_argument(flag(f.name), metavar=facts["metavar"], help=text, **given)
        if f.name == "sampler":
            add_sampler_options(part)
        if f.name == "image_score":  # its name in earlier versions
            part.add_argument("--score", dest=f.name, help=argparse.SUPPRESS, **given)
    return part


def add_sampler_options(parser: argparse._ActionsContainer) -> None:
    """--sampler-option, as often as wanted; `sampler_options` has what was typed."""
    parser.add_argument(
        "--sampler-option", action="append", default=argparse.SUPPRESS, metavar="KEY=VALUE",
        help="an option of the sampler (docs/elfs.md), KEY=none for its default; as often as wanted",
    )  # fmt: skip


def sampler_options(args: argparse.Namespace, sampler: str) -> dict[str, Any]:
    """The options of a sampler that were typed, checked, by name: `make_sampler(sampler, ..., options=...)`.

    Those of `KEY=none` are left out.

    Raises
    ------
    DataError : no KEY=VALUE, an option that the sampler has not, or a value that it cannot be.
    """
    typed = _typed_options(args, sampler)
    try:
        return dict(checked_options(sampler, typed))
    except ValueError as error:
        raise DataError(f"--sampler-option: {error}") from error


def _typed_options(args: argparse.Namespace, sampler: str) -> dict[str, Any]:
    """None for those that KEY=none takes away. DataError: as `sampler_options`."""
    try:
        return parsed_options(sampler, getattr(args, "sampler_option", ()))
    except ValueError as error:
        raise DataError(f"--sampler-option: {error}") from error


class Printing(argparse.Action):
    """Nothing else is wanted then: neither data nor an output."""

    def __call__(self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, *_: Any) -> None:
        setattr(namespace, self.dest, True)
        for action in parser._actions:
            action.required = False


def add_config(parser: argparse.ArgumentParser) -> None:
    """The options that give many settings at once, and the one that shows what comes of all."""
    parser.add_argument("--preset", choices=tuple(PRESETS), help="settings of a published method (docs/presets.md)")
    parser.add_argument(
        "--config", metavar="FILE.toml", help="settings from a file, before the preset's; options go before both"
    )
    parser.add_argument(
        "--print-config", action=Printing, nargs=0, default=False, help="print all settings as such a file and exit"
    )


def add_threshold(parser: argparse.ArgumentParser, note: str | None = None, only: Collection[str] = ()) -> None:
    """The group "decision", with the thresholds themselves in place of rules for them."""
    part = add_group(parser, "decision", only, note)
    part.add_argument(
        "--image-threshold", "--threshold", dest="threshold", type=float, default=argparse.SUPPRESS, metavar="X",
        help="image score above which an image is anomalous, instead of the fit's",
    )  # fmt: skip
    part.add_argument(
        "--pixel-threshold", type=float, default=argparse.SUPPRESS, metavar="X",
        help="value of the map above which a pixel is anomalous, instead of the fit's",
    )  # fmt: skip


def add_download(parser: argparse.ArgumentParser) -> None:
    """Whether timm may fetch a backbone."""
    text = "let timm fetch the backbone that the bank names, where its weights are not here"
    parser.add_argument("--allow-download", action="store_true", help=text)


def add_rank_timeout(parser: argparse.ArgumentParser) -> None:
    """How long ranks wait for each other."""
    parser.add_argument(
        "--rank-timeout", type=float, default=600.0, metavar="S",
        help="under torchrun or srun, where each process has a part of the work: seconds that one may keep the others "
             "waiting (default 600)",
    )  # fmt: skip


def given_settings(args: argparse.Namespace) -> dict[str, Any]:
    """The settings that the user typed, by name."""
    return {name: getattr(args, name) for name in GROUP_OF if hasattr(args, name)}


def chosen_config(args: argparse.Namespace) -> PatchCoreConfig:
    """The settings of --preset, or the defaults; over them those of --config, over both what was typed.

    Raises
    ------
    DataError : a wrong file.  ValueError : a setting that is wrong.
    """
    from patchcore_fast.config import PatchCoreConfig

    preset, file = args.preset or "patchcore", args.config
    config = PatchCoreConfig.preset(preset) if file is None else PatchCoreConfig.from_toml(file, preset)
    given = given_settings(args)
    size = dict.fromkeys(SIZES) if given.keys() & set(SIZES) else {}  # typed: the file's goes
    return config.replace(
        **(size | given | _options_over(config, args, given.get("sampler", config.selection.sampler)))
    )


def _options_over(config: PatchCoreConfig, args: argparse.Namespace, sampler: str) -> dict[str, Any]:
    """The options of a sampler, typed ones over those of the settings where these are of the same sampler."""
    s = config.selection
    if not hasattr(args, "sampler_option"):
        return {} if sampler == s.sampler else {"sampler_options": ()}
    if sampler not in OPTIONS:
        raise DataError(f"--sampler-option: the settings say sampler {sampler}, which was given as an object")
    return {"sampler_options": dict(s.sampler_options if sampler == s.sampler else ()) | _typed_options(args, sampler)}


def print_config(args: argparse.Namespace) -> None:
    """What --print-config asks for: the file that gives these settings. Errors as of `chosen_config`."""
    if getattr(args, "bank", None) is not None:
        raise DataError("--print-config: shows settings of a fit, and --bank brings a fitted model")
    print(chosen_config(args).to_toml(), end="")


def named_settings(args: argparse.Namespace) -> set[str]:
    """The settings that were typed, stand in --config, or are those of --preset."""
    named = set(given_settings(args)) | ({"sampler_options"} if hasattr(args, "sampler_option") else set())
    if getattr(args, "preset", None) is not None:
        named |= set(PRESETS[args.preset].settings)
    if getattr(args, "config", None) is not None:
        for name, group in read_toml(args.config).items():
            named |= set(group) if name in GROUPS and isinstance(group, dict) else set()
    return named


def check_loaded(args: argparse.Namespace, part: str) -> None:
    """Refuse options that decided how a bank was made, beside a bank. DataError names them."""
    typed = [flag(n) for n in given_settings(args) if n not in LOADED and GROUP_OF[n] != "running"]
    typed += ["--sampler-option"] if hasattr(args, "sampler_option") else []
    typed += [f"--{name}" for name in ("preset", "config") if getattr(args, name) is not None]
    if typed:
        raise DataError(f"{', '.join(typed)}: belongs to {part}")
