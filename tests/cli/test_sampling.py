"""Options of samplers and --count through the commands: into the bank, and wherever a bank or a selection is shown."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from patchcore_fast.cli import main
from patchcore_fast.cli.inspect import _material, _sampler, _select
from patchcore_fast.cli.sampling import report_table, sampler_said
from patchcore_fast.data import scan
from patchcore_fast.memory_bank import MemoryBank
from patchcore_fast.model import PatchCore
from patchcore_fast.model.selection import Selector
from patchcore_fast.report.page import write_report

from ..evaluated import TINY, tiny_config
from ..pictures import write_mvtec

PLAIN = TINY[: TINY.index("--ratio")]
ELFS = ["--sampler", "elfs", "--sampler-option", "w_density=-1", "--sampler-option", "settle=0"]
SAID = "elfs (settle 0, w_density -1)"


@pytest.fixture(scope="module")
def weave(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_mvtec(tmp_path_factory.mktemp("sampling") / "weave", train=6, good=2, bad=2)


@pytest.fixture(scope="module")
def bank(weave: Path) -> Path:
    path = weave.parent / "elfs.safetensors"
    assert main(["fit", str(weave), "--output", str(path), *PLAIN, "--count", "41", *ELFS]) == 0
    return path


def test_the_bank_keeps_options_and_count(bank: Path) -> None:
    found = MemoryBank.load(bank)
    selection = found.config["selection"]
    assert len(found) == 41 and selection["count"] == 41 and selection["ratio"] is None and found.size is None
    assert selection["sampler_options"] == {"settle": 0.0, "w_density": -1.0}
    assert PatchCore.load(bank).config.sampler_options == (("settle", 0.0), ("w_density", -1.0))


def test_commands_show_them(weave: Path, bank: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["threshold", str(bank)]) == 0
    assert f"Bank of 41 rows of 1,536 patches, chosen by {SAID}.\n" in capsys.readouterr().out
    assert main(["predict", str(bank), str(weave / "test"), "--output", str(tmp_path / "seen")]) == 0
    assert f"chosen by {SAID}.\n" in capsys.readouterr().out
    assert main(["inspect", str(weave), "--output", str(tmp_path / "look"), "--bank", str(bank)]) == 0
    assert f"(a bank that was there, {SAID};" in capsys.readouterr().out
    told = json.loads((tmp_path / "look" / "selection.json").read_text())
    assert told["config"]["selection"]["sampler_options"]["w_density"] == -1.0


def test_inspect_selects_by_them(weave: Path, bank: Path) -> None:
    model = PatchCore(PatchCore.load(bank).config, progress=False)
    rows = model.training_features(weave)
    sampler: Any = _sampler(model)
    Selector(model.config, sampler, model.device).settle([rows], 6)
    assert torch.equal(_select(sampler, rows).indices, MemoryBank.load(bank).indices)
    config = model.config.replace(sampler_options={"w_unc": 1, "instability": "views", "view_kinds": "flips"})
    model = PatchCore(config, progress=False)
    sampler = _sampler(model)
    rows, views = _material(model, sampler, scan(weave))
    assert len(views) == 2 and len(_select(sampler, rows, views).indices) == 15 and "instability" in sampler.scores_


def test_images_by_elfs_are_those_of_the_fit(weave: Path) -> None:
    options = {"images": "elfs", "image_share": 0.5, "epochs": 3, "patches": "elfs"}
    config = tiny_config(ratio=None, count=20, sampler="two-level", sampler_options=options, device="cpu")
    model = PatchCore(config, progress=False).fit(weave)
    assert len(model.bank) == 20 and len(set(model.bank.positions[:, 0].tolist())) <= 3
    assert model.report_[0]["images"]["kept"] == model.report_[0]["images_chosen"] == 3
    sampler: Any = _sampler(model)
    rows, views = _material(model, sampler, scan(weave))
    Selector(config, sampler, model.device).settle([rows], 6)
    assert rows.embeddings() is not None and torch.equal(_select(sampler, rows, views).indices, model.bank.indices)


def test_evaluate_and_its_page_show_them(weave: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, numbers = tmp_path / "out", tmp_path / "n.json"
    asked = ["evaluate", str(weave), "--output", str(out), "--json", str(numbers), *PLAIN, "--count", "50", *ELFS]
    assert main([*asked, "-v"]) == 0
    said = capsys.readouterr().out.splitlines()
    (head,) = (i for i, line in enumerate(said) if line.split() == ["part", "of", "the", "selection", "seconds",
                                                                    "peak", "memory"])  # fmt: skip
    assert "cover" in {line.split()[0] for line in said[head + 1 : head + 8]}
    fit = json.loads(numbers.read_text())["fit"]
    assert fit["seconds"]["selection"] > 0 and fit["sampler"][0]["selected"] == 50
    assert fit["sampler"][0]["seconds"].keys() >= {"projection", "signals", "cover"}
    page = write_report(out).read_text(encoding="utf-8")
    assert f", {SAID} 50 rows" in page
    assert '<th scope="row">selection.sampler_options.w_density</th><td>-1.0</td>' in page


def test_fit_says_what_chose_and_with_v_what_it_took(
    weave: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bank = tmp_path / "b.safetensors"
    two = ["--sampler", "two-level", "--sampler-option", "patches=elfs"]
    assert main(["fit", str(weave), "--output", str(bank), *PLAIN, "--count", "30", *two, "-v"]) == 0
    said = capsys.readouterr().out
    assert "30 of 1,536 patches of 80 numbers kept by two-level (patches elfs) (" in said
    parts = [line.split("  ")[0] for line in said[said.index("part of the selection") :].splitlines()]
    assert parts[1:4] == ["images", "patches", "patches: projection"]
    assert MemoryBank.load(bank).config["selection"]["sampler"] == "two-level"
    assert main(["fit", str(weave), "--output", str(bank), *TINY, "-v"]) == 0
    said = capsys.readouterr().out  # greedy reports nothing: it is measured from outside
    lines = said[said.index("part of the selection") :].splitlines()
    assert [line.split()[0] for line in lines[1:3]] == ["projection", "selection"]
    assert all(line.endswith("B") for line in lines[1:3])  # MB or GB


def test_count_of_more_than_there_are_and_of_each_layer(
    weave: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    bank = tmp_path / "b.safetensors"
    assert main(["plan", str(weave), *PLAIN, "--count", "41", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["picks"] == 41
    assert main(["fit", str(weave), "--output", str(bank), *PLAIN, "--count", "5000", "--sampler", "random"]) == 0
    assert "5000 rows are wanted, only 1536 of 1536 could be chosen" in caplog.text
    assert len(MemoryBank.load(bank)) == 1536
    layers = ["--banks", "layer", "--fusion", "concat", "--count", "21"]
    assert main(["fit", str(weave), "--output", str(bank), *PLAIN, *layers]) == 0
    assert [len(part) for part in PatchCore.load(bank).bank.parts] == [21, 21]
    for wrong in (["--ratio", "0.1"], ["--budget", "20KB"], ["--sampler", "identity"]):
        assert main(["fit", str(weave), "--output", str(bank), *PLAIN, "--count", "21", *wrong]) == 2
        assert f"got count=21 and {wrong[0][2:]}" in (err := capsys.readouterr().err) or "count 21 would" in err


def test_tables_of_parts() -> None:
    assert report_table([]) == report_table([{"selected": 3}]) == ""
    one: dict[str, Any] = {"seconds": {"cover": 1.25, "pool": 0.5}, "memory": {"cover": 3e9, "ends": 2_500_000}}
    assert [line.split() for line in report_table([one]).splitlines()[1:]] == [
        ["cover", "1.25", "3.00", "GB"], ["pool", "0.50"], ["ends", "2.5", "MB"]]  # fmt: skip
    lines = report_table([{"patches": one}, one]).splitlines()
    assert [line.split("  ")[0] for line in lines[1:]] == [
        "layer 0: patches: cover", "layer 0: patches: pool", "layer 0: patches: ends",
        "layer 1: cover", "layer 1: pool", "layer 1: ends"]  # fmt: skip
    assert len({len(line) for line in lines}) == 1


def test_settings_of_any_bank_are_said() -> None:
    assert sampler_said({}) == "" and sampler_said({"selection": {"sampler": "greedy"}}) == "greedy"
    assert sampler_said({"selection": {"sampler": "elfs", "sampler_options": {"settle": 0.0}}}) == "elfs (settle 0)"
