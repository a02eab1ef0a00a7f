"""This package's own PatchCore on a folder in MVTec layout.

    python examples/own_pipeline.py path/to/mvtec/bottle

Prints what the scripts of the other repositories print.
"""

import argparse
from pathlib import Path

from patchcore_fast.model import PatchCore, PatchCoreConfig

parser = argparse.ArgumentParser()
parser.add_argument("folder", type=Path)
parser.add_argument("--ratio", type=float, default=0.1, help="share of the patches to keep")
args = parser.parse_args()

model = PatchCore(PatchCoreConfig(ratio=args.ratio)).fit(args.folder)
metrics = model.evaluate(args.folder).metrics
print(f"coreset rows {len(model.bank.features)}")
print(f"selection {model.timings_['selection']:.2f} s")
print(f"image AUROC {metrics['image_auroc']:.4f}")
