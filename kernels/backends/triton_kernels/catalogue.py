"""Every kernel that is launched, as it is launched: argument types, constants, options. One list, as data.

The offline check compiles it (offline.py), docs/kernels.md shows it, and tests/triton/test_catalogue.py holds it to the
folder and to the launches that the public functions really make. Types are triton's; ":16" marks pointers and integers
that are multiples of 16, as torch's memory and most shapes are, "1" an integer that is one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ..device.plan import CROWDED
from ..device.precision import FIRST_HALF
from .launch import older_triton
from .layout import KEY_LEVELS, LEVELS
from .precision import PROBED, choose_arithmetic
from .tile_table import Tile, candidates, slot_tile

CAPABILITIES = (75, 80, 86, 89, 90, 100, 120)
PARTS = 264  # programs of `update`: two a multiprocessor
BLOCK, ROOM, LIST = 512, 4096, 131_072  # candidates of a pass with the default tuning, the room for them, their list
LEAF = {"L": 128, "STEPS": 7}  # of canonical distances, for 128 columns and more

# What the arguments of that name are, in every kernel that has one.
_INTS = dict.fromkeys(("rows", "columns", "queries", "bank", "pitch", "span", "count", "target"), "i32:16")
_INTS |= dict.fromkeys(("x_row", "y_row", "row_stride", "query_row", "bank_row"), "i32:16")
_INTS |= dict.fromkeys(("x_column", "y_column", "column_stride", "query_column", "bank_column"), "1")
_INTS |= dict.fromkeys(("first", "leaves", "k", "splits"), "i32")
_BY_TYPE = {
    "fp32": "x picks pick_norm norm value second part centre out query_norm packed query bank y start answers",
    "fp64": "key initial weight params exact block_exact block_weight squared reach",
    "i32": "stale seen near counters candidates doubt ages part_near block_row pair columns broken own",
    "i64": "control pick_row pick_squared_bits exact_bits block_bits squared_bits rows out_row largest crowded",
}
TYPES: Mapping[str, str] = _INTS | {
    f"{name}_ptr": f"*{kind}:16" for kind, names in _BY_TYPE.items() for name in names.split()
}


@dataclass(frozen=True)
class Kernel:
    """A kernel and how it is launched, whatever the card.

    fused : enable_fp_fusion. hot : does the bulk of the work: 16-byte loads, and no spills, are asked of it.
    """

    module: str
    name: str
    fused: bool
    warps: int | None  # None: it depends on sizes
    hot: bool = False
    types: Mapping[str, str] = field(default_factory=dict)  # where they are not those of TYPES

    @property
    def key(self) -> str:
        """Names are unique in a module only."""
        return f"{self.module}.{self.name}"


@dataclass(frozen=True)
class Variant:
    """One specialisation. `mode` is the arithmetic of its tl.dot, "" where it has none."""

    kernel: Kernel
    label: str
    mode: str
    constants: Mapping[str, Any]
    options: Mapping[str, Any]
    types: Mapping[str, str] = field(default_factory=dict)

    def type_of(self, argument: str) -> str:
        """triton's name of the type of an argument."""
        known = {**TYPES, **self.kernel.types, **self.types}
        if argument not in known:
            raise ValueError(f"catalogue: no type is given for {argument} of {self.kernel.key}")
        return known[argument]


