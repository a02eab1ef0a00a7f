"""The command line: what it writes, what it says, how it ends."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from patchcore_fast import __version__
from patchcore_fast.cli import main
from patchcore_fast.cli.options import flag
from patchcore_fast.cli.parser import build_parser
from patchcore_fast.config import GROUPS
from patchcore_fast.config.base import settings_of
from patchcore_fast.kernels import k_center_greedy, knn
from patchcore_fast.memory_bank import MemoryBank
from patchcore_fast.model import PatchCore, PatchCoreConfig
from patchcore_fast.report.scores_csv import COLUMNS
from patchcore_fast.written import LIST

from ..evaluated import TINY, files, rows_of
from ..pictures import write_mvtec
from ..programs import MAIN, Program, run


def test_help_is_light() -> None:
    code = (
        "import sys; from patchcore_fast.cli import main; code = main(['fit', '--help']); "
        "heavy = {'torch', 'timm', 'matplotlib', 'numpy', 'PIL'} & set(sys.modules); "
        "sys.exit(f'imported {heavy}' if heavy else code)"
    )
    done = subprocess.run([sys.executable, "-c", code], text=True, capture_output=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "usage: patchcore-fast fit" in done.stdout


@pytest.mark.parametrize(
    "command", ["demo", "fit", "predict", "watch", "evaluate", "report", "inspect", "audit", "select", "doctor"]
)
def test_each_command_has_an_example_that_parses(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([command, "--help"]) == 0
    text = capsys.readouterr().out
    example = text.split("example:\n")[1].split()
    assert example[:2] == ["patchcore-fast", command]
    assert build_parser().parse_args(example[1:]).run


@pytest.mark.parametrize("command", ["fit", "evaluate", "inspect", "predict"])
def test_help_has_the_groups_of_the_settings(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([command, "--help"]) == 0
    text = capsys.readouterr().out
    titles = [line.rstrip(":") for line in text.splitlines() if line.endswith(":") and line[:1].isalpha()]
    wanted = {"inspect": set(GROUPS) - {"decision"}, "predict": {"features", "scoring", "decision", "running"}}
    assert [t for t in titles if t in GROUPS] == [g for g in GROUPS if g in wanted.get(command, set(GROUPS))]
    assert "--score " not in text and ("--image-score {max,reweighted,top:SHARE}" in text)
    if command == "fit":
        for f in (f for kind in GROUPS.values() for f in settings_of(kind) if f.metadata["help"]):
            assert flag(f.name) in text and all(c in text for c in f.metadata["offered"]), f.name


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"patchcore-fast {__version__}\n"


def test_fit_passes_every_option_on(weave: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = ["--crop", "48x56", "--fusion", "amazon", "--patch-size", "1", "--sampler", "random", "--seed", "5",
             "--neighbours", "2", "--score", "reweighted", "--sigma", "2.5", "--batch-size", "4",
             "--workers", "0", "--device", "cpu"]  # fmt: skip
    assert main(["fit", str(weave), "--output", str(tmp_path / "b.safetensors"), *TINY, *given]) == 0
    wanted = PatchCoreConfig(
        backbone="test_resnet", layers=(1, 2), weights="random", image_size=64, ratio=0.1, crop=(48, 56),
        fusion="amazon", patch_size=1, sampler="random", seed=5, neighbours=2, score="reweighted", sigma=2.5,
        batch_size=4, workers=0, device="cpu",
    )  # fmt: skip
    assert PatchCoreConfig.from_dict(MemoryBank.load(tmp_path / "b.safetensors").config) == wanted
    out = capsys.readouterr()
    assert "patchcore-fast evaluate" in out.out and "patchcore-fast predict" in out.out
    assert out.err == "", "quiet when not on a terminal"


def test_fit_says_when_there_is_no_test_set(weave: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fit", str(weave / "train" / "good"), "--output", str(tmp_path / "b.safetensors"), *TINY]) == 0
    text = capsys.readouterr().out
    assert "no test images" in text and "evaluate" not in text


def test_predict_writes_what_the_model_says(bank: Path, weave: Path, tmp_path: Path) -> None:
    out = tmp_path / "new" / "out"
    assert main(["predict", str(bank), str(weave / "test"), "--output", str(out)]) == 0
    stems = [f"{kind}/{i:03d}" for kind in ("good", "spot") for i in range(3)]
    assert files(out) == {"scores.csv", "contact_sheet.png", "regions.csv", "regions.json", LIST} | {
        f"{folder}/{s}.png" for s in stems for folder in ("heatmaps", "masks")
    }
    rows = rows_of(out / "scores.csv")
    expected = PatchCore.load(bank).predict(weave / "test")
    assert [r["path"] for r in rows] == [str(p.path) for p in expected]
    assert [np.float32(r["score"]) for r in rows] == [np.float32(p.score) for p in expected]
    assert [r["is_anomalous"] for r in rows] == [str(p.is_anomalous) for p in expected]
    assert tuple(rows[0]) == COLUMNS and {(r["label"], r["defect_type"], r["error"]) for r in rows} == {("", "", "")}
    with Image.open(out / rows[0]["heatmap"]) as picture:
        assert picture.size == (64, 64)


def test_predict_without_maps(bank: Path, weave: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["predict", str(bank), str(weave / "test"), "--output", str(tmp_path / "out"), "--no-maps"]) == 0
    assert files(tmp_path / "out") == {"scores.csv", LIST}
    rows = rows_of(tmp_path / "out" / "scores.csv")
    expected = PatchCore.load(bank).predict(weave / "test")
    assert [(np.float32(r["score"]), r["heatmap"]) for r in rows] == [(np.float32(p.score), "") for p in expected]
    assert "Numbers are in" in capsys.readouterr().out
    args = ["--output", str(tmp_path / "no"), "--no-maps", "--scorer", "noising"]
    assert main(["predict", str(bank), str(weave / "test"), *args]) != 0
    assert 'scorer="distance"' in capsys.readouterr().err and not (tmp_path / "no").exists()


def test_predict_shows_the_highest_scores(
    bank: Path, weave: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sheets = []
    monkeypatch.setattr("patchcore_fast.report.gallery.SHEET_LIMIT", 2)
    monkeypatch.setattr("patchcore_fast.report.gallery.contact_sheet", lambda p, *a, **k: sheets.append((p, k)))
    assert main(["predict", str(bank), str(weave / "test"), "--output", str(tmp_path)]) == 0
    ((panels, given),) = sheets
    scores = sorted((p.score for p in PatchCore.load(bank).predict(weave / "test")), reverse=True)
    assert [p.score for p in panels] == scores[:2]
    assert given["title"] == "6 images: the 2 highest scores"


def test_predict_runs_as_told(bank: Path, weave: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    whole = PatchCore.iter_predict

    def watched(self: PatchCore, images: Any, **more: Any) -> Any:
        seen.append(self.config)
        return whole(self, images, **more)

    monkeypatch.setattr(PatchCore, "iter_predict", watched)
    args = ["--batch-size", "2", "--device", "cpu", "--weights", "random"]
    assert main(["predict", str(bank), str(weave / "test"), "--output", str(tmp_path), *args]) == 0
    assert (seen[0].batch_size, seen[0].device, seen[0].weights) == (2, "cpu", "random")


def test_predict_keeps_equal_names_apart(bank: Path, weave: Path, tmp_path: Path) -> None:
    good, spot = weave / "test/good/000.png", weave / "test/spot/000.png"
    twin = tmp_path / "000.bmp"
    Image.open(good).save(twin)
    Image.open(good).resize((50, 90)).save(tmp_path / "000.png")
    assert main(["predict", str(bank), str(good), str(spot), str(good), "--output", str(tmp_path / "a")]) == 0
    assert {f for f in files(tmp_path / "a") if "heat" in f} == {
        "heatmaps/good/000.png", "heatmaps/good/000_2.png", "heatmaps/spot/000.png"
    }  # fmt: skip
    pair = [str(twin), str(tmp_path / "000.png")]
    assert main(["predict", str(bank), *pair, "--output", str(tmp_path / "b")]) == 0
    assert {f for f in files(tmp_path / "b") if "heat" in f} == {"heatmaps/000.png", "heatmaps/000_2.png"}
    with Image.open(tmp_path / "b/heatmaps/000_2.png") as picture:
        assert picture.size == (50, 90), "the size of the photograph, not of the network"


def test_evaluate_with_a_bank_equals_evaluate_from_scratch(
    bank: Path, weave: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one, two = tmp_path / "1.json", tmp_path / "2.json"
    assert main(["evaluate", str(weave), "--bank", str(bank), "--json", str(one), "--output", str(tmp_path / "o")]) == 0
    text = capsys.readouterr().out
    assert main(["evaluate", str(weave), "--json", str(two), *TINY]) == 0
    first, second = (json.loads(p.read_text()) for p in (one, two))
    assert first["metrics"] == second["metrics"] and first["images"] == second["images"]
    assert f"{first['metrics']['image_auroc']:.3f}" in text and "weave" in text
    top = {"contact_sheet.png", "roc.png", "pr.png", "histogram.png", "provenance.png", "scores.csv", "metrics.json",
           "report.json", LIST}  # fmt: skip
    # Of each of 6 images the heat map, the photograph and the layer of heat, of 3 the mask.
    assert top <= files(tmp_path / "o") and len(files(tmp_path / "o")) == len(top) + 3 * 6 + 3
    assert json.loads((tmp_path / "o/metrics.json").read_text())["metrics"] == first["metrics"]
    rows = rows_of(tmp_path / "o/scores.csv")
    assert tuple(rows[0]) == COLUMNS and set(first["images"][0]) <= set(COLUMNS), "those of predict"
    assert [(r["label"], r["defect_type"], r["heatmap"]) for r in rows[2:4]] == [
        ("0", "", "heatmaps/good/002.png"), ("1", "spot", "heatmaps/spot/000.png")
    ]  # fmt: skip


def test_evaluate_without_normal_test_images(bank: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    half = write_mvtec(tmp_path / "half", good=0)
    assert main(["evaluate", str(half), "--bank", str(bank), "--output", str(tmp_path / "o")]) == 0
    assert "one class only" in capsys.readouterr().out
    assert "roc.png" not in files(tmp_path / "o") and "histogram.png" in files(tmp_path / "o")


@pytest.mark.parametrize("kind", [np.float16, np.float32, np.float64, np.uint8, ">f4"], ids=str)
def test_select_keeps_type_and_rows(tmp_path: Path, kind: Any, capsys: pytest.CaptureFixture[str]) -> None:
    x = (np.random.default_rng(0).random((300, 6)) * 200).astype(kind)
    np.save(tmp_path / "f.npy", x)
    out, idx = tmp_path / "c.npy", tmp_path / "i.npy"
    args = ["select", str(tmp_path / "f.npy"), "--ratio", "0.1", "--output", str(out), "--indices", str(idx)]
    assert main([*args, "--no-projection"]) == 0
    rows, numbers = np.load(out), np.load(idx)
    assert rows.dtype == x.dtype and numbers.dtype == np.int64 and rows.shape == (30, 6)
    assert (rows == x[numbers]).all() and len(set(numbers.tolist())) == 30
    text = capsys.readouterr().out
    assert "Picked 30 of 300 rows of 6 numbers" in text
    y = torch.from_numpy(x.astype(np.float32))
    assert k_center_greedy(y, 30, start=int(numbers[0])).indices.tolist() == numbers.tolist()
    radius = float(knn(y, y[numbers], 1)[0].max())
    assert float(text.split("within ")[1].split()[0]) == pytest.approx(radius, rel=1e-5)


@pytest.mark.parametrize(("budget", "rows"), [("30", 30), ("1KB", 41), ("500", 300), ("1GB", 300)])
def test_select_by_budget(tmp_path: Path, budget: str, rows: int, capsys: pytest.CaptureFixture[str]) -> None:
    np.save(tmp_path / "f.npy", np.random.default_rng(0).random((300, 6), dtype=np.float32))
    args = ["select", str(tmp_path / "f.npy"), "--output", str(tmp_path / "c.npy")]
    assert main([*args, "--budget", budget]) == 0
    assert f"Picked {rows} of 300 rows" in capsys.readouterr().out
    found = np.load(tmp_path / "c.npy")
    if rows < 300:
        assert main([*args, "--ratio", str((rows + 0.5) / 300)]) == 0
        assert (found == np.load(tmp_path / "c.npy")).all()


@pytest.mark.parametrize(
    ("size", "message"),
    [
        (["--budget", "5ms"], "--budget 5ms: select knows no images, whose search takes time; give rows or bytes"),
        (["--budget", "20B"], "--budget 20B keeps no row; one has 24 bytes"),
        (["--budget", "many"], "--budget must be a number of rows (2000), bytes (20MB, 512KiB)"),
        (["--budget", "5", "--ratio", "0.1"], "argument --ratio: not allowed with argument --budget"),
        ([], "one of the arguments --ratio --budget --count is required"),
    ],
)
def test_select_wants_one_size(tmp_path: Path, size: list[str], message: str, capsys) -> None:
    np.save(tmp_path / "f.npy", np.zeros((10, 6), np.float32))
    try:
        assert main(["select", str(tmp_path / "f.npy"), "--output", str(tmp_path / "c.npy"), *size]) == 2
    except SystemExit as end:
        assert end.code == 2
    assert message in capsys.readouterr().err and not (tmp_path / "c.npy").exists()


@pytest.mark.parametrize("method", ["approximate", "random", "greedy"])
def test_select_methods_are_seeded(tmp_path: Path, method: str) -> None:
    np.save(tmp_path / "f.npy", np.random.default_rng(0).random((200, 150), dtype=np.float32))
    found = []
    for seed in (1, 1, 2):
        assert main(["select", str(tmp_path / "f.npy"), "--ratio", "0.2", "--method", method, "--seed", str(seed),
                     "--output", str(tmp_path / "c.npy")]) == 0  # fmt: skip
        found.append(np.load(tmp_path / "c.npy"))
    assert (found[0] == found[1]).all() and (found[0] != found[2]).any()


def test_select_is_honest_about_a_radius_that_it_did_not_measure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("patchcore_fast.cli.select.MEASURE_WORK", 0)
    np.save(tmp_path / "f.npy", np.random.default_rng(0).random((200, 150), dtype=np.float32))
    said = []
    for method in ("greedy", "approximate"):
        assert main(["select", str(tmp_path / "f.npy"), "--ratio", "0.2", "--method", method,
                     "--output", str(tmp_path / "c.npy")]) == 0  # fmt: skip
        said.append(capsys.readouterr().out)
    assert "after projection to 128 dimensions" in said[0] and "was not measured" in said[1]


def test_ctrl_c_leaves_nothing_behind(tmp_path: Path) -> None:
    np.save(tmp_path / "f.npy", np.random.default_rng(0).random((60_000, 64), dtype=np.float32))
    # Announces when the long part has begun, so that the signal falls into it on any machine.
    code = (
        "import sys, patchcore_fast.samplers.base as base\n"
        "from patchcore_fast.cli import main\n"
        "whole = base.Sampler.select\n"
        "def select(self, features):\n"
        "    print('selecting', flush=True)\n"
        "    return whole(self, features)\n"
        "base.Sampler.select = select\n"
        "sys.exit(main())"
    )
    job = Program(code, "select", "f.npy", "--ratio", "0.9", "--output", "c.npy", cwd=tmp_path)
    job.wait_for(job.out, "selecting\n")
    time.sleep(0.3)
    job.send_signal(signal.SIGINT)
    done = job.ended()
    assert done.returncode == 130
    assert done.stderr.strip() == "patchcore-fast: interrupted; files are written whole, none is half-written"
    assert files(tmp_path) == {"f.npy"}


@pytest.mark.parametrize(
    ("more", "goes_on"), [([], False), (["--checkpoint", "c"], True)], ids=["plain", "with a checkpoint"]
)
def test_an_interrupted_command_says_whether_it_goes_on(
    more: list[str], goes_on: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stop(args: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("patchcore_fast.cli.select.select", stop)
    assert main(["select", "f.npy", "--count", "3", "--output", "c.npy", *more]) == 130
    assert capsys.readouterr().err.strip().endswith("goes on from what is done" if goes_on else "none is half-written")


def test_a_count_above_the_rows_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    np.save(tmp_path / "f.npy", np.random.default_rng(0).random((6, 3), dtype=np.float32))
    args = ["select", str(tmp_path / "f.npy"), "--count", "9", "--no-projection", "--indices", str(tmp_path / "i.npy")]
    assert main(args) == 0
    assert "--count 9: there are only 6 rows, all are picked" in capsys.readouterr().err
    assert sorted(np.load(tmp_path / "i.npy")) == list(range(6))


def test_a_reader_that_goes_away_is_no_error() -> None:
    done = run(MAIN, "doctor", out="gone")
    assert done.returncode == 141 and done.stderr == ""


def test_a_bug_shows_its_traceback(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def bug() -> None:
        raise KeyError("surprise")

    monkeypatch.setattr("patchcore_fast.doctor.collect", bug)
    assert main(["doctor"]) == 1
    err = capsys.readouterr().err
    assert "Traceback" in err and "surprise" in err


def test_a_value_error_of_numpy_is_a_bug_too(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("patchcore_fast.doctor.collect", lambda: np.linalg.cholesky(np.zeros((2, 3))))
    assert main(["doctor"]) == 1
    assert "Traceback" in capsys.readouterr().err


def test_demo_reaches_the_demo(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    seen = []
    monkeypatch.setattr("patchcore_fast.demo.run_demo", lambda *a, **k: seen.append((a, k)))
    assert main(["demo", "--quick", "--output", str(tmp_path)]) == 0
    assert seen == [((str(tmp_path),), {"quick": True, "say": print})]
