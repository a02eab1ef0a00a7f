"""curves.png of a training."""

from __future__ import annotations

import pytest
from PIL import Image

from patchcore_fast.report.training import plot_training

ROWS = [{"epoch": e, "loss": 1 / e} | ({"image_auroc": 0.5 + e / 10, "aupro": 0.4} if e % 2 else {}) for e in (1, 2, 3)]


@pytest.mark.parametrize("rows, width", [(ROWS, 950), (ROWS[1:2], 540)], ids=["metrics", "one epoch"])
def test_the_picture_has_a_part_for_metrics_where_there_are_any(rows, width, tmp_path):
    plot_training(rows, tmp_path / "c.png", title="weave: $x$")
    with Image.open(tmp_path / "c.png") as picture:
        assert picture.size[0] == width and len(picture.convert("RGB").getcolors(1 << 20)) > 20
    with pytest.raises(ValueError, match="at least one epoch"):
        plot_training([], tmp_path / "d.png")
