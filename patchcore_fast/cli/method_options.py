"""The settings of the other methods as options, and what comes of them with --preset and --config."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from patchcore_fast.cli.options import Printing, add_threshold, flag
from patchcore_fast.config.base import settings_of
from patchcore_fast.config.methods import METHOD_PRESETS, METHODS
from patchcore_fast.config.record import GROUP_OF, GROUPS
from patchcore_fast.errors import DataError

if TYPE_CHECKING:
    from patchcore_fast.config.methods import MethodConfig

FIRST = ("features", "scoring", "selection", "running")  # of PatchCore's groups; of "decision" `add_threshold`


def add_method_options(parser: argparse.ArgumentParser) -> None:
    """--preset, --config, --print-config, and one option for each setting of any method.

    A setting that a method and PatchCore call alike (`--batch-size`, `--dim`) is the method's where it has it.
    """
    parser.add_argument("--preset", choices=tuple(METHOD_PRESETS), help="settings of a publication (docs/methods.md)")
    parser.add_argument("--config", metavar="FILE.toml",
                        help="settings from a file, before the preset's; options go before both")  # fmt: skip
    parser.add_argument("--print-config", dest="print_method", action=Printing, nargs=0, default=False,
                        help="print all settings as such a file and exit")  # fmt: skip
    taken = set()
    part = parser.add_argument_group("the method's own settings")
    for name, (f, having) in _own().items():
        taken.add(name)
        defaults = {str(default) for _, default in having}
        who = "; ".join(f"{m} {d}" for m, d in having) if len(defaults) > 1 else ", ".join(m for m, _ in having)
        known = f"{who}, default {defaults.pop()}" if len(defaults) == 1 else who
        _add(part, f, f"{f.metadata['help']} ({known})")
    used = {name for kind in METHODS.values() for name in kind.uses}
    for group in FIRST:
        part = parser.add_argument_group(group, "as far as the method uses them")
        for f in settings_of(GROUPS[group]):
            if f.metadata["help"] and f.name in used and f.name not in taken:
                _add(part, f, f.metadata["help"] + ("" if f.default is None else f" (default {_shown(f.default)})"))
    add_threshold(parser)


def chosen_method(args: argparse.Namespace) -> MethodConfig:
    """The settings of the method, of --preset or the defaults; over them those of --config, over both what was typed.

    Raises
    ------
    DataError : a wrong file, no method, or two.  ValueError : a setting that is wrong.
    """
    from patchcore_fast.config.methods import MethodConfig, default_config

    if args.config is not None:
        config = MethodConfig.from_toml(args.config, args.preset)
    elif args.preset is not None:
        config = MethodConfig.preset(args.preset)
    elif args.method is not None:
        config = default_config(args.method)
    else:
        raise DataError(f"METHOD is wanted, one of {', '.join(METHODS)}; or --config with a file that says it")
    if args.method not in (None, config.method):
        given = f"--config {args.config}" if args.config is not None else f"--preset {args.preset}"
        raise DataError(f"METHOD is {args.method}, and {given} is of the method {config.method}")
    own = {f.name: f for f in settings_of(METHODS[config.method])}
    typed = typed_settings(args)
    if foreign := [n for n in typed if n not in own and n not in GROUP_OF]:
        known = ", ".join(flag(f.name) for f in own.values() if f.metadata["help"])
        raise DataError(f"{flag(foreign[0])}: {config.method} has no such setting; it has {known}")
    base = config.base.replace(**{n: v for n, v in typed.items() if n not in own})
    settings = config.settings.replace(**{n: v for n, v in typed.items() if n in own})
    return MethodConfig(config.method, base, settings)


def typed_settings(args: argparse.Namespace) -> dict[str, Any]:
    """The settings that the user typed, by name."""
    return {name: getattr(args, name) for name in (*GROUP_OF, *_own()) if hasattr(args, name)}


def _own() -> dict[str, tuple[Any, list[tuple[str, Any]]]]:
    """Setting of any method -> its field and (method, default) of those that have it."""
    found: dict[str, tuple[Any, list[tuple[str, Any]]]] = {}
    for method, kind in METHODS.items():
        for f in settings_of(kind):
            if f.metadata["help"]:
                found.setdefault(f.name, (f, []))[1].append((method, _shown(f.default)))
    return found


def _add(part: argparse._ArgumentGroup, f: Any, text: str) -> None:
    facts = f.metadata
    part.add_argument(flag(f.name), type=facts["parse"], choices=facts["offered"] or None, metavar=facts["metavar"],
                      default=argparse.SUPPRESS, help=text)  # fmt: skip


def _shown(default: Any) -> Any:
    return ",".join(map(str, default)) if isinstance(default, tuple) else default
