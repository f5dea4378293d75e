"""What to watch: operands and lists of them -> descriptors or names, and how each is printed."""

from __future__ import annotations

import contextlib
import os
import stat
import sys
from typing import TYPE_CHECKING, NamedTuple

from notifyfs.client import Connection, find_socket
from notifyfs.commands.watch.hints import reason
from notifyfs.commands.watch.inotifywait import Watched
from notifyfs.protocol.flags import DONT_FOLLOW, ONLYDIR, X_RECURSIVE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from notifyfs.client import Filter
    from notifyfs.commands.watch.inotifywait import Translator


class Target(NamedTuple):
    """One path to watch, opened."""

    path: bytes
    descriptor: int
    shown: bytes
    recursive: bool


class WatchError(Exception):
    """A path that cannot be watched; its text is the line for the user."""

    def __init__(self, path: bytes, error: OSError, *, recursive: bool = False, by_name: bool = False) -> None:
        why = reason(path, error, recursive=recursive, by_name=by_name)
        super().__init__(f"Couldn't watch {os.fsdecode(path)}: {why}")


def read_lists(lists: Iterable[str], complain: Callable[[str], None]) -> Iterator[bytes]:
    """Yield the lines of the files that ``--fromfile`` names; ``-`` is standard input.

    Like inotifywait it goes on without a file that cannot be read, after a complaint.
    """
    for name in lists:
        try:
            if name == "-":
                yield from sys.stdin.buffer.read().split(b"\n")
            else:
                with open(name, "rb") as file:
                    yield from file.read().split(b"\n")
        except OSError as error:
            complain(f"Couldn't open {name}: {error.strerror}")


def sort_out(operands: Iterable[bytes]) -> tuple[list[bytes], list[bytes]]:
    """Separate what is to be watched from what ``@`` excludes (as directories, with a slash at their end)."""
    watched, excluded = [], []
    for operand in operands:
        if not operand.startswith(b"@"):
            watched.append(operand)
        elif len(operand) > 1:
            excluded.append(operand[1:].removesuffix(b"/") + b"/")
    return [path for path in watched if path], excluded


def open_target(path: bytes, *, recursive: bool, follow: bool) -> Target:
    """Open *path* for a watch on it, with everything below if *recursive* and it is a directory. OSError as open(2)."""
    if recursive:
        # inotifywait opens the directory to list it, so a link is followed there even with -P.
        with contextlib.suppress(NotADirectoryError):
            descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC | os.O_DIRECTORY)
            return Target(path, descriptor, _with_slash(path), recursive=True)
    descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC | (0 if follow else os.O_NOFOLLOW))
    is_dir = stat.S_ISDIR(os.lstat(path).st_mode)  # a link to a directory is printed without a slash
    return Target(path, descriptor, _with_slash(path) if is_dir else path, recursive=False)


def without_covered(targets: list[Target], excluded: list[bytes]) -> list[Target]:
    """Leave out each tree that lies in another one: it would be heard twice. *excluded*: what is left out of those."""
    trees = {_identity(target.descriptor): target.shown for target in targets if target.recursive}
    kept: list[Target] = []
    seen = set()
    for target in targets:
        identity = _identity(target.descriptor)
        around = [trees[above] for above in _above(target.descriptor) if above in trees] if target.recursive else []
        if target.recursive and (identity in seen or any(_covers(tree, target.shown, excluded) for tree in around)):
            os.close(target.descriptor)
            continue
        seen.add(identity)
        kept.append(target)
    return kept


def _covers(tree: bytes, inner: bytes, excluded: list[bytes]) -> bool:
    return not any(inner.startswith(out) and not tree.startswith(out) for out in excluded)


class Watcher:
    """Puts targets under watch, with one connection a mount.

    Args:
        translator: makes the Translator of a mount's connection, given its mountpoint.
        more: bits for every watch besides the events.
        excluded: from ``sort_out``.
        chosen: makes the filter of a target's watch; None stands for one that is known by name only.

    """

    def __init__(
        self,
        translator: Callable[[str], Translator],
        more: int,
        excluded: list[bytes],
        chosen: Callable[[Target | None], Filter | None],
    ) -> None:
        self.connections: dict[str, tuple[Connection, Translator]] = {}
        self._translator = translator
        self._more = more
        self._excluded = excluded
        self._chosen = chosen

    def add(self, target: Target) -> None:
        """Watch *target*. WatchError: it is on no notifyfs mount, or the daemon refuses."""
        try:
            connection, translator = self.connect(find_socket(target.descriptor))
            mask = translator.mask(recursive=target.recursive) | self._more | (X_RECURSIVE if target.recursive else 0)
            wd = connection.add_watch_fd(mask, target.descriptor, filter=self._chosen(target))
        except OSError as error:
            raise WatchError(target.path, error, recursive=target.recursive) from None
        finally:
            os.close(target.descriptor)
        self._remember(translator, wd, target.shown, recursive=target.recursive)

    def add_by_name(self, socket_path: str, path: bytes, *, recursive: bool) -> None:
        """Watch *path*, below the root of the mount that *socket_path* leads to."""
        try:
            connection, translator = self.connect(socket_path)
            below = path.lstrip(b"/")
            chosen = self._chosen(None)
            mask = translator.mask(recursive=recursive) | self._more
            try:
                more = X_RECURSIVE if recursive else ONLYDIR | DONT_FOLLOW
                wd = connection.add_watch(mask | more, below, filter=chosen)
            except NotADirectoryError:
                recursive = False
                wd = connection.add_watch(translator.mask(recursive=False) | self._more, below, filter=chosen)
                shown = path
            else:
                shown = _with_slash(path)
        except OSError as error:
            raise WatchError(path, error, recursive=recursive, by_name=True) from None
        self._remember(translator, wd, shown, recursive=recursive)

    def connect(self, socket_path: str) -> tuple[Connection, Translator]:
        """Return the connection to that daemon, made the first time."""
        if socket_path not in self.connections:
            connection = Connection(socket_path)
            self.connections[socket_path] = connection, self._translator(str(connection.hello["mountpoint"]))
        return self.connections[socket_path]

    def _remember(self, translator: Translator, wd: int, shown: bytes, *, recursive: bool) -> None:
        excluded = tuple(out for out in self._excluded if not shown.startswith(out)) if recursive else ()
        translator.watches.setdefault(wd, Watched(shown, recursive, excluded))


def _with_slash(path: bytes) -> bytes:
    return path if path.endswith(b"/") else path + b"/"


def _identity(descriptor: int) -> tuple[int, int]:
    status = os.fstat(descriptor)
    return status.st_dev, status.st_ino


def _above(descriptor: int) -> Iterator[tuple[int, int]]:
    """Yield the identity of each directory above one, up to the root of the name space."""
    place = os.dup(descriptor)
    try:
        while True:
            below = _identity(place)
            parent = os.open("..", os.O_PATH | os.O_CLOEXEC, dir_fd=place)
            os.close(place)
            place = parent
            if _identity(place) == below:
                return
            yield _identity(place)
    finally:
        os.close(place)
