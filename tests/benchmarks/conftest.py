"""Scripts run in this process, and so do their workers: most of a tiny run is the start of processes that import torch.

What is about processes (test_worker.py, the dry run of test_gpu_run.py) starts them.
"""

from __future__ import annotations

import gc
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks.harness import runs, worker
from benchmarks.speed import kcenter

PLUGIN = """
import os, signal, time
import numpy as np
from benchmarks.harness.providers import Provider

class Wrong:
    def __init__(self, arrays, device, seed):
        self.arrays = arrays
        self.large = len(arrays.get("features", [])) > 2000  # not while it is warmed up
    def answer(self, k):
        if "bank" in self.arrays:
            return {"rows": np.tile(np.arange(k), (len(self.arrays["queries"]), 1))}
        return {"indices": np.arange(k), "rarity": np.ones(len(self.arrays["features"]))}

class Hungry(Wrong):
    def answer(self, k):
        self.held = np.ones(1 << 28 if self.large else 1)
        return super().answer(k)

class Dying(Wrong):
    def answer(self, k):
        if self.large:
            os.kill(os.getpid(), signal.SIGSEGV)
        return super().answer(k)

class Slow(Wrong):
    def answer(self, k):
        time.sleep(300 * (k == 5))
        return super().answer(k)

class Interrupted(Wrong):
    def facts(self):  # asked for by timed runs only
        raise KeyboardInterrupt

kinds = {"wrong": Wrong, "hungry": Hungry, "dying": Dying, "slow": Slow, "interrupted": Interrupted}
KCENTER = {name: Provider(name, name, "", kind, optional=name == "interrupted") for name, kind in kinds.items()}
KNN = RARITY = {name: KCENTER[name] for name in ("wrong", "interrupted")}
"""


class Here:
    """A worker without a process of its own."""

    def __init__(self, task: str, provider: str, device: str, limit: int, given: float | None = None,
                 plugin: str | None = None) -> None:  # fmt: skip
        self.child = worker._Child(task, provider, device, limit, plugin or "")

    def ask(self, timeout: float, do: str, **request: Any) -> dict[str, Any]:
        return json.loads(json.dumps(getattr(self.child, do)(**request)))

    def close(self) -> None:
        del self.child


@pytest.fixture(autouse=True, scope="module")
def frozen() -> Iterator[None]:
    """What is there already is no garbage: the benchmarks collect before each run, and would look through all of it."""
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture(scope="module")
def in_process() -> Iterator[type[Here]]:
    """Workers of this process, on one thread; threads and global generators are put back."""
    drawn, numpys = torch.get_rng_state(), np.random.get_state()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runs, "Worker", Here)
        patch.setattr(worker, "_WARM_K", 2)
        patch.setenv("OMP_NUM_THREADS", "1")  # of what is started all the same
        patch.setenv("PATCHCORE_FAST_ISA", "auto")  # providers that are held to an instruction set change it
        yield Here
    torch.set_num_threads(threads)
    torch.set_rng_state(drawn)
    np.random.set_state(numpys)


@pytest.fixture
def run(in_process: type[Here], capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """run(kcenter, "--k", 5, ...): what the script prints; where it ends with a message, SystemExit."""

    def go(script: ModuleType, *options: object) -> str:
        capsys.readouterr()
        try:
            assert not script.main([str(option) for option in options])
        except SystemExit as end:
            if end.code:
                raise
        said = capsys.readouterr()
        return said.out + said.err

    return go


def rows(path: Path, problem: int = 0) -> dict[str, dict]:
    """Rows of a result by provider."""
    return {row["provider"]: row for row in json.loads(path.read_text())["problems"][problem]["rows"]}


@pytest.fixture(scope="session")
def plugin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file for --plugin: providers that are wrong, take memory, die, or never answer."""
    path = tmp_path_factory.mktemp("plugin") / "plugin.py"
    path.write_text(PLUGIN)
    return path


@pytest.fixture(scope="module")
def textures(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two sets of the demo's textures."""
    from patchcore_fast.demo.textures import write_texture

    root = tmp_path_factory.mktemp("textures")
    return [write_texture(name, root) for name in ("brick", "grass")]


@pytest.fixture(scope="module")
def small_kcenter(in_process: type[Here], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """kcenter.json of ours and a loop, for pages."""
    out = tmp_path_factory.mktemp("small") / "kcenter.json"
    kcenter.main(["--case", "gaussian", "--n", "1500", "--d", "8", "--k", "20", "40", "--repeat", "1", "--providers",
                  "patchcore_fast", "gemv loop", "--json", str(out)])  # fmt: skip
    return out
