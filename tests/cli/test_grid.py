"""grid as a command: what is typed reaches the plan, wrong things are told at once, and files come out."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from patchcore_fast.cli import main
from patchcore_fast.config import PatchCoreConfig

TINY = ["--backbone", "test_resnet", "--layers", "1,2", "--backbone-weights", "random", "--image-size", "64"]
SMALL = ["--weights", "-1,0", "--starting-points", "20", "--noise", "0,1", "--pools", "composite"]


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as f:
        return list(csv.DictReader(f))


def test_a_grid_goes_on_and_its_choice_fits(weave, tmp_path, capsys):
    made = tmp_path / "made"
    typed = ["grid", str(weave), "--output", str(made), *TINY, *SMALL, "--ratio", "0.05", "0.2"]
    assert main([*typed, "--limit", "1"]) == 0
    assert len(rows(made / "grid.csv")) == 2 * (2 + 1)
    capsys.readouterr()
    assert main(typed) == 0
    out = capsys.readouterr().out
    # w_repr 2 x w_density 2 x (w_unc off, or -1 with a copy)
    found = rows(made / "grid.csv")
    assert len(found) == 2 * (2 + 8) and "20 rows (14 of them new)" in out
    assert {row["ratio"] for row in found} == {"0.05", "0.2"} and {row["pool"] for row in found} == {"", "composite"}
    assert "Best: " in out and "no part in" in out and "greedy 0.05 seed 0" in out
    for name in ("time.png", "size.png", "parallel.png"):
        assert (made / name).stat().st_size > 10_000 and name in out
    facts = json.loads((made / "grid.json").read_text())
    assert facts["settings_asked_for"] == 2**3 * 2 and len(facts["rows"]) == 20
    chosen = PatchCoreConfig.from_toml(made / "best.toml")
    assert facts["best"]["options"] == dict(chosen.selection.sampler_options)
    assert (
        main(["fit", str(weave), "--config", str(made / "best.toml"), "--output", str(tmp_path / "b.safetensors")]) == 0
    )


def test_steps(weave, tmp_path, capsys):
    made = tmp_path / "made"
    assert main(["grid", str(weave), "--steps", "--output", str(made), *TINY, "--ratio", "0.1"]) == 0
    out = capsys.readouterr().out
    names = [row["name"] for row in rows(made / "steps.csv")]
    assert names == ["no coreset", "random", "approximate greedy", "exact greedy", "composite", "density inverted",
                     "instability off", "pool by diversity", "refined by score", "clean"]  # fmt: skip
    assert all(name in out for name in names) and "Best" not in out
    assert (made / "steps.png").exists() and not (made / "best.toml").exists()


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--weights", "random"], "--weights"), (["--weights", "0,0"], "each once"), (["--noise", "-1"], "noise"),
        (["--starting-points", "1"], "starting points"), (["--pools", "best"], "pools"), (["--ratio", "2"], "ratios"),
        (["--limit", "0"], "limit"), (["--seeds", "1,1"], "seeds"), (["--held-out", "1"], "--held-out"),
        (["--aspect", "keep"], "images of one size"), (["--reduction", "pca", "--dim", "4"], "reduction=pca"),
    ],
    ids=["words", "twice", "noise", "points", "pool", "ratio", "limit", "seeds", "held-out", "aspect", "reduction"],
)  # fmt: skip
def test_what_cannot_be_is_told_and_nothing_is_written(weave, tmp_path, capsys, more, said):
    try:
        code = main(["grid", str(weave), "--output", str(tmp_path / "made"), *more])
    except SystemExit as end:  # argparse's own way
        code = int(str(end.code))
    assert code == 2 and said in capsys.readouterr().err
    assert not (tmp_path / "made").exists()
