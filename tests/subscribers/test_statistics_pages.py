"""The rows of the statistics in pages: whole, once each, and for whom."""

from __future__ import annotations

import contextlib
import errno
import json
import os
from typing import TYPE_CHECKING

import pytest

from notifyfs.core.changes import Changes
from notifyfs.core.inodes import Inodes
from notifyfs.core.instances import Instance
from notifyfs.core.queue import Queue
from notifyfs.core.watches import Watches
from notifyfs.fuse.deaths import InDoubt
from notifyfs.observe import counters
from notifyfs.observe.counters import RequestCounter
from notifyfs.observe.statistics import Books, Statistics
from notifyfs.protocol import flags
from notifyfs.protocol.records import Record
from tests.subscribers.test_statistics import INSTANCES, OPERATIONS, USER, operations, page, pages
from tests.support import wireclient as w
from tests.support.faults import root_only
from tests.support.wireclient import Wire

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.conftest import Mount


def test_many_instances_come_in_pages_each_row_once(mount: Mount) -> None:
    with contextlib.ExitStack() as stack:
        wires = [stack.enter_context(Wire(mount)) for _ in range(60)]
        for number, wire in enumerate(wires):
            for _ in range(number % 3):
                wire.add(w.CREATE | w.DELETE)
            assert wire.statistics()["instance"]["watches"] == (number % 3 > 0)
        found = list(pages(wires[0], INSTANCES))

    rows = [row for rows in found for row in rows]
    assert len(found) > 1
    assert [row["number"] for row in rows] == list(range(1, 61))
    assert {(row["pid"], row["uid"]) for row in rows} == {(os.getpid(), os.getuid())}
    assert sum(row["watches"] for row in rows) == 40


def test_pages_miss_nobody_when_others_go_meanwhile(mount: Mount) -> None:
    with contextlib.ExitStack() as stack:
        wires = [stack.enter_context(Wire(mount)) for _ in range(60)]
        for wire in wires:
            wire.ask(w.PENDING)
        first = page(wires[-1], INSTANCES)
        assert first["next"] > 10
        for wire in wires[:10]:  # all of them on the first page
            wire.close()
        w.wait_until(lambda: wires[-1].statistics()["mount"]["instances"] == 50, "ten are gone")
        rest = page(wires[-1], INSTANCES, b"%d" % first["next"])

    numbers = [row["number"] for row in first["rows"] + rest["rows"]]
    assert numbers == list(range(1, len(numbers) + 1))
    assert len(numbers) > len(first["rows"])


def test_a_page_beyond_the_end_is_empty(mount: Mount) -> None:
    with Wire(mount) as wire:
        for part in (OPERATIONS, INSTANCES):
            assert page(wire, part, b"1000000") == {"rows": [], "next": None}
            assert page(wire, part, b"0") == page(wire, part)


@pytest.mark.parametrize(
    ("mask", "name"),
    [
        (0, b"0"),
        (3, b""),
        (4, b""),
        (1 << 31, b""),
        (OPERATIONS, b"x"),
        (OPERATIONS, b"-1"),
        (INSTANCES, b" 1"),
        (INSTANCES, b"1\n"),
        (OPERATIONS, "٣".encode()),
        (OPERATIONS, b"1" * 20),
    ],
)
def test_what_makes_no_sense_is_refused(shared: Callable[..., Mount], mask: int, name: bytes) -> None:
    with Wire(shared()) as wire:
        assert wire.ask(w.STATISTICS, mask, name) == -errno.EINVAL
        assert wire.statistics()["instance"]["watches"] == 0, "the connection goes on"


@root_only
def test_only_root_and_the_daemon_s_user_see_who_subscribes(shared: Callable[..., Mount]) -> None:
    mount = shared("allow_other")

    def asking() -> tuple[int, bool, int]:
        with Wire(mount) as wire:
            refused = wire.ask(w.STATISTICS, INSTANCES)
            return refused, "create" in operations(wire), wire.statistics()["mount"]["watches"]

    with Wire(mount) as wire:
        wire.add(w.CREATE)
        refused, served, watches = w.as_user(USER, asking)
        rows = w.as_user(0, lambda: [row["uid"] for rows in pages(wire, INSTANCES) for row in rows])

    assert (refused, served) == (-errno.EPERM, True)
    assert watches >= 1
    assert 0 in rows


def test_the_books_keep_what_was_counted_by_those_who_have_left() -> None:
    books = Books()
    instances = [Instance(0, Queue(10, lambda: 0), lambda: None) for _ in range(3)]
    for pid, instance in enumerate(instances, 7):
        books.open(instance, pid)
        instance.queue.append(Record(1, flags.CREATE, 0, b"f"))
    assert [tuple(opened) for opened in books.living.values()] == [(1, 7), (2, 8), (3, 9)]
    seen = books.both
    books.close(instances[1])
    books.close(instances[1])
    assert [opened.number for opened in books.living.values()] == [1, 3]
    assert books.tally().kinds == {flags.CREATE: 3}
    books.open(instances[1], 8)
    assert books.living[instances[1]].number == 4
    assert [opened.number for opened in seen[1].values()] == [1, 2, 3], "what another thread reads does not change"


def test_operations_that_nobody_hears_of_are_counted(mount: Mount) -> None:
    with Wire(mount) as wire:
        before = wire.statistics()["mount"]["events"]
        (mount.root / "d").mkdir()
        (mount.root / "d").rename(mount.root / "e")
        (mount.root / "e").rmdir()
        after = wire.statistics()["mount"]
    assert (after["events"] - before, after["kinds"]) == (3, {}), "one number for each"


def test_every_answer_fits_into_one_record_whatever_the_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    huge = (1 << 64) - 1
    changes = Changes(huge + 1)
    watches = Watches(Inodes(1, 2, lambda _inode: None), changes, doubt=InDoubt)
    instance = Instance(0xFFFFFFFE, Queue(1, lambda: 0), lambda: None)
    queue = instance.queue
    queue.dropped = queue.coalesced = queue.high_water = queue.bytes = watches.accounts.watches = huge
    told = flags.EVENTS | flags.UNMOUNT | flags.Q_OVERFLOW | flags.IGNORED
    queue.kinds.update(dict.fromkeys(flags.flags.from_mask(told), huge))
    counter = RequestCounter()
    counter.buckets = [huge] * len(counter.buckets)
    counter.nanoseconds = counter.errors = huge
    monkeypatch.setattr(counters, "REQUESTS", {f"operation{number}": counter for number in range(40)})
    statistics = Statistics(watches, changes, lambda: dict.fromkeys(("inodes", "open_files", "descriptors"), huge))
    statistics.books.open(instance, 0x7FFFFFFF)

    for mask, names in ((0, [b""]), (OPERATIONS, [b"0", b"38", b"39"]), (INSTANCES, [b"0"])):
        for name in names:
            answer = statistics.answer(Record(-2, mask, 0, name), instance)
            assert len(bytes(Record(0, flags.X_REPLY, 0, answer))) <= 16 + w.LONGEST_FIELD
            assert not mask or json.loads(answer)["rows"], "a page without a row would never end"
