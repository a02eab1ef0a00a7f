"""The shape of metrics.json and report.json. A page is made only of what has passed here: numbers are finite numbers,
text is text, and keys that are not known are dropped. The files may come from anybody."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from patchcore_fast.bank_size import BankSize
from patchcore_fast.config import grouped
from patchcore_fast.names import printable

Check = Callable[[Any, str], Any]

LARGEST = 1e30  # of any number: plots of larger ones overflow
CELLS = 2**18  # of the patch grid; one of 512 x 512 belongs to images of 4,096 pixels


def number(value: Any, where: str) -> float:
    """A finite number of sensible size, as a float."""
    good = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not good or not math.isfinite(value) or abs(value) > LARGEST:
        raise _wrong(value, where, "a finite number")
    return float(value)


def unit(value: Any, where: str) -> float:
    """A number in [0, 1]; rounding may leave it by a little."""
    found = number(value, where)
    if not -1e-6 <= found <= 1 + 1e-6:
        raise _wrong(value, where, "a number from 0 to 1")
    return min(max(found, 0.0), 1.0)


def count(value: Any, where: str) -> int:
    """An integer >= 0; metrics hold theirs as floats."""
    found = number(value, where)
    if found < 0 or found != int(found):
        raise _wrong(value, where, "a whole number")
    return int(found)


def text(value: Any, where: str) -> str:
    """One printable line."""
    if not isinstance(value, str):
        raise _wrong(value, where, "text")
    return printable(value)


def path(value: Any, where: str) -> str:
    """A file below the folder, as it is called there: nothing is made printable."""
    if not isinstance(value, str):
        raise _wrong(value, where, "a path")
    return value


def setting(value: Any, where: str) -> Any:
    """A value of a configuration: text, a number, a truth value, nothing, or a list of these."""
    if isinstance(value, list):
        return [setting(v, where) for v in value]
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return text(value, where)
    number(value, where)
    return value  # an integer stays one


def settings(value: Any, where: str) -> dict[str, Any]:
    """A configuration by group; of earlier versions, which had no groups, too."""
    if not isinstance(value, dict):
        raise _wrong(value, where, "an object")
    groups: dict[str, Any] = dict_of(_nested(_nested(setting)))(grouped(value), where)  # of a sampler: its parameters
    return groups


def _nested(check: Check) -> Check:
    """What `check` takes, or an object of such."""
    return lambda value, where: (dict_of(check) if isinstance(value, dict) else check)(value, where)


def label(value: Any, where: str) -> int:
    """-1 unknown, 0 normal, 1 anomalous."""
    if isinstance(value, bool) or value not in (-1, 0, 1):
        raise _wrong(value, where, "-1, 0 or 1")
    return int(value)


def truth(value: Any, where: str) -> bool:
    """True or False."""
    if not isinstance(value, bool):
        raise _wrong(value, where, "true or false")
    return value


def optional(check: Check) -> Check:
    """None, or what `check` takes; fields that are optional may be missing."""

    def inner(value: Any, where: str) -> Any:
        return None if value is None else check(value, where)

    inner.optional = True  # type: ignore[attr-defined]
    return inner


def list_of(check: Check, length: int | None = None) -> Check:
    """A list, of so many items where a length is given."""

    def inner(value: Any, where: str) -> list[Any]:
        if not isinstance(value, list) or (length is not None and len(value) != length):
            raise _wrong(value, where, "a list" if length is None else f"a list of {length}")
        return [check(v, f"{where}[{i}]") for i, v in enumerate(value)]

    return inner


def dict_of(check: Check) -> Check:
    """An object of any keys."""

    def inner(value: Any, where: str) -> dict[str, Any]:
        if not isinstance(value, dict):
            raise _wrong(value, where, "an object")
        return {printable(k): check(v, f"{where}.{k}") for k, v in value.items()}

    return inner


def fields(**checks: Check) -> Check:
    """An object with these fields; others are dropped."""

    def inner(value: Any, where: str) -> dict[str, Any]:
        if not isinstance(value, Mapping):
            raise _wrong(value, where, "an object")
        found = {}
        for key, check in checks.items():
            if key not in value and not hasattr(check, "optional"):
                raise KeyError(key)
            found[key] = check(value.get(key), f"{where}.{key}" if where else key)
        return found

    return inner


def _wrong(value: Any, where: str, wanted: str) -> ValueError:
    got = repr(value)
    return ValueError(
        f"{printable(where)} must be {wanted}, got {printable(got if len(got) < 60 else got[:57] + '...')}"
    )


def _coverage(value: Any, where: str) -> dict[str, Any]:
    found: dict[str, Any] = fields(
        counts=list_of(list_of(count)), per_image=list_of(count), share=unit, entropy=unit, effective_images=number,
        empty_images=count,
    )(value, where)  # fmt: skip
    sides = {len(row) for row in found["counts"]}
    if len(sides) != 1 or not 1 <= len(found["counts"]) * max(sides) <= CELLS:
        raise ValueError(f"{where}.counts must be rows of one length, at most {CELLS:,} cells")
    if not found["per_image"]:
        raise ValueError(f"{where}: per_image is empty")
    return found


def _size(value: Any, where: str) -> dict[str, Any]:
    found: dict[str, Any] = fields(
        budget=text, rows=count, bytes=count, device=text, fixed_ms=number, row_ms=number,
        curve=list_of(fields(rows=count, radius=list_of(number), score=optional(number))),
    )(value, where)  # fmt: skip
    rows = [step["rows"] for step in BankSize.from_dict(found).to_dict()["curve"]]  # which holds it to its bounds
    if rows != sorted(set(rows)):
        raise ValueError(f"{where}.curve must be of more and more rows")
    return found


def _bank(value: Any, where: str) -> dict[str, Any]:
    found: dict[str, Any] = fields(
        rows=count, dim=count, patches=optional(count), coverage=optional(_coverage), images=list_of(text),
        size=optional(_size),
    )(value, where)  # fmt: skip
    cover = found["coverage"]
    if cover is not None and len(cover["per_image"]) != len(found["images"]):
        raise ValueError(f"{where}: {len(found['images'])} images but {len(cover['per_image'])} counts of their rows")
    return found


def _curve(x: str, y: str) -> Check:
    def inner(value: Any, where: str) -> dict[str, Any]:
        found: dict[str, Any] = fields(**{x: list_of(unit), y: list_of(unit)})(value, where)
        if not 0 < len(found[x]) == len(found[y]):
            raise ValueError(f"{where}: {len(found[x])} values of {x} but {len(found[y])} of {y}")
        return found

    return optional(inner)


METRICS = fields(
    metrics=dict_of(optional(number)),
    images=list_of(fields(path=text, score=number, is_anomalous=optional(truth), label=label, defect_type=text,
                          error=optional(text))),
    unread=optional(list_of(fields(path=text, error=text))),
    curves=fields(image_roc=_curve("fpr", "tpr"), pixel_roc=_curve("fpr", "tpr"), pro=_curve("fpr", "pro"),
                  image_pr=_curve("recall", "precision"), pixel_pr=_curve("recall", "precision")),
    config=settings,
)  # fmt: skip
FACTS = fields(
    name=text,
    created=text,
    layers=list_of(fields(photo=optional(path), heat=optional(path), mask=optional(path))),
    defect_types=list_of(fields(
        defect_type=text, images=count, masks=optional(count), true_positives=optional(count),
        mean_score=optional(number), image_auroc=optional(unit), image_ap=optional(unit), pixel_auroc=optional(unit),
        pixel_ap=optional(unit), aupro=optional(unit), image_auroc_interval=optional(list_of(unit, 2)),
    )),
    intervals=fields(level=unit, resamples=count, metrics=dict_of(optional(list_of(number, 2)))),
    bank=optional(_bank),
    model=optional(text),
    data=optional(fields(images=dict_of(dict_of(count)), masks=count,
                         findings=list_of(fields(text=text, warning=truth)))),
    seconds=dict_of(optional(number)),
    environment=dict_of(text),
)  # fmt: skip
