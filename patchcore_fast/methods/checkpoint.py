"""A training on disk: all that it needs to go on after its last whole epoch, and to end as if it had not been stopped.

A folder has `checkpoint.json`, which says what the training is of, how far it is, and which file has its tensors, and
`epoch-N-IDENTITY.safetensors`. Both are written whole, the tensors first, and the file of the epoch before is removed
last: whenever the process is killed, the JSON names a file that is there.
"""

from __future__ import annotations

import json
import logging
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from patchcore_fast.bank_file import TYPES, Span, read_file, read_json, span_of, told, version_of
from patchcore_fast.config import flat
from patchcore_fast.config.methods import MethodConfig
from patchcore_fast.errors import BankError, DataError
from patchcore_fast.files import atomic_write
from patchcore_fast.memory_bank import write_tensors
from patchcore_fast.methods.curves import Row
from patchcore_fast.methods.file import Learned, check_finite

log = logging.getLogger(__name__)
JSON, FORMAT, FORMAT_VERSION = "checkpoint.json", "patchcore_fast.checkpoint", 1
_FILE = re.compile(r"epoch-[0-9]{6,}-[0-9a-f]{8}\.safetensors")
_SAID = 3  # settings that differ, in a message
_DIMENSIONS = 8
_WANTED: dict[str, type] = {"config": dict, "weights": str, "identity": str, "epoch": int, "epochs": int, "count": int,
                            "file": str, "curve": list}  # fmt: skip


@dataclass
class State:
    """Where a training is.

    Attributes
    ----------
    epoch : epochs that are over.
    modules, optimizers : name -> what is trained, and what trains it.
    draws : of the order of the images and of noise.
    curve : a row for each epoch that is over.
    """

    epoch: int
    modules: dict[str, torch.nn.Module]
    optimizers: dict[str, torch.optim.Optimizer]
    draws: torch.Generator
    curve: list[Row] = field(default_factory=list)


@dataclass(frozen=True)
class About:
    """What a training is of.

    Attributes
    ----------
    config : settings.  weights : fingerprint of the backbone's.  identity : of both and of all images, see
        `methods.identity`.  epochs : it is to have.  count : images that it was given.
    """

    config: dict[str, Any]
    weights: str
    identity: str
    epochs: int
    count: int


