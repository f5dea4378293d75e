"""What is compared: the plain directory, notifyfs, and the programs that people use instead, each on its own mount."""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import resource
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

import attrs

from scripts import ROOT
from scripts.bench.processes import Broken, ask, log_end, running, wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

FETCHED = ROOT / ".venv" / "bench"
"""What `scripts/setup bench` has put there: wheels to install, pyfuse3's sources."""

BIN = Path(sys.executable).parent
MOUNTING = 20.0
MEMORY = 4 << 30
"""Bytes of address space that another's daemon may have: some leak."""

DYING = 0.5
"""Seconds between the first call that fails and the end of the daemon."""

LOGGEDFS = (
    '<?xml version="1.0" encoding="UTF-8"?>\n<loggedFS logEnabled="true" printProcessName="true"><includes>'
    '<include extension=".*" uid="*" action=".*" retname=".*"/></includes><excludes></excludes></loggedFS>\n'
)
"""Log everything, as the example that comes with it does."""


@attrs.frozen
class Peer:
    """One way to have a directory."""

    name: str
    label: str
    command: Callable[[Path, Path, Path], Sequence[str | Path]] | None = None
    """From source, mountpoint and a directory for its files to what is run; None: nothing is mounted."""
    lacks: Callable[[], str] = str
    """What is not there to run it; empty if nothing."""
    version: Callable[[], str] = str
    covers: bool = False
    """It is mounted on the source itself."""
    ours: bool = False
    """A failure here is a failure of the benchmark."""


def _program(name: str) -> Callable[[], str]:
    return lambda: "" if shutil.which(name) else f"{name} is not installed"


def notifyfs(*options: str) -> Callable[[Path, Path, Path], Sequence[str | Path]]:
    """The command that mounts with these options, as a user would."""
    words = [word for option in options for word in ("-o", option)]
    return lambda source, mountpoint, _aside: [BIN / "notifyfs", "mount", "-f", source, mountpoint, *words]


def _null(*words: str) -> Callable[[Path, Path, Path], Sequence[str | Path]]:
    program = Path(__file__).parent / "nullfs.py"
    return lambda _source, mountpoint, _aside: [sys.executable, program, mountpoint, *words]


def _bindfs(*options: str) -> Callable[[Path, Path, Path], Sequence[str | Path]]:
    return lambda source, mountpoint, _aside: ["bindfs", "-f", *options, source, mountpoint]


def _loggedfs(source: Path, _mountpoint: Path, aside: Path) -> Sequence[str | Path]:
    configuration = aside / "loggedfs.xml"
    configuration.write_text(LOGGEDFS, encoding="ascii")
    return ["loggedfs", "-f", "-p", "-c", configuration, "-l", aside / "loggedfs.log", source]


def _example() -> Path:
    """pyfuse3's own passthrough filesystem, of the installed version."""
    return FETCHED / f"pyfuse3-{importlib.metadata.version('pyfuse3')}" / "examples" / "passthroughfs.py"


def _notifyfs_version() -> str:
    return ask(BIN / "notifyfs", "--version").rpartition(" ")[2]


def debian(package: str) -> Callable[[], str]:
    """What gives the installed version of a Debian package."""
    return lambda: ask("dpkg-query", "-W", "-f", "${Version}", package)


TUNED: Final = "kernel_cache,big_writes,max_readahead=131072,attr_timeout=1,entry_timeout=1,negative_timeout=1"

PEERS: Final = {
    peer.name: peer
    for peer in (
        Peer("plain", "plain directory", ours=True),
        Peer("notifyfs", "notifyfs", notifyfs(), version=_notifyfs_version, ours=True),
        Peer("notifyfs-always", "notifyfs cache=always", notifyfs("cache=always"), ours=True),
        Peer("notifyfs-never", "notifyfs cache=never", notifyfs("cache=never"), ours=True),
        Peer("bindfs", "bindfs", _bindfs(), _program("bindfs"), debian("bindfs")),
        Peer("bindfs-tuned", "bindfs tuned", _bindfs("--multithreaded", "-o", TUNED), _program("bindfs")),
        Peer(
            "passthrough",
            "pyfuse3's example",
            lambda source, mountpoint, _aside: [sys.executable, _example(), source, mountpoint],
            lambda: "" if _example().exists() else f"{_example()} is missing",
            lambda: importlib.metadata.version("pyfuse3"),
        ),
        Peer("loggedfs", "loggedfs", _loggedfs, _program("loggedfs"), debian("loggedfs"), covers=True),
        Peer("null", "null filesystem", _null("1"), ours=True),
        Peer("null-never", "null filesystem, no caching", _null("0"), ours=True),
        Peer("null-turns", "null filesystem, our loop", _null("1", "turns"), ours=True),
        Peer("null-turns-never", "null filesystem, our loop, no caching", _null("0", "turns"), ours=True),
    )
}


