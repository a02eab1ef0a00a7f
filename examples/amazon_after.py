"""PatchCore of amazon-science/patchcore-inspection on a folder in MVTec layout, with our sampler in it.

    PYTHONPATH=<patchcore-inspection>/src python examples/amazon_after.py path/to/mvtec/bottle

One line differs from amazon_before.py.
"""

import sys
import time
from pathlib import Path

import patchcore.common
import patchcore.patchcore
import patchcore.utils
import torch
from patchcore.datasets.mvtec import DatasetSplit, MVTecDataset
from patchcore_fast.compat.amazon import ApproximateGreedyCoresetSampler
from sklearn.metrics import roc_auc_score

from patchcore_fast.features import Backbone  # EfficientNet-Lite0 with ImageNet weights, without a download

folder = Path(sys.argv[1]).resolve()
device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
train, test = (
    torch.utils.data.DataLoader(MVTecDataset(folder.parent, folder.name, split=split), batch_size=8)
    for split in (DatasetSplit.TRAIN, DatasetSplit.TEST)
)

patchcore.utils.fix_seeds(0, with_torch=True, with_cuda=False)
sampler = ApproximateGreedyCoresetSampler(percentage=0.1, device=device)
model = patchcore.patchcore.PatchCore(device)
model.load(
    backbone=Backbone("tf_efficientnet_lite0").net,
    layers_to_extract_from=("blocks.2", "blocks.4"),
    device=device,
    input_shape=(3, 224, 224),
    pretrain_embed_dimension=1024,
    target_embed_dimension=1024,
    featuresampler=sampler,
    nn_method=patchcore.common.FaissNN(False, 4),
)

run, seconds = sampler.run, []


def timed(features):
    begin = time.perf_counter()
    coreset = run(features)
    seconds.append(time.perf_counter() - begin)
    print(f"\nselected {len(coreset):,} of {len(features):,} patches in {seconds[-1]:.2f} s")
    return coreset


sampler.run = timed
model.fit(train)
scores, _, labels, _ = model.predict(test)
print(f"image AUROC {roc_auc_score(labels, scores):.4f}")