_SLOTS = {"row_ptr": "*i32:16"}  # int64 for banks of 2^31 rows and more
_RESCUED = {"count_ptr": "*i32:16", "surplus_ptr": "*i1:16", "part_exact_ptr": "*fp64:16", "part_row_ptr": "*i32:16"}
FAR = (1 << 31) - 1
KERNELS = (
    Kernel("frame", "look_kernel", False, 4),
    Kernel("frame", "pack_kernel", True, 4, types={"first": "i32:16"}),
    Kernel("select", "edge_kernel", False, 8),
    Kernel("select", "count_kernel", False, 4),
    Kernel("select", "scatter_kernel", False, 8),
    Kernel("update", "update_kernel", True, None, hot=True, types=dict.fromkeys(("x_row", "columns", "pitch"), "i32")),
    Kernel("update", "merge_kernel", False, 4),
    Kernel("narrow", "narrow_kernel", False, 8),
    Kernel("settle", "settle_kernel", False, 4),
    Kernel("settle", "scan_kernel", False, 4),
    Kernel("settle", "trim_kernel", False, None),
    Kernel("block", "near_kernel", True, 4),
    Kernel("block", "pairs_kernel", False, 4),
    Kernel("block", "resolve_kernel", False, 16),
    Kernel("block", "append_kernel", True, 4),
    Kernel("search", "search_kernel", True, None, hot=True, types=_SLOTS),
    Kernel("neighbours", "reach_kernel", False, 8, types=_SLOTS | {"count_ptr": "*i32:16"}),
    Kernel("neighbours", "settle_kernel", False, 4, types=_SLOTS | {"exact_ptr": "*fp64:16"}),
    Kernel("neighbours", "rank_kernel", False, 8, types=_SLOTS | {"out_ptr": "*fp64:16"}),
    Kernel("rescue", "rescue_kernel", False, 4, types=_SLOTS | _RESCUED),
    Kernel("rescue", "merge_kernel", False, 4, types=_SLOTS | _RESCUED),
    Kernel("probe", "products_kernel", True, 4),
)
_BY_KEY = {kernel.key: kernel for kernel in KERNELS}
_MERGED = {"LIST": LIST, "LISTED": True, "PARTS": PARTS, "M": 128}


def _level(level: int) -> dict[str, Any]:
    shift, width = LEVELS[level]
    flags = {"OF_ROW": level >= KEY_LEVELS, "HIGHEST": level in (0, KEY_LEVELS), "OWN": older_triton()}
    return {"LEVEL": level, "SHIFT": shift, "WIDTH": width, "B": 1024} | flags


# Kernels whose shape does not depend on the card: label, constants (num_warps among them where it varies), types that
# differ.
_FIXED: dict[str, tuple[tuple[str, dict[str, Any], dict[str, str]], ...]] = {
    "frame.look_kernel": (("float32", {"M": 32, "K": 128}, {}),),
    "frame.pack_kernel": (
        ("norms", {"LISTED": False, "STORED": False, "M": 32, "K": 128}, {"first": "i32:16"}),
        ("picks", {"LISTED": True, "STORED": True, "M": 32, "K": 128}, {"first": "i32"}),
        (
            "float16",
            {"LISTED": True, "STORED": True, "M": 32, "K": 128},
            {"first": "i32", "x_ptr": "*fp16:16", "out_ptr": "*fp16:16"},
        ),
    ),
    "select.edge_kernel": (
        ("level 0", _level(0), {}),
        ("last level", _level(len(LEVELS) - 1), {}),
    ),
    "select.count_kernel": (("lazy", {"LIST": LIST, "EAGER": False, "B": 1024}, {}),),
    "select.scatter_kernel": (("lazy", {"EAGER": False, "PROGRAMS": 1024, "B": 512}, {}),),
    "narrow.narrow_kernel": (("4,096 of 131,072", {"LIST": LIST, "ROOM": ROOM, "B": 1024}, {}),),
    "settle.settle_kernel": (("float32", {"ROOM": ROOM, "TRACKED": True, "INITIAL": False, "R": 16} | LEAF, {}),),
    "settle.trim_kernel": (
        ("512", {"ROOM": ROOM, "WEIGHTED": False, "P": BLOCK, "num_warps": 8}, {}),
        ("1024, weighted", {"ROOM": ROOM, "WEIGHTED": True, "P": 2 * BLOCK, "num_warps": 8}, {}),
    ),
    "block.pairs_kernel": (("float32", {"P": BLOCK, "R": 16} | LEAF, {}),),
    "block.resolve_kernel": (
        ("512", {"WEIGHTED": False, "P": BLOCK, "B": 512}, {}),
        ("1024, weighted", {"WEIGHTED": True, "P": 2 * BLOCK, "B": 512}, {}),
    ),
    "block.append_kernel": (
        ("float32", {"P": BLOCK, "M": 16, "N": 128, "K": 128}, {}),
        ("float16", {"P": BLOCK, "M": 16, "N": 128, "K": 128}, {"x_ptr": "*fp16:16", "picks_ptr": "*fp16:16"}),
    ),
    "neighbours.reach_kernel": (("16 slots", {"S": 16, "FAR": FAR, "R": 16}, {}),),
    "neighbours.settle_kernel": (("16 slots", {"S": 16, "R": 16} | LEAF, {}),),
    "update.merge_kernel": (("tracked", _MERGED | {"TRACKED": True, "INITIAL": False, "WEIGHTED": False}, {}),),
    "rescue.merge_kernel": (("16 slots", {"S": 16, "FAR": FAR, "M": CROWDED, "N": 64}, {}),),
    "neighbours.rank_kernel": (("16 slots", {"S": 16, "R": 16}, {}), ("128 slots", {"S": 128, "R": 1}, {})),
}


