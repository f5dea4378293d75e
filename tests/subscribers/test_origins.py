"""Who did it: the record before an event of a watch that asks for origins."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

from tests.subscribers.test_delivery import append, either, mount, wire
from tests.support import wireclient as w
from tests.support.wireclient import Record, Wire

if TYPE_CHECKING:
    from tests.conftest import Mount

__all__ = ["either", "mount", "wire"]


# Origins


def paired(records: list[Record]) -> list[tuple[w.Origin, Record]]:
    """Each event with the origin before it; they must alternate and belong together."""
    assert len(records) % 2 == 0, records
    pairs = []
    for before, event in zip(records[::2], records[1::2], strict=True):
        assert not event.mask & w.ORIGIN, records
        assert (before.wd, before.cookie) == (event.wd, event.cookie)
        pairs.append((w.origin_of(before), event))
    return pairs


def test_an_origin_precedes_each_event_and_says_who_did_it(tree: Path, either: Wire) -> None:
    wd = either.add(w.CREATE | w.MODIFY | w.MOVED_FROM | w.MOVED_TO | w.DELETE | w.ORIGIN, tree)
    before = time.time_ns()
    w.touch(tree / "f")
    append(tree / "f")
    (tree / "f").rename(tree / "g")
    (tree / "g").unlink()
    after = time.time_ns()

    pairs = paired(either.events())
    assert [event.brief for _, event in pairs] == [
        (wd, w.CREATE, b"f"),
        (wd, w.MODIFY, b"f"),
        (wd, w.MOVED_FROM, b"f"),
        (wd, w.MOVED_TO, b"g"),
        (wd, w.DELETE, b"g"),
    ]
    name = Path("/proc/self/comm").read_bytes().rstrip(b"\n")
    for origin, _ in pairs:
        assert (origin.pid, origin.uid, origin.gid, origin.comm) == (os.getpid(), os.getuid(), os.getgid(), name)
    sequences = [origin.sequence for origin, _ in pairs]
    times = [origin.time_ns for origin, _ in pairs]
    assert sequences == sorted(sequences)
    assert len(set(sequences)) >= 4, "four operations"
    assert times == sorted(times)
    # The daemon's clock may be the kernel's coarse one, a tick behind.
    assert before - 20_000_000 <= times[0] <= times[-1] <= after + 20_000_000


def test_an_origin_names_the_child_process_that_did_it(tree: Path, wire: Wire) -> None:
    wire.add(w.CREATE | w.ORIGIN, tree)
    child, _ = w.in_child(lambda: w.touch(tree / "f"))

    ((origin, event),) = paired(wire.events())
    assert event.name == b"f"
    assert origin.pid == child


def test_an_origin_names_the_process_and_not_its_thread(tree: Path, wire: Wire) -> None:
    wire.add(w.CREATE | w.ORIGIN, tree)
    thread = threading.Thread(target=w.touch, args=[tree / "f"])
    thread.start()
    thread.join()

    ((origin, _),) = paired(wire.events())
    assert origin.pid == os.getpid()


def test_a_write_carries_the_origin_of_the_process_that_opened_the_file(tree: Path, wire: Wire) -> None:
    file = w.touch(tree / "f")
    wire.add(w.MODIFY | w.ORIGIN, file)
    descriptor = os.open(file, os.O_WRONLY)
    child, written = w.in_child(lambda: os.write(descriptor, b"x"))
    os.close(descriptor)

    assert written == 1
    ((origin, event),) = paired(wire.events())
    assert event.mask == w.MODIFY
    assert origin.pid == os.getpid() != child


def test_the_same_event_by_two_processes_is_two_events_on_a_watch_with_origins(
    mount: Mount, tree: Path, either: Wire
) -> None:
    file = w.touch(tree / "f")
    with Wire(mount) as without:
        either.add(w.ATTRIB | w.ORIGIN, file)
        without.add(w.ATTRIB, file)
        file.chmod(0o600)
        file.chmod(0o640)
        child, _ = w.in_child(lambda: file.chmod(0o600))
        file.chmod(0o640)

        assert [origin.pid for origin, _ in paired(either.events())] == [os.getpid(), child, os.getpid()]
        assert without.told() == [(1, w.ATTRIB, b"")]


def test_deletion_and_the_ignored_record_have_an_origin_too(tree: Path, wire: Wire) -> None:
    (tree / "d").mkdir()
    wd = wire.add(w.DELETE_SELF | w.ORIGIN, tree / "d")
    (tree / "d").rmdir()

    pairs = paired(wire.events())
    assert [event.brief for _, event in pairs] == [(wd, w.DELETE_SELF, b""), (wd, w.IGNORED, b"")]
    assert [origin.pid for origin, _ in pairs] == [os.getpid()] * 2


def test_only_the_watch_that_asks_for_origins_gets_them(tree: Path, wire: Wire) -> None:
    (tree / "d").mkdir()
    plain = wire.add(w.CREATE, tree)
    told = wire.add(w.CREATE | w.ORIGIN, tree / "d")
    w.touch(tree / "f")
    w.touch(tree / "d" / "f")

    records = wire.events()
    assert [(record.wd, bool(record.mask & w.ORIGIN)) for record in records] == [
        (plain, False),
        (told, True),
        (told, False),
    ]


def test_origins_and_recursion_go_together(tree: Path, wire: Wire) -> None:
    wd = wire.add(w.CREATE | w.ORIGIN | w.RECURSIVE, tree)
    (tree / "a" / "b").mkdir(parents=True)

    pairs = paired(wire.events())
    assert [event.brief for _, event in pairs] == [
        (wd, w.CREATE | w.ISDIR, b"a"),
        (wd, w.CREATE | w.ISDIR, b"a/b"),
    ]
    assert pairs[0][0].sequence < pairs[1][0].sequence
