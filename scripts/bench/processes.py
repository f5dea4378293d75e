"""The programs that the benchmark starts: none outlives it, and none that hangs holds it up."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import subprocess
import threading
import time
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ENDING = 10.0
"""Seconds that a program may take to end before it is killed."""


class Broken(Exception):  # noqa: N818 - what is said of the benchmark
    """The benchmark itself does not work; ``str()`` says what, and what to do."""


@contextlib.contextmanager
def running(
    *command: str | Path, log: Path, stdin: int | None = subprocess.DEVNULL, stdout: int | IO[bytes] | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """A program that runs until the block ends; what it says goes to *log*.

    It is in a session of its own: Ctrl-C is for the benchmark, which ends the programs in their order.
    """
    with log.open("ab") as said:
        process = subprocess.Popen(
            command, stdin=stdin, stdout=said if stdout is None else stdout, stderr=said, start_new_session=True
        )
    try:
        yield process
    finally:
        for stream in filter(None, (process.stdin, process.stdout)):
            with contextlib.suppress(BrokenPipeError):
                stream.close()
        end(process)


def end(process: subprocess.Popen[Any]) -> None:
    """SIGTERM for it and what it has started, and SIGKILL if that does not help."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        if process.poll() is None:  # or its number may be another's
            os.killpg(process.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(ENDING)
            return


def wait_until(condition: Callable[[], Any], seconds: float, what: str) -> None:
    """Ask again and again; Broken with *what* after *seconds*."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise Broken(f"{what}: not within {seconds:.0f} s")
        time.sleep(0.002)


@contextlib.contextmanager
def within(seconds: float, process: subprocess.Popen[bytes] | None) -> Iterator[None]:
    """Kill *process*, which serves a mount, when the block takes longer; TimeoutError then.

    A system call on a mount that hangs cannot be interrupted; it fails when the daemon is gone.
    """
    late = threading.Event()

    def kill(serving: subprocess.Popen[bytes]) -> None:
        late.set()
        serving.kill()

    timer = None if process is None else threading.Timer(seconds, kill, [process])
    if timer is not None:
        timer.daemon = True
        timer.start()
    try:
        yield
    except (OSError, subprocess.SubprocessError):
        if not late.is_set():
            raise
    finally:
        if timer is not None:
            timer.cancel()
    if late.is_set():
        raise TimeoutError(errno.ETIMEDOUT, f"it hung for {seconds:.0f} s and was killed")


def run(*command: str | Path, directory: Path, seconds: float = 300, environment: dict[str, str] | None = None) -> None:
    """Run a program to its end; Broken, OSError or SubprocessError unless it succeeds."""
    subprocess.run(
        command,
        cwd=directory,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        timeout=seconds,
        check=True,
    )


@contextlib.contextmanager
def one_processor() -> Iterator[None]:
    """What is started in the block runs on one processor, and so does the block.

    Otherwise it is a matter of luck whether an idle processor has to be woken for each request; on a virtual machine
    that takes several times as long as the request.
    """
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def log_end(log: Path) -> str:
    """The last line that a program has said."""
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines() if log.exists() else []
    return lines[-1] if lines else "it said nothing"


def ask(*command: str | Path) -> str:
    """What a program says of itself, such as its version: the first line; empty if it cannot be run."""
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=30, check=False
        )
    except OSError:
        return ""
    return next(iter(done.stdout.decode(errors="replace").splitlines()), "") if not done.returncode else ""


def cpu_seconds(pid: int) -> float:
    """Processor time that all threads of a process have used, to the nanosecond (proc(5), schedstat)."""
    nanoseconds = 0
    for thread in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            nanoseconds += int((thread / "schedstat").read_text(encoding="ascii").split()[0])
    return nanoseconds / 1e9


def memory(pid: int) -> int:
    """Bytes of memory that only this process uses (proc(5), smaps_rollup: Anonymous)."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii").splitlines():
        name, _, rest = line.partition(":")
        if name == "Anonymous":
            return int(rest.split()[0]) * 1024
    raise Broken(f"/proc/{pid}/smaps_rollup has no line Anonymous")
