"""Files as they come: whole ones at once, others when they are; each once; a burst takes no memory."""

from __future__ import annotations

import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from patchcore_fast.errors import DataError
from patchcore_fast.watch import source as module
from patchcore_fast.watch.source import Arrival, Done, Source, is_wanted, keys_below

OLD = time.time() - 3600
SETTLE = 0.05


def put(path: Path, content: bytes = b"x", old: bool = True) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    if old:
        os.utime(path, (OLD, OLD))
    return path


@pytest.fixture
def made(tmp_path: Path) -> Iterator[Callable[..., Source]]:
    """Sources of tmp_path/in, closed at the end."""
    folder, sources = tmp_path / "in", list[Source]()
    folder.mkdir()

    def make(**options: Any) -> Source:
        given = {"settle": SETTLE} | options
        sources.append(Source(folder, tmp_path / "in/out", given.pop("done", None) or Done(), **given))
        return sources[-1]

    yield make
    for found in sources:
        found.close()


def taken(source: Source, count: int, seconds: float = 20) -> list[str]:
    """Names of the next files, which are then done; fewer when no more come in time."""
    names: list[str] = []
    end = time.monotonic() + seconds
    while len(names) < count and time.monotonic() < end:
        batch = source.take(count - len(names), lambda: time.monotonic() >= end)
        for arrival in batch:
            source.done.add(arrival.key)
        names += [arrival.name for arrival in batch]
        if not batch and source.once:
            break
    return names


def all_of(source: Source, most: int = 7) -> list[Arrival]:
    """What a source with `once` gives."""
    found = list[Arrival]()
    while batch := source.take(most, lambda: False):
        assert len(batch) <= most
        found += batch
        for arrival in batch:
            source.done.add(arrival.key)
    return found


def test_names_that_are_wanted() -> None:
    for name in ("a.png", "b.JPEG", "tmp.png", "part 7.tif", "x.tmpl.png"):
        assert is_wanted(name), name
    for name in (".a.png", "a.txt", "a.png.part", "a.tmp.png", "b_partial.jpg", "c~tmp.bmp", "Thumbs.db", "~$a.png"):
        assert not is_wanted(name), name


def test_what_is_there_comes_once(made: Callable[..., Source], tmp_path: Path) -> None:
    wanted = {f"{i:02d}.png" for i in range(20)} | {"sub/deep/a.png"}
    for name in wanted:
        put(tmp_path / "in" / name)
    for name in (".b.png", "notes.txt", "c.png.part", "out/normal/a.png", ".hidden/a.png"):
        put(tmp_path / "in" / name)
    (tmp_path / "in/link.png").symlink_to(tmp_path / "in/00.png")
    (tmp_path / "in/loop").symlink_to(tmp_path / "in")
    (tmp_path / "in/nowhere.png").symlink_to(tmp_path / "nowhere")
    os.mkfifo(tmp_path / "in/pipe.png")
    source = made(once=True)
    found = [a.name for a in all_of(source)]
    assert sorted(found) == sorted(wanted | {"link.png"})
    assert all_of(made(once=True, done=source.done)) == []
    assert keys_below(tmp_path / "in", tmp_path / "in/out") == source.done._known
    put(tmp_path / "in/00.png", b"another")
    assert sorted(a.name for a in all_of(made(once=True, done=source.done))) == ["00.png", "link.png"]


def test_a_closed_and_a_moved_file_come_at_once(made: Callable[..., Source], tmp_path: Path) -> None:
    pytest.importorskip("watchdog", reason="the extra watch is not installed")
    source = made(settle=30.0)
    assert taken(source, 1, 0.2) == []
    put(tmp_path / "in/closed.png", old=False)
    assert taken(source, 1) == ["closed.png"]
    os.rename(put(tmp_path / "elsewhere", old=False), tmp_path / "in/moved.png")
    assert taken(source, 1) == ["moved.png"]
    os.rename(put(tmp_path / "in/.hidden", old=False), tmp_path / "in/renamed.png")
    assert taken(source, 1) == ["renamed.png"]
    assert taken(source, 1, 0.3) == [], "each once"
    put(tmp_path / "in/closed.png", b"written anew", old=False)
    assert taken(source, 1) == ["closed.png"], "another file"
    assert taken(source, 1, 0.3) == []


