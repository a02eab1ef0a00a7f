"""Experiment logging: TensorBoard and W&B hold what was measured; a missing package is told before the work."""

from __future__ import annotations

import json
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from patchcore_fast.cli import main
from patchcore_fast.cli.parser import build_parser
from patchcore_fast.cli.tracking import chosen_tracking
from patchcore_fast.config import PatchCoreConfig
from patchcore_fast.config.tracking import TrackingSettings
from patchcore_fast.errors import DataError
from patchcore_fast.memory_bank import MemoryBank
from patchcore_fast.report.page.read import read_record
from patchcore_fast.tracking import FIGURES, curve_logger, log_evaluation, require, scalars

from .evaluated import TINY, evaluate


def messages_of(path: Path) -> Iterator[Any]:
    """The records of W&B's file: protobuf messages in LevelDB's log format (32 KiB blocks of chunks)."""
    from wandb.proto import wandb_internal_pb2 as messages

    content, at, parts = path.read_bytes(), 7, b""
    while at + 7 <= len(content):
        if 32768 - at % 32768 < 7:
            at += 32768 - at % 32768
            continue
        length, kind = struct.unpack("<HB", content[at + 4 : at + 7])
        parts += content[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # a whole message, or the last chunk of one
            yield messages.Record.FromString(parts)
            parts = b""


def steps(path: Path) -> list[dict[str, Any]]:
    """What a run logged, step by step."""
    found = [{item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in record.history.item}
             for record in messages_of(path)]  # fmt: skip
    return [step for step in found if step]


def history(path: Path) -> dict[str, Any]:
    """All of it."""
    return {name: value for step in steps(path) for name, value in step.items()}


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
    said, kept = [], []

    def log(*given: Any) -> Path:
        said.append(given[:3])
        kept.append(MemoryBank.load(given[3]))
        return tmp_path / "run"

    monkeypatch.setattr("patchcore_fast.tracking.require", lambda backend: None)
    monkeypatch.setattr("patchcore_fast.tracking.log_evaluation", log)
    file = tmp_path / "settings.toml"
    file.write_text('[tracking]\nproject = "line 3"\nname = "a"\nlog_model = true\nlog = "wandb"\n')
    argv = ["evaluate", str(out.parent / "weave"), "--output", str(tmp_path / "o"), "--config", str(file), *TINY]
    assert main([*argv, "--wandb-name", "b", "--wandb-tags", "x"]) == 0
    assert (tmp_path / "o/report.html").is_file(), "W&B takes the page along"
    assert said == [("wandb", tmp_path / "o", TrackingSettings("wandb", "line 3", None, "b", ("x",), log_model=True))]
    (bank,) = kept
    assert bank.config["selection"]["ratio"] == 0.1, "the model that was fitted"
    assert "line 3" not in json.dumps(bank.config), "which does not say where it was logged"
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


def test_wandb_takes_the_settings_of_the_run_and_the_model(
    out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("wandb", reason="the extra wandb is not installed")
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.setenv("WANDB_DATA_DIR", str(tmp_path))
    model = out.parent / "model.safetensors"
    model.write_bytes(b"a bank")
    settings = TrackingSettings("wandb", "line 3", "team", "first run", ("baseline", "a"), log_model=True)
    (log,) = log_evaluation("wandb", out, settings, model).glob("*.wandb")
    records = list(messages_of(log))
    (run,) = [r.run for r in records if r.run.run_id]
    assert (run.project, run.entity, run.display_name, list(run.tags)) == (
        "line 3",
        "team",
        "first run",
        ["baseline", "a"],
    )
    (kept,) = [
        a
        for r in records
        if (a := r.request.log_artifact.artifact if r.HasField("request") else r.artifact).type == "model"
    ]
    metadata = json.loads(kept.metadata)
    assert kept.name == "first_run-model" and [entry.path for entry in kept.manifest.contents] == ["model.safetensors"]
    assert metadata["config"]["selection"]["ratio"] == 0.1 and len(metadata) == 2
    copies = [path.read_bytes() for path in (tmp_path / "artifacts").rglob("*") if path.is_file()]
    assert b"a bank" in copies, "until it is synced, when the file itself may be gone"
    assert metadata["metrics"]["image_auroc"] == scalars(read_record(out))["image_auroc"]


def train(settings: TrackingSettings, folder: Path, first: int, epochs: int) -> None:
    with curve_logger(settings, folder, name="weave", config={"rd": {"epochs": epochs}}, first=first) as curves:
        for epoch in range(first, epochs):
            curves.log({"loss": 1 / (1 + epoch), "image_auroc": float("nan")}, epoch, last=epoch + 1 == epochs)
        curves.model(folder, {})


def test_curves_of_tensorboard_go_on_where_a_training_goes_on(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="the extra tensorboard is not installed")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    train(TrackingSettings("tensorboard", log_freq=2), tmp_path, 0, 4)
    train(TrackingSettings("tensorboard", log_freq=2), tmp_path, 3, 8)  # 3 is known from before, but not checkpointed
    events = EventAccumulator(str(tmp_path / "tensorboard/curves"))
    events.Reload()
    assert [e.step for e in events.Scalars("loss")] == [0, 2, 4, 6, 7]
    assert events.Scalars("loss")[-1].value == pytest.approx(1 / 8)
    assert events.Tags()["scalars"] == ["loss"], "what is not finite is left out"
    assert "rd.epochs" in str(events.Tensors("settings/text_summary")[0])


def test_curves_of_wandb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb", reason="the extra wandb is not installed")
    monkeypatch.delenv("WANDB_MODE", raising=False)
    with pytest.raises(KeyboardInterrupt), curve_logger(TrackingSettings("wandb"), tmp_path, name="weave") as curves:
        for epoch in range(2):
            curves.log({"loss": epoch / 4}, epoch)
        raise KeyboardInterrupt
    (log,) = (tmp_path / "wandb").glob("offline-run-*/*.wandb")
    assert [(step["_step"], step["loss"]) for step in steps(log)] == [(0, 0.0), (1, 0.25)]
    (run,) = [r.run for r in messages_of(log) if r.run.run_id]
    assert (run.project, run.display_name, run.run_group) == ("patchcore_fast", "weave", "weave")


def test_without_a_backend_nothing_is_written(tmp_path: Path) -> None:
    train(TrackingSettings(), tmp_path, 0, 3)
    assert not list(tmp_path.iterdir())


WRONG = [
    ('log = "mlflow"', "tracking.log must be one of tensorboard, wandb, got 'mlflow'"),
    ('project = "a/b"', "tracking.project must not have /, got 'a/b'"),
    ("name = 3", "tracking.name must be a non-empty string, got 3"),
    ('tags = "a"', "tracking.tags must be a list of strings, got 'a'"),
    ('tags = [""]', "tracking.tags must be strings of 1 to 64 characters, got ''"),
    ("log_freq = 0", "tracking.log_freq must be at least 1, got 0"),
    ('log = "tensorboard"\nlog_model = true', "tracking.log_model is of W&B, and tracking.log is 'tensorboard'"),
    ("log_model = 1", "tracking.log_model must be true or false, got 1"),
    ('entitty = "a"', "unknown field tracking.entitty (did you mean entity?)"),
]


@pytest.mark.parametrize(
    ("text", "said"), WRONG, ids=[text.split(" ")[0] + str(i) for i, (text, _) in enumerate(WRONG)]
)
def test_wrong_settings_are_named_by_every_command_that_reads_the_file(tmp_path: Path, text: str, said: str) -> None:
    file = tmp_path / "settings.toml"
    file.write_text(f"[tracking]\n{text}\n")
    for reads in (TrackingSettings.from_toml, PatchCoreConfig.from_toml):
        with pytest.raises(DataError) as error:
            reads(file)
        assert str(error.value) == f"{file}: {said}"


def test_options_go_before_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("patchcore_fast.cli.tracking.need_log", lambda backend: None)
    file = tmp_path / "settings.toml"
    file.write_text('[selection]\nratio = 0.02\n[tracking]\nproject = "line 3"\nlog = "tensorboard"\n')
    assert PatchCoreConfig.from_toml(file) == PatchCoreConfig(ratio=0.02)

    def chosen(*more: str) -> TrackingSettings:
        return chosen_tracking(build_parser().parse_args(["evaluate", "data", *more]))

    assert chosen() == TrackingSettings()
    assert chosen("--config", str(file)) == TrackingSettings("tensorboard", "line 3")
    typed = ("--log", "wandb", "--wandb-entity", "team", "--wandb-tags", "a, b", "--log-model")
    assert chosen("--config", str(file), *typed) == TrackingSettings(
        "wandb", "line 3", "team", tags=("a", "b"), log_model=True
    )
    for more in ((), ("--config", str(file))):
        with pytest.raises(DataError, match=r"--wandb-name, --log-model: goes with --log wandb"):
            chosen("--wandb-name", "a", "--log-model", *more)
    with pytest.raises(DataError, match=r"tracking\.project must not have :"):
        chosen("--log", "wandb", "--wandb-project", "a:b")
