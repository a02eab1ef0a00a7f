"""The kernels of a pass in torch on the CPU: the real driver of device leaves then runs at full size within minutes.

Every hook does what the CUDA and Triton kernels do, number for number where the driver can see it; how they do it, and
that they do it right, is what tests/cuda and tests/triton are for.
"""

import numpy as np
import torch

from patchcore_fast.kernels.backends.device.frame import decide_frame
from patchcore_fast.kernels.backends.device.kcenter import DeviceKCenter
from patchcore_fast.kernels.backends.device.layout import (
    ACCEPTED,
    BEST,
    BEST_ROW,
    COARSE_LEVELS,
    COUNT,
    CROWDED,
    DISTANCES,
    EDGE,
    EDGE_ROW,
    END,
    FOUND,
    INSIDE,
    LAST_ROW,
    LEVELS,
    PASSES,
    STALE,
    WANTED,
)
from patchcore_fast.kernels.backends.device.precision import Arithmetic
from patchcore_fast.kernels.exact import paired_squared

_ROWS, _PICKS = 4096, 4096  # of a tile
_COARSE = LEVELS[COARSE_LEVELS - 1][0]  # bits of the key that a coarse cut does not decide
LAUNCHES = 12  # of a pass, besides one a level: CUDA's, all of them


def look(x, largest, broken):
    """What a frame asks of the rows."""
    largest.view(torch.float64)[0] = x.abs().max().double()
    broken |= int(not bool((x == x.round()).all()))