def test_a_folder_comes_with_what_is_in_it(made: Callable[..., Source], tmp_path: Path) -> None:
    pytest.importorskip("watchdog", reason="the extra watch is not installed")
    source = made()
    taken(source, 1, 0.1)
    put(tmp_path / "in/new/sub/a.png", old=False)  # perhaps before the system was asked to tell of new/sub
    put(tmp_path / "elsewhere/b.png", old=False)
    os.rename(tmp_path / "elsewhere", tmp_path / "in/moved")
    assert sorted(taken(source, 2)) == ["moved/b.png", "new/sub/a.png"]


def test_a_file_in_its_writers_hands_is_waited_for(made: Callable[..., Source], tmp_path: Path) -> None:
    pytest.importorskip("watchdog", reason="the extra watch is not installed")
    source = made(settle=0.4)
    with open(tmp_path / "in/a.png", "wb", buffering=0) as f:
        for _ in range(8):
            f.write(b"part")
            assert taken(source, 1, 0.1) == []
        begin = time.time()
    batch = source.take(1, lambda: False)
    assert [a.name for a in batch] == ["a.png"] and batch[0].size == 32
    assert begin - 0.1 <= batch[0].arrived <= time.time(), "it arrived when it was closed"


@pytest.mark.parametrize("poll", [None, 0.05])
def test_a_link_is_never_closed_and_comes_all_the_same(
    made: Callable[..., Source], tmp_path: Path, poll: float | None
) -> None:
    pytest.importorskip("watchdog", reason="the extra watch is not installed")
    source = made(poll=poll)
    taken(source, 1, 0.1)
    os.link(put(tmp_path / "elsewhere.png", old=False), tmp_path / "in/a.png")
    assert taken(source, 1) == ["a.png"]


def test_polling_waits_until_nothing_changes(made: Callable[..., Source], tmp_path: Path) -> None:
    path = put(tmp_path / "in/a.png")  # an hour old by a clock that may be another's
    source = made(poll=0.05, settle=0.6)
    for _ in range(4):
        with path.open("ab") as f:
            f.write(b"more")
        assert taken(source, 1, 0.15) == []
    assert taken(source, 1) == ["a.png"]


def test_what_is_given_back_comes_again(made: Callable[..., Source], tmp_path: Path) -> None:
    path = put(tmp_path / "in/a.png")
    source = made(once=True)
    (first,) = source.take(5, lambda: False)
    assert first.tries == 0 and first.is_unchanged()
    path.write_bytes(b"changed while it was read")
    assert first.is_unchanged() is False
    source.give_back(first, 0)
    (second,) = source.take(5, lambda: False)
    assert (second.tries, second.size) == (0, 25) and second.key != first.key
    source.give_back(second, 1)
    (third,) = source.take(5, lambda: False)
    assert third == Arrival(path, "a.png", second.size, second.mtime_ns, second.arrived, 1)
    source.give_back(third, 1)
    path.unlink()
    assert third.is_unchanged() is None and source.take(5, lambda: False) == []


