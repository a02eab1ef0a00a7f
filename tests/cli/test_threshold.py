"""The threshold on the command line: what it says of verdicts, and how to change them."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch

from patchcore_fast.cli import main
from patchcore_fast.memory_bank import MemoryBank
from patchcore_fast.model import PatchCore
from patchcore_fast.model.decision import with_thresholds
from patchcore_fast.model.threshold import false_alarm_threshold

from ..evaluated import TINY

pytestmark = pytest.mark.usefixtures("no_drawing")


def run(capsys: pytest.CaptureFixture[str], *args: object) -> tuple[int, str, str]:
    code = main([str(a) for a in args])
    said = capsys.readouterr()
    return code, said.out, said.err


def test_fit_says_what_its_threshold_means(weave: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "fit", weave, "--output", tmp_path / "b", *TINY, "--max-false-alarms", "0.2")
    fitted = MemoryBank.load(tmp_path / "b")
    assert code == 0 and fitted.threshold is not None and fitted.config["decision"]["max_false_alarms"] == 0.2
    count = len(fitted.normal_scores)
    above = int((fitted.normal_scores > fitted.threshold).sum())
    assert f"Threshold {fitted.threshold:.4g}: {above} of {count} held-out training images lie above it" in out


def test_fit_takes_a_threshold(weave: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "fit", weave, "--output", tmp_path / "b", *TINY, "--threshold", "2.5")
    assert code == 0 and MemoryBank.load(tmp_path / "b").threshold == 2.5 and "Threshold 2.5:" in out


def test_evaluate_counts_verdicts_at_the_threshold_in_use(
    weave: Path, bank: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, _ = run(capsys, "evaluate", weave, "--bank", bank, "--json", tmp_path / "m.json")
    found = json.loads((tmp_path / "m.json").read_text())
    metrics, rows = found["metrics"], found["images"]
    limit = MemoryBank.load(bank).threshold
    bad = [r["score"] > limit for r in rows if r["label"] == 1]
    good = [r["score"] > limit for r in rows if r["label"] == 0]
    assert code == 0 and metrics["threshold"] == limit
    counts = [metrics[k] for k in ("true_positives", "false_negatives", "false_positives", "true_negatives")]
    assert counts == [sum(bad), len(bad) - sum(bad), sum(good), len(good) - sum(good)]
    assert metrics["accuracy"] == pytest.approx((sum(bad) + len(good) - sum(good)) / len(rows))
    assert f"{sum(bad)} of {len(bad)} anomalous images found, {len(bad) - sum(bad)} missed" in out
    assert f"{sum(good)} of {len(good)} normal images are false alarms" in out
    assert metrics["expected_low"] <= 0.5 <= metrics["expected_high"] or metrics["expected_high"] < 0.5


@pytest.mark.parametrize(("limit", "missed", "alarms"), [("1e9", True, False), ("-1", False, True)])
def test_evaluate_takes_a_threshold(
    weave: Path, bank: Path, capsys: pytest.CaptureFixture[str], limit: str, missed: bool, alarms: bool
) -> None:
    before = bank.read_bytes()
    code, out, _ = run(capsys, "evaluate", weave, "--bank", bank, "--threshold", limit)
    assert code == 0 and bank.read_bytes() == before
    hit = re.search(r"(\d+) of (\d+) anomalous images found", out)
    false = re.search(r"(\d+) of (\d+) normal images are false alarms", out)
    assert hit and false
    assert hit[1] == ("0" if missed else hit[2]) and false[1] == (false[2] if alarms else "0")
    assert "the best F1" in out


def test_predict_takes_a_share_of_false_alarms(
    weave: Path, bank: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    verdicts = {}
    for share in ("0.9", "0.001"):
        code, out, _ = run(
            capsys, "predict", bank, weave / "test", "--output", tmp_path / share, "--max-false-alarms", share
        )
        assert code == 0
        verdicts[share] = int(re.search(r"(\d+) anomalous \(above the threshold", out)[1])
    assert verdicts["0.9"] >= verdicts["0.001"]


def test_threshold_shows_what_there_is(bank: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "threshold", bank)
    loaded = MemoryBank.load(bank)
    assert code == 0 and f"Threshold in use {loaded.threshold:.6g}" in out
    for share in (0.1, 0.05, 0.01):
        assert f"{false_alarm_threshold(loaded.normal_scores.tolist(), share):.6g}" in out


def test_threshold_goes_into_the_bank_and_nothing_else_changes(
    bank: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    old = MemoryBank.load(bank)
    code, out, _ = run(capsys, "threshold", bank, "3.25", "--output", tmp_path / "other")
    new = MemoryBank.load(tmp_path / "other")
    assert code == 0 and new.threshold == 3.25 and f"was {old.threshold:.6g}" in out
    assert MemoryBank.load(bank).threshold == old.threshold
    assert torch.equal(new.features, old.features) and new.config == old.config
    assert PatchCore.load(tmp_path / "other", "cpu").threshold == 3.25
    code, _, _ = run(capsys, "threshold", tmp_path / "other", "--max-false-alarms", "0.05")
    assert code == 0 and MemoryBank.load(tmp_path / "other").threshold == pytest.approx(old.threshold)


WRONG = [("3 --max-false-alarms 0.1", "one of both"), ("nan", "finite"), ("inf", "finite")]
WRONG += [("--max-false-alarms 0", "(0, 1)"), ("--max-false-alarms 1.5", "(0, 1)"), ("--output x", "nothing to write")]


@pytest.mark.parametrize(("more", "words"), [(text.split(), words) for text, words in WRONG])
def test_wrong_thresholds(bank: Path, capsys: pytest.CaptureFixture[str], more: list[str], words: str) -> None:
    before = bank.read_bytes()
    code, _, err = run(capsys, "threshold", bank, *more)
    assert code == 2 and words in err and bank.read_bytes() == before and len(err.splitlines()) == 1


def test_a_wrong_threshold_is_refused_before_the_work(
    weave: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(PatchCore, "fit", lambda *_, **__: pytest.fail("the fit has begun"))
    for value in ("nan", "inf"):
        code, _, err = run(capsys, "fit", weave, "--output", tmp_path / "b", *TINY, "--threshold", value)
        assert code == 2 and "--image-threshold must be a finite number" in err


def test_both_at_once_are_refused(weave: Path, bank: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = run(capsys, "evaluate", weave, "--bank", bank, "--threshold", "1", "--max-false-alarms", "0.1")
    assert code == 2 and "one of both" in err


def test_another_scoring_has_no_threshold_until_one_is_given(
    weave: Path, bank: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = ("evaluate", weave, "--bank", bank, "--image-score", "reweighted")
    code, out, _ = run(capsys, *other)
    assert code == 0 and "No threshold, so no verdicts" in out
    code, _, err = run(capsys, *other, "--max-false-alarms", "0.1")
    assert code == 2 and "no scores of held-out images" in err
    code, out, _ = run(capsys, *other, "--threshold", "1.5")
    assert code == 0 and "At the threshold in use, 1.5" in out


def test_a_bank_without_held_out_scores(bank: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from dataclasses import replace

    replace(MemoryBank.load(bank), normal_scores=None).save(tmp_path / "old")
    code, out, _ = run(capsys, "threshold", tmp_path / "old")
    assert code == 0 and "no scores of held-out training images" in out
    code, _, err = run(capsys, "threshold", tmp_path / "old", "--max-false-alarms", "0.1")
    assert code == 2 and "give a threshold instead" in err
    with pytest.raises(TypeError, match="not both"):
        with_thresholds(MemoryBank.load(bank), threshold=1.0, max_false_alarms=0.1)


def test_the_page_has_the_way_back(weave: Path, bank: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(capsys, "evaluate", weave, "--bank", bank, "--output", tmp_path / "out")
    code, _, _ = run(capsys, "report", tmp_path / "out")
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert code == 0 and "patchcore-fast threshold BANK" in page and "By the held-out training images" in page
