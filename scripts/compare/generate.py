"""Random operations: mostly on what is there, often enough on what is not, by whom it may and may not."""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING, Any, Final

from scripts.compare.operations import USERS, UTIME_NOW, UTIME_OMIT, acl, failed

if TYPE_CHECKING:
    import random

    from scripts.compare.operations import Operation

NAMES: Final = ("a", "b", "c", "d", "e", "x y", "\udcff\udcfe", "ü", "l" * 255)
ATTRIBUTES: Final = ("user.a", "user.b", "user.long" + "g" * 240, "trusted.t", "security.s", "user.", "nonsense.n")
CAPABILITY: Final = "01000002" + "00200000" + "00000000" * 3
"""cap_net_raw, effective (struct vfs_cap_data)."""
WHO: Final = (("root", 60), ("ann", 25), ("bob", 15))
NOREPLACE, EXCHANGE, WHITEOUT = 1, 2, 4
DEEPEST: Final = 5
BIGGEST: Final = 1 << 20
FOREVER: Final = 1 << 62

WEIGHTS: Final = {
    "open": 16, "close": 5, "dup": 1, "read": 5, "pread": 5, "write": 7, "pwrite": 6, "pwritev": 1, "direct": 1,
    "seek": 3, "truncate": 3, "ftruncate": 3, "fsync": 0.3, "map": 4, "copy": 2, "sendfile": 1,
    "mkdir": 6, "rmdir": 3, "unlink": 6, "rename": 8, "link": 5, "symlink": 3, "readlink": 2, "mknod": 2, "list": 4,
    "stat": 5, "fstat": 3, "access": 2, "chmod": 4, "fchmod": 1, "chown": 3, "fchown": 1, "utimes": 4, "futimes": 1,
    "setxattr": 5, "getxattr": 3, "removexattr": 2, "listxattr": 2, "namelen": 0.2,
}  # fmt: skip


