"""What is done: by root, or by a user in a process of that user's."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

from tests.support import kernel
from tests.support.posix import GROUP_OBJ, GROUP_TAG, MASK, NOBODY, OTHERS, USER_OBJ, USER_TAG, acl

if TYPE_CHECKING:
    import random
    from pathlib import Path

ACCESS = "system.posix_acl_access"

GROUPS = (31001, 31002)
USERS = {"root": (0, ()), "ann": (21001, (31001,)), "bob": (21002, (31001, 31002)), "eve": (21003, ())}
"""Each one's user and group id, and supplementary groups."""

FILES = ("a", "b", "c")
DIRECTORIES = ("d", "e", "f")
TOP, ABOVE, OTHER = "top", "above", "other"

MODES = (0o755, 0o755, 0o755, 0o777, 0o711, 0o744, 0o733, 0o700, 0o750, 0o740, 0o710, 0o705, 0o077, 0o007, 0, 0o2775)

OFTEN = 0.15
"""How often what is changed is the watched directory itself."""

INSIDE = 0.7
"""How often it is done below that directory, whatever else there is."""

Operation = tuple[str, ...]


class Hands:
    """One process's: does operations below *base*, and keeps what it has open."""

    def __init__(self, base: Path) -> None:
        self._base = os.fsencode(base)
        self._open: dict[str, int] = {}

    def do(self, operation: Operation) -> str:
        """Do it: the name of the errno, or nothing."""
        verb, *words = operation
        try:
            getattr(self, f"_{verb}")(*words)
        except OSError as error:
            return errno.errorcode[error.errno or 0]
        except KeyError:
            return "none"
        return ""

    def close(self) -> None:
        """Close what is open."""
        for handle in list(self._open):
            self._close(handle)

    def _at(self, path: str) -> bytes:
        return os.path.join(self._base, path.encode())

    def _put(self, path: str, how: str) -> None:
        fd = os.open(self._at(path), os.O_WRONLY | os.O_CREAT | getattr(os, f"O_{how}"), 0o666)
        try:
            os.write(fd, b"x")
        finally:
            os.close(fd)

    def _get(self, path: str) -> None:
        os.close(os.open(self._at(path), os.O_RDONLY))

    def _hold(self, path: str, handle: str) -> None:
        if handle not in self._open:
            self._open[handle] = os.open(self._at(path), os.O_RDWR)

    def _write(self, handle: str) -> None:
        os.write(self._open[handle], b"y")

    def _close(self, handle: str) -> None:
        os.close(self._open.pop(handle))

    def _list(self, path: str) -> None:
        os.listdir(self._at(path))

    def _unlink(self, path: str) -> None:
        os.unlink(self._at(path))

    def _link(self, old: str, new: str) -> None:
        os.link(self._at(old), self._at(new))

    def _symlink(self, path: str) -> None:
        os.symlink("nowhere", self._at(path))

    def _node(self, path: str) -> None:
        os.mkfifo(self._at(path), 0o666)

    def _move(self, old: str, new: str, how: str) -> None:
        kernel.rename(self._at(old), self._at(new), how)

    def _mode(self, path: str, mode: str) -> None:
        os.chmod(self._at(path), int(mode, 8))

    def _owner(self, path: str, uid: str, gid: str) -> None:
        os.chown(self._at(path), int(uid), int(gid))

    def _list_of(self, path: str, value: str) -> None:
        os.setxattr(self._at(path), ACCESS, bytes.fromhex(value))

    def _no_list(self, path: str) -> None:
        os.removexattr(self._at(path), ACCESS)

    def _touch(self, path: str) -> None:
        os.utime(self._at(path))

    def _cut(self, path: str) -> None:
        os.truncate(self._at(path), 0)

    def _attribute(self, path: str) -> None:
        os.setxattr(self._at(path), "user.note", b"x")

    def _mkdir(self, path: str, mode: str) -> None:
        os.mkdir(self._at(path), int(mode, 8))

    def _rmdir(self, path: str) -> None:
        os.rmdir(self._at(path))


class Generator:
    """Draws operations on the directories that there are: ``directories``, of which ``top`` is the watched one."""

    def __init__(self, chance: random.Random) -> None:
        self._chance = chance
        self.directories = [ABOVE, OTHER, f"{ABOVE}/{TOP}"]
        self.top = f"{ABOVE}/{TOP}"

    def ordinary(self) -> Operation:
        """One that makes, removes or moves no directory, and changes no permissions of any."""
        chance, file = self._chance, self._file()
        return chance.choice(
            [
                *[("put", file, chance.choice(("APPEND", "TRUNC")))] * 4,
                ("get", file),
                ("hold", file, handle := str(chance.randrange(3))),
                ("write", handle),
                ("close", handle),
                ("unlink", file),
                ("move", file, self._file(), chance.choice(("", "", "", "noreplace", "exchange"))),
                ("link", file, self._file()),
                ("mode", file, chance.choice(("644", "666", "600"))),
                ("cut", file),
                (chance.choice(("list", "touch", "attribute")), chance.choice((file, self._directory()))),
                (kind := chance.choice(("symlink", "node")), f"{self._directory()}/{kind}"),  # nothing opens a pipe
            ]
        )

    def of_a_directory(self) -> Operation:
        """One that a watch may not outlive."""
        chance = self._chance
        place = self.top if chance.random() < OFTEN else self._directory()
        return chance.choice(
            [
                *[("mode", place, f"{chance.choice(MODES):o}")] * 5,
                *[("list_of", place, self._access_list().hex())] * 3,
                *[("owner", place, *self._owner())] * 2,
                ("no_list", place),
                ("mkdir", self._name(), f"{chance.choice(MODES):o}"),
                ("rmdir", self._below()),
                *[self._move()] * 2,
            ]
        )

    def _move(self) -> Operation:
        chance = self._chance
        if chance.random() < OFTEN:
            return "move", self.top, f"{chance.choice((ABOVE, OTHER))}/{TOP}", ""
        return "move", self._below(), self._name(), chance.choice(("", "", "exchange"))

    def _below(self) -> str:
        return self._chance.choice([each for each in self.directories if each not in {ABOVE, OTHER, self.top}] or ["-"])

    def _directory(self) -> str:
        inside = [each for each in self.directories if each.startswith(self.top)]
        return self._chance.choice(inside if self._chance.random() < INSIDE else self.directories)

    def _file(self) -> str:
        return f"{self._directory()}/{self._chance.choice(FILES)}"

    def _name(self) -> str:
        return f"{self._directory()}/{self._chance.choice(DIRECTORIES)}"

    def _owner(self) -> tuple[str, str]:
        uid, _ = self._chance.choice(list(USERS.values()))
        return str(uid), str(self._chance.choice((*GROUPS, uid, 0)))

    def _access_list(self) -> bytes:
        chance = self._chance

        def bits() -> int:
            return chance.choice((7, 5, 5, 4, 1, 0))

        users = sorted(chance.sample([21001, 21002, 21003], chance.randrange(3)))
        groups = sorted(chance.sample(GROUPS, chance.randrange(3)))
        return acl(
            (USER_OBJ, bits(), NOBODY),
            *((USER_TAG, bits(), uid) for uid in users),
            (GROUP_OBJ, bits(), NOBODY),
            *((GROUP_TAG, bits(), gid) for gid in groups),
            (MASK, bits(), NOBODY),
            (OTHERS, bits(), NOBODY),
        )