class InPlace:
    """A subject whose work is done in a place."""

    place: Place

    def renew(self) -> None:
        """The mount's."""
        self.place.renew()

    def said(self) -> str:
        """The mount's."""
        return self.place.said()


class Place:
    """A peer's directory: *root* is where the work is done, *backing* the same without the peer.

    It is made in *base*; *source* says what to mount if not a new directory.
    """

    def __init__(self, peer: Peer, base: Path, source: Path | None = None) -> None:
        self.peer = peer
        self.process: subprocess.Popen[bytes] | None = None
        self._stack = contextlib.ExitStack()
        self._aside = base / f"{peer.name}.files"
        source = base / f"{peer.name}.source" if source is None else source
        self._source = source
        self.root = source if peer.command is None or peer.covers else base / peer.name
        self.backing = source
        for made in (self._aside, source, self.root):
            made.mkdir(exist_ok=True)

    @property
    def name(self) -> str:
        """The peer's."""
        return self.peer.name

    @property
    def ours(self) -> bool:
        """The peer's."""
        return self.peer.ours

    @property
    def mounted(self) -> bool:
        """Whether a daemon stands in between."""
        return self.peer.command is not None

    @property
    def stored(self) -> bool:
        """Whether *backing* has what is made here."""
        return not self.name.startswith("null")

    @property
    def pid(self) -> int:
        """The daemon's."""
        if self.process is None:
            raise Broken(f"{self.root} has no daemon")
        return self.process.pid

    def renew(self) -> None:
        """Mount if that has not been done, or if the daemon has ended since. Broken if it cannot be done."""
        if self.peer.command is None or (self.process is not None and self.process.poll() is None):
            return
        self.close()
        if self.peer.covers:
            descriptor = os.open(self._source, os.O_PATH | os.O_DIRECTORY)
            self._stack.callback(os.close, descriptor)
            self.backing = Path(f"/proc/{os.getpid()}/fd/{descriptor}")
        log = self._aside / "log"
        command = self.peer.command(self._source, self.root, self._aside)
        self.process = self._stack.enter_context(running(*command, log=log))
        self._stack.callback(unmount, self.root)
        if not self.ours:
            resource.prlimit(self.process.pid, resource.RLIMIT_AS, (MEMORY, MEMORY))
        process = self.process
        wait_until(
            lambda: is_mounted(self.root) or process.poll() is not None,
            MOUNTING,
            f"{self.name}: {self.root} is mounted",
        )
        if not is_mounted(self.root):
            raise Broken(f"{self.name}: ended with {process.poll()} instead of mounting: {log_end(log)}")

    def said(self) -> str:
        """Why its daemon has ended, if it has."""
        if self.process is None:
            return ""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(DYING)
        if self.process.poll() is None:
            return ""
        return f"its daemon ended with {self.process.poll()}: {log_end(self._aside / 'log')}"

    def close(self) -> None:
        """Unmount, and end the daemon."""
        self._stack.close()
        self.process = None


@contextlib.contextmanager
def places(base: Path, names: Iterable[str]) -> Iterator[tuple[dict[str, Place], dict[str, str]]]:
    """The places of these peers in the new directory *base*, mounted; and why others' are not there."""
    base.mkdir()
    found: dict[str, Place] = {}
    broken: dict[str, str] = {}
    with contextlib.ExitStack() as stack:
        for peer in (PEERS[name] for name in names if not PEERS[name].lacks()):
            place = Place(peer, base)
            stack.callback(place.close)
            try:
                place.renew()
            except Broken as reason:
                if peer.ours:
                    raise
                broken[peer.name] = str(reason)
                continue
            found[peer.name] = place
        yield found, broken


def is_mounted(path: Path) -> bool:
    """Whether something is mounted at *path*, without touching it."""
    with Path("/proc/self/mountinfo").open(encoding="utf-8", errors="surrogateescape") as lines:
        return any(line.split()[4] == str(path) for line in lines)


def unmount(path: Path) -> None:
    """Unmount what is there; lazily if it is in use."""
    for words in (["umount"], ["umount", "-l"]):
        if not is_mounted(path):
            return
        subprocess.run([*words, path], check=False, capture_output=True)
