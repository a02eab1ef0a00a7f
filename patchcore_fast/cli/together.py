"""Commands that several processes run together: started by torchrun, or by srun, which sets other variables."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, MutableMapping
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

from patchcore_fast.errors import DataError

_FIRST_PORT, _PORTS = 20_000, 20_000
_HOST = re.compile(r"([^,\[]+)(?:\[(\d+)[^\]]*\])?")


def rank_here(environment: MutableMapping[str, str] | None = None) -> tuple[int, int]:
    """Rank of this process and number of ranks, as torchrun or a step of SLURM says; (0, 1) without.

    Raises
    ------
    DataError : the variables are there, and are no numbers.
    """
    env = os.environ if environment is None else environment
    # A batch script is started once, whatever SLURM_NTASKS says; a step has a number of tasks of its own.
    for rank, size in (("RANK", "WORLD_SIZE"), ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS")):
        if rank in env and size in env:
            try:
                return int(env[rank]), int(env[size])
            except ValueError:
                raise DataError(f"{rank}={env[rank]} and {size}={env[size]} must be numbers") from None
    return 0, 1


def meeting_place(env: MutableMapping[str, str]) -> None:
    """Set what torch.distributed looks for, from what SLURM says, where it is not set."""
    rank, size = rank_here(env)
    env.setdefault("RANK", str(rank))
    env.setdefault("WORLD_SIZE", str(size))
    if "MASTER_ADDR" not in env:
        nodes = env.get("SLURM_STEP_NODELIST") or env.get("SLURM_JOB_NODELIST", "")
        found = _HOST.match(nodes)
        if found is None:
            raise DataError("MASTER_ADDR is not set, and there is no list of SLURM's nodes to take it from")
        env["MASTER_ADDR"] = found[1] + (found[2] or "")
    if "MASTER_PORT" not in env:
        job = int(env.get("SLURM_JOB_ID", "0")) + int(env.get("SLURM_STEP_ID", "0"))
        env["MASTER_PORT"] = str(_FIRST_PORT + job % _PORTS)


@contextmanager
def joined(timeout: float) -> Iterator[Any]:
    """The group of all processes of this command, or None for one process.

    timeout : seconds that a rank may keep the others waiting.
    """
    if rank_here()[1] <= 1:
        yield None
        return
    import torch.distributed as dist

    meeting_place(os.environ)
    # What is exchanged is small and meant for the host: gloo, also where rows are on GPUs.
    dist.init_process_group("gloo", timeout=timedelta(seconds=timeout))
    yield dist.group.WORLD
    dist.destroy_process_group()  # not after an error: others may be waiting, and see the process end
