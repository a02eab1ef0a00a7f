"""select --radius: the first picks of a selection without it, as many as the radius wants."""

from __future__ import annotations

import signal

import numpy as np
import pytest
import torch

from patchcore_fast.cli import main
from patchcore_fast.kernels import knn
from patchcore_fast.samplers import GreedyCoresetSampler
from patchcore_fast.samplers.projection import project, random_projection

from ..programs import run
from ..ranks.test_command import step


@pytest.fixture
def place(tmp_path, monkeypatch):
    rows = np.random.default_rng(0).standard_normal((1500, 140), dtype=np.float32)
    np.save(tmp_path / "x.npy", rows * np.linspace(0, 1, 1500, dtype=np.float32)[:, None])
    monkeypatch.chdir(tmp_path)
    return tmp_path


def picks(*options: str) -> np.ndarray:
    assert main(["select", "x.npy", *options, "--output", "o.npy", "--indices", "i.npy"]) == 0
    return np.load("i.npy")


def middle(options: list[str]) -> tuple[np.ndarray, float]:
    """All picks that there could be, and a radius that some of them reach."""
    sampler = GreedyCoresetSampler(0.5, dimension_to_project_features_to=None if options else 128)
    found = sampler.select(np.load("x.npy"))
    assert sampler.radii_ is not None
    return found.numpy(), float(sampler.radii_[200])


@pytest.mark.parametrize("options", [[], ["--no-projection"]], ids=["projected", "all dimensions"])
def test_as_many_as_the_radius_wants(place, capsys, options):
    every, radius = middle(options)
    found = picks("--ratio", "0.5", "--radius", str(radius), *options)
    assert found.tolist() == every[: len(found)].tolist() and 195 < len(found) <= 201
    said = capsys.readouterr().out
    assert f"All rows are within {radius:g} of these" in said and "the 750 of --ratio" in said
    assert ("after projection to 128 dimensions:" in said) == (not options)
    x = torch.from_numpy(np.load("x.npy"))
    if not options:
        x = project(x, random_projection(140, 128, 0), torch.device("cpu"))
    reach = [float(knn(x, x[torch.from_numpy(found[:k])], 1)[0].max()) for k in (len(found) - 1, len(found))]
    assert reach[1] <= radius * (1 + 1e-6) and reach[0] > radius * (1 - 1e-6)


def test_the_ratio_is_the_most(place, capsys):
    every, radius = middle([])
    assert picks("--ratio", "0.1", "--radius", str(radius)).tolist() == every[:150].tolist()
    assert picks("--ratio", "0.5", "--radius", "1e9").tolist() == every[:1].tolist()
    assert "of --ratio" in capsys.readouterr().out


def test_over_ranks(place):
    _, radius = middle([])
    wanted = picks("--ratio", "0.5", "--radius", str(radius))
    arguments = ["x.npy", "--ratio", "0.5", "--radius", str(radius), "--output", "o3.npy", "--indices", "i3.npy"]
    done = [process.ended(200) for process in step(["select", *arguments], 2, place)]
    assert [each.returncode for each in done] == [0, 0], done
    assert np.load("i3.npy").tolist() == wanted.tolist()


def test_it_goes_on_from_a_checkpoint(place):
    _, radius = middle([])
    wanted = picks("--ratio", "0.5", "--radius", str(radius))
    arguments = ["x.npy", "--ratio", "0.5", "--radius", str(radius), "--output", "o.npy", "--indices", "i.npy",
                 "--checkpoint", "c.npz"]  # fmt: skip
    program = (
        "import os, sys\nfrom patchcore_fast.samplers import GreedyCoresetSampler as Greedy, checkpoint\n"
        "Greedy.checkpoint_seconds = 0.0\nreal, done = checkpoint.Checkpoint.write, []\n"
        "def write(self):\n    real(self)\n    done.append(1)\n    len(done) == 2 and os.kill(os.getpid(), 9)\n"
        "checkpoint.Checkpoint.write = write\nfrom patchcore_fast.cli import main\nsys.exit(main())"
    )
    killed = run(program, "select", *arguments, cwd=place)
    assert killed.returncode == -signal.SIGKILL and (place / "c.npz").exists()
    assert main(["select", *arguments[:4], "1.5", *arguments[5:]]) == 2  # another radius: another selection
    assert main(["select", *arguments]) == 0
    assert np.load("i.npy").tolist() == wanted.tolist() and not (place / "c.npz").exists()


@pytest.mark.parametrize(
    "more, words",
    [(["--radius", "-1"], "--radius must be"), (["--radius", "nan"], "--radius must be"),
     (["--radius", "1", "--method", "random"], "only greedy ends at a radius"),
     (["--radius", "1", "--method", "approximate"], "only greedy ends at a radius")],
)  # fmt: skip
def test_what_is_refused(place, capsys, more, words):
    assert main(["select", "x.npy", "--ratio", "0.5", "--output", "o.npy", *more]) == 2
    assert words in capsys.readouterr().err
