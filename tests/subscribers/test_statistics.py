"""What the daemon counts is what was done: by kind, by operation, by subscriber."""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from notifyfs.core.instances import Instance
from notifyfs.core.queue import Queue
from notifyfs.observe.statistics import Books
from notifyfs.protocol import flags
from notifyfs.protocol.records import Record
from tests.support import wireclient as w
from tests.support.faults import ask, faulty, root_only, stopped
from tests.support.wireclient import Wire

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from types import FrameType

    from tests.conftest import Mount
    from tests.support.faults import Asker, FaultySource

__all__ = ["ask", "faulty"]

OPERATIONS, INSTANCES = 1, 2
USER = 12345


def page(wire: Wire, part: int, first: bytes = b"") -> dict[str, Any]:
    """One page of statistics: one reply, and no event."""
    events, reply = wire.until_reply(wire.send(w.STATISTICS, part, first))
    assert (events, reply.wd) == ([], 0), (events, reply)
    told: dict[str, Any] = json.loads(reply.name)
    return told


def pages(wire: Wire, part: int) -> Iterator[list[dict[str, Any]]]:
    """The rows of each page."""
    following = b""
    while True:
        told = page(wire, part, following)
        yield told["rows"]
        if told["next"] is None:
            return
        following = b"%d" % told["next"]


def operations(wire: Wire) -> dict[str, dict[str, Any]]:
    """What was asked of the mount, by operation."""
    return {row["operation"]: row for rows in pages(wire, OPERATIONS) for row in rows}


def kinds(events: Iterable[w.Record]) -> Counter[str]:
    """How many there are of each kind."""
    return Counter(flags.spell(event.mask & ~w.ISDIR) for event in events)


# Requests


def test_each_operation_is_counted_as_often_as_it_was_done(mounted: Callable[..., Mount]) -> None:
    mount = mounted("cache=never")
    with Wire(mount) as wire:
        before = operations(wire)
        for number in range(100):
            os.close(os.open(mount.root / f"f{number}", os.O_WRONLY | os.O_CREAT | os.O_EXCL))
        for number in range(7):
            (mount.root / f"d{number}").mkdir()
        for number in range(5):
            (mount.root / f"s{number}").symlink_to("anything")
        for number in range(4):
            (mount.root / f"f{number}").rename(mount.root / f"g{number}")
        for number in range(6):
            (mount.root / f"f{number + 10}").chmod(0o600)
        for number in range(3):
            os.link(mount.root / f"f{number + 20}", mount.root / f"l{number}")
        for number in range(2):
            os.mkfifo(mount.root / f"p{number}")
            (mount.root / f"f{number + 30}").unlink()
        (mount.root / "d0" / "in it").touch()
        for name in ("d0", "d1"):
            with contextlib.suppress(OSError):
                (mount.root / name).rmdir()
        after = operations(wire)

    done = {name: row["count"] - before[name]["count"] for name, row in after.items()}
    wanted = {"create": 101, "mkdir": 7, "symlink": 5, "rename": 4, "setattr": 6, "link": 3, "mknod": 2, "unlink": 2}
    assert {name: done[name] for name in wanted} == wanted
    assert done["rmdir"] == 2
    failed = {name: row["errors"] for name, row in after.items()}
    assert failed["rmdir"] == 1, "the directory that was not empty"
    assert done["lookup"] >= failed["lookup"] >= 101, "each create begins with a name that is not there"
    assert not any(failed[name] for name in wanted)


def test_every_handler_of_a_request_is_counted(mount: Mount) -> None:
    """Those that the kernel asks for by number (fuse(4)) and that have an answer."""
    with Wire(mount) as wire:
        told = set(operations(wire))
    code = "import pyfuse3\nfrom notifyfs.fuse.handlers import Handlers as O\n"
    code += "print(*(n for n, m in vars(O).items() if n in vars(pyfuse3.Operations) and callable(m)))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    handlers = {name for name in found.stdout.split() if not name.startswith("_")}

    assert told == handlers - {"forget"}, "a FORGET has no answer"


def test_a_row_s_times_agree_with_its_count(mount: Mount) -> None:
    with Wire(mount) as wire:
        for number in range(50):
            (mount.root / f"d{number}").mkdir()
        rows = operations(wire)

    assert rows["mkdir"]["count"] == 50
    for row in rows.values():
        buckets = {int(exponent): count for exponent, count in row["buckets"].items()}
        assert row["count"] == sum(buckets.values()), row
        least = sum(count << exponent - 1 for exponent, count in buckets.items() if exponent)
        assert least <= row["nanoseconds"] <= 2 * least + row["count"], row


@root_only
def test_waiting_for_the_source_is_part_of_the_time(
    faulty: FaultySource, mounted: Callable[..., Mount], ask: Callable[[Callable[[], object]], Asker]
) -> None:
    mount = mounted(source=faulty.root)
    with stopped(faulty.pid):
        asker = ask(lambda: os.mkdir(mount.root / "made"))
        assert not asker.answered(0.6)
        with Wire(mount) as wire:
            waiting = operations(wire)
    asker.result()
    with Wire(mount) as wire:
        done = operations(wire)

    slow = {name for name, row in done.items() if row["nanoseconds"] - waiting[name]["nanoseconds"] > 5e8}
    assert slow & {"mkdir", "lookup", "getattr"}
    for name in slow:
        assert max(map(int, done[name]["buckets"])) >= 29, "more than 2**28 ns, which are 0.27 s"


# Events


