"""A network of your own as backbone: features that turn with the photograph (C4, the group of four rotations).

    python examples/equivariant_backbone.py path/to/mvtec/bottle

Parts that lie in any direction need no copies turned by hand: a patch and the same patch turned by 90 degrees have one
row. The filters are random here; a trained network goes in the same way, and `C4` makes any network of square images
equivariant, at four times its cost.
"""

import argparse
from pathlib import Path

import torch
from torch import nn

from patchcore_fast.features import Backbone
from patchcore_fast.model import PatchCore, PatchCoreConfig


class C4(nn.Module):
    """The mean over all four rotations g of g^-1 f(g x): turning the image turns the maps, and changes nothing else."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """[B, 3, H, H] -> [B, C, h, h]."""
        turned = [self.network(images.rot90(turns, (2, 3))).rot90(-turns, (2, 3)) for turns in range(4)]
        return torch.stack(turned).mean(0)


def random_filters(channels: int = 32, seed: int = 0) -> nn.Module:
    """Two random convolutions, stride 8 in all; even padding keeps the grid's middle in the middle of the image."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Conv2d(3, channels, 7, padding=3), nn.ReLU(), nn.AvgPool2d(4),
            nn.Conv2d(channels, 2 * channels, 5, padding=2), nn.ReLU(), nn.AvgPool2d(2),
        )  # fmt: skip


def equivariant_source(image_size: int = 128) -> Backbone:
    """What `PatchCore(..., backbone=...)` takes."""
    return Backbone.of(C4(random_filters()), mean=(0.5,) * 3, std=(0.25,) * 3, image_size=image_size)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--ratio", type=float, default=0.1, help="share of the patches to keep")
    parser.add_argument("--image-size", type=int, default=128)
    args = parser.parse_args()
    source = equivariant_source(args.image_size)
    config = PatchCoreConfig(image_size=args.image_size, ratio=args.ratio)
    model = PatchCore(config, backbone=source).fit(args.folder)
    metrics = model.evaluate(args.folder).metrics
    print(f"coreset rows {len(model.bank.features)}")
    print(f"image AUROC {metrics['image_auroc']:.4f}")


if __name__ == "__main__":
    main()
