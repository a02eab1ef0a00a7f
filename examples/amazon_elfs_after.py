"""PatchCore of amazon-science/patchcore-inspection on a folder in MVTec layout, with our ELFS sampler in it.

    PYTHONPATH=<patchcore-inspection>/src python examples/amazon_elfs_after.py path/to/mvtec/bottle

The lines that make and call the sampler differ from amazon_before.py. It is told which image a row is of, names the
training images that the others support least, and prunes none; other settings of it go in here (docs/elfs.md).
"""

import argparse
import time
from pathlib import Path

import patchcore.common
import patchcore.patchcore
import patchcore.utils
import torch
from patchcore.datasets.mvtec import DatasetSplit, MVTecDataset
from patchcore_fast.samplers import ELFSCoresetSampler
from sklearn.metrics import roc_auc_score

from patchcore_fast.features import Backbone  # EfficientNet-Lite0 with ImageNet weights, without a download

parser = argparse.ArgumentParser()
parser.add_argument("folder", type=Path)
parser.add_argument("--ratio", type=float, default=0.1, help="share of the patches to keep")
args = parser.parse_args()
folder = args.folder.resolve()
device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
train, test = (
    torch.utils.data.DataLoader(MVTecDataset(folder.parent, folder.name, split=split), batch_size=8)
    for split in (DatasetSplit.TRAIN, DatasetSplit.TEST)
)

patchcore.utils.fix_seeds(0, with_torch=True, with_cuda=False)
sampler = ELFSCoresetSampler(percentage=args.ratio, device=device, prune_support="ask")
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


def run(features):
    images = torch.arange(len(features)) // (len(features) // len(train.dataset))  # the image of each row
    return features[sampler.select(features, image_ids=images).numpy()]


def timed(features):
    begin = time.perf_counter()
    coreset = run(features)
    print(f"\ncoreset rows {len(coreset)}\nselection {time.perf_counter() - begin:.2f} s")
    return coreset


sampler.run = timed
model.fit(train)
scores, _, labels, _ = model.predict(test)
print(f"image AUROC {roc_auc_score(labels, scores):.4f}")
