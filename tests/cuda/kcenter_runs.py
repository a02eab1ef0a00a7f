"""What the k-center tests of this folder share: the engine they run on, and the check against the plain algorithm.

Where there is a card whose kernels are built, the kernels run on it ("cuda-cuda" in the names of tests); elsewhere the
same sources run on the emulator, which pretends to be a card of compute capability 8.0. Where
PATCHCORE_FAST_TEST_ENGINES names cuda-cuda they run on the card or fail.
"""

import pytest
import torch

from patchcore_fast.kernels import Tuning, k_center_greedy
from patchcore_fast.kernels.backends.base import KCenterJob
from patchcore_fast.kernels.kcenter.reference import k_center_greedy_reference
from patchcore_fast.kernels.tuning import Budget

from ..kernels.engines import ASKED, Engine, backend_refusal, once

ON_CARD = Engine("cuda", "cuda")
ENGINE = ON_CARD if ON_CARD in ASKED or not backend_refusal("cuda", "cuda") else Engine("cuda")
DEVICE = ENGINE.device
SMALL = Tuning(batch=20, block=16)
EXACT = ("ieee", "tf32x3")  # the difference form, and tensor cores


@pytest.fixture(params=[ENGINE], ids=str)
def engine(request):
    """The CUDA backend, on the card or on the emulator."""
    if DEVICE == "cpu":
        request.getfixturevalue("emulated")
    return request.param


def select(x, k, **options):
    """`k_center_greedy` on the engine."""
    options = {name: v.to(DEVICE) if isinstance(v, torch.Tensor) else v for name, v in options.items()}
    return k_center_greedy(x.to(DEVICE), k, backend="cuda", **{"tuning": SMALL, **options})


def check(x, k, *tunings, key=None, precisions=EXACT, memory_limit=None, **options):
    """Indices and radii equal the plain float64 algorithm's, bit for bit, in every way asked for; the last result."""

    def reference():
        return k_center_greedy_reference(x, k, **options)

    indices, radii = reference() if key is None else once(("cuda", *key, k), reference)
    for tuning in tunings or (SMALL,):
        for precision in precisions:
            result = select(x, k, tuning=tuning, precision=precision, memory_limit=memory_limit, **options)
            assert result.indices.tolist() == indices.tolist(), (tuning, precision)
            assert torch.equal(result.radii.cpu(), radii), (tuning, precision)
            assert result.indices.dtype == torch.int64 and result.radii.dtype == torch.float32
            assert result.indices.device.type == result.radii.device.type == DEVICE
            assert result.distances <= x.shape[0] * (k + len(options.get("selected", ())))
    return result


def leaves(x, k, tuning=SMALL, **budget):
    """Leaves with a first pick, as the driver makes them."""
    from patchcore_fast.kernels.backends.cuda_kernels.kcenter import CudaKCenter

    x = x.to(DEVICE)
    initial = torch.full((x.shape[0],), torch.inf, dtype=torch.float64, device=DEVICE)
    made = CudaKCenter(KCenterJob("test", x, initial, None, 0, k, tuning, Budget(**budget)))
    made.append(torch.tensor([0], device=DEVICE))
    return made
