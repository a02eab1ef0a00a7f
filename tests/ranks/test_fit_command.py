"""`fit` and `extract` as torchrun and srun start them: one bank, of rank 0, which alone speaks."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from patchcore_fast.cli import main
from patchcore_fast.memory_bank import MemoryBank

from ..evaluated import TINY
from ..pictures import write_mvtec
from .test_command import free_port, step
from .test_fit import same

SMALL = [*TINY, "--batch-size", "2"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = write_mvtec(tmp_path_factory.mktemp("fit") / "weave", train=5)
    (made / "train/good/001.png").write_bytes(b"no image")
    return made


def ended(processes) -> tuple[list[int], list[tuple[str, str]]]:
    done = [process.ended(300) for process in processes]
    return [each.returncode for each in done], [(each.stdout, each.stderr) for each in done]


def test_a_step_of_slurm(folder, tmp_path, threads):
    threads(1)
    codes, said = ended(step(["fit", str(folder), "--output", "b.safetensors", "--store", "s", *SMALL], 2, tmp_path))
    assert codes == [3, 0], said  # 3: an image was left out
    assert "Fitted on 4 images" in said[0][0] and "1 file could not be used" in said[0][1]
    assert said[1] == ("", "")
    assert main(["fit", str(folder), "--output", str(tmp_path / "a.safetensors"), *SMALL]) == 3
    alone = MemoryBank.load(tmp_path / "a.safetensors")
    assert same(MemoryBank.load(tmp_path / "b.safetensors"), alone)


@pytest.mark.thorough
def test_from_a_store(folder, tmp_path, threads):
    threads(1)
    assert main(["fit", str(folder), "--store", str(tmp_path / "s"), "--output", str(tmp_path / "a.safetensors"),
                 *SMALL]) == 3  # fmt: skip
    alone = MemoryBank.load(tmp_path / "a.safetensors")
    codes, said = ended(step(["fit", "--features", "s", "--output", "c.safetensors", "--ratio", "0.1"], 2, tmp_path))
    assert codes == [3, 0], said
    again = MemoryBank.load(tmp_path / "c.safetensors")
    assert (again.indices == alone.indices).all() and again.threshold == alone.threshold


@pytest.mark.thorough
def test_torchrun(folder, tmp_path, threads):
    import subprocess

    threads(1)
    run = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", f"--master-port={free_port()}"]
    images = tmp_path / "images"
    images.mkdir()
    for path in (folder / "train/good").iterdir():
        if path.name != "001.png":
            (images / path.name).symlink_to(path)
    command = [*run, "-m", "patchcore_fast", "fit", "images", "--output", "b.safetensors", *SMALL]
    done = subprocess.run(command, cwd=tmp_path, timeout=300, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and done.stdout.count("Fitted on 4 images") == 1, done.stderr
    assert main(["fit", str(images), "--output", str(tmp_path / "a.safetensors"), *SMALL]) == 0
    assert same(MemoryBank.load(tmp_path / "b.safetensors"), MemoryBank.load(tmp_path / "a.safetensors"))


def test_an_error_is_said_once_by_each(folder, tmp_path):
    codes, said = ended(step(["fit", str(folder / "no"), "--output", "b.safetensors", *SMALL], 2, tmp_path))
    assert codes == [2, 2] and all("no such folder" in err and "Traceback" not in err for _, err in said)
