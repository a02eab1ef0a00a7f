"""Random calls of the native module, right ones and wrong ones, on memory that ends where the data ends.

    python tests/native/fuzz_bindings.py [MODULE.so] [--seconds 20] [--seed 0]

Right calls must give the answers of brute force, wrong ones a Python exception. NumPy alone is needed, so that an
AddressSanitizer build of the module can be run without torch (.ci/run does).
"""

from __future__ import annotations

import argparse
import ctypes
import importlib.util
import math
import random
import sys
import time
from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np

DTYPES = {"float16": np.float16, "bfloat16": np.uint16, "float32": np.float32, "float64": np.float64}
REFUSALS = (ValueError, TypeError, RuntimeError, IndexError, MemoryError)
_libc = ctypes.CDLL(None)
_libc.malloc.restype, _libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
_libc.free.argtypes = [ctypes.c_void_p]


def load(path: str | None) -> ModuleType:
    """The module in a file, or the installed one."""
    if path is None:
        import patchcore_fast._native as module

        return module
    spec = importlib.util.spec_from_file_location("patchcore_fast._native", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Memory:
    """`count` values that end where an allocation ends, `offset` values after one that malloc aligned."""

    def __init__(self, count: int, dtype: Any, offset: int = 0) -> None:
        size = np.dtype(dtype).itemsize
        self._start = _libc.malloc(max(1, (count + offset) * size))
        self.address = self._start + offset * size
        raw = (ctypes.c_char * (count * size)).from_address(self.address)
        self.values = np.frombuffer(raw, dtype=dtype)
        self.values.view(np.uint8)[:] = 0xFF  # NaN where it is a float

    def __del__(self) -> None:
        _libc.free(self._start)


class Rows:
    """A random matrix in memory of its own, with the strides of the draw; `exact` is what it holds, as float64."""

    def __init__(self, rng: random.Random, n: int, dim: int) -> None:
        self.type = rng.choice(list(DTYPES))
        dtype = DTYPES[self.type]
        step = rng.choice([1, 1, 1, 2, 3, 0, -1])
        width = (dim - 1) * abs(step) + 1
        row = rng.choice([width, width, width + 1, width + 7, 0, -width]) if dim > 1 or step else 1
        count = (n - 1) * abs(row) + width if n else 0
        self.memory = Memory(count, dtype, rng.randint(0, 40))
        first = (n - 1) * max(0, -row) + (dim - 1) * max(0, -step) if n else 0
        draw = np.random.default_rng(rng.getrandbits(32))
        values = (
            draw.integers(-3, 4, count) if rng.random() < 0.4 else draw.normal(size=count) * 10.0 ** rng.randint(-3, 3)
        )
        if self.type == "bfloat16":
            self.memory.values[:] = (values.astype(np.float32).view(np.uint32) >> 16).astype(np.uint16)
            held = (self.memory.values.astype(np.uint32) << 16).view(np.float32).astype(np.float64)
        else:
            self.memory.values[:] = values
            held = self.memory.values.astype(np.float64)
        at = first + row * np.arange(n)[:, None] + step * np.arange(dim)[None, :]
        self.exact = held[at] if n else np.zeros((0, dim))
        size = np.dtype(dtype).itemsize
        self.tuple = (self.memory.address + first * size, self.type, n, dim, row, step)


def squared(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """[N, D], [D] -> [N]: squares summed by halving, as kernels/exact.py says."""
    v = (x - y) ** 2
    while v.shape[1] > 1:
        half = (v.shape[1] + 1) // 2
        v[:, : v.shape[1] - half] += v[:, half:]
        v = v[:, :half]
    return v[:, 0]


class Fuzz:
    def __init__(self, native: Any, seed: int) -> None:
        self.native, self.rng = native, random.Random(seed)
        self.isas = [name for name, reason in native.explain_isa() if not reason]
        self.isas += ["avx2i"] * ("avx2" in self.isas)  # on 16-bit integers
        self.right = self.wrong = 0

    def look(self, isa: str, *matrices: Rows) -> list[Any]:
        """Looks in a random common frame that the instruction set accepts."""
        dim = matrices[0].tuple[3]
        centre = Memory(dim, np.float64) if self.rng.random() < 0.7 else None
        if centre is not None:
            centre.values[:] = matrices[0].exact[0] if len(matrices[0].exact) else 0.0
        address, threads = 0 if centre is None else centre.address, self.rng.randint(1, 3)
        plain = [self.native.Look(m.tuple, "portable", address, 1.0, threads) for m in matrices]
        largest = max(look.largest_norm2 for look in plain)
        scale = 2.0 ** self.rng.choice([0, 0, 10, -10])
        longest = self.native.Look(matrices[0].tuple, isa, address, 1.0, 1).longest
        if longest > 0:  # rounds to integers: as large as it allows
            scale = 2.0 ** math.floor(math.log2(0.9999 * longest / math.sqrt(largest))) if largest else 1.0
        return [self.native.Look(m.tuple, isa, address, scale, threads) for m in matrices]

    def shape(self, most: int) -> tuple[int, int]:
        return self.rng.choice([1, 2, 7, 8, 9, 31, 32, 33, most]), self.rng.choice([1, 2, 3, 8, 31, 32, 33, 65, 130])

    def knn(self) -> None:
        """One search, equal to brute force."""
        rng, (m, dim) = self.rng, self.shape(150)
        bank, query = Rows(rng, m, dim), Rows(rng, rng.choice([0, 1, 5, 16, 33, 65]), dim)
        k, q = rng.choice([1, min(m, 5), m]), query.tuple[2]
        of_bank, of_query = self.look(rng.choice(self.isas), bank, query)
        out, rows = Memory(q * k, np.float64, rng.randint(0, 7)), Memory(q * k, np.int64, rng.randint(0, 7))
        if rng.random() < 0.5:
            self.native.knn(query.tuple, bank.tuple, of_query, of_bank, k, rng.randint(1, 3), out.address, rows.address)
        else:
            ready = self.prepared(bank, of_bank)
            way = rng.choice(["auto", "none", "partial"])
            ready.knn(query.tuple, of_query, k, way, rng.randint(1, 3), out.address, rows.address)
        for i in range(q):
            distance = squared(bank.exact, query.exact[i])
            order = np.argsort(distance, kind="stable")[:k]
            part = slice(i * k, (i + 1) * k)
            assert rows.values[part].tolist() == order.tolist(), (query.tuple, bank.tuple, k)
            assert out.values[part].tolist() == distance[order].tolist(), (query.tuple, bank.tuple, k)

    def prepared(self, bank: Rows, look: Any) -> Any:
        """A bank made ready, with short rows along any directions."""
        rng, dim = self.rng, bank.tuple[3]
        ready = self.native.Prepared(bank.tuple, look)
        if rng.random() < 0.5:
            ready.pack(rng.randint(1, 3))
        if rng.random() < 0.8:
            every = rng.randint(1, dim)
            along = Memory(dim * every, np.float64, rng.randint(0, 7))
            draw = np.random.default_rng(rng.getrandbits(32))
            along.values[:] = np.linalg.qr(draw.normal(size=(dim, every)))[0].ravel()
            slack = 1e-5, 1e-40
            ready.shorten(along.address, rng.randint(1, every), every, slack, slack, rng.randint(1, 3))
        return ready

    def k_center(self) -> None:
        """Whole runs in which every row is a candidate, equal to plain greedy."""
        rng, (n, dim) = self.rng, self.shape(120)
        x = Rows(rng, n, dim)
        (look,) = self.look(rng.choice(self.isas), x)
        count = rng.randint(1, dim - 1) if look.packs_float32 and dim > 1 and rng.random() < 0.6 else 0
        along = Memory(count * dim, np.float32, rng.randint(0, 7))  # orthonormal rows, of any directions
        draw = np.random.default_rng(rng.getrandbits(32))
        along.values[:] = np.linalg.qr(draw.normal(size=(dim, max(1, count))))[0].T[:count].ravel()
        directions = (along.address if count else 0, count)
        prune = rng.choice(["auto", "none", "triangle", "partial"])
        best, taken = Memory(n, np.float64), rng.sample(range(n), rng.randint(0, n - 1))
        best.values[:] = np.inf
        weight = Memory(n, np.float64) if rng.random() < 0.5 else None
        if weight is not None:
            weight.values[:] = [rng.choice([0.0, 0.25, 1.0, rng.random()]) for _ in range(n)]
        address = 0 if weight is None else weight.address
        engine = self.native.KCenter(x.tuple, look, best.address, address, n, prune, *directions, rng.randint(1, 3))
        first = Memory(len(taken), np.int64)
        first.values[:] = taken
        engine.append(first.address, len(taken))
        nearest = np.full(n, np.inf)
        for row in taken:
            nearest = np.minimum(nearest, squared(x.exact, x.exact[row]))
        nearest[taken] = -1.0
        while engine.count < n:
            engine.refresh(0, 0)
            edge = engine.edge(rng.randint(1, n)) if rng.random() < 0.5 else 0.0
            ids, inside, key, row, _ = engine.reach(edge, rng.choice([1, 5, n]))
            limit = (True, key, row) if inside > len(ids) else (edge > 0, edge, n)
            rows = Memory(len(ids), np.int64)
            rows.values[:] = ids
            picked = engine.resolve(rows.address, len(ids), *limit, rng.randint(1, n), rng.choice([1, 3, 16, 512]))
            assert picked[0], "no pick although the first in rank is among the candidates"
            for row, value in zip(*picked, strict=True):
                with np.errstate(invalid="ignore"):  # 0 * inf
                    key = nearest if weight is None else np.where(weight.values > 0, weight.values * nearest, 0.0)
                key = np.where(nearest < 0, -1.0, key)
                assert (row, value) == (int(np.argmax(key)), float(nearest[row])), (x.tuple, taken)
                nearest = np.where(nearest < 0, -1.0, np.minimum(nearest, squared(x.exact, x.exact[row])))
                nearest[row] = -1.0

    def refused(self, call: Callable[[], Any], what: str) -> None:
        """A wrong call raises; it neither returns nor takes the process down."""
        try:
            call()
        except REFUSALS:
            self.wrong += 1
        else:
            raise AssertionError(f"accepted: {what}")

    def wrong_calls(self) -> None:
        """One of each kind of wrong argument, around a small right call."""
        native, rng = self.native, self.rng
        x, (n, dim) = Rows(rng, 12, 5), (12, 5)
        probes = {name: native.Look(x.tuple, name, 0, 1.0, 1) for name in self.isas}
        isa = rng.choice([name for name in self.isas if probes[name].longest == 0])  # rows of any length
        numbers = Memory(n, np.int64)
        numbers.values[:] = range(n)
        doubles = Memory(n, np.float64)
        doubles.values[:] = np.inf
        odd, t = doubles.address + 4, x.tuple

        def look(rows: Any = t, isa: str = isa, centre: int = 0, scale: float = 1.0, threads: int = 1) -> Any:
            return native.Look(rows, isa, centre, scale, threads)

        for i, bad in [
            *[(0, v) for v in (0, t[0] + 1, -1, 1 << 70)],
            *[(1, v) for v in ("int8", "", "float", 3)],
            *[(2, v) for v in (-1, 1 << 70, 2.5)],
            *[(3, v) for v in (0, -1, 1 << 40, (1 << 63) - 1)],
            *[(4, v) for v in (1 << 70, "x")],
        ]:
            self.refused(lambda i=i, bad=bad: look((*t[:i], bad, *t[i + 1 :])), f"rows[{i}] = {bad!r}")
        self.refused(lambda: look(t[:5]), "five numbers for rows")
        for name in ("sse9", "AVX2", "auto"):
            self.refused(lambda name=name: look(isa=name), f"instruction set {name}")
        for scale in (0.0, -1.0, math.nan, math.inf):
            self.refused(lambda scale=scale: look(scale=scale), f"scale {scale}")
        for threads in (0, -1, 1 << 40):
            self.refused(lambda threads=threads: look(threads=threads), f"threads {threads}")
        self.refused(lambda: look(centre=odd), "a centre that is not aligned")

        def engine(rows: Any = t, of: Any = None, s: int = doubles.address, w: int = 0, c: int = n, p: str = "auto",
                   along: tuple[int, int] = (0, 0), threads: int = 1) -> Any:  # fmt: skip
            return native.KCenter(rows, of or look(), s, w, c, p, *along, threads)

        used = look()
        engine(of=used)
        self.refused(lambda: engine(of=used), "a look for the second time")
        self.refused(lambda: engine(rows=(*t[:2], n - 1, *t[3:])), "fewer rows than were looked over")
        self.refused(lambda: engine(rows=(*t[:5], t[5] + 1)), "another stride than was looked over")
        for c in (0, -1, n + 1):
            self.refused(lambda c=c: engine(c=c), f"capacity {c}")
        for name, address in {"null": 0, "odd": odd}.items():
            self.refused(lambda address=address: engine(s=address), f"squared {name}")
        self.refused(lambda: engine(w=odd), "weight odd")
        self.refused(lambda: engine(threads=0), "no threads")
        for p in ("", "all", "None"):
            self.refused(lambda p=p: engine(p=p), f"prune {p!r}")
        skew, straight = Memory(2 * dim, np.float32), Memory(2 * dim, np.float32)
        skew.values[:] = 1.0
        straight.values[:] = np.eye(2, dim).ravel()
        nans = Memory(2 * dim, np.float32)
        for count in (0, -1, dim, 1 << 40):
            self.refused(lambda count=count: engine(along=(straight.address, count)), f"{count} directions")
        for name, address in {"skew": skew.address, "NaN": nans.address, "odd": straight.address + 2}.items():
            self.refused(lambda address=address: engine(along=(address, 2)), f"directions {name}")
        if probes[isa].packs_float32:
            engine(along=(straight.address, 2), p="partial")
        else:
            self.refused(lambda: engine(along=(straight.address, 2)), "directions for a kernel that packs no float32")
        for bad in (math.nan, math.inf, -1.0):
            weights = Memory(n, np.float64)
            weights.values[:] = bad
            self.refused(lambda weights=weights: engine(w=weights.address), f"weights {bad}")
        nan = Memory(n, np.float64)
        self.refused(lambda: engine(s=nan.address), "squared NaN")

        k, out = engine(c=3), doubles.address
        beyond = Memory(1, np.int64)
        for value in (-1, n, 1 << 62):
            beyond.values[0] = value
            for call in (
                lambda: k.append(beyond.address, 1),
                lambda: k.refresh(beyond.address, 1),
                lambda: k.resolve(beyond.address, 1, False, 0.0, 0, 1, 1),
            ):
                self.refused(call, f"row {value}")
        a = numbers.address
        for what, call in {
            "append -1": lambda: k.append(a, -1),
            "append null": lambda: k.append(0, 2),
            "append odd": lambda: k.append(a + 4, 1),
            "append 4 of 3": lambda: k.append(a, 4),
            "edge 0": lambda: k.edge(0),
            "edge -3": lambda: k.edge(-3),
            "reach 0": lambda: k.reach(0.0, 0),
            "reach -1": lambda: k.reach(0.0, -1),
            "refresh -1": lambda: k.refresh(a, -1),
            "resolve null": lambda: k.resolve(0, 1, False, 0.0, 0, 1, 1),
            "resolve -1": lambda: k.resolve(a, -1, False, 0.0, 0, 1, 1),
            "resolve block 0": lambda: k.resolve(a, 1, False, 0.0, 0, 1, 0),
        }.items():
            self.refused(call, what)
        assert k.count == 0

        other = Rows(rng, n, dim)
        of_t, of_other, size = look(), look(other.tuple), Memory(n, np.int64)

        def knn(q: Any = t, b: Any = other.tuple, lq: Any = of_t, lb: Any = of_other, k: int = 1, s: int = out,
                r: int = size.address, threads: int = 1) -> None:  # fmt: skip
            native.knn(q, b, lq, lb, k, threads, s, r)

        knn()
        far, centre = look(other.tuple, scale=2.0), Memory(dim, np.float64)
        centre.values[:] = 1.0
        bad = Rows(rng, n, dim)
        while bad.type == "bfloat16" or 0 in bad.tuple[4:]:
            bad = Rows(rng, n, dim)
        bad.memory.values[-1 if bad.tuple[4] > 0 and bad.tuple[5] > 0 else 0] = math.nan
        nothing = look(bad.tuple)
        for what, kwargs in {
            "k = 0": {"k": 0}, "k = M + 1": {"k": n + 1}, "no threads": {"threads": 0},
            "null": {"s": 0}, "null rows": {"r": 0}, "odd": {"s": odd}, "odd rows": {"r": a + 4},
            "looks swapped": {"lq": of_other, "lb": of_t}, "one look twice": {"lb": of_t},
            "frames that differ in scale": {"lb": far},
            "frames that differ in centre": {"lb": look(other.tuple, centre=centre.address)},
            "a bank that is not finite": {"b": bad.tuple, "lb": nothing},
            "queries that are not finite": {"q": bad.tuple, "lq": nothing},
        }.items():  # fmt: skip
            self.refused(lambda kwargs=kwargs: knn(**kwargs), f"knn: {what}")
        if len(self.isas) > 1:
            alien = look(other.tuple, isa=next(name for name in self.isas if name != isa))
            self.refused(lambda: knn(lb=alien), "knn: looks of two instruction sets")
        self.wrong_prepared(look, other, numbers)

    def wrong_prepared(self, look: Callable[..., Any], bank: Rows, numbers: Memory) -> None:
        """The same for a bank made ready: rows [12, 5] and their looks."""
        native, t, (n, dim) = self.native, bank.tuple, (12, 5)
        ready, used = native.Prepared(t, look(t)), look(t)
        native.Prepared(t, used)
        self.refused(lambda: native.Prepared(t, used), "a look for the second time")
        straight, skew, nans = (Memory(2 * dim, np.float64) for _ in range(3))
        straight.values[:], skew.values[:] = np.eye(dim, 2).ravel(), 1.0

        def shorten(v: int = straight.address, few: int = 1, every: int = 2, slack: Any = (1e-6, 1e-40)) -> None:
            ready.shorten(v, few, every, slack, slack, 1)

        for what, kwargs in {
            "null": {"v": 0}, "odd": {"v": straight.address + 4},
            "skew": {"v": skew.address}, "NaN": {"v": nans.address},
            "none": {"few": 0}, "fewer than few": {"few": 3}, "more than columns": {"every": dim + 1},
            "a slack of NaN": {"slack": (math.nan, 0.0)}, "a negative one": {"slack": (-1.0, 0.0)},
        }.items():  # fmt: skip
            self.refused(lambda kwargs=kwargs: shorten(**kwargs), f"shorten: {what}")
        shorten()
        doubles, a = Memory(n, np.float64), numbers.address
        centre = Memory(dim, np.float64)
        centre.values[:] = 1.0

        def knn(of: Any = None, k: int = 1, way: str = "auto", threads: int = 1, s: int = doubles.address,
                r: int = a, rows: Any = t) -> None:  # fmt: skip
            ready.knn(rows, of or ready.look(t, 1), k, way, threads, s, r)

        knn()
        for what, kwargs in {
            "k = 0": {"k": 0}, "k = M + 1": {"k": n + 1}, "no threads": {"threads": 0}, "another way": {"way": "all"},
            "null": {"s": 0}, "null rows": {"r": 0}, "odd": {"s": doubles.address + 4},
            "fewer rows than were looked over": {"rows": (*t[:2], n - 1, *t[3:])},
            "frames that differ in scale": {"of": look(t, scale=2.0)},
            "frames that differ in centre": {"of": look(t, centre=centre.address)},
        }.items():  # fmt: skip
            self.refused(lambda kwargs=kwargs: knn(**kwargs), f"prepared knn: {what}")

    def run(self, seconds: float) -> None:
        """Rounds until the time is up; at least one of everything."""
        end = time.monotonic() + seconds
        while True:
            self.knn()
            self.k_center()
            self.right += 2
            if self.right % 20 == 2:
                self.wrong_calls()
            if time.monotonic() > end:
                return


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("module", nargs="?")
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    fuzz = Fuzz(load(args.module), args.seed)
    fuzz.run(args.seconds)
    print(f"{fuzz.right} right calls, {fuzz.wrong} wrong ones refused, on {', '.join(fuzz.isas)}; seed {args.seed}")
    assert "torch" not in sys.modules or args.module is None


if __name__ == "__main__":
    main()
