"""The journal: whatever byte a kill stops at, whole entries stay and the rest is cut."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from patchcore_fast.errors import DataError
from patchcore_fast.watch.journal import FILE, Entry, Journal, key_of


def entry(index: int, name: str = "a.png", **more: object) -> Entry:
    facts = {"size": 7, "mtime_ns": 8, "time": 1.5, "score": 0.25, "is_anomalous": False, "threshold": 0.5,
             "heatmap": "", "error": None, "seconds": {"read": 0.1}}  # fmt: skip
    return Entry(index=index, name=name, **(facts | more))  # type: ignore[arg-type]


def opened(output: Path, folder: Path) -> tuple[Journal, list[Entry]]:
    journal = Journal(output, folder)
    return journal, list(journal.read())


def written(tmp_path: Path) -> tuple[Path, list[Entry]]:
    journal, found = opened(tmp_path, tmp_path / "in")
    assert found == []
    entries = [entry(1), entry(2, os.fsdecode(b"\xff\n.png"), score=None, is_anomalous=None, error="bad"), entry(3)]
    journal.add(entries[:2])
    journal.mark_said()
    journal.add(entries[2:])
    journal.close()
    return tmp_path / FILE, entries


def test_entries_come_back(tmp_path: Path) -> None:
    _, entries = written(tmp_path)
    journal, found = opened(tmp_path, tmp_path / "in")
    assert found == entries and journal.count == 3 and journal.unsaid == entries[2:]
    assert [e.verdict for e in entries] == ["normal", "unreadable", "normal"]
    assert entry(1, is_anomalous=None).verdict is None
    journal.mark_said()
    journal.mark_said()
    journal.close()
    journal, _ = opened(tmp_path, tmp_path / "in")
    journal.close()
    assert journal.unsaid == [] and (tmp_path / FILE).read_text().count("said") == 2


def test_cut_at_any_byte(tmp_path: Path) -> None:
    path, entries = written(tmp_path)
    whole = path.read_bytes()
    begin = whole.index(b"\n") + 1
    ends = {at + i for at in range(begin, len(whole)) if whole[at] == 10 for i in (-1, 0, 1)}
    for end in sorted((ends | set(range(begin, len(whole), 40))) - {len(whole)}):
        path.write_bytes(whole[:end])
        journal, found = opened(tmp_path, tmp_path / "in")
        assert found == entries[: len(found)] and path.read_bytes() == whole[: whole.rindex(b"\n", 0, end) + 1]
        journal.add([entry(len(found) + 1)])
        journal.close()
        journal, again = opened(tmp_path, tmp_path / "in")
        journal.close()
        assert again == [*found, entry(len(found) + 1)]


def test_zeros_at_the_end_are_cut(tmp_path: Path) -> None:
    path, entries = written(tmp_path)  # what some file systems leave after a power cut
    with path.open("ab") as f:
        f.write(bytes(4096))
    journal, found = opened(tmp_path, tmp_path / "in")
    journal.close()
    assert found == entries and path.read_bytes().endswith(b"}\n")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda b: b.replace(b'"index":2', b'"index":"'), "line 3 is damaged"),
        (lambda b: b.replace(b'"index":2', b'"index":4'), "line 3 is entry 4, 2 is wanted"),
        (lambda b: b.replace(b'"size":7', b'"sise":7', 1), "line 2 is damaged"),
        (lambda b: b.replace(b'"journal":1', b'"journal":2'), "no journal of this version"),
        (lambda b: b"", "no journal of this version"),
    ],
)
def test_damage_is_told(tmp_path: Path, change: object, words: str) -> None:
    path, _ = written(tmp_path)
    path.write_bytes(change(path.read_bytes()))  # type: ignore[operator]
    before = path.read_bytes()
    with pytest.raises(DataError, match=words):
        opened(tmp_path, tmp_path / "in")
    assert path.read_bytes() == before


def test_one_folder_and_one_process(tmp_path: Path) -> None:
    written(tmp_path)
    with pytest.raises(DataError, match=r"is the journal of .*in, give another"):
        Journal(tmp_path, tmp_path / "other")
    first = Journal(tmp_path, tmp_path / "in")
    with pytest.raises(DataError, match="another watch is writing here"):
        Journal(tmp_path, tmp_path / "in")
    first.close()


def test_the_key_is_of_name_size_and_time() -> None:
    keys = {key_of(*facts) for facts in [("a", 1, 2), ("a", 1, 3), ("a", 2, 2), ("b", 1, 2), ("a\0001", 2, 3)]}
    assert len(keys) == 5 and {len(key) for key in keys} == {16}
    assert entry(1).key == key_of("a.png", 7, 8)
