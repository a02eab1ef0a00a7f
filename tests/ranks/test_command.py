"""`select` as torchrun and srun start it: the files of one process; and what is said when a process dies."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from patchcore_fast.cli import main
from patchcore_fast.cli.together import meeting_place, rank_here
from patchcore_fast.errors import DataError

from ..kernels.cases import gaussian, integers
from ..programs import MAIN, Program


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("localhost", 0))
        return s.getsockname()[1]


def slurm(rank, size, port):
    """The variables of a task of a step."""
    env = {k: v for k, v in os.environ.items() if not k.startswith(("SLURM", "RANK", "WORLD", "MASTER"))}
    return env | {
        "SLURM_PROCID": str(rank), "SLURM_STEP_NUM_TASKS": str(size), "SLURM_NTASKS": str(size), "SLURM_JOB_ID": "17",
        "SLURM_STEP_NODELIST": "localhost", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1",
    }  # fmt: skip


def step(arguments, size, folder, code=MAIN):
    """Processes of a step, as srun starts them."""
    port = free_port()
    return [Program(code, *arguments, cwd=folder, env=slurm(rank, size, port)) for rank in range(size)]


@pytest.mark.parametrize(
    "options",
    [
        ("--ratio", "0.2"),
        pytest.param(("--ratio", "0.1", "--no-projection"), marks=pytest.mark.thorough),
        pytest.param(("--ratio", "0.3", "--method", "approximate"), marks=pytest.mark.thorough),
        pytest.param(("--ratio", "0.1", "--method", "random"), marks=pytest.mark.thorough),
    ],
    ids=["greedy", "all dimensions", "approximate", "random"],
)
def test_the_files_of_one_process(tmp_path, options):
    x = integers(1500, 150).numpy().astype(np.float16)
    np.save(tmp_path / "x.npy", x)
    arguments = ["x.npy", *options, "--output", "o.npy", "--indices", "i.npy"]
    first, *others = [process.ended() for process in step(["select", *arguments], 3, tmp_path)]
    assert first.returncode == 0 and " on 3 ranks." in first.stdout, first
    assert [(other.returncode, other.stdout) for other in others] == [(0, "")] * 2, others
    where = [str(tmp_path / name) for name in ("x.npy", "a.npy", "b.npy")]
    assert main(["select", where[0], *options, "--output", where[1], "--indices", where[2]]) == 0
    assert (tmp_path / "o.npy").read_bytes() == (tmp_path / "a.npy").read_bytes()
    assert (tmp_path / "i.npy").read_bytes() == (tmp_path / "b.npy").read_bytes()


def test_torchrun(tmp_path):
    np.save(tmp_path / "x.npy", integers(500, 140).numpy())
    run = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", f"--master-port={free_port()}"]
    arguments = ["x.npy", "--ratio", "0.2", "--output", "o.npy"]
    done = subprocess.run([*run, "-m", "patchcore_fast", "select", *arguments], cwd=tmp_path, timeout=120,
                          capture_output=True, text=True)  # fmt: skip
    assert done.returncode == 0 and "Picked 100 of 500 rows of 140 numbers" in done.stdout, done.stderr
    assert main(["select", str(tmp_path / "x.npy"), "--ratio", "0.2", "--output", str(tmp_path / "a.npy")]) == 0
    assert (tmp_path / "o.npy").read_bytes() == (tmp_path / "a.npy").read_bytes()


SRUN = """#!{python}
import os, subprocess, sys
job = dict(word.lstrip("-").split("=") for line in open(os.environ["SCRIPT"]) if line.startswith("#SBATCH")
           for word in line.split()[1:])
size, variables = int(job["nodes"]) * int(job["ntasks-per-node"]), dict(os.environ)
variables |= {{"SLURM_STEP_NUM_TASKS": str(size), "SLURM_NTASKS": str(size), "SLURM_STEP_NODELIST": "localhost"}}
tasks = [subprocess.Popen(sys.argv[1:], env=variables | {{"SLURM_PROCID": str(rank)}}) for rank in range(size)]
sys.exit(max(task.wait() for task in tasks))
"""


def examples():
    """The shell examples of docs/scale.md, in its order."""
    text = (Path(__file__).parents[2] / "docs" / "scale.md").read_text(encoding="utf-8")
    return [block.split("```")[0] for block in text.split("```sh\n")[1:]]


def run_as_written(script, folder, **variables):
    """By bash, with this environment's programs first on the path."""
    env = {k: v for k, v in os.environ.items() if not k.startswith(("SLURM", "RANK", "WORLD", "MASTER"))}
    path = os.pathsep.join([str(folder / "bin"), str(Path(sys.executable).parent), env["PATH"]])
    done = subprocess.run(["bash", "-e", "-c", script], cwd=folder, env=env | {"PATH": path} | variables, text=True,
                          timeout=240, capture_output=True, check=False)  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def coreset_of_one_process(folder):
    assert main(["select", str(folder / "FEATURES.npy"), "--ratio", "0.1", "--output", str(folder / "a.npy")]) == 0
    return (folder / "a.npy").read_bytes()


