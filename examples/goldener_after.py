"""A subset by our k-center greedy through goldener's tool, on clustered random features.

    python examples/goldener_after.py

Needs goldener. One line is added to goldener_before.py.
"""

import time

import torch
from goldener.select import GoldGreedyKCenterSelectionTool

from patchcore_fast.compat import goldener; goldener.install()  # fmt: skip

torch.manual_seed(0)
# 200 dense clusters in a wide space: 10,000 samples of 128 values.
features = (torch.randn(200, 128) * 3).repeat(50, 1) + torch.randn(10_000, 128) * 0.3

begin = time.perf_counter()
rows = GoldGreedyKCenterSelectionTool("cpu").select(features, 400)
seconds = time.perf_counter() - begin

bank = features[rows]
radius = max(torch.cdist(part, bank).min(1).values.max().item() for part in features.split(2_000))
print(f"\n{len(rows)} of {len(features)} samples in {seconds:.2f} s; no sample is farther than {radius:.4f}")
