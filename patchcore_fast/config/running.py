"""Settings of the running: they change no result."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import ClassVar

from patchcore_fast.config.base import Settings, setting

# What torch calls devices; its index is a number of 8 bits.
_DEVICE = re.compile(r"(cpu|cuda|hip|hpu|mps|mtia|xla|xpu|meta|privateuseone)(:(\d|[1-9]\d|1[01]\d|12[0-7]))?")


def device(text: str) -> str:
    """`cpu`, `cuda` or `cuda:1`; torch's own complaint about others fills a screen."""
    if not re.fullmatch(r"cpu|mps|(cuda|xpu)(:\d+)?", text):
        raise ValueError
    return text


@dataclass(frozen=True)
class RunningSettings(Settings):
    """On what and how it runs.

    Parameters
    ----------
    batch_size : images at a time.  workers : processes that decode images ahead.
    device : a torch device by its name; None means CUDA where there is one.
    """

    group: ClassVar[str] = "running"
    batch_size: int = setting(16, "images at a time", least=1, most=65_536, metavar="N")
    workers: int = setting(0, "processes that decode images ahead", least=0, most=1_024, metavar="N")
    device: str | None = setting(
        None, "cpu, cuda, cuda:1, ...; a GPU is taken when there is one", parse=device, metavar="D"
    )

    def _check(self) -> None:
        if self.device is not None:
            self._set("device", str(self.device))
            if not _DEVICE.fullmatch(str(self.device)):
                self._wrong("device", f"{self.device!r} is not one torch knows")
