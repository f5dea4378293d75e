"""``python reader.py KIND PATH [recursive]``: a Python program that hears of events, and says when it did.

It prints ``ready SECONDS``, how long it took to begin watching. A number on standard input is how many different things
it should hear of; when it has, or after some seconds, it prints a JSON object: what it heard, and when (nanoseconds of
the monotonic clock). What happened is a letter, ``c``reated, moved ``t``o, ``d``eleted or ``w``ritten, and the name.

The kinds ``kernel``, ``event-fd`` and ``stream`` differ in nothing but the descriptor they read.
"""

from __future__ import annotations

import ctypes
import json
import os
import struct
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

HEADER: Final = struct.Struct("=iIII")
LETTERS: Final = {0x100: "c", 0x80: "t", 0x200: "d", 0x2: "w"}
MASK: Final = sum(LETTERS)
RECURSIVE: Final = 0x10000
WORDS: Final = {"CREATE": "c", "MOVED_TO": "t", "DELETE": "d", "MODIFY": "w"}
PATIENCE: Final = 3.0
SIZE: Final = 1 << 16

now = time.monotonic_ns


class Reader:
    """What was heard: the time of the first of each. One thread reads, another asks."""

    def __init__(self, path: str, *, recursive: bool) -> None:
        self.path = path
        self.recursive = recursive
        self.heard: dict[str, int] = {}
        self.end: Callable[[], None] = lambda: None

    def follow(self, descriptor: int) -> None:
        """Read records from *descriptor* until it ends: the same code for the kernel's and for ours."""
        heard, read, unpack, size, letters = self.heard, os.read, HEADER.unpack_from, HEADER.size, LETTERS
        rest = b""
        while data := read(descriptor, SIZE):
            when = now()
            data = rest + data
            place = 0
            while len(data) - place >= size:
                _, mask, _, length = unpack(data, place)
                if len(data) - place < size + length:
                    break
                name = data[place + size : place + size + length].rstrip(b"\0").decode()
                place += size + length
                letter = letters.get(mask & MASK)
                if letter is not None:
                    heard.setdefault(letter + name, when)
            rest = data[place:]

    def kernel(self) -> Iterator[None]:
        """inotify(7) itself."""
        yield
        libc = ctypes.CDLL(None, use_errno=True)
        descriptor = libc.inotify_init1(os.O_CLOEXEC)
        if libc.inotify_add_watch(descriptor, os.fsencode(self.path), MASK) < 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), self.path)
        yield
        self.follow(descriptor)

    def stream(self, *, event_fd: bool = False) -> Iterator[None]:
        """The control socket."""
        from notifyfs.client.blocking import Connection, find_socket  # noqa: PLC0415 - before the time is taken

        yield
        connection = Connection(find_socket(self.path), event_fd=event_fd)
        below = os.path.relpath(self.path, connection.hello["mountpoint"])
        connection.add_watch(MASK | (RECURSIVE if self.recursive else 0), b"" if below == "." else os.fsencode(below))
        descriptor = os.dup(connection.fileno())
        os.set_blocking(descriptor, True)
        yield
        self.follow(descriptor)

    def event_fd(self) -> Iterator[None]:
        """The descriptor of its own."""
        return self.stream(event_fd=True)

    def drop_in(self) -> Iterator[None]:
        """inotify_simple's face."""
        from notifyfs import INotify  # noqa: PLC0415 - before the time is taken

        yield
        instance = INotify()
        instance.add_watch(self.path, MASK)
        yield
        while events := instance.read():
            when = now()
            for event in events:
                letter = LETTERS.get(event.mask & MASK)
                if letter is not None:
                    self.heard.setdefault(letter + event.name, when)

    def _lines(self, command: list[str]) -> Iterator[None]:
        """A program that prints its events, one a line."""
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, bufsize=1)
        self.end = process.kill
        if process.stderr is None or process.stdout is None:
            raise OSError("no pipes")
        for line in process.stderr:
            if "established" in line:
                break
        else:
            raise OSError(f"{command[0]} ended with {process.wait()}")
        yield
        for line in process.stdout:
            when = now()
            words, _, name = line.rstrip("\n").partition(" ")
            letter = next((letter for word, letter in WORDS.items() if word in words.split(",")), None)
            if letter is not None:
                self.heard.setdefault(letter + os.path.basename(name), when)

    def inotifywait(self) -> Iterator[None]:
        """The C program."""
        yield
        yield from self._lines(
            ["inotifywait", "-m", *(["-r"] if self.recursive else []), "-e", EVENTS, "--format", "%e %f", self.path]
        )

    def notifyfs_watch(self) -> Iterator[None]:
        """Ours."""
        command = os.path.join(os.path.dirname(sys.executable), "notifyfs")
        yield
        yield from self._lines(
            [command, "watch", "-m", *(["-r"] if self.recursive else []), "-e", EVENTS, "--format", "%e %f", self.path]
        )

    def watchdog(self) -> Iterator[None]:
        """The package of this name, on its inotify observer."""
        from watchdog.events import FileSystemEvent, FileSystemEventHandler  # noqa: PLC0415 - only this one needs it
        from watchdog.observers import Observer  # noqa: PLC0415 - as above

        heard, letters = self.heard, {"created": "c", "moved": "t", "deleted": "d", "modified": "w"}

        class Handler(FileSystemEventHandler):
            def dispatch(self, event: FileSystemEvent) -> None:
                when = now()
                letter = letters.get(event.event_type)
                if letter is not None:
                    name = os.path.basename(event.dest_path if letter == "t" else event.src_path)
                    heard.setdefault(letter + os.fsdecode(name), when)

        yield
        observer = Observer()
        observer.schedule(Handler(), self.path, recursive=self.recursive)
        observer.start()
        yield
        observer.join()

    def watchfiles(self) -> Iterator[None]:
        """The package of this name, with the shortest times that it takes."""
        from watchfiles import Change, watch  # noqa: PLC0415 - only this one needs it

        yield
        changes = watch(
            self.path,
            watch_filter=None,
            debounce=1,
            step=1,
            rust_timeout=1,
            yield_on_timeout=True,
            recursive=self.recursive,
            force_polling=False,
        )
        next(changes)  # it watches when it gives something
        yield
        letters = {Change.deleted: "d", Change.modified: "w"}
        for changed in changes:
            when = now()
            for change, where in changed:
                name = os.path.basename(where)
                letter = letters.get(change) or ("t" if name.startswith("r") else "c")
                self.heard.setdefault(letter + name, when)


EVENTS: Final = "create,moved_to,delete,modify"


def main() -> int:
    """See the module."""
    kind, path, *rest = sys.argv[1:]
    reader = Reader(path, recursive=rest == ["recursive"])
    steps = getattr(reader, kind.replace("-", "_"))()
    next(steps)  # it has imported what it needs
    began = time.perf_counter()
    next(steps)
    print("ready", time.perf_counter() - began, flush=True)
    thread = threading.Thread(target=lambda: next(steps, None), daemon=True)
    thread.start()
    wanted = sys.stdin.readline()
    if wanted:
        deadline = time.monotonic() + PATIENCE
        while len(reader.heard) < int(wanted) and time.monotonic() < deadline:
            time.sleep(0.005)
        print(json.dumps(dict(reader.heard)), flush=True)
    reader.end()
    os._exit(0)  # whatever threads a package has started


if __name__ == "__main__":
    main()
