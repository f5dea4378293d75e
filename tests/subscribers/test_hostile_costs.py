"""What one client can make all others wait for, or the daemon keep: nothing that grows."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
from typing import TYPE_CHECKING

import pytest
from scripts.hostile.crowd import cpu, resident

from tests.support import wireclient as w
from tests.support.faults import FaultySource, stopped
from tests.support.posix import become, collect, start_child
from tests.support.wireclient import ADD, PENDING, Wire

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.conftest import Mount

USER = 12345
FILTER, EXCLUDE, FILTERED = -4, 1, 0x40000
MOST = 253
"""Descriptors that one sendmsg(2) can carry (SCM_MAX_FD)."""
MOMENT = 0.2
"""Seconds of the daemon's time that one request, or one event, may take at the very most: all wait for that."""
MEBIBYTE = 1 << 20


def seconds(mount: Mount, work: Callable[[], object]) -> float:
    """What *work* costs the daemon's main thread: it is nobody else's time, however busy the machine is."""
    before = cpu(mount)
    work()
    return (cpu(mount) - before) / 1e9


# Time


@pytest.mark.parametrize("detour", [b"./", b"/", b"d/../"], ids=["dots", "slashes", "there and back"])
def test_the_longest_way_through_links_takes_no_time(open_mount: Mount, detour: bytes) -> None:
    """Forty links, each of 4,095 bytes that lead nowhere: the kernel walks it in milliseconds."""
    source = os.fsencode(open_mount.source)
    os.mkdir(source + b"/d")
    os.mknod(source + b"/f", 0o644)
    for number in range(40):
        target = b"l%d" % (number + 1) if number < 39 else b"f"
        os.symlink(b"./" + detour * ((4093 - len(target)) // len(detour)) + target, source + b"/l%d" % number)

    def ask() -> int:
        with Wire(open_mount) as wire:
            return wire.watch(w.MODIFY, b"l0")

    assert os.stat(open_mount.root / "l0").st_mode & 0o777 == 0o644, "the kernel finds it"
    took = seconds(open_mount, lambda: w.as_user(USER, ask))
    assert took < MOMENT


@pytest.mark.parametrize(
    "pattern",
    [b"*" * 26 + b"," + b"*" * 26 + b"N", b"*,*,*N", b"**,**N", b"*" * 4000, b"a/**/**/**/**/**/b", b"[*]*[*]*N"],
)
def test_no_pattern_takes_long_to_match(open_mount: Mount, pattern: bytes) -> None:
    """Whether it is refused or matched."""

    def work() -> None:
        with Wire(open_mount) as wire:
            wire.send(FILTER, EXCLUDE, pattern)
            wire.send(ADD, w.CREATE | FILTERED)
            wire.record()
            wire.record()
            os.mkdir(open_mount.root / (",*" * 20))
            wire.events()

    assert seconds(open_mount, work) < MOMENT


# Descriptors


@pytest.fixture
def hanging(fuse: None, tmp_path: Path) -> Iterator[tuple[FaultySource, int]]:
    """Give a file system that anybody might have mounted, which can stop, and a file that is open there."""
    source = FaultySource(tmp_path / "hanging")
    descriptor = os.open(source.root / "f", os.O_CREAT | os.O_RDWR)
    yield source, descriptor
    os.kill(source.pid, signal.SIGCONT)
    os.close(descriptor)
    source.close()


def threads(mount: Mount) -> int:
    return len(os.listdir(f"/proc/{mount.pid}/task"))


def test_descriptors_that_cannot_be_closed_are_the_trouble_of_who_sends_them(
    open_mount: Mount, hanging: tuple[FaultySource, int]
) -> None:
    """close(2) of a file waits for its file system (FLUSH), which may be the user's own."""
    before, (source, descriptor) = threads(open_mount), hanging
    (ready, sent), (wait, end) = os.pipe(), os.pipe()

    def send() -> None:
        with contextlib.ExitStack() as stack:
            for _ in range(16):
                wire = stack.enter_context(Wire(open_mount))
                assert wire.ask(PENDING, descriptors=[descriptor] * MOST) == 0
            os.write(sent, b"x")
            os.read(wait, 1)

    with Wire(open_mount) as bystander, contextlib.ExitStack() as stack:
        for each in (ready, sent, wait, end):
            stack.callback(os.close, each)
        place = os.open(open_mount.root, os.O_PATH)
        stack.callback(os.close, place)
        with stopped(source.pid):
            child = start_child(send, lambda: become(USER, USER, ()))
            try:
                assert w.readable(ready, w.PATIENCE), "the daemon waits for one of them"
                assert threads(open_mount) - before < 2 * MOST + 16
                assert bystander.add_descriptor(w.CREATE, place) == 1, "others may still send theirs"
            finally:
                os.write(end, b"x")
        collect(child)
    w.wait_until(lambda: f"{source.root}/f" not in w.descriptors_of(open_mount.pid), "all closed in the end")


def test_a_path_on_a_file_system_that_hangs_is_refused_at_once(
    mounted: Callable[..., Mount], hanging: tuple[FaultySource, int]
) -> None:
    mount, (source, _) = mounted(), hanging
    descriptor = os.open(source.root, os.O_PATH)
    with Wire(mount) as wire, stopped(source.pid):
        assert wire.add_descriptor(w.CREATE, descriptor) == -errno.EXDEV
    os.close(descriptor)


@pytest.mark.parametrize("length", [1, 16, 31])
def test_a_connection_that_was_sent_over_itself_ends_with_its_client(
    mounted: Callable[..., Mount], length: int
) -> None:
    """While the daemon holds the client's own end, it never reads the end of file."""
    mount = mounted()
    part = w.encode(ADD, w.CREATE, 1, b"f")[:length]
    with Wire(mount) as control:
        with Wire(mount) as wire, Wire(mount) as one, Wire(mount) as other:
            for sender, sent in ((wire, wire), (one, other), (other, one)):
                sender.ask(PENDING)
                sender.send_bytes(part, [sent.socket.fileno()])
                w.wait_until(lambda: not w.unread_by_peer(sender.socket.fileno()), "received")  # noqa: B023 - at once
        w.wait_until(lambda: control.statistics()["mount"]["instances"] == 1, "all three are gone")


# Memory


def test_a_filter_goes_with_its_watch(open_mount: Mount) -> None:
    rules, before = 100, 0

    def filtered(number: int) -> None:
        with Wire(open_mount) as wire:
            texts = [b"%d-%d" % (number, rule) + b"x" * 2000 for rule in range(rules)]
            assert [wire.ask(FILTER, EXCLUDE, text) for text in texts] == [0] * rules
            wire.add(w.CREATE | FILTERED)
            os.mkdir(open_mount.root / f"{number}")
            assert len(wire.events()) == 1

    for number in range(20):
        if number == 8:  # Python itself keeps the last 512 regular expressions
            before = resident(open_mount)
        filtered(number)
    # If all were kept it would be 16 KiB a rule (measured).
    assert resident(open_mount) - before < 12 * rules * 6144


def test_a_user_s_rules_are_limited_when_they_are_sent(open_mount: Mount) -> None:
    """Or each connection could make the daemon keep 65,536 of 4,111 bytes that no watch will ever take."""
    limit = 4096

    def send() -> set[int]:
        with Wire(open_mount) as wire:
            results = set()
            for start in range(0, limit + 100, 100):
                wire.socket.sendall(
                    b"".join(w.encode(FILTER, EXCLUDE, 0, b"%d" % n) for n in range(start, start + 100))
                )
                results |= {wire.record().wd for _ in range(100)}
            return results

    refused = w.as_user(USER, send) - {0}
    assert refused
    assert refused <= {-errno.ENOSPC, -errno.E2BIG}


def test_a_user_s_drafts_are_limited_together_and_by_their_length(open_mount: Mount) -> None:
    long = [b"%04d" % n + b"x" * 4092 for n in range(64)]  # each as much as 64 short ones

    def draft() -> list[int]:
        with Wire(open_mount) as other:
            with Wire(open_mount) as wire:
                results = [max(wire.ask(FILTER, EXCLUDE, line) for line in long), other.ask(FILTER, EXCLUDE, b"x")]
                results.append(wire.watch(w.CREATE | FILTERED))  # takes the draft
                results.append(max(wire.ask(FILTER, EXCLUDE, line) for line in long))
            w.wait_until(lambda: other.ask(FILTER, EXCLUDE, b"x") == 0, "the draft has gone with its connection")
            results.append(other.watch(w.CREATE | FILTERED))
            results.append(other.ask(FILTER, EXCLUDE, b"x"))
            results.append(other.watch(w.CREATE | FILTERED))
            return results

    assert w.as_user(USER, draft) == [0, -errno.ENOSPC, 1, 0, -errno.EINVAL, 0, 1]
