"""calibrate on the command line, and thresholds of pixels that are given or asked for."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from patchcore_fast.cli import main
from patchcore_fast.cli.decision import decided_text, percent, regions_said, verdicts
from patchcore_fast.config.decision import share
from patchcore_fast.memory_bank import MemoryBank
from patchcore_fast.model.decision import undecided, with_thresholds

pytestmark = pytest.mark.usefixtures("no_drawing")


def run(capsys: pytest.CaptureFixture[str], *args: object) -> tuple[int, str, str]:
    code = main([str(a) for a in args])
    said = capsys.readouterr()
    return code, said.out, said.err


@pytest.mark.parametrize(("text", "value"), [("0.005", 0.005), ("1/200", 0.005), ("0.1%", 0.001), ("0.1 %", 0.001)])
def test_a_share_is_written_in_three_ways(text: str, value: float) -> None:
    assert share(text) == pytest.approx(value)


@pytest.mark.parametrize("text", ["", "few", "1/0", "%", "nan", "1/2/3", "1e400"])
def test_what_is_no_share(text: str) -> None:
    with pytest.raises(ValueError, match="a share is wanted"):
        share(text)


def test_good_images_set_both(weave: Path, bank: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before, made = bank.read_bytes(), tmp_path / "made"
    broken = shutil.copytree(weave / "test" / "good", tmp_path / "good")
    (broken / "broken.png").write_bytes(b"no picture")
    code, out, err = run(capsys, "calibrate", bank, broken, "--output", made, "--max-false-alarms", "1/10")
    found = MemoryBank.load(made)
    assert code == 3 and "broken.png" in err and bank.read_bytes() == before
    assert found.calibrated == len(found.normal_scores) == len(list(broken.iterdir())) - 1
    assert found.config["decision"]["max_false_alarms"] == 0.1
    assert f"Threshold {found.threshold:.4g}" in out and f"Pixel threshold {found.pixel_threshold:.4g}" in out
    assert "images of the calibration lie above it" in out
    code, out, _ = run(capsys, "threshold", made)
    assert code == 0 and "images of the calibration" in out and "held-out" not in out
    kinds = [p for p in (weave / "test").iterdir() if p.name != "good"]
    code, out, _ = run(capsys, "calibrate", made, weave / "test" / "good", "--defects", kinds[0])
    assert code == 0 and "defective images found" in out and MemoryBank.load(made).threshold != found.threshold


def test_what_cannot_be(weave: Path, bank: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before, good = bank.read_bytes(), weave / "test" / "good"
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "0.png").write_bytes(b"no picture")
    for arguments, words in (((bank, good, "--defects", good), "is among GOOD and among --defects"),
                             ((bank, next(good.iterdir())), "two good images or more"),
                             ((bank, tmp_path / "none"), "no such file"),
                             ((bank, broken), "got 0; "), ((bank, broken), "0.png"),
                             ((bank, good, "--defects", broken), "no defects to choose a threshold by; "),
                             ((bank, good, "--max-false-pixels", "2"), "(0, 1)")):  # fmt: skip
        code, _, err = run(capsys, "calibrate", *arguments)
        assert code == 2 and words in err and bank.read_bytes() == before


def test_pixel_thresholds_are_shown_and_set(bank: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    loaded, made = MemoryBank.load(bank), tmp_path / "made"
    code, out, _ = run(capsys, "threshold", bank)
    assert code == 0 and f"Pixel threshold in use {loaded.pixel_threshold:.6g}: " in out
    assert f"{with_thresholds(loaded, max_false_pixels=0.001).pixel_threshold:.6g}" in out
    code, out, _ = run(capsys, "threshold", bank, "--max-false-pixels", "0.1%", "--output", made)
    assert code == 0 and f"(was {loaded.pixel_threshold:.6g})" in out
    found = MemoryBank.load(made)
    assert found.threshold == loaded.threshold and found.config["decision"]["max_false_pixels"] == 0.001
    code, _, _ = run(capsys, "threshold", made, "--image-threshold", "2", "--pixel-threshold", "1.5")
    assert code == 0 and (MemoryBank.load(made).threshold, MemoryBank.load(made).pixel_threshold) == (2.0, 1.5)
    code, out, _ = run(capsys, "threshold", made, "--image-threshold", "2")
    assert code == 0 and out.startswith("Threshold 2 (was 2) in") and "Pixel" not in out
    for wrong in (("3", "--image-threshold", "2"), ("--pixel-threshold", "1", "--max-false-pixels", "0.1")):
        code, _, err = run(capsys, "threshold", made, *wrong)
        assert code == 2 and "one of both" in err


def test_verdicts_say_whose_scores_they_go_by(bank: Path) -> None:
    loaded = MemoryBank.load(bank)
    metrics = dict.fromkeys(("true_positives", "false_negatives", "false_positives", "true_negatives"), 1.0)
    metrics |= {"image_f1": 0.5, "image_f1_threshold": 1.0}
    assert "By training: " in verdicts(metrics, loaded)
    said = verdicts(metrics, replace(loaded, calibrated=len(loaded.normal_scores)))
    assert "By calibration: " in said and "training" not in said


def test_no_command_names_an_option_that_it_has_not(bank: Path) -> None:
    """fit, train, update and merge say this; the last two take no threshold."""
    loaded = MemoryBank.load(bank)
    for empty in (undecided(loaded), replace(undecided(loaded), threshold=2.0)):
        said = decided_text(empty, "why")
        assert "patchcore-fast threshold or calibrate" in said and "--" not in said


@pytest.mark.parametrize(("share", "text"), [(0, "0 %"), (0.00112, "0.11 %"), (0.123, "12 %"), (1, "100 %")])
def test_shares_are_short(share: float, text: str) -> None:
    assert percent(share) == text
    metrics = dict.fromkeys(("true_regions", "regions_found", "regions_found_iou"), 0) | {
        "n_region_images": 2, "false_regions": 2400, "pixel_threshold": 1.0,
        "false_regions_per_image": 1200.0, "false_regions_per_normal_image": 1200.0}  # fmt: skip
    assert "(1,200 an image, 1,200 a normal image)" in regions_said(metrics)