class Generator:
    """Operations on what is below *base*, with descriptors in *slots*; *beside* is a prefix of more names of ours.

    *without* has the words of ``known.KNOWN`` that are to be left out.
    """

    def __init__(  # noqa: PLR0913 - where, with what, and without what
        self,
        chance: random.Random,
        base: str,
        slots: range,
        *,
        beside: str = "",
        names: tuple[str, ...] = NAMES,
        without: frozenset[str] = frozenset(),
    ) -> None:
        self._chance = chance
        self._base = base
        self._slots = slots
        self._beside = beside
        self._names = (*names, *(beside + letter for letter in "abcd")) if beside else names
        self._without = without
        self._known: list[str] = []
        self._taken: set[int] = set()
        self._verbs, self._weights = list(WEIGHTS), list(WEIGHTS.values())

    def operation(self) -> Operation:
        """The next one."""
        (verb,) = self._chance.choices(self._verbs, self._weights)
        arguments = getattr(self, "_" + verb)()
        (who,) = self._chance.choices([name for name, _ in WHO], [weight for _, weight in WHO])
        mask = self._chance.choice((0, 0o022, 0o077, 0o027))
        if "setgid" in self._without and verb in {"open", "mknod"}:
            mask &= ~0o010
        return [who, mask, verb, *arguments]

    def following(self, operation: Operation) -> Operation | None:
        """Perhaps a look at what *operation* was about."""
        paths = [each for each in operation[3:] if isinstance(each, str) and each.startswith((self._base, "free/d"))]
        if not paths or self._chance.random() > 0.3:  # noqa: PLR2004 - not always: a look refreshes caches
            return None
        path = self._chance.choice(paths)
        if self._chance.random() < 0.2 and path != self._base:  # noqa: PLR2004
            path = os.path.dirname(path.rstrip("/"))
            if path.startswith("free"):
                return None
        return ["root", 0, "stat", path, False]

    def learn(self, operation: Operation, outcome: Any) -> None:
        """What came of *operation* on the plain directory."""
        verb, arguments = operation[2], operation[3:]
        made = {"mkdir": 0, "mknod": 0, "symlink": 1, "link": 1, "rename": 1, "open": 1}.get(verb)
        if made is not None and not failed(outcome) and not arguments[made].startswith("@"):
            self._know(arguments[made].rstrip("/"))
        if verb == "open":
            (self._taken.discard if failed(outcome) else self._taken.add)(arguments[0])
        elif verb == "dup" and not failed(outcome):
            self._taken.add(arguments[1])
        elif verb == "close":
            self._taken.discard(arguments[0])
        gone = {"rmdir": 0, "unlink": 0, "rename": 0, "stat": 0, "open": 1}.get(verb)
        if gone is not None and (outcome == "ENOENT" or (verb not in {"stat", "open"} and not failed(outcome))):
            self._forget(arguments[gone].rstrip("/"))

    def _know(self, path: str) -> None:
        if path not in self._known:
            self._known.append(path)

    def _forget(self, path: str) -> None:
        if path in self._known:
            self._known.remove(path)

    # What operations are about

    def _path(self, *, new: float = 0.15) -> str:
        """A path; *new* is how likely it is made up."""
        chance = self._chance
        if self._known and chance.random() > new:
            path = chance.choice(self._known)
        else:
            path = self._below(chance.choice(self._known) if self._known and chance.random() < 0.6 else self._base)  # noqa: PLR2004
        odd = chance.random()
        if odd < 0.01:  # noqa: PLR2004
            path += chance.choice(("/", "/.", "/" + "n" * 256, *(["/.."] if path.startswith(self._base) else [])))
        elif odd < 0.04:  # noqa: PLR2004
            path = f"@{self._slot()}" + chance.choice(("", "/" + chance.choice(self._names)))
        return path

    def _new(self) -> str:
        return self._path(new=0.7)

    def _below(self, directory: str) -> str:
        if self._beside and self._chance.random() < 0.15:  # noqa: PLR2004
            return f"free/d{self._chance.randrange(3)}/{self._beside}{self._chance.choice('abcd')}"
        if directory.count("/") - self._base.count("/") >= DEEPEST:
            directory = self._base
        return f"{directory}/{self._chance.choice(self._names)}"

    def _slot(self) -> int:
        taken = sorted(self._taken)
        return self._chance.choice(taken if taken and self._chance.random() < 0.95 else self._slots)  # noqa: PLR2004

    def _length(self) -> int:
        return self._chance.choice((0, 1, 7, 100, 4095, 4096, 4097, 9000, self._chance.randrange(70_000), 300_000))

    def _offset(self) -> int:
        chance = self._chance
        if chance.random() < 0.005:  # noqa: PLR2004
            return chance.choice((-1, FOREVER, 1 << 45))
        return chance.choice((0, 1, 4095, 4096, 8192, chance.randrange(100_000), chance.randrange(BIGGEST)))

    def _near(self) -> int:
        offset = self._offset()
        return min(offset, BIGGEST) if "far" in self._without else offset

    def _seed(self) -> int:
        return self._chance.randrange(1 << 20)

    def _mode(self) -> int:
        chance = self._chance
        mode = chance.choice((0o644, 0o666, 0o600, 0o755, 0o777, 0o4755, 0o2755, 0o6777, 0o1777, 0o2777, 0, 0o070,
                              chance.randrange(0o10000)))  # fmt: skip
        return mode | 0o010 if "setgid" in self._without and mode & stat.S_ISGID else mode

    def _owner(self) -> int:
        return self._chance.choice((-1, *(user.uid for user in USERS.values())))

    def _group(self) -> int:
        return self._chance.choice((-1, 5555, 5556, *(user.gid for user in USERS.values())))

    def _times(self) -> list[int]:
        chance, times = self._chance, []
        for _ in range(2):
            second = chance.choice(
                (0, 1, chance.randrange(10**9), chance.randrange(4 * 10**9, 15 * 10**9), -1, -(10**8))
            )
            times += [second, chance.choice((0, 1, 999_999_999, chance.randrange(10**9), UTIME_NOW, UTIME_OMIT))]
        return times

    def _yes(self) -> bool:
        return self._chance.random() < 0.5  # noqa: PLR2004

    # The verbs' arguments

    def _open(self) -> list[Any]:
        chance = self._chance
        flags = chance.choice((os.O_RDONLY, os.O_WRONLY, os.O_RDWR, os.O_RDWR, os.O_RDWR))
        if chance.random() < 0.02:  # noqa: PLR2004
            flags = os.O_ACCMODE
        for flag, often in (
            (os.O_CREAT, 0.5), (os.O_EXCL, 0.1), (os.O_TRUNC, 0.15), (os.O_APPEND, 0.15), (os.O_DIRECTORY, 0.06),
            (os.O_NOFOLLOW, 0.1), (os.O_PATH, 0.05), (os.O_SYNC, 0.01), (os.O_DSYNC, 0.01), (os.O_NOATIME, 0.05),
        ):  # fmt: skip
            if chance.random() < often:
                flags |= flag
        # Always: nobody waits for the other end of a FIFO.
        slot = self._chance.choice(self._slots)
        return [slot, self._path(new=0.5 if flags & os.O_CREAT else 0.1), flags | os.O_NONBLOCK, self._mode()]

    def _close(self) -> list[Any]:
        return [self._slot()]

    def _dup(self) -> list[Any]:
        return [self._slot(), self._chance.choice(self._slots)]

    def _read(self) -> list[Any]:
        return [self._slot(), self._length()]

    def _pread(self) -> list[Any]:
        return [self._slot(), self._length(), self._offset()]

    def _write(self) -> list[Any]:
        return [self._slot(), self._length(), self._seed()]

    def _pwrite(self) -> list[Any]:
        return [self._slot(), self._length(), self._seed(), self._near()]

    def _pwritev(self) -> list[Any]:
        return [*self._pwrite(), self._chance.choice((0, os.RWF_DSYNC, os.RWF_APPEND, os.RWF_HIPRI))]

    def _direct(self) -> list[Any]:
        return [self._slot(), self._chance.randrange(1, 5), self._seed(), self._chance.randrange(20), self._yes()]

    def _seek(self) -> list[Any]:
        return [self._slot(), self._near(), self._chance.choice((os.SEEK_SET, os.SEEK_CUR, os.SEEK_END, 77))]

    def _truncate(self) -> list[Any]:
        return [self._path(), self._offset()]

    def _ftruncate(self) -> list[Any]:
        return [self._slot(), self._offset()]

    def _fsync(self) -> list[Any]:
        return [self._slot(), self._yes()]

    def _map(self) -> list[Any]:
        places = [self._chance.randrange(self._chance.choice((16, 5000, BIGGEST))) for _ in range(4)]
        return [self._slot(), places, self._seed(), self._chance.random() < 0.6, self._yes()]  # noqa: PLR2004

    def _copy(self) -> list[Any]:
        return [self._slot(), self._slot(), self._length(), self._near(), self._near()]

    def _sendfile(self) -> list[Any]:
        return [self._slot(), self._slot(), self._length(), self._near()]

    def _mkdir(self) -> list[Any]:
        return [self._new(), self._mode() | (0o700 if self._chance.random() < 0.8 else 0)]  # noqa: PLR2004

    def _rmdir(self) -> list[Any]:
        return [self._path()]

    def _unlink(self) -> list[Any]:
        return [self._path()]

    def _rename(self) -> list[Any]:
        flags = self._chance.choice((0, 0, 0, NOREPLACE, EXCHANGE, WHITEOUT, NOREPLACE | EXCHANGE, 8))
        if "whiteout" in self._without:
            flags &= ~WHITEOUT
        return [self._path(), self._path(new=0.5), flags]

    def _link(self) -> list[Any]:
        return [self._path(), self._new(), self._chance.random() < 0.3]  # noqa: PLR2004

    def _symlink(self) -> list[Any]:
        # Never to what others use: a link may be moved to a directory that all share.
        name = self._beside + self._chance.choice("abcd")
        target = self._chance.choice((name, name, f"../{name}", f"./{name}/b", f"{name}/{name}", "t" * 4000, ""))
        return [target, self._new()]

    def _readlink(self) -> list[Any]:
        return [self._path()]

    def _mknod(self) -> list[Any]:
        kind = self._chance.choice((stat.S_IFREG, stat.S_IFIFO, stat.S_IFSOCK, stat.S_IFCHR, 0))
        return [self._new(), kind | self._mode(), os.makedev(1, 3) if kind == stat.S_IFCHR else 0]

    def _list(self) -> list[Any]:
        path = self._path(new=0.05)
        return [path, self._beside if os.path.dirname(path) == "free" else ""]

    def _stat(self) -> list[Any]:
        return [self._path(), self._yes()]

    def _fstat(self) -> list[Any]:
        return [self._slot()]

    def _access(self) -> list[Any]:
        return [self._path(), self._chance.randrange(8)]

    def _chmod(self) -> list[Any]:
        return [self._path(), self._mode()]

    def _fchmod(self) -> list[Any]:
        return [self._slot(), self._mode()]

    def _chown(self) -> list[Any]:
        return [self._path(), self._owner(), self._group(), self._yes()]

    def _fchown(self) -> list[Any]:
        return [self._slot(), self._owner(), self._group()]

    def _utimes(self) -> list[Any]:
        return [self._path(), self._times(), self._yes()]

    def _futimes(self) -> list[Any]:
        return [self._slot(), self._times()]

    def _attribute(self) -> str:
        return self._chance.choice((*ATTRIBUTES, "system.posix_acl_access", "system.posix_acl_default"))

    def _setxattr(self) -> list[Any]:
        chance = self._chance
        if chance.random() < 0.4:  # noqa: PLR2004
            return [self._path(), *self._access_list(), 0, self._yes()]
        if chance.random() < 0.1:  # noqa: PLR2004
            return [self._path(), "security.capability", CAPABILITY, 0, self._yes()]
        length = chance.choice((0, 1, 10, 100, 1000, 3000, 5000, 65536, 65537))
        value = chance.randbytes(min(length, 10)).hex() + "00" * max(0, length - 10)
        flags = chance.choice((0, 0, 0, os.XATTR_CREATE, os.XATTR_REPLACE))
        return [self._path(), chance.choice(ATTRIBUTES), value, flags, self._yes()]

    def _access_list(self) -> tuple[str, str]:
        chance = self._chance
        nobody = 0xFFFFFFFF

        def bits() -> int:
            return chance.randrange(8)

        def group_bits() -> int:
            return bits() | ("setgid" in self._without)

        name = "system.posix_acl_" + chance.choice(("access", "default"))
        if chance.random() < 0.05:  # noqa: PLR2004
            return name, chance.choice(("", "02000000", "03000000", acl((1, 7, nobody)), acl((1, 9, nobody))))
        owner, group, others = (1, bits(), nobody), (4, group_bits(), nobody), (0x20, bits(), nobody)
        if chance.random() < 0.3:  # noqa: PLR2004
            return name, acl(owner, group, others)
        named = [(2, bits(), USERS["ann"].uid)] if self._yes() else []
        groups = [(8, bits(), 5555)] if self._yes() else []
        return name, acl(owner, *named, group, *groups, (0x10, group_bits(), nobody), others)

    def _getxattr(self) -> list[Any]:
        return [self._path(), self._attribute(), self._yes()]

    def _removexattr(self) -> list[Any]:
        return [self._path(), self._attribute(), self._yes()]

    def _listxattr(self) -> list[Any]:
        return [self._path(), self._yes()]

    def _namelen(self) -> list[Any]:
        return [self._path()]
