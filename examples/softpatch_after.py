"""The coreset of SoftPatch, with our sampler, on clustered random features of which some count as noise.

    python examples/softpatch_after.py

One line differs from softpatch_before.py.
"""

import time

import numpy as np
import torch

from patchcore_fast.compat.softpatch import WeightedGreedyCoresetSampler

torch.manual_seed(0)
np.random.seed(0)  # noqa: NPY002  (the selection draws from it)
# 200 dense clusters in a wide space: 20,000 patches of 256 values. As in SoftPatch, 15 % of the patches get weight 0.
patches = (torch.randn(200, 256) * 3).repeat(100, 1) + torch.randn(20_000, 256) * 0.3
weight = torch.where(torch.rand(20_000) < 0.15, 0, 1)

begin = time.perf_counter()
selector = WeightedGreedyCoresetSampler(0.02, torch.device("cpu"))
selector.set_sampling_weight(weight)
bank, rows = selector.run(patches)
seconds = time.perf_counter() - begin

radius = max(torch.cdist(part, bank).min(1).values.max().item() for part in patches.split(2_000))
print(f"\n{len(rows)} of {len(patches)} patches in {seconds:.2f} s; no patch is farther than {radius:.4f}")