_FLOAT16 = dict.fromkeys(("x_ptr", "y_ptr", "picks_ptr", "query_ptr", "bank_ptr", "packed_ptr"), "*fp16:16")
_BFLOAT16 = dict.fromkeys(_FLOAT16, "*bf16:16")
# The hot kernels: precision ("half": what float32 means for halves that need no frame), columns, constants and types
# that differ from those in `_update` and `_search`.
_UPDATES: tuple[tuple[str, int, dict[str, Any], dict[str, str]], ...] = (
    ("float32", 32, {}, {}),
    ("float32", 64, {}, {}),
    ("float32", 128, {}, {}),
    ("float32", 128, {"PLAIN": False, "LISTED": False}, {}),
    ("float32", 128, {"TRACKED": False, "INITIAL": True, "WEIGHTED": True}, {}),
    ("float32", 1536, {"PLAIN": False}, {"x_ptr": "*fp16:16"}),
    ("ieee", 128, {}, {}),
    ("tf32x3", 128, {}, {}),
    ("tf32", 128, {}, {}),
    ("bf16", 128, {}, {"x_ptr": "*bf16:16"}),
    ("bf16", 1536, {}, {}),
    ("half", 32, {}, _FLOAT16),
    ("half", 128, {}, _FLOAT16),
    ("half", 128, {}, _BFLOAT16),
    ("half", 1536, {}, _FLOAT16),
)
_SEARCHES: tuple[tuple[str, int, dict[str, Any], dict[str, str]], ...] = (
    ("float32", 64, {"S": 16}, {}),
    ("float32", 128, {"S": 4}, {}),
    ("float32", 128, {"S": 16}, {}),
    ("float32", 128, {"S": 128}, {}),
    ("ieee", 128, {"S": 16}, {}),
    ("tf32x3", 128, {"S": 16}, {}),
    ("tf32", 128, {"S": 16}, {}),
    ("bf16", 1536, {"S": 16}, {}),
    ("half", 64, {"S": 16}, _FLOAT16),
    ("half", 128, {"S": 16}, _FLOAT16),
    ("half", 128, {"S": 16}, _BFLOAT16),
    ("half", 1536, {"S": 16}, _FLOAT16),
)


