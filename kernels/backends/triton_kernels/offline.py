"""Compile the catalogue without a GPU and read what came out: registers, spills, shared memory, instructions.

    TRITON_INTERPRET=0 python -m patchcore_fast.kernels.backends.triton_kernels.offline --capability 80 90 --jobs 2

writes one JSON list to stdout: a dict for each variant and capability (`Facts`). The tools that read the machine code
(cuobjdump) and assemble it (ptxas) are those that come with triton.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import importlib
import json
import multiprocessing
import os
import re
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from .catalogue import CAPABILITIES, Variant, variants

_MMA = re.compile(r"\b(mma\.sync|wgmma\.mma_async|tcgen05\.mma)([\w.:]*)")
_USAGE = re.compile(r"REG:(\d+) STACK:(\d+) SHARED:(\d+) LOCAL:(\d+)")


@dataclass(frozen=True)
class Facts:
    """What a compiled kernel takes and does. Sizes in bytes; registers of one thread; the others count instructions."""

    kernel: str
    variant: str
    capability: int
    warps: int
    registers: int
    stack: int
    mode: str
    spills: int  # SASS loads and stores to local memory
    shared: int
    fma32: int  # PTX fma.rn.f32
    fma64: int
    mma: str  # PTX matrix instructions and their type, "" if there are none
    wide_loads: int  # SASS: 16 bytes a thread from global memory
    loads: int  # SASS: all from global memory
    calls: int  # PTX functions called: recursion would need one
    seconds: float

    @property
    def blocks(self) -> int:
        """Blocks that the registers of a multiprocessor (65,536, handed out to warps by 256) have room for."""
        return 65536 // (self.warps * 32 * (-(-self.registers // 8) * 8))


def tool(name: str) -> Path:
    """A tool of the triton that is installed: "cuobjdump", "ptxas", ...

    Raises
    ------
    FileNotFoundError : this triton brings none.
    """
    try:
        from triton import knobs
    except ImportError:  # before 3.4
        import triton.backends.nvidia

        found = os.environ.get(f"TRITON_{name.upper()}_PATH") or str(
            Path(triton.backends.nvidia.__file__).parent / "bin" / name
        )
    else:
        found = getattr(knobs.nvidia, name).path
    if not Path(found).exists():
        raise FileNotFoundError(f"{name}: not found at {found}")
    return Path(found)


def source(variant: Variant) -> ASTSource:
    """As a launch would specialise it: ":16" marks what is a multiple of 16, "1" an integer that is one."""
    module = importlib.import_module(f"{__package__}.{variant.kernel.module}")
    fn = getattr(module, variant.kernel.name)
    signature: dict[str, str] = {}
    constants: dict[tuple[int, ...], Any] = {}
    attributes: dict[tuple[int, ...], Any] = {}
    for i, name in enumerate(fn.arg_names):
        kind, _, multiple = "constexpr", "", ""
        if name not in variant.constants:
            kind, _, multiple = variant.type_of(name).partition(":")
        signature[name] = "constexpr" if kind == "1" else kind
        if signature[name] == "constexpr":
            constants[(i,)] = 1 if kind == "1" else variant.constants[name]
        if multiple:
            attributes[(i,)] = [["tt.divisibility", 16]]
    return ASTSource(fn=fn, signature=signature, constexprs=constants, attrs=attributes)


def measure(variant: Variant, capability: int) -> Facts:
    """Compile one variant for sm_<capability>."""
    begin = time.perf_counter()
    target = GPUTarget("cuda", capability, 32)
    compiled = triton.compile(source(variant), target=target, options=dict(variant.options))
    ptx, machine, usage = compiled.asm["ptx"], *_read(compiled.asm["cubin"])
    matrix = {f"{name} {_operands(rest)}" for name, rest in _MMA.findall(ptx)}
    found = _USAGE.search(usage)
    if found is None:
        raise RuntimeError(f"{variant.kernel.key}: cuobjdump says {usage!r}")
    return Facts(
        kernel=variant.kernel.key,
        variant=variant.label,
        capability=capability,
        warps=variant.options["num_warps"],
        registers=int(found[1]),
        stack=int(found[2]),
        mode=variant.mode,
        spills=len(re.findall(r"\b(?:STL|LDL)\b", machine)),
        shared=compiled.metadata.shared,
        fma32=len(re.findall(r"\bfma\.rn(?:\.ftz)?\.f32", ptx)),
        fma64=len(re.findall(r"\bfma\.rn\.f64", ptx)),
        mma=", ".join(sorted(matrix)),
        wide_loads=len(re.findall(r"\b(?:LDG|LDGSTS)\.[\w.]*128", machine)),
        loads=len(re.findall(r"\b(?:LDG|LDGSTS)\b", machine)),
        calls=len(re.findall(r"\bcall\.uni|\bcall\s", ptx)),
        seconds=round(time.perf_counter() - begin, 2),
    )


def _operands(suffix: str) -> str:
    """Type of a matrix instruction's operands; tcgen05 says "f16" for bfloat16 too, and the descriptor which."""
    return next((kind for kind in ("tf32", "bf16", "f16") if re.search(rf"\b{kind}\b", suffix)), "of another type")


def _read(cubin: bytes) -> tuple[str, str]:
    """SASS and resource usage."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as f:
        f.write(cubin)
        f.flush()
        run = [subprocess.run([tool("cuobjdump"), what, f.name], capture_output=True, text=True, check=True).stdout
               for what in ("-sass", "-res-usage")]  # fmt: skip
    return run[0], run[1]


def measure_all(capabilities: list[int], jobs: int, kernels: set[str] | None = None) -> list[Facts]:
    """Every variant for every capability, by several processes."""
    work = [
        (v, c) for c in capabilities for v in variants((c // 10, c % 10)) if kernels is None or v.kernel.key in kernels
    ]
    if jobs == 1:
        return [measure(*item) for item in work]
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(jobs, mp_context=context) as pool:
        return list(pool.map(measure, *zip(*work, strict=True), chunksize=4))


def main(argv: list[str] | None = None) -> None:
    """See above."""
    parser = argparse.ArgumentParser(description="Compile the Triton kernels without a GPU.")
    parser.add_argument("--capability", type=int, nargs="+", default=list(CAPABILITIES))
    parser.add_argument("--kernel", nargs="+", help="only these")
    parser.add_argument("--jobs", type=int, default=1)
    args = parser.parse_args(argv)
    if os.environ.get("TRITON_INTERPRET", "0") not in ("", "0"):
        parser.error("TRITON_INTERPRET must be 0: the interpreter compiles nothing")
    facts = measure_all(args.capability, args.jobs, args.kernel and set(args.kernel))
    json.dump({"triton": triton.__version__, "facts": [asdict(f) for f in facts]}, sys.stdout)


if __name__ == "__main__":
    main()
