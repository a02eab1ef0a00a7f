"""The native engine inside a process: Ctrl-C, forks, threads, the interpreter's lock."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from itertools import pairwise

import pytest
import torch

from patchcore_fast.kernels import k_center_greedy, knn
from patchcore_fast.kernels.backends.native_library import native, native_refusal

pytestmark = pytest.mark.skipif(native_refusal() is not None, reason=str(native_refusal()))
ISAS = [] if native_refusal() else [name for name, reason in native().explain_isa() if not reason]

LONG = {
    # Minutes on any machine: a bank that is met by far more queries than are searched in a second.
    "knn": "x = torch.randn(400_000, 64); call = lambda: knn(x, x, 5, backend='native')",
    "k_center_greedy": "x = torch.randn(200_000, 64); call = lambda: k_center_greedy(x, 150_000, backend='native')",
}
INTERRUPTED = """
import sys, time, torch
from patchcore_fast.kernels import knn, k_center_greedy
torch.set_num_threads(2)
{setup}
print("ready", flush=True)
try:
    call()
except KeyboardInterrupt:
    print("interrupted", flush=True)
"""


# Each job, and the least and the most of the instruction sets; the other two pairs are for -m thorough.
ENDED = [
    pytest.param(name, isa, marks=[pytest.mark.thorough] * (len(ISAS) > 1 and (name == "knn") == (isa == ISAS[0])))
    for name in LONG
    for isa in dict.fromkeys((*ISAS[:1], *ISAS[-1:]))
]


@pytest.mark.parametrize("name, isa", ENDED)
def test_ctrl_c_ends_a_long_job_soon(name, isa):
    code = INTERRUPTED.format(setup=LONG[name])
    env = {**os.environ, "PATCHCORE_FAST_ISA": isa}
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, env=env) as process:
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
        time.sleep(1.5)
        assert process.poll() is None, "the job was too short"
        begin = time.monotonic()
        process.send_signal(signal.SIGINT)
        line = process.stdout.readline()
        waited = time.monotonic() - begin
        process.kill()
    assert line == "interrupted\n"
    assert waited < 10.0  # of minutes: it looks every 50 ms between tasks; the rest is what else the machine does


FORK = """
import os, sys, torch
from patchcore_fast.kernels import knn, k_center_greedy
torch.set_num_threads(2)
x = torch.randn(3000, 16, generator=torch.Generator().manual_seed(0))
def both():
    return k_center_greedy(x, 300, backend="native").indices.tolist(), knn(x, x[:500], 3, backend="native")[1].tolist()
def in_child(expected):
    child = os.fork()
    if child == 0:
        same = False
        try:
            # The pool of torch's own operators does not survive a fork; one thread for them, two for the engine.
            same = both() == expected
        finally:
            os._exit(0 if same else 1)
    return os.waitpid(child, 0)[1]
expected = both()
statuses = [in_child(expected)]
def at_a_pass(done, total):  # while a job of the parent holds threads
    if len(statuses) == 1:
        statuses.append(in_child(expected))
k_center_greedy(x, 300, backend="native", progress=at_a_pass)
print(statuses, both() == expected)
"""


def test_a_forked_child_can_call():
    done = subprocess.run([sys.executable, "-c", FORK], capture_output=True, text=True, timeout=120)
    assert done.stdout == "[0, 0] True\n", done.stderr


def test_calls_from_several_threads_at_once(threads):
    threads(2)
    x = torch.randn(4000, 24, generator=torch.Generator().manual_seed(0))

    def work():
        picks = k_center_greedy(x, 400, backend="native")
        return picks.indices.tolist(), picks.radii.tolist(), knn(x, x[:700], 4, backend="native")[1].tolist()

    expected, found = work(), []
    callers = [threading.Thread(target=lambda: found.append(work())) for _ in range(6)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert len(found) == 6 and all(answer == expected for answer in found)


@pytest.mark.parametrize("name", ["knn", "k_center_greedy", "look"])
def test_other_threads_run_during_a_call(name, monkeypatch, threads):
    monkeypatch.setenv("PATCHCORE_FAST_ISA", "portable")  # slow enough to be watched
    threads(1)
    x = torch.randn(30_000, 64, generator=torch.Generator().manual_seed(0))
    module = native()
    rows = (x.data_ptr(), "float32", *x.shape, *x.stride())
    look = module.Look(rows, "", 0, 1.0, 1)
    squared = torch.full((30_000,), torch.inf, dtype=torch.float64)
    out, ids = torch.empty(8000, 5, dtype=torch.float64), torch.empty(8000, 5, dtype=torch.int64)
    picks = torch.arange(8000)
    if name == "knn":
        query = (x.data_ptr(), "float32", 8000, 64, 64, 1)
        of_query = module.Look(query, "", 0, 1.0, 1)

        def call():
            module.knn(query, rows, of_query, look, 5, 1, out.data_ptr(), ids.data_ptr())

    elif name == "k_center_greedy":
        engine = module.KCenter(rows, look, squared.data_ptr(), 0, 8000, "none", 0, 0, 1)
        engine.append(picks.data_ptr(), 8000)

        def call():
            engine.refresh(0, 0)

    else:

        def call():
            for _ in range(3):
                module.Look((x.data_ptr(), "float32", 3_000_000, 64, 0, 1), "", 0, 1.0, 1)

    ticks: list[float] = []
    stop = threading.Event()

    def tick():
        while not stop.is_set():
            ticks.append(time.monotonic())
            time.sleep(0.002)

    ticker = threading.Thread(target=tick)
    ticker.start()
    begin = time.monotonic()
    call()
    end = time.monotonic()
    stop.set()
    ticker.join()
    lasted, during = end - begin, [t for t in ticks if begin < t < end]
    gaps = [b - a for a, b in pairwise(during)]
    assert lasted > 0.1, "too short to tell"
    assert len(during) > lasted / 0.05 and max(gaps) < lasted / 2
