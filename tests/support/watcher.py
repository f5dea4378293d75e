"""A program that watches, ours or inotifywait, as a test runs it."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING

from tests.conftest import SOURCES

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

INOTIFYWAIT = ("inotifywait",)
OURS = (sys.executable, "-m", "notifyfs", "watch")
ENVIRONMENT = os.environ | {"PYTHONPATH": str(SOURCES)}
ESTABLISHED = b"Watches established.\n"


class Program:
    """A running watcher, in its own directory."""

    def __init__(
        self, command: tuple[str, ...], place: Path, *arguments: str | bytes, stdin: bytes | None = None
    ) -> None:
        self.process = subprocess.Popen(
            [*command, *arguments],
            cwd=place,
            env=ENVIRONMENT,
            stdin=subprocess.PIPE if stdin is not None else subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,
        )
        if stdin is not None:
            assert self.process.stdin is not None
            self.process.stdin.write(stdin)
            self.process.stdin.close()
        self.out = b""
        self.err = b""

    def until(self, condition: Callable[[], bool], seconds: float = 15) -> None:
        """Take in output until *condition* holds or the program has ended."""
        deadline = time.monotonic() + seconds
        pipes = [self.process.stdout, self.process.stderr]
        while pipes and not condition():
            ready = select.select(pipes, [], [], max(0.0, deadline - time.monotonic()))[0]
            assert ready, f"not within {seconds} s; out {self.out!r} err {self.err!r}"
            for pipe in ready:
                assert pipe is not None
                data = os.read(pipe.fileno(), 1 << 16)
                if not data:
                    pipes.remove(pipe)
                elif pipe is self.process.stdout:
                    self.out += data
                else:
                    self.err += data

    def established(self) -> None:
        """Wait until the watches stand."""
        self.until(lambda: ESTABLISHED in self.err)

    def end(self, number: int | None = signal.SIGTERM) -> tuple[int, bytes, bytes]:
        """Send a signal (None: none), wait for the end, and return exit code, output and messages."""
        if number is not None:
            self.process.send_signal(number)
        self.until(lambda: False)
        code = self.process.wait(10)
        for pipe in (self.process.stdout, self.process.stderr):
            assert pipe is not None
            pipe.close()
        return code, self.out, self.err
