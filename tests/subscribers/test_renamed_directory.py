"""A watch is on the directory itself, never on the path it was found by.

An emulation that remembers paths gets these wrong, and build tools do them all the time: ``mv build build.old; mkdir
build``. Each is played before the kernel's inotify as well, which must hear the same.
"""

from __future__ import annotations

import os
import resource
from typing import TYPE_CHECKING

import pytest

from notifyfs.protocol import flags
from tests.support.kernel import Event, Inotify
from tests.support.scenario import parse
from tests.support.stage import play_on
from tests.support.subscriber import Subscriber

if TYPE_CHECKING:
    from tests.conftest import Mount

SCRIPTS = {
    "the-old-path-is-gone": """\
# The watch follows the directory to its new name.
mkdir /A
watch /A CREATE|DELETE
mv /A /A-renamed
touch /A-renamed/child
---
/A CREATE child
""",
    "the-old-path-is-another-directory": """\
# A new directory at the old path is somebody else, and nobody watches it.
mkdir /A
watch /A CREATE|DELETE
mv /A /A-renamed
mkdir /A
touch /A/decoy
touch /A-renamed/child
unlink /A/decoy
unlink /A-renamed/child
---
/A CREATE child
/A DELETE child
""",
    "the-parent-is-renamed": """\
# One level up: the watched directory keeps its name, its path changes, and the old path is taken by another.
mkdir /P /P/A
watch /P/A CREATE|DELETE
mv /P /P-renamed
mkdir /P /P/A
touch /P/A/decoy
touch /P-renamed/A/child
unlink /P-renamed/A/child
---
/P/A CREATE child
/P/A DELETE child
""",
    "a-watched-file-is-renamed-over-another": """\
# The watch goes with the file to the other's name; what appears at its own old name is somebody else.
touch /a /b
watch /a
mv /a /b
touch /a
append /a
append /b
unlink /a
unlink /b
---
/a MOVE_SELF
/a OPEN
/a MODIFY
/a CLOSE_WRITE
/a ATTRIB
/a DELETE_SELF
/a IGNORED
""",
}


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_watch_follows_what_it_watches(name: str, mount: Mount) -> None:
    play_on(mount, parse(name, SCRIPTS[name]))


def test_a_source_that_fails_for_a_moment_costs_no_event_and_invents_none(mount: Mount) -> None:
    """Out of descriptors, the daemon can list and open nothing; afterwards everything is as if that had never been."""
    watched = mount.root / "A"
    watched.mkdir()
    (watched / "old").touch()
    subscribers: list[Inotify | Subscriber] = [
        Inotify(os.fsencode(mount.root)),
        Subscriber(mount.socket),
        Subscriber(mount.socket, event_fd=True),
    ]
    for subscriber in subscribers:
        subscriber.add(b"A", flags.CREATE | flags.DELETE | flags.DELETE_SELF | flags.MOVE_SELF)

    limits = resource.prlimit(mount.pid, resource.RLIMIT_NOFILE)
    resource.prlimit(mount.pid, resource.RLIMIT_NOFILE, (1, limits[1]))
    try:
        with pytest.raises(OSError, match="Too many open files"):
            os.listdir(watched)
        with pytest.raises(OSError, match="Too many open files"):
            (watched / "refused").touch()
    finally:
        resource.prlimit(mount.pid, resource.RLIMIT_NOFILE, limits)
    assert [subscriber.drain() for subscriber in subscribers] == [[], [], []]

    assert os.listdir(watched) == ["old"]
    (watched / "child").touch()
    (watched / "old").unlink()
    expected = [Event(1, flags.CREATE, 0, b"child"), Event(1, flags.DELETE, 0, b"old")]
    assert [subscriber.drain() for subscriber in subscribers] == [expected] * 3
    for subscriber in subscribers:
        subscriber.close()
