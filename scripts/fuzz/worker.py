"""One of the fuzzer's processes, and the handle that the fuzzer has of it.

Run as a program it does what each line of its standard input says (JSON: a list of words, or a list of such lists to
do without pause) and answers each with one line.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import select
import signal
import subprocess
import sys
from pathlib import Path
from typing import IO, Any, cast

from tests.support import kernel
from tests.support.commands import Files

from scripts import ROOT

PATIENCE = 30
"""Seconds that one line may take."""

SKIPPED = "SKIP"
"""The result of a step that refers to a handle which is not there: shrinking has removed its ``open``."""


class Hung(Exception):  # noqa: N818 - a finding, no error of the fuzzer's
    """A process did not answer: the mount hangs, or the process has died."""


class Worker:
    """A process that does steps. It is no fork: it must not inherit what the fuzzer holds."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "scripts.fuzz.worker"],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
            start_new_session=True,
        )
        self.pid = self._process.pid
        self._stdin, self._stdout = cast("IO[bytes]", self._process.stdin), cast("IO[bytes]", self._process.stdout)

    def send(self, message: object) -> None:
        """Give it a line; ``answer`` returns what comes of it."""
        self._stdin.write(json.dumps(message).encode() + b"\n")

    def answer(self) -> Any:
        """Wait for one line."""
        line = b""
        while not line.endswith(b"\n"):
            if not select.select([self._stdout], [], [], PATIENCE)[0]:
                raise Hung(f"process {self.pid} got no answer within {PATIENCE} s")
            more = os.read(self._stdout.fileno(), 1 << 16)
            if not more:
                raise Hung(f"process {self.pid} died")
            line += more
        return json.loads(line)

    def begin(self, base: Path) -> None:
        """Forget all that is held; paths are below *base* now."""
        self.do("begin", str(base))

    def do(self, *words: str) -> str:
        """Do one step: its result, an errno's name or the empty string."""
        self.send(words)
        return str(self.answer())

    def kill(self) -> None:
        """End it and what it forked, whatever they hold."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self._process.wait()
        self._stdin.close()
        self._stdout.close()


class Hands(Files):
    """The scenarios' commands, and what only the fuzzer asks."""

    def fileno(self, handle: str) -> int:
        """Which descriptor it is, for ``/proc/PID/fd``."""
        return self._handles[handle]

    def willneed(self, handle: str) -> None:
        """Wait as well: nobody waits for what is read ahead, and it would be told in any later window (parity: R2)."""
        super().willneed(handle)
        if os.fstat(self._handles[handle]).st_size:
            mapped = kernel.Map(self._handles[handle], shared=False)
            mapped.peek()
            mapped.close()

    def _close_unknown(self) -> None:
        known = {0, 1, 2, *self._handles.values(), *(pipe for _, pipe in self._children.values())}
        for number in map(int, os.listdir("/proc/self/fd")):
            if number not in known:
                with contextlib.suppress(OSError):  # the listing's own
                    os.close(number)

    def _do(self, words: list[str]) -> str:
        verb, *arguments = words
        try:
            if verb == "unprivileged":
                with kernel.no_capabilities():
                    return self._do(arguments)
            result = getattr(self, verb)(*arguments)
        except KeyError:
            return SKIPPED
        except OSError as error:
            self._close_unknown()  # commands are written to succeed: `cat` of a directory leaves it open
            return errno.errorcode[error.errno or 0]
        return "" if result is None else str(result)


def main() -> None:
    """Do as told until the end of the input."""
    os.umask(0o022)
    hands = Hands(Path("/"))
    for line in sys.stdin:
        words = json.loads(line)
        result: object = ""
        if words and isinstance(words[0], list):
            result = [hands._do(each) for each in words]  # noqa: SLF001 - public names are the language
        elif words[0] == "begin":
            hands._end()  # noqa: SLF001 - as above
            hands = Hands(Path(words[1]))
        else:
            result = hands._do(words)  # noqa: SLF001 - as above
        sys.stdout.write(json.dumps(result) + "\n")
        sys.stdout.flush()
    hands._end()  # noqa: SLF001 - as above


if __name__ == "__main__":
    main()
