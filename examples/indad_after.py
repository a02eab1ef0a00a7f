"""The coreset of ind_knn_ad, with our selection, on clustered random features.

    python examples/indad_after.py

One line differs from indad_before.py. Prints a warning where nothing is projected, and needs no ind_knn_ad.
"""

import time

import numpy as np
import torch

from patchcore_fast.compat.indad import get_coreset_idx_randomp

torch.manual_seed(0)
np.random.seed(0)  # noqa: NPY002  (the selection draws from it)
# 200 dense clusters in a wide space: 20,000 patches of 256 values.
patches = (torch.randn(200, 256) * 3).repeat(100, 1) + torch.randn(20_000, 256) * 0.3

begin = time.perf_counter()
coreset_idx = get_coreset_idx_randomp(patches, n=400)
seconds = time.perf_counter() - begin

bank = patches[coreset_idx]
radius = max(torch.cdist(part, bank).min(1).values.max().item() for part in patches.split(2_000))
print(f"\n{len(coreset_idx)} of {len(patches)} patches in {seconds:.2f} s; no patch is farther than {radius:.4f}")
