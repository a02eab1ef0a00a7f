"""A small case of k_center_greedy, knn and knn_rarity against the float64 references: for compute-sanitizer, and as the
first thing that a new device runs.

    compute-sanitizer --tool memcheck --error-exitcode 9 python -m benchmarks.gpu.sanitize
    python -m benchmarks.gpu.sanitize --device cpu --backend torch

Odd sizes, copies of rows, float32 and float16, weights, every precision. Prints the seconds of each first call, kernels
compiled, and ends with status 1 where a result is not the reference's.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable

import torch

from patchcore_fast.kernels import Tuning, k_center_greedy, knn, knn_rarity
from patchcore_fast.kernels.kcenter.reference import k_center_greedy_reference
from patchcore_fast.kernels.knn.reference import knn_rarity_reference, knn_reference

D = 37  # no multiple of any tile


def features(rows: int, dtype: torch.dtype) -> torch.Tensor:
    """[rows, D] on the CPU; some rows twice."""
    x = torch.randn(rows, D, generator=torch.Generator().manual_seed(0))
    x[rows // 2 : rows // 2 + 5] = x[:5]
    return x.to(dtype)


def cases(x: torch.Tensor, device: str, backend: str) -> dict[str, Callable[[], bool]]:
    """Name -> whether ours, on the device, gives what the reference gives on the CPU."""
    k = len(x) // 4
    here = x.to(device)
    weights = torch.rand(len(x), generator=torch.Generator().manual_seed(1))
    anchors = torch.arange(0, len(x), 3)

    def picks(**more: object) -> bool:
        rule = {"weights": more["weights"]} if "weights" in more else {"start": 3}
        true, radii = k_center_greedy_reference(x, k, **rule)
        found = k_center_greedy(here, k, backend=backend, **{**rule, **more})
        return torch.equal(found.indices.cpu(), true) and torch.equal(found.radii.cpu(), radii)

    def neighbours(count: int) -> bool:
        true = knn_reference(x[:100], x, count)
        found = knn(here[:100], here, count, backend=backend)
        return all(torch.equal(a.cpu(), b) for a, b in zip(found, true, strict=True))

    def rarity() -> bool:
        found = knn_rarity(here, 5, anchors=anchors.to(device), backend=backend).cpu()
        return torch.allclose(found, knn_rarity_reference(x, 5, anchors), rtol=1e-6, atol=0)

    def reduced(precision: str) -> bool:
        """No exact picks are promised: different rows, and a covering radius near the exact one."""
        found = k_center_greedy(here, k, start=3, backend=backend, precision=precision).indices.cpu()
        exact = k_center_greedy_reference(x, k, start=3)[0]
        radius = [torch.cdist(x.double(), x[rows].double()).min(1).values.max() for rows in (found, exact)]
        return len(found.unique()) == k and bool(radius[0] <= 1.1 * radius[1])

    return {
        "k_center_greedy": picks,
        "k_center_greedy, weights": lambda: picks(weights=weights),
        "k_center_greedy, a CUDA graph": lambda: picks(tuning=Tuning(graph=True)),
        "k_center_greedy, 8 MB": lambda: picks(memory_limit=8 << 20),
        "k_center_greedy, tf32": lambda: reduced("tf32"),
        "k_center_greedy, bf16": lambda: reduced("bf16"),
        "knn, k = 1": lambda: neighbours(1),
        "knn, k = 9": lambda: neighbours(9),
        "knn_rarity": rarity,
    }


def main(argv: list[str] | None = None) -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--device", default="cuda")
    p.add_argument("--backend", default="triton")
    p.add_argument("--rows", type=int, default=403)
    p.add_argument("--only", nargs="+", metavar="WORD", help="cases whose names hold one of these")
    args = p.parse_args(argv)
    if not 50 <= args.rows <= 5000:
        raise SystemExit(f"--rows: 50 to 5000 are wanted, the references are slow; got {args.rows}")
    wrong = 0
    for dtype in (torch.float32, torch.float16):
        for name, right in cases(features(args.rows, dtype), args.device, args.backend).items():
            if args.only and not any(word in name for word in args.only):
                continue
            begin = time.perf_counter()
            try:
                said = "right" if right() else "WRONG"
            except Exception as error:  # the cases after it are worth a look all the same
                said = f"FAILED: {type(error).__name__}: {str(error)[:300]}"
            wrong += said != "right"
            print(f"{name}, {str(dtype)[6:]}: {said}, {time.perf_counter() - begin:.2f} s", flush=True)
    print(f"{args.backend} on {args.device}: {f'{wrong} WRONG' if wrong else 'all right'}")
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
