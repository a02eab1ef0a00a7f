"""What GPU kernels of both kinds do on a card, and neither interpreter nor emulator shows: streams, graphs, memory."""

import pytest
import torch

from patchcore_fast.kernels import Tuning, k_center_greedy, knn
from patchcore_fast.kernels.kcenter.reference import k_center_greedy_reference
from patchcore_fast.kernels.knn.reference import knn_reference

from .cases import gaussian, integers
from .engines import ASKED, backend_refusal

GPU = ("triton", "cuda")


@pytest.fixture(params=[engine.backend for engine in ASKED if engine.backend in GPU] or GPU)
def backend(request):
    """Each backend in turn, where a card is that it runs on; those that were asked for in any case."""
    asked = any(engine.backend in GPU for engine in ASKED)
    if not asked and (reason := backend_refusal(request.param, "cuda")):
        pytest.skip(f"needs a CUDA device: {request.param}: {reason}")
    return request.param


def greedy(x, backend):
    found = k_center_greedy(x, 300, backend=backend)
    return found.indices, found.radii


CALLS = {
    "k_center_greedy": (greedy, lambda x: k_center_greedy_reference(x, 300)),
    "knn": (lambda x, backend: knn(x[:300], x, 3, backend=backend), lambda x: knn_reference(x[:300], x, 3)),
}


def same(found, expected):
    return all(torch.equal(a.cpu(), b.cpu()) for a, b in zip(found, expected, strict=True))


@pytest.mark.parametrize("call", CALLS)
def test_the_current_stream_is_used(call, backend):
    run, x = CALLS[call][0], gaussian(20_000, 40).cuda()
    expected, stream, source = run(x, backend), torch.cuda.Stream(), x.clone()
    x.zero_()
    torch.cuda.synchronize()
    with torch.cuda.stream(stream):
        torch.cuda._sleep(100_000_000)
        x.copy_(source)  # too late for kernels of another stream
        found = run(x, backend)
    torch.cuda.synchronize()
    assert same(found, expected)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")
@pytest.mark.parametrize("call", CALLS)
def test_a_device_that_is_not_the_current_one(call, backend):
    (run, reference), x = CALLS[call], gaussian(2000, 20).to("cuda:1")
    with torch.cuda.device(0):
        found = run(x, backend)
    assert all(part.device == x.device for part in found) and same(found, reference(x))


@pytest.mark.parametrize("k", [1, 9])
def test_a_search_is_captured_in_a_graph(k, backend):
    query, bank = gaussian(300, 48, seed=1).cuda(), gaussian(2000, 48).cuda()
    bank[100:400] = bank[5]
    knn(query, bank, k, backend=backend)  # compiles, or loads
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        found = knn(query, bank, k, backend=backend)
    for seed in (2, 3):
        query.copy_(gaussian(300, 48, seed=seed))
        query[:20] = bank[5]
        graph.replay()
        assert same(found, knn_reference(query, bank, k))


LARGE = {"gaussian": (20_000, 40, 20_000), "integers": (20_000, 3, 20_000), "duplicates": (300, 40, 12_000)}


@pytest.mark.parametrize("name", LARGE)
def test_graph_replay_gives_the_same_picks(name, backend):
    distinct, d, n = LARGE[name]
    x = (integers if name == "integers" else gaussian)(distinct, d).repeat(n // distinct, 1).cuda()
    expected = k_center_greedy(x, 2000, backend=backend)
    found = k_center_greedy(x, 2000, backend=backend, tuning=Tuning(batch=300, graph=True))
    assert found.passes > 3
    assert same((found.indices, found.radii), (expected.indices, expected.radii))


@pytest.mark.parametrize("precision", ["float32", "ieee", "tf32x3"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64], ids=str)
def test_default_tuning_gives_the_picks_of_the_reference(dtype, precision, backend):
    x = gaussian(30_000, 64).to(dtype).cuda()
    expected = k_center_greedy_reference(x, 500)
    for name in (backend, "auto"):
        found = k_center_greedy(x, 500, backend=name, precision=precision)
        assert same((found.indices, found.radii), expected)


def test_peak_memory(backend):
    n, d, k = 200_000, 64, 2000
    x = gaussian(n, d).cuda()
    k_center_greedy(x[:5000], 50, backend=backend)
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    k_center_greedy(x, k, backend=backend)
    taken = torch.cuda.max_memory_allocated() - before
    # Starting distances and key, the picks, pairs of a block, and the sample that places the centre.
    most = 48 * n + k * (4 * d + 12) + 12 * 512**2 + 4 * 1024 * d * 8
    assert 32 * n < taken <= most + ({"triton": 4, "cuda": 8}[backend] << 20)
