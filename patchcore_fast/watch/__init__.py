"""A folder that is watched: new images scored as they come, each once, with a small page of what came last.

`source` finds whole files, `loop` scores them, `journal` remembers them over kills, `placing` puts them where they
belong; `recent` and `drift` know how the line does, `server` shows it.
"""

from __future__ import annotations

from patchcore_fast.watch.loop import Options, Watch

__all__ = ["Options", "Watch"]
