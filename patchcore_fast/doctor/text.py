"""The doctor's findings as text for a terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

ARITHMETIC = {
    "ieee": "float32 multiply-adds",
    "tf32x3": "three TF32 products on tensor cores, within a proven bound",
}


def _cuda_lines(found: Mapping[str, Any]) -> list[str]:
    if not found["built"]:
        return [f"  not here  {found['reason']}"]
    driver = f"the driver knows {found['driver']}" if found["driver"] else "no driver"
    ptx = f" and PTX of {found['ptx']}" if found["ptx"] else ""
    lines = [f"  built     for {', '.join(found['architectures'])}{ptx}; CUDA {found['runtime']} inside, {driver}"]
    if found["reason"]:
        lines.append(f"  not here  {found['reason']}")
    for d in found["devices"]:
        state = "runs" if d["runnable"] else f"not here  {d['reason']}"
        lines.append(f"  GPU {d['index']}     {d['capability']}, {d['multiprocessors']} multiprocessors: {state}")
        lines += _tensor_core_lines(d["tensor_cores"])
    return lines


def _tensor_core_lines(found: Mapping[str, Any]) -> list[str]:
    halves = found.get("halves", {})
    said = {"tf32x3": found["reason"], **{f"half for {name} rows": half["reason"] for name, half in halves.items()}}
    lines = [f"            {what} is not taken: {reason}" for what, reason in said.items() if reason]
    passed = [name for name, half in halves.items() if half["asked"] and not half["reason"]]
    if found["asked"] and not found["reason"]:
        lines.append("            tensor cores add up as tf32x3 needs")
    return [*lines, f"            tensor cores add up as half needs: {', '.join(passed)}"] if passed else lines


def _triton_lines(found: Mapping[str, Any]) -> list[str]:
    lines = [f"  triton    {found['version'] or 'not installed'}"]
    if found["reason"]:
        lines.append(f"  not here  {found['reason']}")
    for d in found["devices"]:
        lines.append(f"  GPU {d['index']}     {d['reason'] or 'float32 is ' + ARITHMETIC[d['float32']]}")
        lines += [f"            first call {c['first']:.2f} s, then {1e3 * c['again']:.2f} ms: {name}"
                  for name, c in d["first_calls"].items() if _both_numbers(c)]  # fmt: skip
        lines += _tensor_core_lines(d["tensor_cores"])
        if not d["first_calls"] and not d["reason"]:
            lines.append("            first calls not measured: patchcore-fast warmup")
    tiles = sum(d["tiles_tuned"] for d in found["devices"])
    state = f"{tiles} tiles measured here" if found["cached"] else "not there: tiles are those of the table"
    return [*lines, f"  tiles     {found['cache_file']} ({state})"]


def _both_numbers(call: Mapping[str, Any]) -> bool:
    return all(isinstance(call[k], int | float) for k in ("first", "again"))


def render(found: Mapping[str, Any]) -> str:
    """The findings as text for a terminal."""
    lines = [f"patchcore_fast {found['package']['version'] or '(not installed)'}  {found['package']['location']}"]
    lines.append(f"Python {found['python']['version']}  {found['python']['executable']}")
    lines.append(found["system"])
    lines += [f"{name}={value}" for name, value in found["environment"].items()]
    if cpu := found["cpu"]:
        memory = f", {cpu['memory_gib']} GiB memory" if cpu["memory_gib"] else ""
        lines.append(f"CPU: {cpu['model']}, {cpu['cores_usable']} cores usable{memory}")
        lines.append(f"     {' '.join(cpu['instruction_sets']) or 'no known instruction sets'}")
    if torch := found["torch"]:
        lines.append(f"torch {torch['version']}, {torch['threads']} threads")
        for d in torch["cuda_devices"]:
            lines.append(f"GPU {d['index']}: {d['name']}, capability {d['capability']}, {d['memory_gib']} GiB")
        if not torch["cuda_devices"]:
            built = f"built for CUDA {torch['cuda_build']}" if torch["cuda_build"] else "a CPU build of torch"
            lines.append(f"GPU: none usable ({built})")
    lines += ["", "Kernels"]
    for k in found["kernels"] or []:
        state = "runs" if k["available"] else "not here"
        lines.append(f"  {k['backend']:8} {k['device']:6} {state:9} {k['reason']}")
    if engine := found["native"]:
        lines += ["", "Native CPU engine"]
        if not engine["loaded"]:
            lines.append(f"  not here  {engine['reason']}")
        for s in engine["instruction_sets"]:
            state = "in use" if s["name"] == engine["instruction_set"] else "runs" if s["available"] else "not here"
            lines.append(f"  {s['name']:11} {state:9} {s['reason'] or ''}".rstrip())
    if cuda := found["cuda"]:
        lines += ["", "CUDA kernels", *_cuda_lines(cuda)]
    if triton := found["triton"]:
        lines += ["", "Triton kernels", *_triton_lines(triton)]
    lines += ["", "Optional packages"]
    width = max(map(len, found["optional"]))
    for name, p in found["optional"].items():
        state = p["version"] or f"missing ({p['use']}): {p['install']}"
        lines.append(f"  {name.ljust(width)}  {state}")
    lines.append("")
    lines += [f"PROBLEM  {p}" for p in found["problems"]] or ["No problems found."]
    return "\n".join(lines)
