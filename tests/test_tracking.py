"""Experiment logging: TensorBoard and W&B hold what was measured; a missing package is told before the work."""

from __future__ import annotations

import json
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from patchcore_fast.cli import main
from patchcore_fast.errors import DataError
from patchcore_fast.report.page.read import read_record
from patchcore_fast.tracking import FIGURES, log_evaluation, require, scalars

from .evaluated import TINY, evaluate


def history(path: Path) -> dict[str, Any]:
    """What a run logged, out of W&B's file: protobuf messages in LevelDB's log format (32 KiB blocks of chunks)."""
    from wandb.proto import wandb_internal_pb2 as messages

    content, at, parts, found = path.read_bytes(), 7, b"", {}
    while at + 7 <= len(content):
        if 32768 - at % 32768 < 7:
            at += 32768 - at % 32768
            continue
        length, kind = struct.unpack("<HB", content[at + 4 : at + 7])
        parts += content[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # a whole message, or the last chunk of one
            record = messages.Record.FromString(parts)
            parts = b""
            found |= {item.key or "/".join(item.nested_key): json.loads(item.value_json)
                      for item in record.history.item}  # fmt: skip
    return found


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return evaluate(tmp_path_factory.mktemp("tracking"))


def test_scalars_are_the_metrics_their_intervals_and_the_defect_types(out: Path) -> None:
    found = scalars(read_record(out))
    metrics = json.loads((out / "metrics.json").read_text())["metrics"]
    assert {name: found[name] for name in metrics} == metrics
    assert found["interval_low/pixel_ap"] <= metrics["pixel_ap"] <= found["interval_high/pixel_ap"]
    assert found["defect_type/spot/images"] == 3
    assert {"seconds/features", "seconds/predict"} <= set(found)


def test_tensorboard_holds_them(out: Path) -> None:
    pytest.importorskip("tensorboard", reason="the extra tensorboard is not installed")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = log_evaluation("tensorboard", out)
    assert run.parent == out / "tensorboard"
    events = EventAccumulator(str(run))
    events.Reload()
    wanted = scalars(read_record(out))
    assert set(events.Tags()["scalars"]) == set(wanted)
    for name, value in wanted.items():
        assert events.Scalars(name)[0].value == pytest.approx(value, rel=1e-6), name
    assert set(events.Tags()["images"]) == {f"figures/{name}" for name in FIGURES}
    assert events.Images("figures/roc")[0].encoded_image_string.startswith(b"\x89PNG")
    assert {"scores/normal", "scores/anomalous"} <= set(events.Tags()["histograms"])


def test_wandb_writes_offline(out: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("wandb", reason="the extra wandb is not installed")
    monkeypatch.delenv("WANDB_MODE", raising=False)
    run = log_evaluation("wandb", out)
    assert run.parent == out / "wandb" and run.name.startswith("offline-run-")
    (log,) = run.glob("*.wandb")
    logged = history(log)
    for name, value in scalars(read_record(out)).items():
        assert logged[name] == pytest.approx(value, rel=1e-9), name
    pictures = {p.name.rsplit("_", 2)[0] for p in (run / "files/media/images/figures").glob("*.png")}
    assert pictures == set(FIGURES)
    (table,) = (run / "files/media/table").glob("*.json")
    rows = json.loads(table.read_text())["data"]
    images = read_record(out).images
    assert [(row[0], row[1]) for row in rows] == [(image["path"], image["score"]) for image in images]
    said = capfd.readouterr()
    assert said.out == "" and said.err == "", "quiet"


def test_evaluate_logs(tmp_path: Path, out: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    seen = []
    monkeypatch.setattr("patchcore_fast.tracking.require", lambda backend: None)
    monkeypatch.setattr("patchcore_fast.tracking.log_evaluation", lambda *a: seen.append(a) or tmp_path / "run")
    data = out.parent / "weave"
    assert main(["evaluate", str(data), "--output", str(tmp_path / "o"), "--log", "wandb", *TINY]) == 0
    assert seen == [("wandb", tmp_path / "o")]
    assert (tmp_path / "o/report.html").is_file(), "W&B takes the page along"
    assert f"Logged for wandb: {tmp_path / 'run'}" in capsys.readouterr().out


@pytest.mark.parametrize("backend", ["tensorboard", "wandb"])
def test_a_missing_package_is_told_first(backend: str, tmp_path: Path) -> None:
    start = f"import sys; sys.modules.update({{{backend!r}: None}}); from patchcore_fast.cli import main; "
    args = ["evaluate", str(tmp_path / "nowhere"), "--output", str(tmp_path / "o"), "--log", backend]
    done = subprocess.run([sys.executable, "-c", start + f"sys.exit(main({args!r}))"], text=True, capture_output=True,
                          timeout=120)  # fmt: skip
    assert done.returncode == 2 and f'pip install "patchcore_fast[{backend}]"' in done.stderr, done.stderr
    assert not (tmp_path / "o").exists()


def test_log_wants_an_output_folder(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", str(out.parent / "weave"), "--log", "wandb"]) == 2
    assert "--output is not given" in capsys.readouterr().err


def test_other_backends_and_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"backend must be one of tensorboard, wandb, got 'mlflow'"):
        require("mlflow")
    pytest.importorskip("tensorboard", reason="the extra tensorboard is not installed")
    with pytest.raises(DataError, match=r"metrics\.json: missing"):
        log_evaluation("tensorboard", tmp_path)
