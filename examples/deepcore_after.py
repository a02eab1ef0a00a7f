"""A coreset by our k_center_greedy in the place of DeepCore's, on clustered random features.

    PYTHONPATH=path/to/DeepCore python examples/deepcore_after.py

One line differs from deepcore_before.py; the metric still comes from DeepCore.
"""

import time

import deepcore.methods.methods_utils
import torch

from patchcore_fast.compat.deepcore import k_center_greedy

torch.manual_seed(0)
# 200 dense clusters in a wide space: 10,000 samples of 128 values.
features = (torch.randn(200, 128) * 3).repeat(50, 1) + torch.randn(10_000, 128) * 0.3

begin = time.perf_counter()
metric = deepcore.methods.methods_utils.euclidean_dist
rows = k_center_greedy(features, 400, metric, "cpu", random_seed=0, already_selected=[], print_freq=100)
seconds = time.perf_counter() - begin

bank = features[rows]
radius = max(torch.cdist(part, bank).min(1).values.max().item() for part in features.split(2_000))
print(f"\n{len(rows)} of {len(features)} samples in {seconds:.2f} s; no sample is farther than {radius:.4f}")