class Checkpoints:
    """The folder of one training.

    Parameters
    ----------
    folder : made with its parents where it is not there.

    Raises
    ------
    DataError : what is there is no checkpoint, or a damaged one.  OSError : the folder cannot be made.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        """Look at what is there."""
        self.folder = Path(folder)
        if self.folder.exists() and not self.folder.is_dir():
            raise DataError(f"{self.folder}: is a file, a folder for checkpoints is wanted")
        self.folder.mkdir(parents=True, exist_ok=True)
        self.found = read_about(self.folder) if (self.folder / JSON).is_file() else None

    def refuse_settings(self, config: MethodConfig, weights: str) -> None:
        """As `usable`, by what is known before the images are read."""
        if self._goes_on() and (why := self._difference(_plain(config.to_dict()), weights)):
            raise self._refused(why)

    def usable(self, about: About) -> bool:
        """Whether there is a checkpoint to go on from; of one of something else, whose training has ended, the log says
        that it is replaced.

        Raises
        ------
        DataError : one of another training that has not ended, which a new one would overwrite; says what differs.
        """
        if self.found is None:
            return False
        same = all(self.found[name] == getattr(about, name) for name in ("identity", "weights", "epochs", "count"))
        if not same:
            why = self._difference(_plain(about.config), about.weights) or "other training images"
            if self._goes_on():
                raise self._refused(why)
            log.warning("%s: had a training that was at its end, but of something else (%s); it is replaced",
                        self.folder, why)  # fmt: skip
        return same

    def restore(self, state: State) -> None:
        """Put a training into the state of the file. DataError: it does not fit."""
        assert self.found is not None
        tensors, facts = _read_tensors(self.folder, self.found)
        try:
            for name, module in state.modules.items():
                module.load_state_dict(_below(tensors, f"modules.{name}."))
            for name, optimizer in state.optimizers.items():
                _restore_optimizer(optimizer, _below(tensors, f"optimizers.{name}."), facts["optimizers"][name])
            state.draws.set_state(tensors["draws"])
        except (LookupError, TypeError, ValueError, RuntimeError) as error:
            raise _damaged(self.folder / self.found["file"], error) from error
        state.epoch, state.curve = self.found["epoch"], list(self.found["curve"])

    def write(self, state: State, about: About) -> None:
        """Keep a state; the one before is removed when this one is whole."""
        tensors = {"draws": state.draws.get_state()}
        tensors |= {f"modules.{name}.{key}": t for name, module in state.modules.items()
                    for key, t in module.state_dict().items()}  # fmt: skip
        groups: dict[str, Any] = {}
        for name, optimizer in state.optimizers.items():
            kept = optimizer.state_dict()
            groups[name] = kept["param_groups"]
            tensors |= {f"optimizers.{name}.{i}.{key}": value for i, values in kept["state"].items()
                        for key, value in values.items()}  # fmt: skip
        file = f"epoch-{state.epoch:06d}-{about.identity[:8]}.safetensors"
        facts = {"epoch": state.epoch, "identity": about.identity, "optimizers": groups}
        metadata = {"format": FORMAT, "format_version": str(FORMAT_VERSION)}
        write_tensors(self.folder / file, tensors, metadata, facts)
        found = {"format": FORMAT, "format_version": FORMAT_VERSION, "epoch": state.epoch, "epochs": about.epochs,
                 "file": file, "identity": about.identity, "weights": about.weights, "count": about.count,
                 "config": about.config, "curve": [dict(row) for row in state.curve]}  # fmt: skip
        with atomic_write(self.folder / JSON, "w", encoding="utf-8") as f:
            f.write(json.dumps(found, indent=1, allow_nan=False) + "\n")
        self.found = _plain(found)
        for old in self.folder.iterdir():
            if old.name != file and _FILE.fullmatch(old.name):
                old.unlink(missing_ok=True)

    def _goes_on(self) -> bool:
        return self.found is not None and self.found["epoch"] < self.found["epochs"]

    def _difference(self, config: dict[str, Any], weights: str) -> str:
        assert self.found is not None
        old, new = (flat({k: v for k, v in c.items() if k != "running"}) for c in (self.found["config"], config))
        names = [name for name in {**new, **old} if old.get(name) != new.get(name)]
        names = ["method"] if "method" in names else names  # whose settings are others anyway
        if names:
            told = ", ".join(f"{n} {old.get(n)!r} there and {new.get(n)!r} here" for n in names[:_SAID])
            return told + (f", and {len(names) - _SAID} more" if len(names) > _SAID else "")
        return "" if self.found["weights"] == weights else "other weights of the backbone"

    def _refused(self, why: str) -> DataError:
        assert self.found is not None
        return DataError(
            f"{self.folder}: has a training of which {self.found['epoch']} of {self.found['epochs']} epochs are over, "
            f"and this is another one ({why}); give another folder for checkpoints, or remove this one"
        )


def read_checkpoint(folder: Path) -> tuple[Learned, dict[str, torch.Tensor]]:
    """What a model's file would have, without threshold and names of images.

    Raises
    ------
    DataError : there is no checkpoint, or a damaged one.
    """
    found = read_about(folder)
    tensors = _below(_read_tensors(folder, found)[0], "modules.")
    try:
        check_finite(tensors)
        learned = Learned(None, None, found["config"], [], found["weights"], found["count"])
        assert learned.settings  # they can be
        return learned, tensors
    except (TypeError, ValueError) as error:
        raise _damaged(folder / JSON, error) from error


def read_about(folder: Path) -> dict[str, Any]:
    """What `checkpoint.json` says, with the types that it must have. DataError: none, or a damaged one."""
    path = folder / JSON
    if not path.exists():
        raise DataError(f"{folder}: no checkpoint of a training, there is no {JSON}")
    try:
        found = read_json(path.read_text(encoding="utf-8"))
        if not isinstance(found, dict) or found.get("format") != FORMAT:
            raise ValueError("its format is another one")
        if found["format_version"] != FORMAT_VERSION:
            raise ValueError(f"format {found['format_version']!r}, and {FORMAT_VERSION} is read here")
        for name, kind in _WANTED.items():
            if type(found[name]) is not kind:
                raise ValueError(f"{name} must be a {kind.__name__}")
        if not _FILE.fullmatch(found["file"]) or not 1 <= found["epoch"] <= found["epochs"]:
            raise ValueError("its numbers do not fit each other")
        if len(found["curve"]) != found["epoch"] or not all(map(_is_row, found["curve"])):
            raise ValueError("its curve must have a row of numbers for each epoch")
    except (OSError, LookupError, TypeError, ValueError) as error:
        raise _damaged(path, f"{error} is missing" if isinstance(error, KeyError) else error) from error
    return found


def _read_tensors(folder: Path, about: Mapping[str, Any]) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Tensors and facts of the file that `checkpoint.json` names. DataError: damaged, or of something else."""
    path = folder / about["file"]
    try:
        with told(path, "checkpoint"):
            metadata, tensors, _ = read_file(path, _check_format, _span)
        facts = read_json(metadata["facts"])
        if facts["epoch"] != about["epoch"] or facts["identity"] != about["identity"]:
            raise ValueError(f"it is of another training than {JSON} says")
    except BankError as error:
        raise DataError(str(error)) from error
    except (LookupError, TypeError, ValueError) as error:
        raise _damaged(path, error) from error
    return tensors, facts


def _restore_optimizer(optimizer: torch.optim.Optimizer, tensors: Mapping[str, torch.Tensor], groups: Any) -> None:
    """What `state_dict` gave, from tensors "NUMBER.KEY" and groups as JSON has them, lists for tuples."""
    state: dict[int, dict[str, torch.Tensor]] = {}
    for name, t in tensors.items():
        number, _, key = name.partition(".")
        state.setdefault(int(number), {})[key] = t
    shapes = [tuple(p.shape) for group in optimizer.param_groups for p in group["params"]]
    for i, values in state.items():
        if any(t.ndim and tuple(t.shape) != shapes[i] for t in values.values()):
            raise ValueError(f"the optimizer's tensors of parameter {i} have not its shape")
    groups = [{k: tuple(v) if isinstance(v, list) and k != "params" else v for k, v in group.items()}
              for group in groups]  # fmt: skip
    optimizer.load_state_dict({"state": state, "param_groups": groups})


def _below(tensors: Mapping[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    return {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}


def _is_row(row: Any) -> bool:
    return isinstance(row, dict) and "epoch" in row and all(type(v) in (int, float) for v in row.values())


def _plain(value: Any) -> Any:
    """As JSON gives it back."""
    return json.loads(json.dumps(value))


def _check_format(path: Path, metadata: dict[str, str]) -> int:
    if metadata.get("format") != FORMAT:
        raise BankError(f"{path}: a safetensors file, but no checkpoint of patchcore_fast")
    return version_of(path, metadata, "checkpoint", FORMAT_VERSION)


def _span(name: str, entry: Any) -> Span:
    return span_of(name, entry, tuple(TYPES), _DIMENSIONS)


def _damaged(path: Path, why: object) -> DataError:
    return DataError(f"{path}: no checkpoint of a training, or a damaged one ({' '.join(str(why).split())[:300]})")
