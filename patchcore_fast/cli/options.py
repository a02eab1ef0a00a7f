"""The settings of a model as options: one argument group for each group of `patchcore_fast.config`."""

from __future__ import annotations

import argparse
from collections.abc import Collection
from typing import TYPE_CHECKING, Any

from patchcore_fast.config import GROUP_OF, GROUPS, RESCORED
from patchcore_fast.config.base import settings_of
from patchcore_fast.errors import DataError

if TYPE_CHECKING:
    from patchcore_fast.config import PatchCoreConfig

SCORED = tuple(name for name in RESCORED if GROUP_OF[name] == "scoring")  # of a bank that is there already
LOADED = (*SCORED, "weights", "max_false_alarms")  # what goes with a bank, beside all of "running"


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
        if f.name == "image_score":  # its name in earlier versions
            part.add_argument("--score", dest=f.name, help=argparse.SUPPRESS, **given)
    return part


def add_config(parser: argparse.ArgumentParser) -> None:
    """The option that reads settings from a file."""
    parser.add_argument("--config", metavar="FILE.toml", help="settings from a file; options that are typed go before")


def add_threshold(parser: argparse.ArgumentParser, note: str | None = None) -> None:
    """The group "decision", with the threshold itself in place of a rule for it."""
    add_group(parser, "decision", note=note).add_argument(
        "--threshold", type=float, default=argparse.SUPPRESS, metavar="X",
        help="image score above which an image is anomalous, instead of the fit's",
    )  # fmt: skip


def add_download(parser: argparse.ArgumentParser) -> None:
    """Whether timm may fetch a backbone."""
    text = "let timm fetch the backbone that the bank names, where its weights are not here"
    parser.add_argument("--allow-download", action="store_true", help=text)


def given_settings(args: argparse.Namespace) -> dict[str, Any]:
    """The settings that the user typed, by name."""
    return {name: getattr(args, name) for name in GROUP_OF if hasattr(args, name)}


def chosen_config(args: argparse.Namespace) -> PatchCoreConfig:
    """The settings of --config, or the defaults, with what was typed instead.

    Raises
    ------
    DataError : a wrong file.  ValueError : a setting that is wrong.
    """
    from patchcore_fast.config import PatchCoreConfig

    file = getattr(args, "config", None)
    config = PatchCoreConfig() if file is None else PatchCoreConfig.from_toml(file)
    return config.replace(**given_settings(args))


def check_loaded(args: argparse.Namespace, part: str) -> None:
    """Refuse options that decided how a bank was made, beside a bank. DataError names them."""
    typed = [flag(n) for n in given_settings(args) if n not in LOADED and GROUP_OF[n] != "running"]
    typed += ["--config"] if args.config is not None else []
    if typed:
        raise DataError(f"{', '.join(typed)}: belongs to {part}")
