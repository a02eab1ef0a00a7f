"""A model written by `patchcore-fast export`, run without that package.

    patchcore-fast export bottles.safetensors --output bottles.pt2       (or bottles.onnx, bottles.xml)
    python examples/run_exported.py bottles.pt2 photo.png ... --maps folder > scores.csv

Needs NumPy and Pillow, and torch for a .pt2 file, onnxruntime for an .onnx file or openvino for an .xml file; nothing
of patchcore_fast, no timm.
Prints scores.csv with the columns of `patchcore-fast predict`; is_anomalous is the verdict by the threshold of the fit.
--maps writes the score maps [H, W] as .npy files.
"""

import argparse
import csv
import json
import sys
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

FACTS = "patchcore_fast.json"
COLUMNS = ("path", "score", "is_anomalous", "label", "defect_type", "heatmap", "error")  # docs/report.md


def open_model(path):
    """What the file says about itself, and a function from images [B, 3, H, W] to scores [B] and maps [B, H, W]."""
    if path.suffix == ".onnx":
        import onnxruntime

        session = onnxruntime.InferenceSession(str(path), providers=onnxruntime.get_available_providers())
        facts = json.loads(session.get_modelmeta().custom_metadata_map[FACTS])
        return facts, lambda images: session.run(["scores", "maps"], {"images": images})
    if path.suffix == ".xml":
        import openvino

        core = openvino.Core()
        graph = core.read_model(path)
        # Without this, processors with AMX compute in bfloat16.
        ready = core.compile_model(graph, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
        facts = json.loads(graph.get_rt_info([FACTS]).value)
        return facts, lambda images: [ready(images)[name] for name in ("scores", "maps")]
    import torch

    found = {FACTS: ""}
    program = torch.export.load(path, extra_files=found).module()

    def run(images):
        with torch.no_grad():
            return [result.numpy() for result in program(torch.from_numpy(images))]

    return json.loads(found[FACTS]), run


def read_image(path, facts):
    """[3, H, W] float32 in [0, 1]: upright, RGB, resized, and cropped in the centre where the model was fitted so.

    For photographs of 8 bits a channel without transparency; patchcore_fast itself takes more kinds.
    """
    with Image.open(path) as image:
        image = ImageOps.exif_transpose(image).convert("RGB")
    if facts.get("tile"):
        sys.exit("this model looks at tiles: cut and join images as docs/tiles.md says")
    height, width = facts["resize"]
    if facts.get("aspect") == "keep":
        longer = height * max(image.size) // min(image.size)
        height, width = (longer, height) if image.height > image.width else (height, longer)
    if image.size != (width, height):
        image = image.resize((width, height), Image.Resampling.BILINEAR)
    pixels = np.asarray(image, dtype=np.float32) / np.float32(255)
    if facts["crop"] is not None:
        top, left = round((height - facts["crop"][0]) / 2), round((width - facts["crop"][1]) / 2)
        pixels = pixels[top : top + facts["crop"][0], left : left + facts["crop"][1]]
    return np.ascontiguousarray(pixels.transpose(2, 0, 1))


def main():
    """Score images one by one."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help=".pt2, .onnx or .xml")
    parser.add_argument("images", type=Path, nargs="+")
    parser.add_argument("--maps", type=Path, help="folder for the score maps")
    args = parser.parse_args()
    facts, run = open_model(args.model)
    if args.maps is not None:
        args.maps.mkdir(parents=True, exist_ok=True)
    table = csv.DictWriter(sys.stdout, COLUMNS, lineterminator="\n")  # columns without a value stay empty
    table.writeheader()
    for path in args.images:
        scores, maps = run(read_image(path, facts)[None])
        threshold = facts["threshold"]
        verdict = "" if threshold is None else bool(scores[0] > threshold)
        table.writerow({"path": path, "score": f"{scores[0]:.9g}", "is_anomalous": verdict})
        if args.maps is not None:
            np.save(args.maps / f"{path.stem}.npy", maps[0])


if __name__ == "__main__":
    main()
