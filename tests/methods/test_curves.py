"""The table of a training and its best values."""

from __future__ import annotations

from patchcore_fast.methods.curves import best, finite, write_curves

ROWS = [
    {"epoch": 1, "loss": 0.1 + 0.2, "image_auroc": 0.75},
    {"epoch": 2, "loss": 0.25},
    {"epoch": 3, "loss": 0.2, "image_auroc": 0.875, "aupro": float("nan")},
    {"epoch": 4, "loss": 0.125, "image_auroc": 0.875},
]


def test_what_an_epoch_has_not_is_empty_and_numbers_are_whole(tmp_path):
    write_curves(tmp_path / "c.csv", ROWS[:2])
    assert (tmp_path / "c.csv").read_text() == "epoch,loss,image_auroc\n1,0.30000000000000004,0.75\n2,0.25,\n"


def test_the_best_is_the_first_that_had_it():
    assert best(ROWS) == {"image_auroc": (0.875, 3)} and best([]) == {}
    assert finite({"image_auroc": 0.5, "aupro": float("nan"), "pixel_ap": None, "n_test": 4}) == {"image_auroc": 0.5}