def variants(capability: tuple[int, int]) -> list[Variant]:
    """What is compiled for a card: all kernels, the hot ones in each precision and width that has a tile of its own."""
    found = []
    for key, cases in _FIXED.items():
        for label, case, types in cases:
            constants = {name: value for name, value in case.items() if name != "num_warps"}
            options = _options(_BY_KEY[key], case.get("num_warps"))
            found.append(Variant(_BY_KEY[key], label, "", constants, options, types))
    halved = capability >= FIRST_HALF
    modes: dict[str, dict[str, str]] = {choose_arithmetic("float32", capability, 128).mode: {}}
    if halved:
        modes["half"] = _FLOAT16
    for mode, types in modes.items():
        tile = candidates("search", capability, 128, mode)[0]
        rescue = {"THINNED": True, "S": 16, "FAR": FAR, "M": CROWDED, "N": min(64, tile.others)}
        for key, sizes in (
            ("block.near_kernel", {"P": BLOCK, "M": 32, "K": 32}),
            ("settle.scan_kernel", {"INITIAL": False, "R": 16, "N": 64, "K": 32, "SEGMENT": 512} | LEAF),
            ("rescue.rescue_kernel", rescue | {"K": min(32, tile.depth)} | LEAF),
        ):
            kernel, stages = _BY_KEY[key], 1 if key == "rescue.rescue_kernel" else None
            options = _options(kernel, None, stages)
            found.append(Variant(kernel, f"128 columns, {mode}", mode, sizes | {"MODE": mode}, options, types))
    probe, mode = _BY_KEY["probe.products_kernel"], choose_arithmetic("tf32", capability, PROBED[2]).mode
    asked: list[tuple[str, str, dict[str, str]]] = [(mode, mode, {})]
    if halved:
        asked += [("float16", "half", _FLOAT16), ("bfloat16", "half", _BFLOAT16)]
    sizes = dict(zip("MNK", PROBED, strict=True))
    found += [
        Variant(probe, label, mode, sizes | {"MODE": mode}, _options(probe), types) for label, mode, types in asked
    ]
    found += [_update(capability, *case) for case in _UPDATES if halved or case[0] != "half"]
    found += [_search(capability, *case) for case in _SEARCHES if halved or case[0] != "half"]
    return found


def _update(
    capability: tuple[int, int], precision: str, dim: int, changes: dict[str, Any], types: dict[str, str]
) -> Variant:
    flags = {"LISTED": True, "TRACKED": True, "PLAIN": True, "INITIAL": False, "WEIGHTED": False} | changes
    flags |= {"PARTS": PARTS, "V": 16}
    tile, mode, constants = _tiled("update", capability, precision, dim)
    said = [name.lower() if on else f"not {name.lower()}" for name, on in changes.items()]
    label = ", ".join([f"{dim} columns", precision, *_stored(types, "x_ptr"), *said])
    constants |= flags | {"LIST": LIST}
    kernel = _BY_KEY["update.update_kernel"]
    return Variant(kernel, label, mode, constants, _options(kernel, tile.warps, tile.stages), types)


def _search(
    capability: tuple[int, int], precision: str, dim: int, changes: dict[str, Any], types: dict[str, str]
) -> Variant:
    tile, mode, constants = _tiled("search", capability, precision, dim)
    tile = slot_tile(tile, changes["S"], capability)
    constants |= {
        "M": tile.rows,
        "N": tile.others,
        "K": tile.depth,
        "RESIDENT": tile.depth >= dim,
        "FAR": FAR,
    } | changes
    kernel = _BY_KEY["search.search_kernel"]
    label = ", ".join([f"{dim} columns", precision, *_stored(types, "bank_ptr"), f"{changes['S']} slots"])
    return Variant(kernel, label, mode, constants, _options(kernel, tile.warps, tile.stages), types)


def _stored(types: dict[str, str], argument: str) -> list[str]:
    """Of which type rows are, where it is not float32."""
    kind = {"*fp16:16": "float16 rows", "*bf16:16": "bfloat16 rows"}.get(types.get(argument, ""))
    return [] if kind is None else [kind]


def _tiled(kernel: str, capability: tuple[int, int], precision: str, dim: int) -> tuple[Tile, str, dict[str, Any]]:
    mode = "half" if precision == "half" else choose_arithmetic(precision, capability, dim).mode
    tile = candidates(kernel, capability, dim, mode)[0]
    return tile, mode, {"MODE": mode, "M": tile.rows, "N": tile.others, "K": tile.depth}


def _options(kernel: Kernel, warps: int | None = None, stages: int | None = None) -> dict[str, Any]:
    found: dict[str, Any] = {"num_warps": kernel.warps or warps, "enable_fp_fusion": kernel.fused}
    return found if stages is None else found | {"num_stages": stages}
