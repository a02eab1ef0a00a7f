"""Benchmarks in rooms, see README.md: `python -m benchmarks.ROOM.SCRIPT` runs one, from the checkout's root."""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

# `python -m` puts the checkout first on sys.path. A patchcore_fast that was installed with its native module would then
# be hidden by the checkout's folder, which may have none. So the checkout goes to the end: found where nothing is
# installed (and named in PYTHONPATH it comes first, as asked). This package finds its own modules by its __path__.
if sys.argv[:1] == ["-m"] and sys.path and Path(sys.path[0]).resolve() == ROOT:
    del sys.path[0]
    if str(ROOT) not in sys.path:
        sys.path.append(str(ROOT))
