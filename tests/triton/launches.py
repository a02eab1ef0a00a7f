"""Run the public functions in Triton's interpreter and print, as JSON, every kind of launch that they made."""

from __future__ import annotations

import json

import torch
from interpreter import quicken  # beside this script
from triton.runtime import interpreter

quicken()

seen: dict[str, list[dict[str, object]]] = {}
run = interpreter.GridExecutor.__call__


def kind(value: object) -> str:
    """triton's name of an argument's type."""
    names = {"float": "fp", "bfloat": "bf", "int": "i", "bool": "i1"}
    if isinstance(value, torch.Tensor):
        word = str(value.dtype).removeprefix("torch.")
        letters = word.rstrip("0123456789")
        return f"*{names[letters]}{word[len(letters) :]}"
    return "int" if isinstance(value, int) else type(value).__name__


def note(self, *args, **kwargs):
    launch = {
        "types": {n: kind(v) for n, v in zip(self.arg_names, args, strict=False)},
        "constants": {k: v for k, v in kwargs.items() if k in self.arg_names},
        "fused": kwargs["enable_fp_fusion"],
        "warps": kwargs.get("num_warps", 4),
    }
    key = f"{self.fn.__module__.rpartition('.')[2]}.{self.fn.__name__}"
    kinds = seen.setdefault(key, [])
    if launch not in kinds:
        kinds.append(launch)
    return run(self, *args, **kwargs)


def main() -> None:
    interpreter.GridExecutor.__call__ = note
    from patchcore_fast.kernels import k_center_greedy, knn
    from patchcore_fast.kernels.backends.device.tensor_cores import BFLOAT16, FLOAT16, TF32, questions
    from patchcore_fast.kernels.backends.triton_kernels.precision import PROBED
    from patchcore_fast.kernels.backends.triton_kernels.probe import ask

    generator = torch.Generator().manual_seed(0)
    x = torch.randn(48, 20, generator=generator)
    k_center_greedy(x, 6, start=0, backend="triton")
    weights = torch.rand(48, generator=generator)
    k_center_greedy(
        x, 6, initial_min_dist=torch.ones(48), weights=weights, selected=torch.tensor([3]), backend="triton"
    )
    k_center_greedy(x.round(), 6, start=0, backend="triton")
    knn(x, x, 3, backend="triton")
    # Two clusters so far apart that float32 sees no differences inside them: every query has to be rescued.
    knn(1e-4 * x + 1e3 * torch.sign(x[:, :1]), 1e-4 * x.flip(0) + 1e3 * torch.sign(x[:, :1]), 3, backend="triton")
    for dtype in (torch.float16, torch.bfloat16):
        rows = x.to(dtype)
        k_center_greedy(rows, 6, start=0, backend="triton")
        knn(rows, rows.repeat(20, 1), 3, backend="triton")  # more equal rows than slots
    # On a card with its first tf32x3, or rows of halves.
    for numbers in (TF32, FLOAT16, BFLOAT16):
        ask(questions(*PROBED, numbers), torch.device("cpu"))
    print(json.dumps(seen))


if __name__ == "__main__":
    main()
