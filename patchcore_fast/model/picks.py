"""What a sampler chose of a store, as a file, and from there into a fit (docs/chain.md)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from math import isfinite
from typing import Any, NamedTuple

import torch

from patchcore_fast.chain import ChainFile
from patchcore_fast.config import PatchCoreConfig, SelectionSettings
from patchcore_fast.errors import DataError
from patchcore_fast.feature_store import FeatureStore
from patchcore_fast.model.collect import Rows
from patchcore_fast.model.stored import SELECTION
from patchcore_fast.samplers import GreedyCoresetSampler, PrecomputedSampler

# Settings of the selection that picks do not decide: what the rows of a store are, and records.
_ELSEWHERE = (*SELECTION, "banks", "excluded", "sampler_parameters")
_SCORE = "score "  # before the names of signals


class Selection(NamedTuple):
    """What a sampler chose.

    indices : [k] int64 rows.  projection : [D, d] float32 that distances were measured in, or None.
    trusted : [J] images without a row that the sampler pruned as unsupported; None where it did not look.
    radius : distance within which all rows lie of the chosen ones, as the sampler measured; None where it does not say.
    """

    indices: torch.Tensor
    projection: torch.Tensor | None
    trusted: torch.Tensor | None
    radius: float | None


def picks_of(
    store: FeatureStore,
    chosen: Selection,
    sampler: Any,
    config: PatchCoreConfig | None,
    scores: Mapping[str, torch.Tensor] | None = None,
) -> ChainFile:
    """A selection as the file that `fit --indices` reads.

    Parameters
    ----------
    sampler : that chose, for its `radii_`.
    config : whose selection it is; None where no settings say how it was made, and a fit cannot make it again.
    scores : signals that the sampler was handed; they go along, for a fit selects again without held-out images.
    """
    arrays = {"indices": chosen.indices.numpy()}
    if (radii := getattr(sampler, "radii_", None)) is not None:
        arrays["radii"] = torch.as_tensor(radii).float().cpu().numpy()
    if chosen.projection is not None:
        arrays["projection"] = chosen.projection.numpy()
    if chosen.trusted is not None:
        arrays["trusted"] = chosen.trusted.numpy()
    arrays |= {f"{_SCORE}{name}": values.numpy() for name, values in (scores or {}).items()}
    return ChainFile.of("picks", store, {"rows": store.shape[0], "selection": config and recorded(config)}, arrays)


def signals_of(picks: PrecomputedSampler) -> dict[str, torch.Tensor]:
    """The signals that went along with picks. DataError: they are not of as many rows."""
    file = picks.picks
    assert file is not None
    names = [name for name in file.arrays if name.startswith(_SCORE)]
    rows = file.settings.get("rows")
    size = rows if isinstance(rows, int) else 0
    found = {name: file.array(name, "float32", (size,), picks.source) for name in names}
    return {name.removeprefix(_SCORE): torch.from_numpy(values.copy()) for name, values in found.items()}


def recorded(config: PatchCoreConfig) -> dict[str, Any]:
    """The settings that decide which rows of a store are picked, as JSON types."""
    found = config.to_dict()["selection"]
    return {f.name: found[f.name] for f in fields(SelectionSettings) if f.name not in _ELSEWHERE}


def restored(picks: PrecomputedSampler, sampler: Any, rows: Rows) -> Selection:
    """The selection that such a file keeps; `sampler`, which made it, has what it then had of it.

    Raises
    ------
    DataError : it is of other rows, or does not hold what it should.
    """
    file, name = picks.picks, picks.source
    assert file is not None and picks.rows is not None
    n, k = rows.total, len(picks.rows)
    if file.settings.get("rows") != n or (k and int(picks.rows.max()) >= n):
        raise DataError(f"{name}: was selected of {file.settings.get('rows')} rows, these are {n:,}")
    found: dict[str, torch.Tensor | None] = dict.fromkeys(("radii", "projection", "trusted"))
    wanted = {"radii": ("float32", (k,)), "projection": ("float32", (rows.columns, -1)), "trusted": ("int64", (-1,))}
    for what, (dtype, shape) in wanted.items():
        if what in file.arrays:
            found[what] = torch.from_numpy(file.array(what, dtype, shape, name).copy())
    trusted = found["trusted"]
    if trusted is not None and len(trusted) and not 0 <= int(trusted.min()) <= int(trusted.max()) < len(rows.grids):
        raise DataError(f"{name}: trusts images that are not there")
    sampler.indices_, sampler.radii_, sampler.projection_ = picks.rows, found["radii"], found["projection"]
    return Selection(picks.rows, found["projection"], trusted, covering_radius(sampler))


def covering_radius(sampler: Any) -> float | None:
    """Of exact greedy the last pick was the farthest of all rows from the others; not of any other sampler."""
    if type(sampler) is not GreedyCoresetSampler or sampler.radii_ is None:
        return None
    radius = float(torch.nextafter(sampler.radii_[-1], torch.tensor(torch.inf)))  # it was rounded, perhaps down
    return radius if isfinite(radius) else None  # a single pick has no others
