"""The coreset of hcw-00's PatchCore, made as its train.py does, with its own copy of google's kCenterGreedy.

    PYTHONPATH=path/to/PatchCore_anomaly_detection python examples/active_learning_before.py

A clone of google/active-learning does as well. Both want NumPy < 2.4: their last print fails on later ones.
active_learning_after.py differs in one line.
"""

import time

import numpy as np
import sklearn.random_projection
import torch
from sampling_methods.kcenter_greedy import kCenterGreedy

rng = np.random.default_rng(0)
np.random.seed(0)  # noqa: NPY002  (the projection draws from it)
# 200 dense clusters in a wide space: 10,000 patches of 448 values.
patches = np.tile(rng.normal(0, 3, (200, 448)), (50, 1)) + rng.normal(0, 0.3, (10_000, 448))

begin = time.perf_counter()
projection = sklearn.random_projection.SparseRandomProjection(n_components="auto", eps=0.9)
projection.fit(patches)
selector = kCenterGreedy(patches, 0, 0)
rows = selector.select_batch(model=projection, already_selected=[], N=400)
seconds = time.perf_counter() - begin

bank = torch.from_numpy(patches[rows])
radius = max(torch.cdist(part, bank).min(1).values.max().item() for part in torch.from_numpy(patches).split(2_000))
print(f"\n{len(rows)} of {len(patches)} patches in {seconds:.2f} s; no patch is farther than {radius:.4f}")
