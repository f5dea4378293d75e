"""Real mounts for the tests, each in its own daemon, and a limit of time on everything.

A hung FUSE daemon hangs whoever touches its mount, and no signal reaches a process in that state. So each test has
three limits: SIGALRM raises TimeoutError in the test; somewhat later a thread kills the daemons, which frees whoever
waits for them; at last faulthandler ends the run.
"""

from __future__ import annotations

import contextlib
import faulthandler
import os
import select
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import FrameType

SECONDS = 60
"""What one test may take; ``@pytest.mark.limit(seconds)`` says otherwise."""

FUSERMOUNT = ["/bin/fusermount3", "-u"]
STARTED: set[subprocess.Popen[bytes]] = set()
ROOT = Path(__file__).resolve().parent.parent
SOURCES = ROOT / "src"


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "limit(seconds): how long this test may take")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "fuse" in getattr(item, "fixturenames", ()):
            item.add_marker("mount")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    skipped = terminalreporter.stats.get("skipped", [])
    if skipped:
        terminalreporter.write_line(f"NOT PROVEN: {len(skipped)} tests were skipped; see -rs for why.", red=True)


@pytest.fixture(autouse=True)
def time_limit(request: pytest.FixtureRequest) -> Iterator[None]:
    """End a test that hangs, and say where."""
    marker = request.node.get_closest_marker("limit")
    seconds = marker.args[0] if marker else SECONDS

    def too_late(_signal: int, _frame: FrameType | None) -> None:
        message = f"the test took more than {seconds} s"
        raise TimeoutError(message)

    def free_the_test() -> None:
        faulthandler.dump_traceback()
        for process in STARTED:
            process.kill()

    last_resort = threading.Timer(seconds + 10, free_the_test)
    last_resort.daemon = True
    before = signal.signal(signal.SIGALRM, too_late)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    last_resort.start()
    faulthandler.dump_traceback_later(seconds + 40, exit=True)
    yield
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)
    last_resort.cancel()
    faulthandler.cancel_dump_traceback_later()


@pytest.fixture(autouse=True)
def stays_where_it_is() -> Iterator[None]:
    """The test's process has the working directory that it had: ``python -m`` looks there."""
    before = os.getcwd()
    yield
    after = os.getcwd()
    os.chdir(before)
    assert after == before


def wait_until(condition: Callable[[], Any], seconds: float = 10, what: str = "") -> Any:
    """Ask again and again until *condition* gives something true, and return that; AssertionError after *seconds*."""
    deadline = time.monotonic() + seconds
    while not (result := condition()):
        assert time.monotonic() < deadline, f"not within {seconds} s: {what or condition}"
        select.select([], [], [], 0.005)
    return result


@pytest.fixture(scope="session")
def fuse() -> None:
    """FUSE on this machine; in CI its absence is a failure."""
    if not os.access("/dev/fuse", os.R_OK | os.W_OK):
        message = (
            "/dev/fuse is missing or not permitted: nothing can be mounted (modprobe fuse; docker: --device /dev/fuse)"
        )
        if os.environ.get("CI") == "true":
            pytest.fail(message)
        pytest.skip(message)


