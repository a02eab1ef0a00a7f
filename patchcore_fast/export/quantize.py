"""INT8 of the backbone, after training: by ONNX Runtime for .onnx, by NNCF for OpenVINO. The rest stays float32.

Convolutions and matrix products are quantised, not what lies between them: it takes little time, sums keep their
precision, and OpenVINO 2026.4 gave zeros for products of two quantised factors, as SiLU is one. For ONNX Runtime a ReLU
or ReLU6 behind one is a part of it: else the range is that of what goes in, of which most is cut off afterwards.
"""

from __future__ import annotations

import logging
import sys
import tempfile
from collections.abc import Iterator
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import torch

from patchcore_fast.export.formats import BACKBONE, need

_ONNX, _BOUNDS = ("Conv", "MatMul", "Gemm"), ("Relu", "Clip")
_OPENVINO = ("Convolution", "GroupConvolution", "MatMul")


def quantized_onnx(proto: Any, images: torch.Tensor) -> Any:
    """The onnx.ModelProto with its backbone in QDQ: weights by channel, activations by their range on the images.

    images : [N, 3, H, W], for calibration.
    """
    import onnx
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.quant_utils import add_pre_process_metadata

    class Reader(CalibrationDataReader):
        """One image after the other."""

        def __init__(self) -> None:
            self._images: Iterator[torch.Tensor] = iter(images.split(1))

        def get_next(self) -> dict[str, Any] | None:
            """The next, None after the last."""
            image = next(self._images, None)
            return None if image is None else {"images": image.numpy()}

    add_pre_process_metadata(proto)  # torch's exporter has folded and inferred already what a warning asks for else
    inside = [node for node in proto.graph.node if node.name.startswith(BACKBONE)]
    products = [node for node in inside if node.op_type in _ONNX]
    made = {name for node in products for name in node.output}
    nodes = [node.name for node in (*products, *(n for n in inside if n.op_type in _BOUNDS and n.input[0] in made))]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "int8.onnx")
        quantize_static(
            proto, path, Reader(), quant_format=QuantFormat.QDQ, nodes_to_quantize=nodes, per_channel=True,
            activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8,
        )  # fmt: skip
        return onnx.load(path)


def quantized_openvino(model: Any, images: torch.Tensor) -> Any:
    """The openvino.Model with its backbone quantised; images as of `quantized_onnx`."""
    nncf = need("nncf", "openvino", "INT8 of OpenVINO")
    nncf.set_log_level(logging.ERROR)  # it tells of every node that it leaves alone, and draws a bar on standard output
    others = [
        op.get_friendly_name()
        for op in model.get_ordered_ops()
        if op.get_type_name() not in ("Parameter", "Constant", "Result")
        and not (op.get_friendly_name().startswith(BACKBONE) and op.get_type_name() in _OPENVINO)
    ]
    with redirect_stdout(sys.stderr):
        return nncf.quantize(
            model, nncf.Dataset([image.numpy() for image in images.split(1)]), subset_size=len(images),
            preset=nncf.QuantizationPreset.MIXED, ignored_scope=nncf.IgnoredScope(names=others, validate=False),
        )  # fmt: skip
