"""The catalogue is the folder, and the launches that really happen; rules that hold for every launch and product."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton", reason="triton is not installed")

import patchcore_fast
from patchcore_fast.kernels.backends.triton_kernels import catalogue, tile_table
from patchcore_fast.kernels.backends.triton_kernels.tile_table import slot_tile

FOLDER = Path(patchcore_fast.__file__).parent / "kernels" / "backends" / "triton_kernels"
TREES = {path.stem: ast.parse(path.read_text(encoding="utf-8")) for path in sorted(FOLDER.glob("*.py"))}
KERNELS = {kernel.key: kernel for kernel in catalogue.KERNELS}


def is_jit(node: ast.AST) -> bool:
    return any(ast.unparse(d).startswith("triton.jit") for d in getattr(node, "decorator_list", ()))


JIT = {f"{module}.{node.name}": node for module, tree in TREES.items() for node in tree.body if is_jit(node)}
LAUNCHED = {key: node for key, node in JIT.items() if node.name.endswith("_kernel")}


def resolve(module: str, name: str) -> str:
    """module.function of a name used in a module: its own, or what it imports from beside it."""
    if f"{module}.{name}" in JIT:
        return f"{module}.{name}"
    for node in ast.walk(TREES[module]):
        if isinstance(node, ast.ImportFrom) and node.level == 1 and name in {a.name for a in node.names}:
            return f"{node.module}.{name}"
    return ""


def launches() -> list[tuple[str, ast.Call]]:
    """Every kernel[grid](...) and Launch(kernel, grid, ...) of the folder."""
    found = []
    for module, tree in TREES.items():
        for node in ast.walk(tree):
            match node:
                case (
                    ast.Call(func=ast.Subscript(value=ast.Name(id=name)))
                    | ast.Call(func=ast.Name(id="Launch"), args=[ast.Name(id=name), *_])
                ):
                    found.append((resolve(module, name), node))
    return [(key, call) for key, call in found if key in JIT]


def callees(key: str) -> set[str]:
    """Jit functions that a jit function calls."""
    module = key.partition(".")[0]
    names = {n.func.id for n in ast.walk(JIT[key]) if isinstance(n, ast.Call) and isinstance(n.func, ast.Name)}
    return {found for name in names if (found := resolve(module, name)) in JIT}


def reached(key: str) -> set[str]:
    """All jit functions below one, itself included only if it recurses."""
    found: set[str] = set()
    waiting = callees(key)
    while waiting:
        one = waiting.pop()
        if one not in found:
            found.add(one)
            waiting |= callees(one)
    return found


def test_every_kernel_of_the_folder_is_in_the_catalogue_and_no_other() -> None:
    assert set(KERNELS) == set(LAUNCHED)
    assert {key for key, _ in launches()} == set(LAUNCHED)
    for capability in catalogue.CAPABILITIES:
        found = catalogue.variants((capability // 10, capability % 10))
        assert {v.kernel.key for v in found} == set(KERNELS)
        labels = [(v.kernel.key, v.label) for v in found]
        assert len(set(labels)) == len(labels)


@pytest.mark.parametrize("capability", catalogue.CAPABILITIES)
def test_every_argument_is_given_a_type_or_a_constant(capability: int) -> None:
    for variant in catalogue.variants((capability // 10, capability % 10)):
        arguments = LAUNCHED[variant.kernel.key].args.args
        constants = {a.arg for a in arguments if a.annotation is not None and "constexpr" in ast.unparse(a.annotation)}
        assert set(variant.constants) == constants, variant.kernel.key
        for a in arguments:
            if a.arg not in constants:
                assert variant.type_of(a.arg).startswith("*") == a.arg.endswith("_ptr"), (variant.kernel.key, a.arg)


def test_every_launch_states_fusion_and_warps_as_the_catalogue_has_them() -> None:
    assert launches()
    for key, call in launches():
        given = {k.arg: k.value for k in call.keywords}
        assert "enable_fp_fusion" in given, f"{key}: line {call.lineno}"
        assert ast.literal_eval(given["enable_fp_fusion"]) == KERNELS[key].fused, key
        warps = given.get("num_warps", ast.Constant(4))
        assert KERNELS[key].warps == (warps.value if isinstance(warps, ast.Constant) else None), key
        for variant in catalogue.variants((8, 6)):
            for name, value in given.items():
                if variant.kernel.key == key and name in variant.constants and isinstance(value, ast.Constant):
                    assert variant.constants[name] == value.value, (key, name)


def test_canonical_distances_are_never_fused() -> None:
    using = {key for key in LAUNCHED if "primitives.canonical" in reached(key)}
    assert len(using) >= 4
    assert not [key for key in using if KERNELS[key].fused]


def test_every_product_states_its_precision() -> None:
    found = [(m, n) for m, tree in TREES.items() for n in ast.walk(tree)
             if isinstance(n, ast.Call) and ast.unparse(n.func) == "tl.dot"]  # fmt: skip
    assert found
    for module, call in found:
        stated = {k.arg for k in call.keywords}
        if all("tl.bfloat16" in ast.unparse(operand) for operand in call.args[:2]):
            continue  # a precision is a choice for float32 operands only
        assert "input_precision" in stated, f"{module}: line {call.lineno}"


def test_nothing_recurses() -> None:
    for key in JIT:
        assert key not in reached(key), key


def test_masked_loads_say_what_stands_in_their_place() -> None:
    for module, tree in TREES.items():
        for call in ast.walk(tree):
            if isinstance(call, ast.Call) and ast.unparse(call.func) == "tl.load":
                stated = {k.arg for k in call.keywords}
                assert "mask" not in stated or "other" in stated, f"{module}: line {call.lineno}"


def test_hot_kernels_take_their_tile_from_the_table() -> None:
    for capability in catalogue.CAPABILITIES:
        card = capability // 10, capability % 10
        for variant in catalogue.variants(card):
            if not variant.kernel.hot:
                continue
            name = variant.kernel.name.removesuffix("_kernel")
            assert name in tile_table.KERNELS
            dim = int(variant.label.split()[0])
            tile = tile_table.candidates(name, card, dim, variant.mode)[0]
            if name == "search":
                tile = slot_tile(tile, variant.constants["S"], card)
            sizes = tuple(variant.constants[name] for name in "MNK")
            assert sizes == (tile.rows, tile.others, tile.depth)
            assert variant.options["num_warps"] == tile.warps and variant.options["num_stages"] == tile.stages


def test_launches_that_happen_are_those_of_the_catalogue(tmp_path: Path) -> None:
    script = Path(__file__).with_name("launches.py")
    place = os.environ | {"TRITON_INTERPRET": "1", "PATCHCORE_FAST_CACHE": str(tmp_path), "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, env=place, timeout=300)
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout)
    assert set(seen) == set(KERNELS)
    for key, kinds in seen.items():
        cases = [v for v in catalogue.variants((8, 6)) if v.kernel.key == key]
        for launch in kinds:
            assert launch["fused"] == KERNELS[key].fused
            assert set(launch["constants"]) == set(cases[0].constants), key
            halved = launch["constants"].get("MODE") == "half"
            assert not halved or any(v.mode == "half" for v in cases), key
            like = [v for v in cases if "P" in v.constants and v.constants["P"] == launch["constants"]["P"]]
            assert all(v.options["num_warps"] == launch["warps"] for v in like), key
            for argument, found in launch["types"].items():
                stated = {v.type_of(argument).partition(":")[0] for v in cases}
                if "*bf16" not in stated:  # one type of halves stands for both in kernels that are not hot
                    found = found.replace("bf16", "fp16")
                if found == "int":
                    assert stated <= {"i32", "i64", "1"}, (key, argument)
                # Rows as the caller has them: of any type, and compiled for it when they come.
                elif argument in ROWS | ROWS_OF.get(key, set()) and not halved:
                    assert found in ("*fp64", "*fp32", "*fp16", "*bf16"), (key, argument)
                # Where an optional argument is left out, a tensor of another type stands in its place, unused.
                elif argument not in OPTIONAL:
                    assert found in stated, (key, argument)


OPTIONAL = {"rows_ptr", "out_ptr", "surplus_ptr"}
ROWS = {"x_ptr", "query_ptr", "bank_ptr"}
ROWS_OF = {key: {"y_ptr"} for key in ("settle.settle_kernel", "settle.scan_kernel")}
