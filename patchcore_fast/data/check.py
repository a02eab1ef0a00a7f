"""All that can be said of a folder without a network: what `scan` says, and every image decoded."""

from __future__ import annotations

import os
from dataclasses import replace

from patchcore_fast.data.images import opened, reason
from patchcore_fast.data.marks import looks_drawn
from patchcore_fast.data.sets import read_set, root_of
from patchcore_fast.data.summary import Notes, ScanSummary
from patchcore_fast.errors import DataError
from patchcore_fast.progress import Progress, bar


def check_folder(root: str | os.PathLike[str], progress: Progress = None) -> ScanSummary:
    """ScanSummary of a folder with every image decoded; a mask of another size than its image's is a finding here.

    Raises
    ------
    DataError : a folder that `scan` refuses for another reason.
    """
    notes = Notes(root_of(root))
    found = read_set(root, strict=False, notes=notes)
    records = [*found.train, *found.test]
    with bar(len(records), "images", progress) as shown:
        for record in records:
            try:
                with opened(record.path) as im:
                    if looks_drawn(im):
                        notes.add("drawn", record.path)
            except DataError as error:
                notes.add("unreadable", record.path, why=reason(error.__cause__ or error))
            shown.update()
    return replace(found.summary, findings=notes.findings())