class TorchKCenter(DeviceKCenter):
    """Leaves whose device is the CPU. `launches` counts what CUDA would launch in passes."""

    called = "the torch kernels"
    launches = 0

    def _prepare(self):
        self.arithmetic, self.parts, self.tile_rows = Arithmetic("ieee"), 4, 16

        self.frame = decide_frame("test", self.arithmetic, True, look, others=self.others, features=self.features)

    def _framed(self, rows, x=None):
        frame = self.frame
        x = self.features if x is None else x
        return ((x[rows].double() - frame.centre) * frame.params[0] * frame.params[4]).float()

    def _pack(self, x, norm, out=None, rows=None, first=0):
        rows = torch.arange(x.shape[0]) if rows is None else rows
        for lo in range(0, rows.shape[0], _ROWS):
            part = self._framed(rows[lo : lo + _ROWS], x)
            place = slice(first + lo, first + lo + part.shape[0])
            norm[place] = part.double().square().sum(1).float()
            if out is not None:
                out[place] = torch.nn.functional.pad(part, (0, out.shape[1] - part.shape[1]))

    def _widen(self, squared, norm):
        params = self.frame.params
        return (squared.clamp_min(0) + params[2] * norm.double() + params[3]) * (1 + params[1])

    def _reached(self):
        bits, (edge, row) = self.key.view(torch.int64), self.control[[EDGE, EDGE_ROW]].tolist()
        here = torch.arange(bits.shape[0])
        return ((self.key >= 0) & ((bits > edge) | ((bits == edge) & (here <= row)))).nonzero().squeeze(1)

    def _cut(self, rows, wanted, exact):
        """The edge that so many of `rows` reach, or more where it is coarse."""
        bits = self.key[rows].view(torch.int64)
        if rows.shape[0] < wanted:
            self.control[EDGE], self.control[EDGE_ROW] = 0, LAST_ROW
            return
        last = int(bits.topk(wanted, sorted=False).values.min())
        self.control[EDGE], self.control[EDGE_ROW] = last, LAST_ROW
        if exact:
            level = rows[bits == last].sort().values
            self.control[EDGE_ROW] = level[wanted - int((bits > last).sum()) - 1]
        else:
            self.control[EDGE] = last >> _COARSE << _COARSE

    def _refresh_all(self):
        self._update(torch.arange(self.features.shape[0]))

    def _refresh_listed(self):
        self._update(self.stale[: int(self.counters[STALE])].long())

    def _settle_listed(self):
        rows = self.candidates[: int(self.counters[INSIDE])].long()
        self.settled[: rows.shape[0]] = self._settled(rows, int(self.control[COUNT]))

    def _enqueue(self, levels):
        control, count = self.control, int(self.control[COUNT])
        self.launches += LAUNCHES + levels
        if count >= int(control[END]):
            return
        wanted, live = int(control[WANTED]), (self.key >= 0).nonzero().squeeze(1)
        self._cut(live, wanted, exact=False)
        control[CROWDED] = live.shape[0] >= wanted and self._reached().shape[0] > 2 * wanted
        if levels > COARSE_LEVELS:
            self._cut(live, wanted, exact=True)
        rows = live if not self.job.tuning.lazy else self._reached()
        self._update(rows[self.seen[rows] < count])
        rows = self._reached()
        control[FOUND] = rows.shape[0]
        if rows.shape[0] > self.listed:
            rows = rows[:0]
        elif rows.shape[0] > self.room:
            self._cut(rows, self.room, exact=True)
            rows = self._reached()
        exact = self._settled(rows, count)
        weight = self.weight[rows] if self.weighted else torch.ones_like(exact)
        self.key[rows] = torch.where(weight > 0, weight * exact, 0.0)
        block = self._trim(rows, wanted)
        picked, squared = self._resolve(rows[block], exact[block], weight[block], int(control[END]) - count)
        end = count + len(picked)
        self.pick_row[count:end], self.pick_squared[count:end] = (
            torch.tensor(picked).long(),
            torch.tensor(squared, dtype=torch.float64),
        )
        self.key[picked] = -1.0
        control[ACCEPTED], control[COUNT] = len(picked), end
        control[PASSES] += 1
        self._pack(self.features, self.pick_norm, self.picks, torch.tensor(picked).long(), first=count)

    def _update(self, rows):
        """What the picks that these rows have not seen change for them."""
        count, seen = int(self.control[COUNT]), self.seen[rows].long()
        rows, seen = rows[seen.argsort(stable=True)], seen.sort().values
        self.control[DISTANCES] += (count - seen).sum()
        if rows.shape[0] == 0:
            return
        for part, since in zip(rows.split(_ROWS), seen.split(_ROWS), strict=True):
            x, norm, best = self._framed(part), self.norm[part], torch.full((len(part),), torch.inf)
            second, near = best.clone(), torch.full((len(part),), -1)
            for p in range(int(since[0]), count, _PICKS):
                fast = self._fast(x, norm, p, min(p + _PICKS, count))
                fast.masked_fill_(since[:, None] > torch.arange(p, p + fast.shape[1]), torch.inf)
                two = torch.nn.functional.pad(fast, (0, 1), value=torch.inf).topk(2, largest=False)
                second = torch.minimum(second, torch.maximum(best, two.values[:, 0]))
                second = torch.minimum(second, two.values[:, 1])
                near = torch.where(two.values[:, 0] < best, p + two.indices[:, 0], near)
                best = torch.minimum(best, two.values[:, 0])
            value = self.value[part]
            if self.tracked:
                self.second[part] = torch.minimum(torch.minimum(second, torch.maximum(value, best)), self.second[part])
                self.near[part] = torch.where(best < value, near.int(), self.near[part])
            self.value[part] = value = torch.minimum(value, best)
            bound = self._widen(value.double(), norm) / self.frame.squared_scale
            if self.initial:
                bound = torch.minimum(bound, self.job.initial[part])
            if self.weighted:
                bound = torch.where(self.weight[part] > 0, self.weight[part] * bound, 0.0)
            self.key[part] = torch.minimum(self.key[part], bound)
            self.seen[part] = count

    def _fast(self, x, norm, first, end):
        picks = self.picks[first:end, : x.shape[1]]
        return torch.addmm(self.pick_norm[first:end], x, picks.T, alpha=-2).add_(norm[:, None])

    def _settled(self, rows, count):
        """[R] float64: exact squared distances to the nearest pick."""
        exact = self.job.initial[rows].clone()
        if not self.tracked:
            return torch.minimum(exact, self.value[rows].double())
        norm, near = self.norm[rows], self.near[rows].long()
        reach = torch.minimum(self._widen(self.value[rows].double(), norm), exact * self.frame.squared_scale)
        reach = self._widen(reach, norm)
        some = ((near >= 0) & (self.value[rows].double() <= reach)).nonzero().squeeze(1)
        squared = paired_squared(self.features, rows[some], self.picked_from, self.pick_row[near[some]])
        exact[some] = torch.minimum(exact[some], squared)
        for doubt in some[self.second[rows[some]].double() <= reach[some]].split(_ROWS):
            fast = self._fast(self._framed(rows[doubt]), norm[doubt], 0, count)
            i, pick = (fast.double() <= reach[doubt][:, None]).nonzero(as_tuple=True)
            squared = paired_squared(self.features, rows[doubt[i]], self.picked_from, self.pick_row[pick])
            exact.scatter_reduce_(0, doubt[i], squared, "amin")
        return exact

    def _trim(self, rows, wanted):
        """Places of the first in rank; notes the best of the others, and how many rows to let in next."""
        control, target, most = self.control, self.target, self.features.shape[0]
        order = np.lexsort((rows.numpy(), -self.key[rows].view(torch.int64).numpy()))
        rest = rows[torch.from_numpy(order[self.block :])]
        control[BEST], control[BEST_ROW] = -1, LAST_ROW
        if rest.shape[0]:
            control[BEST], control[BEST_ROW] = self.key[rest[0]].view(torch.int64), rest[0]
        found = int(control[FOUND])
        after = 4 * wanted if found == 0 else (wanted + wanted * target // found) // 2
        control[WANTED] = min(max(after, min(target, most)), min(64 * target, most))
        return torch.from_numpy(order[: self.block])

    def _resolve(self, rows, exact, weight, quota):
        """The plain algorithm among `rows`, while its best row ranks before every row outside."""
        fast = self._framed(rows)
        fast = torch.addmm(self.norm[rows], fast, fast.T, alpha=-2).add_(self.norm[rows][:, None])
        reach = self._widen(exact * self.frame.squared_scale, self.norm[rows])
        i, j = (fast.double() <= reach).nonzero(as_tuple=True)
        between = torch.full(fast.shape, torch.inf, dtype=torch.float64)
        between[i, j] = paired_squared(self.features, rows[i], self.features, rows[j])
        row, exact, weight, between = rows.numpy(), exact.numpy().copy(), weight.numpy(), between.numpy()
        edge, best = (tuple(self.control[[at, at + 1]].tolist()) for at in (EDGE, BEST))
        picked, squared, open_ = [], [], np.ones(len(row), bool)
        while len(picked) < quota and open_.any():
            key = np.where(open_ & (weight > 0), weight * exact, np.where(open_, 0.0, -1.0))
            level = np.flatnonzero(key == key.max())
            at = level[row[level].argmin()]
            rank = (int(key[at].view(np.int64)), int(row[at]))
            if rank[0] < edge[0] or (rank[0] == edge[0] and rank[1] > edge[1]):
                break
            if rank[0] < best[0] or (rank[0] == best[0] and rank[1] >= best[1]):
                break
            picked.append(int(row[at]))
            squared.append(float(exact[at]))
            open_[at] = False
            exact = np.minimum(exact, between[at])
        return picked, squared
