"""What the daemon counts is what was done: by kind, by operation, by subscriber; over the socket and by ``stats``."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner
from hypothesis import example, given
from hypothesis import strategies as st

from notifyfs.commands import stats as showing
from notifyfs.commands.main import main
from notifyfs.core.changes import Changes
from notifyfs.core.inodes import Inodes
from notifyfs.core.instances import Instance
from notifyfs.core.queue import Queue
from notifyfs.core.watches import Watches
from notifyfs.fuse.deaths import InDoubt
from notifyfs.observe import counters
from notifyfs.observe.counters import RequestCounter, Tally
from notifyfs.observe.statistics import Books, Statistics
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
COMMAND = [sys.executable, "-m", "notifyfs"]
SOURCES = Path(__file__).resolve().parents[2] / "src"


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


def stats(*words: str | Path) -> subprocess.CompletedProcess[str]:
    """Run ``notifyfs stats``."""
    return subprocess.run(
        [*COMMAND, "stats", *words],
        capture_output=True,
        text=True,
        timeout=40,
        check=False,
        env=os.environ | {"PYTHONPATH": str(SOURCES)},
    )


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


# Pages


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
    queue.kinds.update({1 << bit: huge for bit in range(16)})
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


# What people see


@given(st.lists(st.integers(0, 1 << 62), min_size=1))
@example([0])
@example([1])
@example([(1 << 20) - 1] * 99 + [1 << 20])
def test_a_bound_is_above_and_at_most_twice_what_was_measured(durations: list[int]) -> None:
    counter = RequestCounter()
    for duration in durations:
        counter.add(duration)
    buckets = {str(exponent): count for exponent, count in enumerate(counter.buckets) if count}
    told = showing.durations(buckets, counter.nanoseconds)

    assert told["mean_ns"] == sum(durations) // len(durations)
    for percent in (50, 99):
        enough = -(-len(durations) * percent // 100)
        real = sorted(durations)[enough - 1]
        bound = told[f"p{percent}_ns"]
        assert bound is not None
        assert real < bound <= max(1, 2 * real)


@given(st.lists(st.tuples(st.dictionaries(st.integers(1, 20), st.integers(1, 9)), *[st.integers(0, 1000)] * 3)))
def test_tallies_add_up(parts: list[tuple[dict[int, int], int, int, int]]) -> None:
    total = sum((Tally(Counter(kinds), *numbers) for kinds, *numbers in parts), Tally())

    assert total.kinds.total() == sum(sum(part[0].values()) for part in parts)
    assert total.dropped == sum(part[1] for part in parts)
    assert total.high_water == max((part[3] for part in parts), default=0)


def test_stats_as_json_has_everything(mount: Mount) -> None:
    with Wire(mount) as wire:
        wire.add(w.CREATE)
        for number in range(100):
            (mount.root / f"d{number}").mkdir()
        told = wire.statistics()["mount"]
        done = stats("--json", mount.root / "d7")
    assert (done.returncode, done.stderr) == (0, "")
    shown = json.loads(done.stdout)

    assert set(shown) == {*told, "operations", "subscribers"}
    assert shown["kinds"] == {"CREATE": 100}
    (made,) = [row for row in shown["operations"] if row["operation"] == "mkdir"]
    assert (made["count"], made["errors"]) == (100, 0)
    assert 0 < made["mean_ns"] * 100 <= made["nanoseconds"]
    assert made["p50_ns"] <= made["p99_ns"] <= 1 << max(map(int, made["buckets"]))
    (unused,) = [row for row in shown["operations"] if row["operation"] == "symlink"]
    assert (unused["count"], unused["p99_ns"]) == (0, None)
    assert [(row["pid"], row["kinds"]) for row in shown["subscribers"]][:1] == [(os.getpid(), {"CREATE": 100})]


def test_stats_for_people_is_a_list_and_three_tables(mount: Mount) -> None:
    with Wire(mount) as wire:
        wire.add(w.CREATE)
        for number in range(100):
            (mount.root / f"d{number}").mkdir()
        done = stats("--socket", mount.socket)
    assert (done.returncode, done.stderr) == (0, "")
    simple, events, requests, subscribers = [part.splitlines() for part in done.stdout.split("\n\n")]

    assert "watches: 1" in simple
    assert [line.split() for line in events] == [["EVENT", "QUEUED"], ["CREATE", "100"]]
    assert len({len(line) for line in (*events, *subscribers[:1])}) == 2
    (made,) = [line for line in requests if line.startswith("mkdir ")]
    assert re.fullmatch(r"mkdir +100 +0 +[\d.]+ [mnu]?s +<[\d.]+ [mnu]?s +<[\d.]+ [mnu]?s", made)
    assert not any(line.startswith("symlink ") for line in requests), "nobody asked for one"
    assert len({len(line) for line in requests}) == 1, "the columns end at the same places"
    assert subscribers[1].split()[:6] == ["1", str(os.getpid()), str(os.getuid()), "1", "100", "0"]


@root_only
def test_stats_for_others_leave_the_subscribers_out(shared: Callable[..., Mount]) -> None:
    mount = shared("allow_other")

    def shown(*words: str) -> tuple[int, str]:
        # Not a process of its own: a user need not be able to start this interpreter.
        done = CliRunner().invoke(main, ["stats", "--socket", mount.socket, *words])
        return done.exit_code, done.output

    code, text = w.as_user(USER, shown)
    assert code == 0, text
    assert text.endswith("\n\nsubscribers: only root and the daemon's own user may see them\n")
    code, as_json = w.as_user(USER, lambda: shown("--json"))
    assert code == 0
    assert json.loads(as_json)["subscribers"] is None


def test_stats_wants_one_way_to_the_mount(shared: Callable[..., Mount]) -> None:
    mount = shared()
    both = stats("--socket", mount.socket, mount.root)
    nowhere = stats("--socket", f"{mount.socket}.not")

    assert (both.returncode, both.stdout) == (2, "")
    assert both.stderr == f"notifyfs: {mount.root}: --socket names the mount already; leave one of them out\n"
    assert (nowhere.returncode, nowhere.stdout, nowhere.stderr.count("\n")) == (1, "", 1)
    assert "cannot reach the mount's daemon: No such file or directory; `notifyfs list` shows" in nowhere.stderr


@root_only
def test_stats_by_socket_answers_while_the_source_hangs(faulty: FaultySource, mounted: Callable[..., Mount]) -> None:
    mount = mounted(source=faulty.root)
    with stopped(faulty.pid):
        done = stats("--socket", mount.socket)

    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("instances: 1\n")


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
