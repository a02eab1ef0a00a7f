"""A selection that was cut off goes on from its checkpoint and ends with the picks of one that was not."""

from __future__ import annotations

import random
import signal
import time

import numpy as np
import pytest
import torch

from patchcore_fast.cli import main
from patchcore_fast.errors import DataError
from patchcore_fast.kernels import k_center_greedy
from patchcore_fast.samplers import ApproximateGreedyCoresetSampler, GreedyCoresetSampler

from ..kernels.cases import gaussian, integers
from ..programs import Program, run
from .selections import own, parts

KINDS = {"greedy": GreedyCoresetSampler, "approximate": ApproximateGreedyCoresetSampler}
X = integers(24_000, 6)  # some passes


class Cut(Exception):
    """Somebody pulls the plug."""


def cut(after):
    def progress(made, of):
        if made >= after:
            raise Cut

    return progress


def sampler_of(kind, path, progress=None):
    made = KINDS[kind](0.6)
    made.checkpoint, made.progress = path, progress
    return made


@pytest.mark.parametrize("kind", KINDS)
def test_goes_on_in_one_process(tmp_path, kind):
    path = tmp_path / "kept.npz"
    whole = KINDS[kind](0.6)
    whole.select(X)
    for after in (1, 2000, 5000):
        with pytest.raises(Cut):
            sampler_of(kind, path, cut(after)).select(X)
        assert path.exists()
    told = []
    rest = sampler_of(kind, path, lambda *made: told.append(made))
    assert torch.equal(rest.select(X), whole.indices_) and torch.equal(rest.radii_, whole.radii_)
    assert all(of == 14_400 and made > 5000 for made, of in told)
    again = sampler_of(kind, path, cut(0))  # all is there: nothing is selected
    assert torch.equal(again.select(X), whole.indices_) and torch.equal(again.radii_, whole.radii_)


def select_or_cut(group, rank, kind, path, counts, after):
    sampler = sampler_of(kind, path if rank == 0 else "/nowhere", cut(after) if after else None)
    sampler.group = group
    sampler.checkpoint_seconds = 0.0
    return sampler.select(own(X, rank, counts)), sampler.radii_


@pytest.mark.parametrize("kind", ["greedy", pytest.param("approximate", marks=pytest.mark.thorough)])
def test_goes_on_over_ranks_and_over_another_number_of_them(tmp_path, kind, workers):
    from .workers import Workers

    path = tmp_path / "kept.npz"
    whole = KINDS[kind](0.6)
    whole.select(X)
    lost = Workers(2, sizes=(2,))
    lost.ask(select_or_cut, 2, kind, str(path), parts(24_000, 2), 600)
    assert isinstance(lost.answers(1)[0], Cut)
    for process in lost.processes:  # the other waits for rank 0
        process.kill()
    lost.close()
    for indices, radii in workers.call(select_or_cut, 3, kind, str(path), parts(24_000, 3), 0):
        assert torch.equal(indices, whole.indices_) and torch.equal(radii, whole.radii_)
    assert torch.equal(sampler_of(kind, path, cut(0)).select(X), whole.indices_)


def test_killed_at_any_moment(tmp_path):
    np.save(tmp_path / "x.npy", gaussian(20_000, 24).numpy())
    program = (
        "import sys; from patchcore_fast.samplers import GreedyCoresetSampler as Greedy\n"
        "Greedy.checkpoint_seconds = 0.0\nfrom patchcore_fast.cli import main\nsys.exit(main())"
    )
    outputs = ["--output", "o.npy", "--indices", "i.npy", "--checkpoint", "c.npz"]
    command = [program, "select", "x.npy", "--ratio", "0.5", *outputs]
    dice, path = random.Random(5), tmp_path / "c.npz"
    for _ in range(3):
        process = Program(*command, cwd=tmp_path)
        process.wait_for(path)
        time.sleep(dice.random() * 0.3)
        process.send_signal(signal.SIGKILL)
        process.ended()
    assert run(*command, cwd=tmp_path).returncode == 0 and not path.exists()
    arguments = ["--ratio", "0.5", "--output", str(tmp_path / "o2.npy"), "--indices", str(tmp_path / "i2.npy")]
    assert main(["select", str(tmp_path / "x.npy"), *arguments]) == 0
    assert (tmp_path / "i.npy").read_bytes() == (tmp_path / "i2.npy").read_bytes()
    assert (tmp_path / "o.npy").read_bytes() == (tmp_path / "o2.npy").read_bytes()


def test_of_another_selection(tmp_path):
    path = tmp_path / "kept.npz"
    sampler_of("greedy", path).select(X)
    for kind, x, words in (
        ("approximate", X, "sampler 'GreedyCoresetSampler' there and 'ApproximateGreedyCoresetSampler' here"),
        ("greedy", X[:-1], "rows 24000 there and 23999 here"),
        ("greedy", X + 1, "sample '.*' there and '.*' here"),
    ):
        with pytest.raises(DataError, match=f"kept.npz: is of another selection: .*{words}"):
            sampler_of(kind, path).select(x)


def test_damaged(tmp_path):
    path = tmp_path / "kept.npz"
    sampler_of("greedy", path).select(X)
    good = path.read_bytes()
    np.savez(tmp_path / "other.npz", rows=np.zeros(3))
    np.save(tmp_path / "array.npy", np.zeros(3))
    dice = random.Random(1)
    flipped = [bytearray(good) for _ in range(10)]
    for content in flipped:
        content[dice.randrange(len(good) // 2)] ^= 255
    contents = [good[: len(good) // 2], b"", b"nonsense", *map(bytes, flipped)]
    contents += [(tmp_path / name).read_bytes() for name in ("other.npz", "array.npy")]
    for content in contents:
        path.write_bytes(content)
        with pytest.raises(DataError, match=r"kept\.npz: is"):
            sampler_of("greedy", path).select(X)


def test_the_command_says_what_has_none(tmp_path, capsys):
    np.save(tmp_path / "x.npy", X.numpy())
    arguments = ["select", str(tmp_path / "x.npy"), "--ratio", "0.1", "--output", str(tmp_path / "o.npy")]
    assert main([*arguments, "--method", "random", "--checkpoint", str(tmp_path / "c.npz")]) == 2
    assert "--checkpoint: greedy and approximate have one, --sampler random has none" in capsys.readouterr().err
    assert main([*arguments, "--checkpoint", str(tmp_path / "o.npy")]) == 2
    assert main([*arguments, "--checkpoint", "/dev/null"]) == 2


def test_picked_is_told_all(tmp_path):
    rows, squared = [], []
    found = k_center_greedy(X, 500, start=4, picked=lambda a, b: (rows.append(a), squared.append(b)))
    assert torch.equal(torch.cat(rows), found.indices)
    assert torch.equal(torch.cat(squared).sqrt().float(), found.radii)
    half = torch.cat(rows)[:200]
    rest = k_center_greedy(X, 300, selected=half)
    assert torch.equal(rest.indices, found.indices[200:]) and torch.equal(rest.radii, found.radii[200:])
