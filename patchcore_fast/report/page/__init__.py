"""One HTML page of an evaluation, with all pictures and scripts inside: it opens from a disk, a mail or a server, and
asks the network for nothing.

`read` checks what `evaluate` wrote, `charts` draws curves as SVG, `sections` turns numbers into tables, `build` puts
the page together; page.css and page.js are its looks and its behaviour.
"""

from __future__ import annotations

from patchcore_fast.report.page.build import IMAGES, write_report

__all__ = ["IMAGES", "write_report"]