@pytest.mark.parametrize("tasks", [1, pytest.param(4, marks=pytest.mark.thorough)])
def test_the_batch_script_of_the_docs(tmp_path, tasks):
    """Two nodes with four tasks each, or one, by a stand-in for srun."""
    np.save(tmp_path / "FEATURES.npy", integers(500, 140).numpy())
    script = next(text for text in examples() if "#SBATCH" in text)
    assert script.count("--ntasks-per-node=4") == 1
    script = script.replace("--ntasks-per-node=4", f"--ntasks-per-node={tasks}")
    (tmp_path / "job.sh").write_text(script, encoding="utf-8")
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "srun").write_text(SRUN.format(python=sys.executable), encoding="utf-8")
    (tmp_path / "bin" / "srun").chmod(0o755)
    job = {"SCRIPT": str(tmp_path / "job.sh"), "SLURM_CPUS_PER_TASK": "1", "SLURM_JOB_ID": str(free_port())}
    said = run_as_written("bash job.sh", tmp_path, **job)
    assert "Picked 50 of 500 rows of 140 numbers" in said and said.count("Picked") == 1
    assert (tmp_path / "coreset.npy").read_bytes() == coreset_of_one_process(tmp_path)


@pytest.mark.thorough
def test_the_first_example_of_the_docs(tmp_path):
    np.save(tmp_path / "FEATURES.npy", integers(500, 140).numpy())
    script = examples()[0].replace("torchrun ", f"torchrun --master-port={free_port()} ")
    assert "Picked 50 of 500 rows" in run_as_written(script, tmp_path)
    assert (tmp_path / "coreset.npy").read_bytes() == coreset_of_one_process(tmp_path)


@pytest.mark.thorough
def test_fit_as_the_docs_write_it(place, tmp_path):
    (tmp_path / "bottles").symlink_to(place / "weave", target_is_directory=True)
    script = next(text for text in examples() if " fit bottles" in text and "torchrun" in text)
    run_as_written(script.replace("torchrun ", f"torchrun --master-port={free_port()} "), tmp_path)
    assert main(["threshold", str(tmp_path / "bottles.safetensors")]) == 0


def test_a_rank_dies_and_the_step_is_started_again(tmp_path):
    np.save(tmp_path / "x.npy", gaussian(3000, 32).numpy())
    program = (
        "import os, sys, time; from patchcore_fast.samplers import GreedyCoresetSampler as Greedy\n"
        "from patchcore_fast.kernels.ranks.kcenter import RankTraversal\n"
        "Greedy.checkpoint_seconds, whole = 0.0, RankTraversal._pass\n"
        "def in_the_middle(self, *arguments):\n"
        "    while os.path.exists('wait') and os.path.exists('c.npz') and os.environ['SLURM_PROCID'] == '1':\n"
        "        time.sleep(0.01)\n"
        "    return whole(self, *arguments)\n"
        "RankTraversal._pass = in_the_middle\n"
        "from patchcore_fast.cli import main\nsys.exit(main())"
    )
    outputs = ["--output", "o.npy", "--indices", "i.npy", "--checkpoint", "c.npz", "--rank-timeout", "20"]
    command = ["select", "x.npy", "--ratio", "0.5", *outputs]
    (tmp_path / "wait").touch()
    processes = step(command, 3, tmp_path, program)
    processes[1].wait_for(tmp_path / "c.npz")
    processes[1].send_signal(signal.SIGKILL)
    said = [process.ended(60) for process in processes]
    (tmp_path / "wait").unlink()
    for rank in (0, 2):
        assert said[rank].returncode == 2 and "rank 1 of 3 has died or cannot be reached" in said[rank].stderr, said
        assert " of 1500 picks were made" in said[rank].stderr and "Traceback" not in said[rank].stderr
    assert not (tmp_path / "o.npy").exists() and (tmp_path / "c.npz").exists()
    again = [process.ended() for process in step(command, 2, tmp_path, program)]  # the node of the dead one is gone
    assert [done.returncode for done in again] == [0, 0], again
    where = [str(tmp_path / name) for name in ("x.npy", "a.npy", "b.npy")]
    assert main(["select", where[0], "--ratio", "0.5", "--output", where[1], "--indices", where[2]]) == 0
    assert (tmp_path / "i.npy").read_bytes() == (tmp_path / "b.npy").read_bytes()
    assert not (tmp_path / "c.npz").exists()


@pytest.mark.parametrize(
    "nodes, host",
    [("node7", "node7"), ("gpu[003-010,12]", "gpu003"), ("a-1,b-2", "a-1"), ("rack2node[5,7-9]", "rack2node5")],
)
def test_where_ranks_meet(nodes, host):
    env = {"SLURM_PROCID": "2", "SLURM_STEP_NUM_TASKS": "4", "SLURM_STEP_NODELIST": nodes, "SLURM_JOB_ID": "123456"}
    meeting_place(env)
    assert (env["MASTER_ADDR"], env["RANK"], env["WORLD_SIZE"]) == (host, "2", "4")
    assert 20_000 <= int(env["MASTER_PORT"]) < 40_000


def test_variables():
    assert rank_here({}) == (0, 1)
    assert rank_here({"SLURM_PROCID": "0", "SLURM_NTASKS": "8"}) == (0, 1)  # a batch script, which runs once
    assert rank_here({"RANK": "3", "WORLD_SIZE": "4", "SLURM_PROCID": "0", "SLURM_STEP_NUM_TASKS": "1"}) == (3, 4)
    with pytest.raises(DataError, match="RANK=x and WORLD_SIZE=2 must be numbers"):
        rank_here({"RANK": "x", "WORLD_SIZE": "2"})
    with pytest.raises(DataError, match="MASTER_ADDR is not set"):
        meeting_place({"SLURM_PROCID": "0", "SLURM_STEP_NUM_TASKS": "2"})
