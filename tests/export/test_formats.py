"""Files in other precisions and of OpenVINO: what is quantised, what they say of themselves, what cannot be read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from patchcore_fast.errors import BankError
from patchcore_fast.export import TOLERANCE, TOLERANCES, ExportedModel, ExportedPatchCore, export_model, is_exported
from patchcore_fast.export.formats import BACKBONE, FACTS
from patchcore_fast.model import PatchCore

from ..pictures import write_mvtec
from .test_export import fitted


def pictures(count: int, seed: int) -> torch.Tensor:
    """Smooth ones: the features of noise are all alike, and INT8 then blurs what little tells them apart."""
    coarse = torch.rand(count, 3, 5, 5, generator=torch.Generator().manual_seed(seed))
    return F.interpolate(coarse, size=(64, 64), mode="bilinear")


IMAGES = pictures(6, 0)


@pytest.fixture(scope="module")
def model() -> PatchCore:
    """Of the images that INT8 is calibrated on."""
    base = fitted()
    return PatchCore(base.config.replace(ratio=0.1), progress=False).fit(IMAGES)


def needs(*packages: str) -> None:
    for package in packages:
        pytest.importorskip(package, reason=f"{package} is not installed: the extra `export` or `openvino`")


def predicted(model: PatchCore, exported: ExportedModel) -> float:
    """Largest relative difference of scores of other images."""
    images = pictures(3, 5)
    pairs = zip(exported.predict(images), model.predict(images), strict=True)
    return max(abs(got.score / want.score - 1) for got, want in pairs)


def test_int8_of_onnx_is_of_the_backbone_alone(model: PatchCore, tmp_path: Path) -> None:
    needs("onnx", "onnxscript", "onnxruntime")
    import onnx

    data = write_mvtec(tmp_path / "weave", train=1, good=2, bad=2, side=64)
    found = export_model(model, tmp_path / "m.onnx", precision="int8", calibration=IMAGES, evaluate=data)
    assert TOLERANCE < found.score <= TOLERANCES["int8"] and found.images == 6 and found.tested == 4
    exported = ExportedModel.load(tmp_path / "m.onnx", progress=False)
    assert predicted(model, exported) < 0.1
    assert exported.facts["precision"] == "int8" and exported.facts["calibrated_on"] == 6
    assert found.image_auroc is not None
    assert exported.facts["difference"] == json.loads(json.dumps(found._asdict()))
    assert found.image_auroc == tuple(m.evaluate(data).metrics["image_auroc"] for m in (model, exported))
    nodes = onnx.load(tmp_path / "m.onnx").graph.node
    makers = {name: node for node in nodes for name in node.output}
    convolutions = {True: 0, False: 0}
    for node in nodes:
        if node.op_type in ("Conv", "MatMul"):
            inside = node.name.startswith(BACKBONE)
            fed = [makers[name].op_type for name in node.input if name in makers]
            assert ("DequantizeLinear" in fed) == inside, node.name
            convolutions[inside] += 1
    assert convolutions[True] > 5 and convolutions[False] >= 2  # the search, and the smoothing of maps


def test_int8_of_onnx_takes_the_range_behind_a_relu(tmp_path: Path) -> None:
    needs("onnx", "onnxruntime")
    import onnx
    import onnxruntime
    from onnx import TensorProto, helper, numpy_helper

    from patchcore_fast.export.quantize import quantized_onnx

    w = torch.randn(3, 3, 1, 1, generator=torch.Generator().manual_seed(0))
    constants = {"wide": 100 * w, "w": w, "low": torch.tensor(0.0), "high": torch.tensor(6.0)}
    chain = [("Conv", ["images", "wide"]), ("Clip", ["t0", "low", "high"]), ("Conv", ["t1", "w"]),
             ("Add", ["t2", "t1"]), ("Relu", ["t3"])]  # fmt: skip
    value = helper.make_tensor_value_info
    sides = ["N", 3, 16, 16]
    graph = helper.make_graph(
        [helper.make_node(kind, given, [f"t{i}"], name=f"{BACKBONE}{i}") for i, (kind, given) in enumerate(chain)], "g",
        [value("images", TensorProto.FLOAT, sides)], [value("t4", TensorProto.FLOAT, sides)],
        [numpy_helper.from_array(tensor.numpy(), name) for name, tensor in constants.items()],
    )  # fmt: skip
    plain = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    images = torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(1))

    def run(model: Any) -> torch.Tensor:
        session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
        return torch.from_numpy(session.run(None, {"images": images.numpy()})[0])

    want = run(plain)
    made = quantized_onnx(onnx.ModelProto.FromString(plain.SerializeToString()), images)
    assert float((run(made) - want).abs().mean() / want.mean()) < 0.03
    assert [node.op_type for node in made.graph.node if node.op_type in ("Add", "Relu", "Clip")] == ["Add", "Relu"]


@pytest.mark.parametrize("precision", ["int8", pytest.param("fp32", marks=pytest.mark.thorough),
                                       pytest.param("fp16", marks=pytest.mark.thorough)])  # fmt: skip
def test_openvino(precision: str, model: PatchCore, tmp_path: Path) -> None:
    needs("onnx", "onnxscript", "openvino", *(["nncf"] if precision == "int8" else []))
    calibration = IMAGES if precision == "int8" else None
    found = export_model(model, tmp_path / "m.xml", precision=precision, calibration=calibration)
    assert found.score <= TOLERANCES[precision] and {p.name for p in tmp_path.iterdir()} == {"m.xml", "m.bin"}
    exported = ExportedModel.load(tmp_path / "m.xml", progress=False)
    assert predicted(model, exported) < {"fp32": TOLERANCE, "fp16": 0.01, "int8": 0.1}[precision]
    assert exported.facts["bank_rows"] == len(model.bank) and exported.threshold == model.threshold
    weights = bytearray((tmp_path / "m.bin").read_bytes())
    weights[len(weights) // 2] ^= 1
    (tmp_path / "m.bin").write_bytes(weights)
    with pytest.raises(BankError, match=r"the \.bin file beside it is of another model"):
        ExportedModel.load(tmp_path / "m.xml")
    (tmp_path / "m.bin").unlink()
    with pytest.raises(BankError, match=r"m\.bin: no such file"):
        ExportedModel.load(tmp_path / "m.xml")


@pytest.mark.thorough
@pytest.mark.parametrize("suffix", [".pt2", ".onnx"])
def test_half_precision(suffix: str, model: PatchCore, tmp_path: Path) -> None:
    if suffix == ".onnx":
        needs("onnx", "onnxscript", "onnxruntime")
    for precision in ("fp32", "fp16"):
        export_model(model, tmp_path / f"{precision}{suffix}", precision=precision)
    assert predicted(model, ExportedModel.load(tmp_path / f"fp16{suffix}", progress=False)) < 0.01


@pytest.mark.parametrize("precision", ["float16", "bfloat16"])
def test_features_of_half_precision_are_rounded(precision: str) -> None:
    model = fitted(precision=precision)
    images = torch.rand(3, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        scores, _ = ExportedPatchCore(model).eval()(images)
    # A number that float32 gives a little lower may be rounded the other way.
    for score, want in zip(scores, model.predict(images), strict=True):
        assert float(score) == pytest.approx(want.score, rel=TOLERANCES["fp16"])


def test_one_module_for_many_sizes(model: PatchCore) -> None:
    lite = fitted(backbone="tf_efficientnet_lite0", ratio=0.1)  # pads by the size of what it is given
    for fitted_model in (model, lite):
        module = ExportedPatchCore(fitted_model, dynamic=True).eval()
        assert module.multiple is not None
        for side in (2, 3):
            images = torch.rand(1, 3, 64, side * module.multiple[1], generator=torch.Generator().manual_seed(side))
            with torch.no_grad():
                score, heat = module(images)
            want = fitted_model.predict(images)[0]
            assert float(score) == pytest.approx(want.score, rel=1e-5)
            torch.testing.assert_close(heat[0], torch.from_numpy(want.anomaly_map), rtol=1e-4, atol=1e-5)


@pytest.mark.thorough
@pytest.mark.parametrize("suffix", [".pt2", ".onnx", ".xml"])
def test_files_for_many_sizes(suffix: str, model: PatchCore, tmp_path: Path) -> None:
    if suffix != ".pt2":
        needs("onnx", "onnxscript", "onnxruntime", *(["openvino"] if suffix == ".xml" else []))
    found = export_model(model, tmp_path / f"m{suffix}", dynamic=True)
    assert found.images == 6 and found.score <= TOLERANCE  # three of the config's size, three of another
    exported = ExportedModel.load(tmp_path / f"m{suffix}", progress=False)
    assert exported.facts["size_multiple"] == [8, 8] or exported.facts["size_multiple"] == [32, 32]
    images = torch.rand(1, 3, 96, 160, generator=torch.Generator().manual_seed(7))
    score, heat = exported._run(images)
    want = model.predict(images)[0]
    assert float(score[0]) == pytest.approx(want.score, rel=TOLERANCE) and tuple(heat.shape) == (1, 96, 160)


def about(model: PatchCore, **changes: Any) -> dict[str, Any]:
    from patchcore_fast.export.programs import facts

    return facts(model) | changes


def test_facts_that_cannot_be_used(model: PatchCore, tmp_path: Path) -> None:
    run: Any = None
    for changes, said in (
        ({"tile": 64}, "single tiles of 64 pixels"), ({"config": None}, "no settings"),
        ({"input_size": [32, 32]}, r"it takes \[32, 32\] pixels, its settings say \(64, 64\)"),
        ({"threshold": "high"}, "its threshold is 'high'"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=said):
            ExportedModel(about(model, **changes), run)
    exported = ExportedModel(about(model), run)
    with pytest.raises(ValueError, match="threshold must be a finite number, got nan"):
        exported.decide(threshold=float("nan"))
    with pytest.raises(ValueError, match=r"images must be \[B, 3, 64, 64\], got shape \(1, 3, 32, 32\)"):
        exported.predict(torch.zeros(1, 3, 32, 32))


def test_other_files(model: PatchCore, tmp_path: Path) -> None:
    bank = tmp_path / "bank.onnx"  # a name that nobody forbids
    model.save(bank)
    assert not is_exported(bank) and not is_exported(tmp_path / "bank.safetensors")
    for name, content in (("m.pt2", b"PK\3\4 and more"), ("m.onnx", b"no model at all")):
        if name == "m.onnx":
            needs("onnxruntime")
        (tmp_path / name).write_bytes(content)
        assert is_exported(tmp_path / name)
        with pytest.raises(BankError, match=rf"{name}: cannot be used as an exported model \(.* cannot read it"):
            ExportedModel.load(tmp_path / name)
    with pytest.raises(BankError, match=r"an exported model ends in \.pt2, \.onnx, \.xml"):
        ExportedModel.load(tmp_path / "m.safetensors")


def test_onnx_without_facts(tmp_path: Path) -> None:
    needs("onnx", "onnxruntime")
    from onnx import TensorProto, helper, save

    value = helper.make_tensor_value_info
    ends = [[value(name, TensorProto.FLOAT, [1])] for name in ("images", "scores")]
    graph = helper.make_graph([helper.make_node("Identity", ["images"], ["scores"])], "g", *ends)
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), tmp_path / "m.onnx")
    with pytest.raises(BankError, match=f"it has no {FACTS}, which patchcore-fast export writes"):
        ExportedModel.load(tmp_path / "m.onnx")
