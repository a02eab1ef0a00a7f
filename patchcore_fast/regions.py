"""Connected regions of an anomaly map above a threshold, and how many of the true ones they find."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from numbers import Integral, Real
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

IOU = 0.3  # from which a region has the true one's place and extent; defects have no sharp edge, so less than 0.5
_EIGHT = np.ones((3, 3), dtype=bool)  # pixels that touch at a corner are of one region, as for AUPRO


@dataclass(frozen=True)
class Region:
    """One region, in pixels of the map that it was found in.

    Attributes
    ----------
    x, y : column and row of its upper left corner.  width, height : of its box.  area : pixels.
    centroid : (x, y), the mean of its pixels; the centre of the first pixel is (0, 0).
    maximum : of the map inside of it.
    mask : [height, width] bool, which pixels of the box are of the region.
    """

    x: int
    y: int
    width: int
    height: int
    area: int
    centroid: tuple[float, float]
    maximum: float
    mask: NDArray[np.bool_] = field(repr=False, compare=False)

    @property
    def box(self) -> tuple[slice, slice]:
        """Rows and columns of the box, to index the map with."""
        return slice(self.y, self.y + self.height), slice(self.x, self.x + self.width)


class Matched(NamedTuple):
    """Regions against the truth of one image, counted.

    true : regions of the truth.  found : those that a region overlaps, be it in one pixel.
    found_iou : those with a region whose intersection over union with them is at least IOU.
    false : regions that overlap no true one.
    """

    true: int
    found: int
    found_iou: int
    false: int


def find_regions(
    anomaly_map: Any, threshold: float, *, low: float | None = None, min_area: int = 1
) -> tuple[Region, ...]:
    """Connected regions above a threshold, from top to bottom; pixels that touch at a corner are connected.

    Parameters
    ----------
    anomaly_map : [H, W]; NaN is above nothing.
    threshold : a pixel above it belongs to a region.
    low : hysteresis (Canny 1986): so does a pixel above this lower threshold that is connected, by sides, with one
        above `threshold` through such pixels. None for no hysteresis.
    min_area : regions of fewer pixels are left out.

    Raises
    ------
    TypeError, ValueError : another shape, thresholds that are no numbers, `low` above `threshold`, or no area.
    """
    from scipy import ndimage

    values = np.asarray(anomaly_map)
    if values.ndim != 2:
        raise ValueError(f"find_regions: anomaly_map must be [H, W], got shape {values.shape}")
    low = threshold if low is None else low
    for name, value in (("threshold", threshold), ("low", low)):
        if isinstance(value, bool) or not isinstance(value, Real) or math.isnan(value):
            raise ValueError(f"find_regions: {name} must be a number, got {value!r}")
    if low > threshold:
        raise ValueError(f"find_regions: low must be at most the threshold, {threshold}, got {low}")
    if isinstance(min_area, bool) or not isinstance(min_area, Integral):
        raise TypeError(f"find_regions: min_area must be an integer, got {min_area!r}")
    if min_area < 1:
        raise ValueError(f"find_regions: min_area must be at least 1 pixel, got {min_area}")
    inside = values > threshold
    if not inside.any():
        return ()
    if low < threshold:
        inside = ndimage.binary_propagation(inside, mask=values > low)
    labels, _ = ndimage.label(inside, structure=_EIGHT)
    found = []
    for number, box in enumerate(ndimage.find_objects(labels), start=1):
        mask = labels[box] == number
        area = int(np.count_nonzero(mask))
        if area < min_area:
            continue
        rows, columns = mask.nonzero()
        y, x = box[0].start, box[1].start
        centre = float(x + columns.mean()), float(y + rows.mean())
        maximum = float(values[box][mask].max())
        found.append(Region(x, y, mask.shape[1], mask.shape[0], area, centre, maximum, mask))
    return tuple(found)


def regions_mask(regions: Sequence[Region], size: tuple[int, int]) -> NDArray[np.bool_]:
    """[H, W] bool of a map of this size, True inside of the regions."""
    mask = np.zeros(size, dtype=bool)
    for region in regions:
        mask[region.box] |= region.mask
    return mask


def match_regions(regions: Sequence[Region], truth: Any) -> Matched:
    """Count what regions find of a true mask.

    Parameters
    ----------
    regions : of `find_regions`, in a map of the truth's size.
    truth : [H, W] bool; its regions are connected as those of `find_regions`.
    """
    from scipy import ndimage

    labels, count = ndimage.label(np.asarray(truth, dtype=bool), structure=_EIGHT)
    if not count or not regions:
        return Matched(count, 0, 0, len(regions))
    # Pixels that a region [n] and a true one [count] have in common.
    common = np.stack([np.bincount(labels[r.box][r.mask], minlength=count + 1)[1:] for r in regions])
    areas = np.array([r.area for r in regions])[:, None]
    true = np.array([np.count_nonzero(labels[b] == i) for i, b in enumerate(ndimage.find_objects(labels), start=1)])
    hit, iou = common > 0, common / (areas + true - common)
    return Matched(
        count, int(hit.any(axis=0).sum()), int((iou >= IOU).any(axis=0).sum()), int((~hit.any(axis=1)).sum())
    )