class Mount:
    """A running ``notifyfs mount -f``: its *source*, *root* (the mountpoint), *socket*, *process*, *pid*, *options*."""

    def __init__(
        self, directory: Path, options: tuple[str, ...], source: Path | None = None, root: Path | None = None
    ) -> None:
        self.source = source or directory / "source"
        self.root = root or directory / "mount"
        self.options = options
        self._reported = 0
        self._log = directory / "stderr"
        for made in (directory, self.source, self.root):
            made.mkdir(exist_ok=True)
        command = [sys.executable, "-m", "notifyfs", "mount", "-f", str(self.source), str(self.root)]
        command += [word for option in options for word in ("-o", option)]
        environment = os.environ | {
            "PYTHONPATH": os.pathsep.join(filter(None, [str(SOURCES), os.environ.get("PYTHONPATH")]))
        }
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                env=environment,
                start_new_session=True,
            )
        STARTED.add(self.process)
        try:
            self.socket = self._first_line()
        except BaseException:
            self._kill()
            raise

    @property
    def pid(self) -> int:
        """The daemon's."""
        return self.process.pid

    @property
    def log(self) -> str:
        """What the daemon has written to stderr so far."""
        return self._log.read_text(encoding="utf-8", errors="replace")

    def check(self) -> None:
        """AssertionError if the daemon has ended, or has logged an exception since the last check."""
        code = self.process.poll()
        assert code is None, f"the daemon ended with {code}:\n{self.log}"
        self._check_log()

    def complains(self, words: str) -> None:
        """AssertionError unless the daemon has logged *words* since the last check; all that it has is expected."""
        news = self.log[self._reported :]
        self._reported += len(news)
        assert words in news, f"instead of {words!r} the daemon logged:\n{news}"

    def _check_log(self) -> None:
        news = self.log[self._reported :]
        self._reported += len(news)
        assert "Traceback" not in news, f"the daemon logged an exception:\n{news}"

    def unmount(self) -> None:
        """``umount``; lazily if something is still using it."""
        plain, lazy = (
            (["/bin/umount"], ["/bin/umount", "-l"]) if os.geteuid() == 0 else (FUSERMOUNT, [*FUSERMOUNT, "-z"])
        )
        if subprocess.run([*plain, self.root], check=False, capture_output=True).returncode:
            subprocess.run([*lazy, self.root], check=False, capture_output=True)

    def finish(self, seconds: float = 15) -> None:
        """Unmount and wait; AssertionError unless the daemon ended as it should."""
        try:
            if self.process.poll() is None:
                self.unmount()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(seconds)
            code = self.process.poll()
        finally:
            self._kill()
        assert code is not None, f"the daemon did not end within {seconds} s of the unmount:\n{self.log}"
        assert code == 0, f"the daemon ended with {code}:\n{self.log}"
        self._check_log()
        assert not Path(self.socket).exists(), f"the daemon left its socket {self.socket}"
        self._forget()

    def _forget(self) -> None:
        """Remove the directory that waits for the next daemon of this mountpoint: there will be none."""
        with contextlib.suppress(OSError):
            (Path(self.socket).parent / "state").unlink(missing_ok=True)
            if not any(Path(self.socket).parent.iterdir()):
                Path(self.socket).parent.rmdir()

    def _first_line(self, seconds: float = 20) -> str:
        assert self.process.stdout is not None
        ready, _, _ = select.select([self.process.stdout], [], [], seconds)
        line = self.process.stdout.readline().decode().rstrip("\n") if ready else ""
        assert line, f"{self.root} was not mounted within {seconds} s (exit code {self.process.poll()}):\n{self.log}"
        return line

    def _kill(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        STARTED.discard(self.process)
        if self.process.stdout is not None:
            self.process.stdout.close()
        if any(
            line.split()[4] == os.fsencode(self.root)
            for line in Path("/proc/self/mountinfo").read_bytes().split(b"\n")[:-1]
        ):
            self.unmount()


def spell(options: dict[str, object]) -> tuple[str, ...]:
    """Keyword arguments as ``-o`` words: True is the bare word."""
    return tuple(name if value is True else f"{name}={value}" for name, value in options.items())


@pytest.fixture
def mounted(fuse: None, tmp_path: Path) -> Iterator[Callable[..., Mount]]:
    """Give a function that mounts: ``mounted(max_queued_events=100, allow_other=True)`` or ``mounted("access=exact")``.

    *source* and *root* may be given as paths; otherwise each call makes its own.
    """
    mounts: list[Mount] = []

    def mount(*words: str, source: Path | None = None, root: Path | None = None, **options: object) -> Mount:
        mounts.append(Mount(tmp_path / f"mount-{len(mounts)}", (*words, *spell(options)), source, root))
        return mounts[-1]

    yield mount
    with contextlib.ExitStack() as stack:  # each is finished, whatever the others do
        for made in mounts:
            stack.callback(made.finish)


@pytest.fixture
def open_mount(mounted: Callable[..., Mount]) -> Iterator[Mount]:
    """Give a mount where all users may do what they like; pytest's own directories are closed to them."""
    if os.getuid():
        pytest.skip("only root can be several users")
    with tempfile.TemporaryDirectory(prefix="notifyfs-test-") as base:
        place = Path(base)
        place.chmod(0o755)
        for name in ("source", "root"):
            (place / name).mkdir()
        mount = mounted("allow_other", source=place / "source", root=place / "root")
        mount.source.chmod(0o777)
        yield mount
        mount.unmount()


@pytest.fixture
def mount(mounted: Callable[..., Mount]) -> Mount:
    """Give a tree of this test's own, mounted without options."""
    return mounted()


@pytest.fixture
def tree(mount: Mount, tmp_path: Path) -> Path:
    """An empty directory of this test's own in the mount."""
    directory = mount.root / tmp_path.name
    directory.mkdir()
    return directory


@pytest.fixture(scope="session")
def _shared_mounts(fuse: None) -> Iterator[Callable[..., Mount]]:
    mounts: dict[tuple[str, ...], Mount] = {}
    with contextlib.ExitStack() as stack:

        def shared(*words: str) -> Mount:
            mount = mounts.get(words)
            if mount is None or mount.process.poll() is not None:
                # Users who may not enter the directories above may not watch by path, and pytest's own are closed.
                directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="notifyfs-shared-")))
                directory.chmod(0o755)
                mount = mounts[words] = Mount(directory, words)
                stack.callback(mount.finish)
            return mount

        yield shared


@pytest.fixture
def shared(_shared_mounts: Callable[..., Mount]) -> Iterator[Callable[..., Mount]]:
    """Give a function for the session's mount with these options: use a directory of your own in it.

    A daemon that ends or logs an exception meanwhile fails the test in which that happens; the next gets a new mount.
    """
    used = set()

    def shared(*words: str) -> Mount:
        used.add(mount := _shared_mounts(*words))
        return mount

    yield shared
    for mount in used:
        mount.check()
