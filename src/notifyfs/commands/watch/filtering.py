"""What the daemon is to leave out: from the options and from ``.gitignore`` files to a client's ``Filter``."""

from __future__ import annotations

import contextlib
import errno
import os
import pwd
import re
import stat
from typing import TYPE_CHECKING, Final

from notifyfs.client import Filter

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from notifyfs.core.filters import Matcher

_ABSENT: Final = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG})
"""What is not there, is no file of that kind (as in git, which follows no link here), or lies too deep for events."""


def user_id(text: str) -> int:
    """Return the number of the user *text*, a name or a number; ValueError when there is none of that name."""
    if text.isdecimal():
        return int(text)
    try:
        return pwd.getpwnam(text).pw_uid
    except KeyError:
        raise ValueError(f"{text}: no such user on this machine; write a number") from None


def seconds(text: str) -> float:
    """Return the time that *text* names: ``100ms``, ``1s``, ``2m``, ``0.5``; ValueError when it is none."""
    found = re.fullmatch(r"([0-9]+(?:\.[0-9]*)?|\.[0-9]+)(ms|s|m|)", text, re.ASCII)
    if not found:
        raise ValueError(f"'{text}' is not a valid duration; write 100ms, 1s or 0.5")
    return float(found[1]) * {"ms": 0.001, "m": 60.0}.get(found[2], 1.0)


def of_globs(globs: Iterable[str]) -> Filter:
    """Tell only of what a glob matches, and of nothing that one after ``!`` matches."""
    named = list(globs)
    return Filter(
        include=[glob for glob in named if not glob.startswith("!")],
        exclude=[glob[1:] for glob in named if glob.startswith("!")],
    )


def of_tree(directory: int, shown: bytes, *, recursive: bool) -> Filter:
    """Exclude what git would ignore in the watched *directory*, and its ``.git``.

    Read are its ``.gitignore`` and, with *recursive*, those of the directories below that are not ignored
    themselves; but neither those above nor git's own lists. They are read once.

    Args:
        directory: a descriptor of it, ``O_PATH`` is enough; of anything else: nothing is excluded.
        shown: what it is called in complaints, with a slash at its end.
        recursive: as above.

    OSError as open(2), or EINVAL for a line that is no pattern; its strerror names the file.

    """
    found = Filter(exclude=[".git"])
    waiting = [(b"", found, _matcher(found))]  # directories, and the rules that apply to them
    while waiting:
        place, rules, matcher = waiting.pop()
        name = place + b".gitignore"
        with _named(shown + name):
            text = _read(directory, name)
        if text:
            try:
                own = Filter.from_lines(text, os.fsdecode(shown + name), beneath=place)
            except ValueError as error:
                raise OSError(errno.EINVAL, str(error)) from None
            found, rules = found + own, rules + own
            matcher = _matcher(rules)
        if recursive:
            with _named(shown + place):
                below = [place + each for each in _directories(directory, place or b".")]
            waiting += [(path + b"/", rules, matcher) for path in below if matcher.wants(path, is_dir=True)]
    return found


@contextlib.contextmanager
def _named(path: bytes) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, f"{os.fsdecode(path)}: {error.strerror}") from None


def _matcher(rules: Filter) -> Matcher:
    """Make the daemon's own judge of *rules*. OSError: it would refuse one."""
    from notifyfs.core.filters import Draft  # noqa: PLC0415 - and pathspec, which few need

    draft = Draft(0, 0)
    for rule in rules.rules:
        try:
            draft.add(rule.kind, rule.value)
        except OSError as error:
            raise rule.refused(error.errno or errno.EINVAL) from None
    return draft.take()


def _read(directory: int, name: bytes) -> bytes | None:
    """Return what the regular file *name* below *directory* holds; None if there is none."""
    try:
        # A FIFO would make us wait.
        file = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=directory)
    except OSError as error:
        if error.errno in _ABSENT:
            return None
        raise
    if not stat.S_ISREG(os.fstat(file).st_mode):
        os.close(file)
        return None
    with open(file, "rb") as opened:
        return opened.read()


def _directories(directory: int, name: bytes) -> list[bytes]:
    """Name the directories in the directory *name* below *directory*."""
    try:
        place = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
    except OSError as error:
        if error.errno in _ABSENT:  # removed meanwhile
            return []
        raise
    try:
        with os.scandir(place) as entries:
            return [os.fsencode(entry.name) for entry in entries if entry.is_dir(follow_symlinks=False)]
    finally:
        os.close(place)
