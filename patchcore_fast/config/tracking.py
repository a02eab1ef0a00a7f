"""Settings of experiment logging. They are no model's: a bank or model file does not say where its run was logged."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn

from patchcore_fast.config.base import Settings, nearest, setting, settings_of
from patchcore_fast.config.toml import read_toml
from patchcore_fast.errors import DataError

if TYPE_CHECKING:
    from typing_extensions import Self

BACKENDS = ("tensorboard", "wandb")
_REFUSED = "/\\#?%:"  # by W&B, in the name of a project
_LONGEST, _LONGEST_TAG = 128, 64  # characters, as W&B has it


def tags(text: str) -> tuple[str, ...]:
    """`baseline,line 3`."""
    return tuple(part.strip() for part in text.split(",") if part.strip())


@dataclass(frozen=True)
class TrackingSettings(Settings):
    """Where a run is logged, and what of it.

    Parameters
    ----------
    log : "tensorboard" or "wandb"; None for nothing.
    project, entity, name, tags : of the run, for W&B. Without a name it has that of the data.
    log_freq : every so many epochs of a training are logged; the last one always is.
    log_model : the bank or the model file goes along as an artifact; W&B only.
    """

    group: ClassVar[str] = "tracking"
    log: str | None = setting(None, "log metrics and figures below --output too (wandb: offline)", parse=str)
    project: str = setting("patchcore_fast", "project of the run", parse=str, metavar="NAME")
    entity: str | None = setting(None, "user or team that the project belongs to", parse=str, metavar="NAME")
    name: str | None = setting(None, "of the run (default: of the data)", parse=str, metavar="NAME")
    tags: tuple[str, ...] = setting((), "of the run, with commas", parse=tags, metavar="T,T")
    log_freq: int = setting(1, "log every N-th epoch of a training", least=1, most=1_000_000, metavar="N")
    log_model: bool = setting(False, "keep the bank or model file as an artifact of the run")

    def _check(self) -> None:
        if self.log is not None:
            self._choice("log", self.log, BACKENDS)
        for field in ("project", "entity", "name"):
            if field == "project" or getattr(self, field) is not None:
                self._text(field, _LONGEST)
        if found := sorted(set(self.project) & set(_REFUSED)):
            self._wrong("project", f"must not have {' '.join(found)}, got {self.project!r}")
        if not isinstance(self.tags, tuple):
            self._wrong("tags", f"must be a list of strings, got {self.tags!r}", TypeError)
        for tag in self.tags:
            if not isinstance(tag, str) or not 1 <= len(tag) <= _LONGEST_TAG:
                self._wrong("tags", f"must be strings of 1 to {_LONGEST_TAG} characters, got {tag!r}")
        if not isinstance(self.log_model, bool):
            self._wrong("log_model", f"must be true or false, got {self.log_model!r}", TypeError)
        if self.log_model and self.log != "wandb":
            self._wrong("log_model", f"is of W&B, and tracking.log is {self.log!r}")

    def _wrong(self, name: str, wanted: str, kind: type[Exception] = ValueError) -> NoReturn:
        raise kind(f"{self.group}.{name} {wanted}")

    @classmethod
    def from_toml(cls, path: str | os.PathLike[str]) -> Self:
        """The table [tracking] of a file with a model's settings; the defaults where there is none.

        Raises
        ------
        DataError : no such file, no TOML, or a setting that is wrong or that there is not.
        """
        if not os.path.isfile(path):
            raise DataError(f"{os.fspath(path)}: no such file")
        try:
            return cls.of_table(read_toml(path).get(cls.group, {}))
        except (TypeError, ValueError) as error:
            raise DataError(f"{os.fspath(path)}: {error}") from error

    @classmethod
    def of_table(cls, values: Any) -> Self:
        """The settings of such a table. TypeError, ValueError: one is wrong, or there is no such setting."""
        if not isinstance(values, dict):
            raise TypeError(f"{cls.group} must hold settings by name, got {values!r}")
        known = [f.name for f in settings_of(cls)]
        if unknown := [name for name in values if name not in known]:
            raise ValueError(f"unknown field {cls.group}.{unknown[0]}{nearest(unknown[0], known)}")
        return cls(**values)
