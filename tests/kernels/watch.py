"""What a pass of device leaves does besides picking: memory taken, waits for the device."""

import contextlib
import weakref

import torch
from torch.utils._python_dispatch import TorchDispatchMode


class Allocations(TorchDispatchMode):
    """Bytes of tensors alive at once, of those made inside; and what was made."""

    def __init__(self):
        super().__init__()
        self.alive, self.peak, self.made = {}, 0, []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        known = {a.untyped_storage().data_ptr() for a in (*args, *kwargs.values()) if isinstance(a, torch.Tensor)}
        out = func(*args, **kwargs)
        for x in out if isinstance(out, (tuple, list)) else [out]:
            # Triton's interpreter makes empty tensors, and then has them share a storage: set_.
            if isinstance(x, torch.Tensor) and x.untyped_storage().data_ptr() not in known and "set_" not in str(func):
                storage = x.untyped_storage()
                self.made.append((str(func), storage.nbytes()))
                self.alive[storage.data_ptr()] = storage.nbytes()
                weakref.finalize(storage, self.alive.pop, storage.data_ptr(), None)
        self.peak = max(self.peak, sum(self.alive.values()))
        return out


@contextlib.contextmanager
def waits(monkeypatch):
    """Names of what made the host wait for a tensor of the device; numbers read from an answer are free."""
    seen, answers, true_cpu = [], set(), torch.Tensor.cpu

    def cpu(self, *args, **kwargs):
        seen.append("cpu")
        answer = true_cpu(self, *args, **kwargs).clone()
        answers.add(answer.untyped_storage().data_ptr())
        return answer

    def counted(name, method):
        def call(self, *args, **kwargs):
            if self.untyped_storage().data_ptr() not in answers:
                seen.append(name)
            return method(self, *args, **kwargs)

        return call

    with monkeypatch.context() as patch:
        patch.setattr(torch.Tensor, "cpu", cpu)
        numbers = ("item", "__int__", "__bool__", "__float__", "__index__")
        for name in ("tolist", "nonzero", "unique", "numpy", "to", *numbers):
            patch.setattr(torch.Tensor, name, counted(name, getattr(torch.Tensor, name)))
        yield seen


def held(made):
    """Bytes of the tensors that the leaves made themselves."""
    theirs = [made.job.features, made.job.initial, made.job.weight]
    known = {x.untyped_storage().data_ptr() for x in theirs if x is not None}
    mine = [*vars(made).values(), *vars(made.frame).values()]
    storages = {x.untyped_storage().data_ptr(): x.untyped_storage() for x in mine if isinstance(x, torch.Tensor)}
    return sum(s.nbytes() for place, s in storages.items() if place not in known)
