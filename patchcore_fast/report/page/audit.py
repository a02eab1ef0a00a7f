"""The page of an audit: suspicious training images with what comes nearest to them, to keep or to drop."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from importlib.resources import files
from io import BytesIO
from pathlib import Path
from string import Template
from typing import Any

import numpy as np
from numpy.typing import NDArray

from patchcore_fast.files import atomic_write
from patchcore_fast.names import printable
from patchcore_fast.report.images import OUTLINE, as_rgb
from patchcore_fast.report.layers import heat_png
from patchcore_fast.report.page.build import POLICY, policy_digest

LIST = "dropped.txt"  # what the page calls the file that it saves
SIDE, SMALL, CROP = 512, 224, 176  # pixels of a suspect's photograph, of a relative's, and of crops
CROP_CELLS, CROP_SHARE = 5, 0.2  # of a crop's side: patches at least, share of the shorter side at least
# What docs/audit.md measures (a test compares): of the defect images moved in, the share among the 20 most suspicious;
# mean, worst and best set, and by chance.
FOUND = {"sets": 8, "images": 66, "share": 0.76, "worst": 0.33, "best": 1.0, "chance": 0.32}
_DARK = (8, 34, 44)


@dataclass(frozen=True)
class Shown:
    """A photograph [3, H, W], [H, W, 3] or [H, W] that a patch grid (h, w) covers, and a (row, column) on it."""

    name: str
    photo: Any
    grid: tuple[int, int]
    place: tuple[int, int]


@dataclass(frozen=True)
class Card:
    """A suspect: itself, its heat [h, w], what is said of it, and the nearest images with how near they are."""

    image: Shown
    heat: Any
    text: str
    relatives: Sequence[tuple[Shown, float]]


def write_audit(
    path: Path, title: str, summary: str, cards: Sequence[Card], entries: Sequence[str], scale: tuple[float, float]
) -> None:
    """Write the page; it needs no other file.

    Parameters
    ----------
    title, summary : plain text.  entries : how a list calls each card's image, in one line.
    scale : (vmin, vmax) of all heat maps.
    """
    here = files(__package__)
    style = "".join(here.joinpath(name).read_text(encoding="utf-8") for name in ("page.css", "audit.css"))
    script = here.joinpath("audit.js").read_text(encoding="utf-8")
    head = f"# Training images of {printable(title)} to leave out: patchcore-fast fit DIR --exclude {LIST}\n"
    data = {"names": list(entries), "file": LIST, "head": head}
    values = {
        "policy": POLICY.format(style=policy_digest(style), script=policy_digest(script)),
        "title": escape(printable(title)),
        "summary": escape(summary),
        "measured": escape(measured()),
        "suspects": "\n".join(_card(i, len(cards), card, scale) for i, card in enumerate(cards)),
        "file": LIST,
        "style": style,
        "script": script,
        # "<" could end the script element: a file may be called anything.
        "data": json.dumps(data, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c"),
    }
    text = Template(here.joinpath("audit.html").read_text(encoding="utf-8")).substitute(values)
    with atomic_write(path, "w", encoding="utf-8") as f:
        f.write(text)


def measured() -> str:
    """What such a look finds, by the measurement in docs/audit.md."""
    f = FOUND
    return (
        f"Measured on {f['sets']} sets, a tenth of defect images moved in: the 20 most suspicious of up to "
        f"{f['images']} training images hold {f['share']:.0%} of the bad ones in the mean, {f['worst']:.0%} to "
        f"{f['best']:.0%} by set ({f['chance']:.0%} by chance). What is not shown is not cleared."
    )


def _card(i: int, count: int, card: Card, scale: tuple[float, float]) -> str:
    name = escape(printable(card.image.name))
    own = _uri("jpeg", _jpeg(_crop(card.image), CROP))
    near = [f'<li><img class="crop" src="{own}" alt="Its most suspicious place">its most suspicious place</li>']
    near += [
        f'<li><img class="crop" src="{_uri("jpeg", _jpeg(_crop(other), CROP))}" alt="Nearest place">'
        f'<img src="{_uri("jpeg", _jpeg(_framed(other), SMALL))}" alt="The whole image, the place framed">'
        f"{escape(printable(other.name))}, distance {distance:.3g}</li>"
        for other, distance in card.relatives
    ]
    heat = _uri("png", heat_png(card.heat, *scale))
    photo = _uri("jpeg", _jpeg(_framed(card.image), SIDE))
    buttons = "".join(
        f'<button type="button" class="to-{what.lower()}" aria-pressed="false" aria-label="{what} {name}">'
        f"{what}</button>"
        for what in ("Keep", "Drop")
    )
    return (
        f'<section class="suspect" id="s{i + 1}" tabindex="-1" aria-labelledby="h{i + 1}">'
        f'<h2 id="h{i + 1}"><small>{i + 1} of {count}</small> {name}</h2><p class="note">{escape(card.text)}</p>'
        f'<div class="pair"><div class="stage"><img class="photo" src="{photo}" alt="{name}">'
        f'<img class="heat" src="{heat}" alt=""></div>'
        f'<ul class="relatives" aria-label="Nearest relatives">{"".join(near)}</ul></div>'
        f'<div class="choice needs-script" role="group" aria-label="Decision on {name}">'
        f"{buttons}</div></section>"
    )


def _window(shown: Shown, height: int, width: int) -> tuple[int, int, int, int]:
    """Top, left, bottom, right of a square of pixels around the place, inside the photograph."""
    (h, w), (r, c) = shown.grid, shown.place
    side = round(max(CROP_CELLS * max(height / h, width / w), CROP_SHARE * min(height, width)))
    side = max(1, min(side, height, width))
    top = min(max(round((r + 0.5) * height / h - side / 2), 0), height - side)
    left = min(max(round((c + 0.5) * width / w - side / 2), 0), width - side)
    return top, left, top + side, left + side


def _crop(shown: Shown) -> NDArray[np.uint8]:
    rgb = as_rgb(shown.photo)
    top, left, bottom, right = _window(shown, *rgb.shape[:2])
    return rgb[top:bottom, left:right]


def _framed(shown: Shown) -> NDArray[np.uint8]:
    """The photograph with the window framed, in cyan beside dark: visible on any."""
    drawn = as_rgb(shown.photo).copy()
    top, left, bottom, right = _window(shown, *drawn.shape[:2])
    line = max(1, round(max(drawn.shape[:2]) / 256))
    for inset, colour in ((0, OUTLINE), (line, _DARK)):
        t, b, x, y = top + inset, bottom - inset, left + inset, right - inset
        if b - t > 2 * line and y - x > 2 * line:
            for edge in (np.s_[t : t + line, x:y], np.s_[b - line : b, x:y], np.s_[t:b, x : x + line],
                         np.s_[t:b, y - line : y]):  # fmt: skip
                drawn[edge] = colour
    return drawn


def _jpeg(image: NDArray[np.uint8], longest: int) -> bytes:
    from PIL import Image

    picture = Image.fromarray(image)
    scale = longest / max(picture.size)
    if scale < 1:
        picture = picture.resize((max(round(picture.width * scale), 1), max(round(picture.height * scale), 1)))
    out = BytesIO()
    picture.save(out, format="JPEG", quality=82, optimize=True)
    return out.getvalue()


def _uri(kind: str, data: bytes) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(data).decode('ascii')}"
