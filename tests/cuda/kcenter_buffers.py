"""Buffers of a k-center pass that are a test's own, and what the update must have left in them, against float64.

The arrays lie between guards, since the emulator watches shared memory only: what a kernel writes beside its array is
found here.
"""

import torch

from patchcore_fast.kernels.backends.cuda_kernels.frame import choose_frame, pack
from patchcore_fast.kernels.backends.cuda_kernels.library import describe_array
from patchcore_fast.kernels.backends.device.layout import (
    CONTROL,
    COUNT,
    COUNTERS,
    DISTANCES,
    EDGE,
    EDGE_ROW,
    END,
    WANTED,
)
from patchcore_fast.kernels.backends.device.precision import Arithmetic
from patchcore_fast.kernels.exact import squared_distance, squared_weights

from .addresses import rows

GUARD = 64  # elements on either side
PROCESSORS = 2


class Run:
    """The buffers of a run, and what its kernels are given. Picks given are in place; nothing has met them. Mode "half"
    is for rows that need no frame."""

    def __init__(self, library, x, given, k, mode="ffma", block=16, room=None, target=None, weights=None, initial=None,
                 eager=False, listed=None):  # fmt: skip
        n, dim = x.shape
        self.library, self.x, self.block = library, x, block
        half = mode == "half"
        self.frame = choose_frame("test", Arithmetic("ffma" if half else mode), True, half, features=x)
        assert self.frame.arithmetic.mode == mode
        capacity, room = len(given) + k, room or 8 * block
        listed = max(room, listed or n)
        sizes = library.kcenter_sizes(n, PROCESSORS)
        parts, tile, span = sizes["parts"], sizes["tile_rows"], sizes["span"]
        params = self.frame.params
        self.tracked = bool(params[1] > 0)
        plain = bool(params[0] * params[4] == 1 and not self.frame.centre.any()) and x.dtype != torch.float64
        pitch = -(-dim // 16) * 16
        f32, f64, i32, i64 = torch.float32, torch.float64, torch.int32, torch.int64
        few = n if self.tracked else 1
        shapes = {
            "control": (i64, CONTROL), "counters": (i32, COUNTERS), "block_row": (i32, block),
            "block_exact": (f64, block), "block_weight": (f64, block), "squared": (f64, block * block),
            "pairs": (i32, block * block), "candidates": (i32, listed), "doubt": (i32, room), "settled": (f64, room),
            "picks": (x.dtype if half else f32, capacity * pitch), "pick_norm": (f32, capacity),
            "pick_row": (i64, capacity), "pick_squared": (f64, capacity),
            "norm": (f32, n), "stale": (i32, n), "part": (f32, 2 * parts * tile), "part_near": (i32, parts * tile),
            "ages": (i32, -(-n // span) * 16), "seen": (i32, n), "value": (f32, n), "near": (i32, few),
            "second": (f32, few), "key": (f64, n), "initial": (f64, n), "weight": (f64, n),
        }  # fmt: skip
        self.guarded = {}
        for name, (dtype, length) in shapes.items():
            whole = torch.empty(length + 2 * GUARD, dtype=dtype)
            whole.view(torch.uint8).fill_(0xA5)
            self.guarded[name] = whole
            setattr(self, name, whole[GUARD : GUARD + length])
        self.picks = self.picks.view(capacity, pitch)
        for name, value in (("control", 0), ("seen", 0), ("value", torch.inf), ("near", -1), ("second", torch.inf)):
            getattr(self, name).fill_(value)
        self.initial[:] = torch.inf if initial is None else initial
        self.weight[:] = 1 if weights is None else squared_weights(weights)
        self.key[:] = torch.where(self.weight > 0, self.weight * self.initial, 0.0)
        given = torch.tensor(given, dtype=i64)
        pack(x, self.frame, self.norm)
        pack(x, self.frame, self.pick_norm, self.picks, given)
        self.pick_row[: len(given)] = given
        self.key[given] = -1
        target = target or min(2 * block, room // 2)
        self.control[COUNT], self.control[END], self.control[WANTED] = len(given), capacity, min(2 * target, n)
        held = {name: getattr(self, name) for name in shapes} | {"centre": self.frame.centre, "params": params}
        arrays = {name: describe_array(held[name]) for name in library.kcenter_arrays()}
        self.fields = {
            "x": rows(x), "rows": rows(x), "picked_from": rows(x), "mode": mode,
            "tracked": self.tracked, "plain": plain, "has_initial": initial is not None,
            "weighted": weights is not None, "eager": eager, "block": block,
            "room": room, "listed": listed,
            "target": target,
            "processors": PROCESSORS, "parts": parts, "span": span, "capacity": capacity, "pitch": pitch,
            "picks": describe_array(self.picks), **arrays,
        }  # fmt: skip
        self.told = library.KCenterPass(**self.fields)

    def refresh_all(self):
        """All rows meet all picks; nothing becomes a candidate."""
        self.control[EDGE], self.control[EDGE_ROW] = (1 << 63) - 1, 0
        self.library.kcenter_refresh_all(self.told, -1, 0)
        self.check_guards()

    def one_pass(self, levels=2):
        """Rows picked, and their squared distances."""
        count = int(self.control[COUNT])
        self.library.kcenter_pass(self.told, levels, -1, 0)
        self.check_guards()
        made = slice(count, int(self.control[COUNT]))
        return self.pick_row[made].tolist(), self.pick_squared[made].tolist()

    def check_guards(self):
        """Nothing was written beside an array."""
        for name, whole in self.guarded.items():
            ends = torch.cat([whole[:GUARD], whole[-GUARD:]]).view(torch.uint8)
            assert bool((ends == 0xA5).all()), name

    def widen(self, squared):
        """[N] float64 in the frame, as ErrorBound.widen."""
        relative, norm, absolute = self.frame.params[1:4].tolist()
        if relative == 0:
            return squared
        return (squared.clamp_min(0) + norm * self.norm.double() + absolute) * (1 + relative)


def distances(x, given):
    """[N, P] canonical squared distances."""
    return torch.stack([squared_distance(x, x[i : i + 1].expand_as(x)) for i in given], 1)


def check_refreshed(run, given, initial=None):
    """What is known of each row is within the bound of the truth, both ways."""
    true = distances(run.x, given)
    scale = float(run.frame.squared_scale)
    least = (true * scale).sort(1).values
    value = run.value.double()
    assert bool((least[:, 0] <= run.widen(value)).all()) and bool((value <= run.widen(least[:, 0])).all())
    if not run.tracked:
        assert torch.equal(value, true.min(1).values)
    else:
        second = least[:, 1] if len(given) > 1 else torch.full_like(value, torch.inf)
        assert bool((run.second.double() <= run.widen(second)).all())
        assert bool((second <= run.widen(run.second.double())).all())
        nearest = true.gather(1, run.near.long()[:, None])[:, 0] * scale
        assert bool((nearest <= run.widen(value)).all())
    exact = true.min(1).values if initial is None else torch.minimum(true.min(1).values, initial)
    key, others = run.key / run.weight, torch.ones(run.x.shape[0], dtype=torch.bool)
    others[given] = False
    others &= run.weight > 0
    # Divided by the weight, multiplied by it: two roundings.
    assert bool((exact[others] <= key[others] * (1 + 2**-51)).all())
    assert bool((run.key[given] == -1).all())
    assert int(run.control[DISTANCES]) == run.x.shape[0] * len(given)
    assert bool((run.seen == len(given)).all())
    return key