def test_events_by_kind_are_those_that_the_subscribers_read(mount: Mount) -> None:
    with Wire(mount) as wire, Wire(mount) as other:
        wire.add(w.ALL_EVENTS | w.RECURSIVE)
        gone = other.add(w.CREATE)
        for number in range(100):
            w.touch(mount.root / f"f{number}")
        (mount.root / "d").mkdir()
        (mount.root / "f0").rename(mount.root / "d" / "f0")
        (mount.root / "f1").unlink()
        assert other.ask(gone) == 0
        heard, heard_too = wire.events(), other.events()
        told, told_too = wire.statistics(), other.statistics()

    assert told["instance"]["kinds"]["CREATE"] == 101
    assert told_too["instance"]["kinds"] == {"CREATE": 101, "IGNORED": 1}
    # The last closes are told when they are over: they may have come after the events that were read.
    late = {"CLOSE_WRITE", "CLOSE_NOWRITE"}
    for instance, read in ((told["instance"], kinds(heard)), (told_too["instance"], kinds(heard_too))):
        assert {kind: count for kind, count in instance["kinds"].items() if kind not in late} == {
            kind: count for kind, count in read.items() if kind not in late
        }
        assert instance["events"] == sum(instance["kinds"].values())
        assert (instance["dropped"], instance["coalesced"]) == (0, 0)
    both = Counter(told_too["mount"]["kinds"])
    assert both["CREATE"] == 202
    assert both["MOVED_FROM"] == told["instance"]["kinds"]["MOVED_FROM"] == 1


def test_what_is_merged_and_what_is_lost_is_counted(mounted: Callable[..., Mount]) -> None:
    mount = mounted(max_queued_events=20)
    (mount.root / "f").touch()
    with Wire(mount, event_fd=True) as wire:
        wire.add(w.MODIFY | w.CREATE)
        with (mount.root / "f").open("ab", buffering=0) as file:
            for _ in range(6):
                file.write(b"x")
        for number in range(50):
            (mount.root / f"d{number}").mkdir()
        told = wire.statistics()["instance"]
        read = kinds(wire.events())

    assert told["kinds"] == read == {"MODIFY": 1, "CREATE": 19, "Q_OVERFLOW": 1}
    assert (told["coalesced"], told["dropped"], told["events"]) == (5, 31, 21)
    assert 1 <= told["high_water"] <= 21


def test_a_stalled_subscriber_s_queue_is_seen_by_another(mounted: Callable[..., Mount]) -> None:
    mount = mounted(max_queued_events=3000)
    with Wire(mount) as stalled, Wire(mount) as wire:
        stalled.add(w.CREATE)
        for number in range(1000):
            (mount.root / f"{number:0100}").mkdir()
        (row,) = [row for rows in pages(wire, INSTANCES) for row in rows if row["watches"]]
        told = wire.statistics()["mount"]

    assert row["pid"] == os.getpid()
    assert row["kinds"] == {"CREATE": 1000}
    assert 900 < row["queued_events"] <= row["high_water"] <= 1000
    assert row["queued_bytes"] == 128 * row["queued_events"]
    assert (told["queued_events"], told["queued_bytes"]) == (row["queued_events"], row["queued_bytes"])
    assert told["high_water"] == row["high_water"]


def test_the_counts_outlive_who_heard_it(mounted: Callable[..., Mount]) -> None:
    mount = mounted(max_queued_events=10)
    with Wire(mount) as wire:
        for number in range(3):
            with Wire(mount, event_fd=True) as other:
                other.add(w.CREATE)
                for name in range(30):
                    (mount.root / f"{number}-{name}").mkdir()
                lost = other.statistics()["instance"]["dropped"]
                assert lost == 20
            w.wait_until(lambda: wire.statistics()["mount"]["instances"] == 1, "the other is gone")
        told = wire.statistics()

    assert told["mount"]["kinds"] == {"CREATE": 30, "Q_OVERFLOW": 3}
    assert told["mount"]["dropped"] == 60
    assert told["mount"]["high_water"] >= 1
    assert (told["mount"]["queued_events"], told["instance"]["kinds"]) == (0, {})


def test_no_total_ever_goes_down_whenever_another_thread_looks() -> None:
    """To Prometheus that would be a restart, and the whole total would count once more."""
    books = Books()
    seen: list[int] = []

    def look(_frame: FrameType, _event: str, _arg: object) -> object:
        seen.append(books.tally().kinds.total())
        return look

    before = sys.gettrace()
    sys.settrace(look)  # from here on, before each line
    try:
        for _ in range(5):
            instances = [Instance(0, Queue(10, lambda: 0), lambda: None) for _ in range(3)]
            for instance in instances:
                books.open(instance, 0)
                instance.queue.append(Record(1, w.CREATE))
            for instance in instances:
                books.close(instance)
    finally:
        sys.settrace(before)

    assert len(seen) > 300
    assert seen == sorted(seen)
    assert books.tally().kinds == {w.CREATE: 15}


# The document


def test_the_keys_of_the_rows_are_those_of_the_document(mount: Mount) -> None:
    text = (Path(__file__).resolve().parents[2] / "docs" / "protocol.md").read_text("utf-8")
    section = text.partition("### Pages of statistics\n")[2].partition("\n## ")[0]
    tables = [set(re.findall(r"`(\w+)`", cell)) for cell in _first_cells(section)]
    with Wire(mount) as wire:
        (row, *_), *_ = pages(wire, OPERATIONS)
        (instance, *_), *_ = pages(wire, INSTANCES)

    assert set.union(*tables[: len(row)]) == set(row)
    assert set.union(*tables[len(row) :]) == set(instance)


def _first_cells(section: str) -> list[str]:
    rows = [line.split("|")[1] for line in section.splitlines() if line.startswith("| `")]
    assert rows
    return rows
