"""How a setting is declared, checked and named in messages; what all groups share. Nothing here imports torch."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn

if TYPE_CHECKING:
    from typing_extensions import Self


def setting(
    default: Any,
    help: str = "",
    *,
    choices: Sequence[str] = (),
    least: int | None = None,
    most: int | None = None,
    parse: Callable[[str], Any] | None = None,
    metavar: str | None = None,
    untyped: Sequence[str] = (),
) -> Any:
    """A field of a group; the checks and the option on the command line follow from what is said here.

    Parameters
    ----------
    default : its value; where it is None, None is allowed.
    help : of the option, which has the field's name with dashes; without help there is no option.
    choices : the texts that it may be.  untyped : those of them that the command line does not offer.
    least, most : it is an integer, and in this range.
    parse : text -> value, where it is neither a choice nor an integer.
    metavar : what the option's help calls the value.
    """
    facts = {"help": help, "choices": tuple(choices), "offered": tuple(c for c in choices if c not in untyped),
             "range": None if least is None or most is None else (least, most),
             "parse": parse or (str if choices else int), "metavar": metavar}  # fmt: skip
    return dataclasses.field(default=default, metadata=facts)


class Settings:
    """Base of the groups, which are frozen dataclasses.

    `group` is the name of a group: of the field of `PatchCoreConfig`, of the table in TOML and in the bank file, and of
    the part of the help.
    """

    group: ClassVar[str]

    def __post_init__(self) -> None:
        """Lists become tuples; each field is held against its declaration, then `_check` looks at the rest."""
        self._settle()
        for f in settings_of(type(self)):
            value, span = getattr(self, f.name), f.metadata["range"]
            if isinstance(value, list):
                self._set(f.name, tuple(value))
            if f.metadata["choices"]:
                self._choice(f.name, value, f.metadata["choices"])
            elif span is not None and (value is not None or f.default is not None):
                self._set(f.name, self._integer(f.name, value, *span))
        self._check()

    def replace(self, **changes: Any) -> Self:
        """The same with other settings; those that follow from others (`followed`) follow from the new ones."""
        return dataclasses.replace(self, **(dict.fromkeys(self.followed) | changes))  # type: ignore[type-var]

    @property
    def followed(self) -> tuple[str, ...]:
        """Names of the settings that were not given and follow from others."""
        return tuple(self.__dict__.get("_followed", ()))

    def _settle(self) -> None:
        """Fill in what was left None and follows from other settings, and keep their names as `_followed`."""

    def _check(self) -> None:
        """What a group holds against each other, beside choices and ranges."""

    def _set(self, name: str, value: Any) -> None:
        object.__setattr__(self, name, value)

    def _wrong(self, name: str, wanted: str, kind: type[Exception] = ValueError) -> NoReturn:
        raise kind(f"PatchCoreConfig: {self.group}.{name} {wanted}")

    def _choice(self, name: str, value: Any, allowed: Iterable[str]) -> None:
        if value not in allowed:
            near = nearest(value, allowed)
            self._wrong(name, f"must be one of {', '.join(allowed)}, got {value!r}{near}")

    def _integer(self, name: str, value: Any, low: int, high: int) -> int:
        if isinstance(value, bool) or not isinstance(value, Integral):
            self._wrong(name, f"must be an integer, got {value!r}", TypeError)
        if not low <= int(value) <= high:
            self._wrong(name, f"must be {f'at least {low}' if int(value) < low else f'at most {high}'}, got {value}")
        return int(value)

    def _real(self, name: str) -> float:
        value = getattr(self, name)
        if isinstance(value, bool) or not isinstance(value, Real):
            self._wrong(name, f"must be a number, got {value!r}", TypeError)
        try:
            return float(value)
        except OverflowError:  # an integer beyond all floats
            self._wrong(name, f"must be a number that floats have, got {value}")

    def _text(self, name: str, most: int) -> None:
        value = getattr(self, name)
        if not isinstance(value, str) or not value:
            self._wrong(name, f"must be a non-empty string, got {value!r}", TypeError)
        if len(value) > most:
            self._wrong(name, f"must have at most {most} characters")


def settings_of(kind: type[Settings]) -> tuple[dataclasses.Field[Any], ...]:
    """The fields of a group."""
    return dataclasses.fields(kind)  # type: ignore[arg-type]  # all groups are dataclasses


def nearest(name: object, known: Iterable[str]) -> str:
    """' (did you mean NAME?)', or nothing where no known name is near."""
    import difflib

    found = difflib.get_close_matches(str(name)[:100], list(known), 1)
    return f" (did you mean {found[0]}?)" if found else ""