def test_a_burst_is_bounded_and_nothing_is_lost(
    made: Callable[..., Source], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("watchdog", reason="the extra watch is not installed")
    monkeypatch.setattr(module, "NOTED", 8)
    source, count = made(), 300

    def burst() -> None:
        for i in range(count):
            put(tmp_path / f"in/{i:03d}.png", old=False)

    writer = threading.Thread(target=burst)
    writer.start()
    whole, most, end = list[str](), 0, time.monotonic() + 60
    while len(whole) < count and time.monotonic() < end:
        for arrival in source.take(16, lambda: time.monotonic() >= end):
            source.done.add(arrival.key)
            if arrival.size:  # else its writer was kept waiting, longer than SETTLE, and it comes once more
                whole.append(arrival.name)
        most = max(most, len(source._events), len(source._growing), len(source._found))
    writer.join()
    assert sorted(whole) == [f"{i:03d}.png" for i in range(count)] and most <= 8
    assert taken(source, 1, 0.3) == []


def test_what_leaves_the_folder_is_forgotten_but_not_when_the_drive_does(
    made: Callable[..., Source], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("a.png", "b.png"):
        put(tmp_path / "in" / name)
    source = made(poll=0.05)
    assert sorted(taken(source, 2)) == ["a.png", "b.png"] and len(source.done) == 2
    shutil.move(tmp_path / "in", tmp_path / "away")
    assert taken(source, 1, 0.3) == [] and len(source.done) == 2, "the drive went away"
    assert [r.getMessage().count("cannot be opened") for r in caplog.records] == [1], "said once"
    (tmp_path / "in").mkdir()
    shutil.rmtree(tmp_path / "in")
    shutil.move(tmp_path / "away", tmp_path / "in")
    assert taken(source, 1, 0.3) == [], "and came back: nothing twice"
    (tmp_path / "in/a.png").unlink()
    end = time.monotonic() + 20
    while len(source.done) > 1 and time.monotonic() < end:
        taken(source, 1, 0.1)
    assert len(source.done) == 1, "b.png"


def test_what_one_walk_misses_is_not_forgotten() -> None:
    done, met = Done(), (b"a", b"b")
    for key in met:
        done.add(key)
    for seen, left in (((b"a",), 2), ((b"a", b"b"), 2), ((b"a",), 2), ((b"a",), 1)):
        done.begin()
        assert all(key in done for key in seen)
        done.end(True)
        assert len(done) == left
    done.begin()
    done.end(False)
    assert len(done) == 1, "a walk that was cut off says nothing"


@pytest.mark.parametrize("once", [True, False])
def test_a_folder_that_is_gone_ends_it(made: Callable[..., Source], tmp_path: Path, once: bool) -> None:
    if not once:
        pytest.importorskip("watchdog", reason="the extra watch is not installed")
    source = made(once=once)
    (tmp_path / "in").rmdir()
    with pytest.raises(DataError, match="in: cannot be opened any more"):
        source.take(1, lambda: False)


def test_a_walk_keeps_what_is_done_while_its_file_is_noted(made: Callable[..., Source], tmp_path: Path) -> None:
    put(tmp_path / "in/a.png")
    source = made(once=True)
    all_of(source)
    source.once, source._next = False, 0.0
    source._events[str(tmp_path / "in/a.png")] = (time.time(), True)  # closed again, and not changed
    walk = source._walk()
    assert list(walk) == [] and len(source.done) == 1
    assert taken(source, 1, 0.2) == []


def test_stopped_is_heard_while_nothing_comes(made: Callable[..., Source]) -> None:
    begin = time.monotonic()
    assert made(poll=60.0).take(4, lambda: time.monotonic() - begin > 0.2) == []
    assert time.monotonic() - begin < 5


def test_the_time_of_scoring_is_no_time_of_a_walk(
    made: Callable[..., Source], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "RESCAN", 1.0)
    for name in ("a.png", "b.png"):
        put(tmp_path / "in" / name)
    source = made(once=True)
    while batch := source.take(1, lambda: False):
        source.done.add(batch[0].key)
        time.sleep(0.3)
    assert source._next - time.monotonic() < 10, "what the system did not tell would be found hours after a burst"


def test_what_comes_during_a_walk_came_then(made: Callable[..., Source], tmp_path: Path) -> None:
    put(tmp_path / "in/a.png")
    (tmp_path / "in/sub").mkdir()
    source = made(once=True)
    assert [a.name for a in source.take(1, lambda: False)] == ["a.png"]
    time.sleep(0.3)
    begin = time.time()
    put(tmp_path / "in/sub/b.png", old=False)
    (late,) = source.take(1, lambda: False)
    assert late.name == "sub/b.png" and late.arrived > begin - 0.1


def test_a_walk_past_what_is_done_gives_way(
    made: Callable[..., Source], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "STEP", 2)
    for i in range(20):
        put(tmp_path / f"in/{i:02d}.png")
    source = made(once=True)
    all_of(source)
    monkeypatch.setattr(module, "TICK", 0.0)
    source.once, source._next = False, 0.0
    assert source._ready(4) == [] and source._scan is not None
    assert source.take(4, lambda: True) == [], "a signal"
    source.note(str(put(tmp_path / "in/new.png")), True)
    assert [a.name for a in source.take(4, lambda: False)] == ["new.png"] and source._scan is not None


def test_a_folder_that_is_given_by_a_link(tmp_path: Path) -> None:
    pytest.importorskip("watchdog", reason="the extra watch is not installed")
    (tmp_path / "drive/sub").mkdir(parents=True)
    (tmp_path / "in").symlink_to("drive")
    source = Source(tmp_path / "in", tmp_path / "out", Done(), settle=30.0)
    try:
        assert taken(source, 1, 0.1) == []
        for name in ("closed.png", "sub/closed.png"):
            put(tmp_path / "drive" / name, old=False)
        assert sorted(taken(source, 2, 5)) == ["closed.png", "sub/closed.png"], "the next walk is in half a minute"
    finally:
        source.close()
