"""Random steps: most of them possible, some of them not."""

# ruff: noqa: PLR2004 - the numbers are chances: how often each thing is done
from __future__ import annotations

from typing import TYPE_CHECKING, Final

from notifyfs.protocol import flags
from scripts.fuzz.steps import Step

if TYPE_CHECKING:
    import random
    from collections.abc import Callable

    from scripts.fuzz.profile import Profile
    from scripts.fuzz.session import Place, Session

NAMES: Final = ["a", "b", "c", "d", "e", "f", "n" * 15, "n" * 16, "\u00fc"]
MOST_NAMES: Final = 24
DEEPEST: Final = 3
MOST_HANDLES: Final = 10

_EVENTS: Final = [flags.flags(1 << bit) for bit in range(12)]
_MASK_FLAGS: Final = [
    (0.12, flags.ONESHOT),
    (0.25, flags.EXCL_UNLINK),
    (0.12, flags.MASK_ADD),
    (0.10, flags.MASK_CREATE),
    (0.08, flags.ONLYDIR),
    (0.20, flags.DONT_FOLLOW),
    (0.02, flags.ISDIR),
]


def mask(chance: random.Random, *, oneshot: bool = True) -> str:
    """Spell a random watch mask."""
    if chance.random() < 0.02:
        return chance.choice(["ONESHOT", "IGNORED", "0x40000", "DONT_FOLLOW", "MASK_ADD", "OPEN|0x40000"])
    bits = flags.ALL_EVENTS
    if chance.random() < 0.5:
        bits = sum(chance.sample(_EVENTS, chance.randint(1, 8)))
    bits |= sum(flag for share, flag in _MASK_FLAGS if chance.random() < share)
    return flags.spell(bits if oneshot else bits & ~flags.ONESHOT)


class Generator:
    """Makes the next step of *session* from what is there."""

    def __init__(self, chance: random.Random, session: Session, profile: Profile) -> None:
        self._chance = chance
        self._session = session
        self._profile = profile
        self._made = 0
        self._places: list[Place] = []
        self._process = 0
        kinds: list[tuple[float, Callable[[], tuple[str, ...] | None]]] = [
            (5, self._touch), (3, self._put), (3, self._append), (4, self._cat), (5, self._mkdir), (4, self._rmdir),
            (7, self._unlink), (2, self._symlink), (1, self._special), (10, self._rename), (4, self._chmod),
            (2, self._chown), (2, self._times), (3, self._truncate), (3, self._attribute), (2, self._quietly),
            (9, self._open), (5, self._close), (2, self._dup), (6, self._write), (2, self._getdents), (2, self._list),
            (1.5, self._map), (1.5, self._unmap), (0.7, self._fork), (1, self._end), (1, self._sync),
            (10, self._watch), (2, self._unwatch), (0.7, self._pending),
        ]  # fmt: skip
        if profile.links:
            kinds += [(5, self._link), (0.7, self._link_handle), (1, self._reopen)]
        if profile.references:
            kinds += [(2, self._chdir), (2, self._come_back), (3, self._open_path)]
        if session.exact:
            kinds += [(6, self._read)]
        if profile.pages:
            kinds += [(6, self._read), (3, self._touch_map), (2, self._copy), (1, self._will_need)]
        self._weights = [weight for weight, _ in kinds]
        self._kinds = [make for _, make in kinds]

    def step(self) -> Step:
        """Make one."""
        self._places = self._session.tree()
        while True:
            self._process = self._chance.randrange(self._profile.processes)
            make = self._chance.choices(self._kinds, self._weights)[0]
            words = make()
            if words is not None:
                break
        instance = 0
        if words[0] in {"watch", "unwatch", "pending"}:
            instance = self._instance if words[0] == "unwatch" else self._chance.randrange(self._profile.instances)
            return Step(words, instance=instance)
        if words[0] in {"chmod", "chown", "truncate", "write", "append", "put"} and self._chance.random() < 0.06:
            words = ("unprivileged", *words)
        return Step(words, self._process)

    _instance = 0

    # What it is done to

    def _new(self) -> str:
        self._made += 1
        return f"h{self._made}"

    def _some(self, *kinds: str) -> str | None:
        if self._chance.random() < 0.02:
            kinds = ("dir", "file", "link")
        paths = [place.path for place in self._places if place.kind in kinds and place.path != "/"]
        return self._chance.choice(paths) if paths else None

    def _directory(self) -> str:
        return self._chance.choice([place.path for place in self._places if place.kind == "dir"])

    def _free(self) -> str | None:
        """A name that is not there (or, seldom, is)."""
        if len(self._places) > MOST_NAMES and self._chance.random() < 0.9:
            return None
        parent = self._directory().rstrip("/")
        if parent.count("/") >= DEEPEST:
            return None
        taken = {place.path for place in self._places}
        names = [name for name in NAMES if f"{parent}/{name}" not in taken] if self._chance.random() < 0.95 else NAMES
        return f"{parent}/{self._chance.choice(names)}" if names else None

    def _handle(self, *kinds: str, of: str = "") -> str | None:
        names = [
            name
            for name, handle in self._session.handles.items()
            if handle.process == self._process and handle.kind in kinds and of in handle.flags
        ]
        return self._chance.choice(names) if names else None

    def _target(self, *kinds: str) -> str | None:
        if self._chance.random() < 0.35:
            return self._handle(*kinds)
        return self._some(*kinds)

    # What is done; None where there is nothing to do it to

    def _touch(self) -> tuple[str, ...] | None:
        return _with("touch", self._free() if self._chance.random() < 0.7 else self._some("file", "link"))

    def _put(self) -> tuple[str, ...] | None:
        return _with("put", self._some("file") or self._free())

    def _append(self) -> tuple[str, ...] | None:
        return _with("append", self._some("file", "link"))

    def _cat(self) -> tuple[str, ...] | None:
        return _with("cat", self._some("file", "link"))

    def _mkdir(self) -> tuple[str, ...] | None:
        return _with("mkdir", self._free())

    def _rmdir(self) -> tuple[str, ...] | None:
        paths = [place.path for place in self._places if place.kind == "dir" and place.path != "/"]
        empty = [path for path in paths if not any(place.path.startswith(path + "/") for place in self._places)]
        return _with(
            "rmdir", self._chance.choice(empty) if empty and self._chance.random() < 0.9 else self._some("dir")
        )

    def _unlink(self) -> tuple[str, ...] | None:
        return _with("unlink", self._some("file", "link", "special", "file"))

    def _symlink(self) -> tuple[str, ...] | None:
        content = self._chance.choice([*NAMES, "a/b", "d/c", "b/a"])
        path = self._free()
        return ("symlink", content, path) if path else None

    def _special(self) -> tuple[str, ...] | None:
        path = self._free()
        if path is None:
            return None
        kind = self._chance.choice(["reg", "reg", "fifo", "chr", "bind"])
        return ("bind", path) if kind == "bind" else ("mknod", path, kind)

    def _rename(self) -> tuple[str, ...] | None:
        old = self._some("file", "dir", "link", "special")
        new = self._some("file", "dir", "link") if self._chance.random() < 0.5 else self._free()
        if old is None or new is None:
            return None
        how = self._chance.choices(["", "noreplace", "exchange", "whiteout"], [12, 2, 5, 0.4])[0]
        return ("mv", old, new, how) if how else ("mv", old, new)

    def _chmod(self) -> tuple[str, ...] | None:
        target = self._target("file", "dir")
        mode = self._chance.choice(["600", "644", "755", "4755"] if target and "/" in target[:1] else ["755", "700"])
        return ("chmod", mode, target) if target else None

    def _chown(self) -> tuple[str, ...] | None:
        target = self._target("file", "dir")
        owner = self._chance.choice(["0:0", "-1:0", "-1:-1", "0:-1"])
        if self._chance.random() < 0.3 and (link := self._some("link")):
            return "lchown", owner, link
        return ("chown", owner, target) if target else None

    def _times(self) -> tuple[str, ...] | None:
        times = [self._chance.choice(["now", "omit", "1000000000"]) for _ in range(2)]
        if self._chance.random() < 0.3 and (link := self._some("link")):
            return "lutimes", link, *times
        target = self._target("file", "dir")
        return ("utimes", target, *times) if target else None

    def _truncate(self) -> tuple[str, ...] | None:
        return _with("truncate", self._target("file"), self._chance.choice(["0", "7", "100"]))

    def _attribute(self) -> tuple[str, ...] | None:
        target = self._target("file", "dir")
        if target is None:
            return None
        verb = self._chance.choice(["setxattr", "setxattr", "removexattr", "setfacl"])
        if verb == "setfacl":
            return (verb, target) if target.startswith("/") else None
        return verb, target, "user.a"

    def _quietly(self) -> tuple[str, ...] | None:
        return _with("quietly", self._some("file", "dir", "link"))

    def _open(self) -> tuple[str, ...] | None:
        if len(self._session.handles) >= MOST_HANDLES:
            return None
        if self._chance.random() < 0.2:
            path, how = self._free(), self._chance.choice(["RDWR|CREAT|EXCL", "WRONLY|CREAT", "RDONLY|CREAT|TRUNC"])
        elif self._chance.random() < 0.25:
            path, how = self._directory(), self._chance.choice(["RDONLY", "RDONLY|DIRECTORY"])
        else:
            path = self._some("file", "file", "link")
            how = self._chance.choice(
                ["RDONLY", "WRONLY", "RDWR", "WRONLY|APPEND", "RDWR|TRUNC", "RDONLY|TRUNC", "ACCMODE", "RDWR|CREAT"]
            )
        return ("open", path, how, "as", self._new()) if path else None

    def _open_path(self) -> tuple[str, ...] | None:
        path = self._some("file", "dir", "file", "link")
        return ("open", path, "PATH", "as", self._new()) if path else None

    def _reopen(self) -> tuple[str, ...] | None:
        handle = self._handle("file")
        if handle and self._session.handles[handle].ino in self._session.several and self._chance.random() < 0.9:
            return None  # the session ends with it
        return ("open", handle, self._chance.choice(["RDONLY", "RDWR"]), "as", self._new()) if handle else None

    def _close(self) -> tuple[str, ...] | None:
        return _with("close", self._handle("file", "dir", "link", "special", "pipe"))

    def _dup(self) -> tuple[str, ...] | None:
        handle = self._handle("file", "dir")
        return ("dup", handle, "as", self._new()) if handle else None

    def _write(self) -> tuple[str, ...] | None:
        handle = self._handle("file", of="W") or self._handle("file")
        if handle is None:
            return None
        kinds: list[tuple[str, ...]] = [
            ("write", handle, "text"),
            ("pwrite", handle, "5", "x"),
            ("writev", handle, "one", "two"),
            ("fill", handle, "1000"),
        ]
        if self._session.exact or self._profile.pages:
            kinds.append(("posix_fallocate", handle, "0", "64"))
        return self._chance.choice(kinds)

    def _read(self) -> tuple[str, ...] | None:
        handle = self._handle("file", of="RD")
        if handle is None:
            return None
        return self._chance.choice(
            [("read", handle, "3"), ("pread", handle, "0", "5"), ("readv", handle, "2", "3"), ("seek", handle, "0")]
        )

    def _copy(self) -> tuple[str, ...] | None:
        source, target = self._handle("file", of="RD"), self._handle("file", of="W")
        verb = self._chance.choice(["copy", "sendfile"])
        return (verb, source, target, "4") if source and target else None

    def _will_need(self) -> tuple[str, ...] | None:
        return _with("willneed", self._handle("file", of="RD"))

    def _getdents(self) -> tuple[str, ...] | None:
        return _with("getdents", self._handle("dir", of="RDONLY"))

    def _list(self) -> tuple[str, ...] | None:
        return "ls", self._directory()

    def _map(self) -> tuple[str, ...] | None:
        handle = self._handle("file", of="RDWR")
        return ("mmap", handle, self._chance.choice(["shared", "private"]), "as", self._new()) if handle else None

    def _of_process(self, owned: dict[str, int]) -> str | None:
        names = [name for name, process in owned.items() if process == self._process]
        return self._chance.choice(names) if names else None

    def _unmap(self) -> tuple[str, ...] | None:
        return _with("munmap", self._of_process(self._session.maps))

    def _touch_map(self) -> tuple[str, ...] | None:
        return _with("msync", self._of_process(self._session.maps))

    def _fork(self) -> tuple[str, ...] | None:
        if self._process in self._session.children.values():
            return None  # a second child would hold the first one's end of the pipe
        return "fork", "as", self._new()

    def _end(self) -> tuple[str, ...] | None:
        return _with("end", self._of_process(self._session.children))

    def _sync(self) -> tuple[str, ...] | None:
        return _with("sync", self._handle("file", "dir", of="R"))

    def _chdir(self) -> tuple[str, ...] | None:
        return _with("cd", self._some("dir"))

    def _come_back(self) -> tuple[str, ...] | None:
        return ("cd", "/..") if self._process in self._session.away else None

    def _link(self) -> tuple[str, ...] | None:
        old, new = self._some("file", "file", "file", "link"), self._free()
        return ("link", old, new) if old and new else None

    def _link_handle(self) -> tuple[str, ...] | None:
        handle, new = self._handle("file"), self._free()
        return ("linkfd", handle, new) if handle and new else None

    def _watch(self) -> tuple[str, ...] | None:
        roll = self._chance.random()
        if roll < 0.1:
            opened = [name for name, handle in self._session.handles.items() if handle.kind in {"file", "dir"}]
            target = self._chance.choice(opened) if opened else None
        elif roll < 0.45:
            target = self._directory()
        else:
            target = self._some("file", "file", "dir", "link", "special")
        # What hides a read or adds a write would end a ONESHOT watch on one side only.
        if target is None:
            return None
        bits = mask(self._chance, oneshot=not self._profile.pages)
        if not target.startswith("/"):  # DONT_FOLLOW would watch the link in /proc
            bits = "|".join(bit for bit in bits.split("|") if bit != "DONT_FOLLOW") or "OPEN"
        return "watch", target, bits

    def _unwatch(self) -> tuple[str, ...] | None:
        if not self._session.wds or self._chance.random() < 0.05:
            self._instance = 0
            return "unwatch", "77"
        self._instance, wd = self._chance.choice(list(self._session.wds))
        return "unwatch", str(wd)

    def _pending(self) -> tuple[str, ...] | None:
        return ("pending",)

    # The end

    def letting_go(self) -> list[Step]:
        """Close, unmap, leave and end everything, in a random order."""
        session = self._session
        steps = [Step(("close", name), handle.process) for name, handle in session.handles.items()]
        steps += [Step(("munmap", name), process) for name, process in session.maps.items()]
        steps += [Step(("end", name), process) for name, process in session.children.items()]
        steps += [Step(("cd", "/.."), process) for process in session.away]
        self._chance.shuffle(steps)
        return steps

    def removing(self) -> list[Step]:
        """Remove everything, the deepest first."""
        places = sorted(self._session.tree()[1:], key=lambda place: -place.path.count("/"))
        return [Step(("rmdir" if place.kind == "dir" else "unlink", place.path)) for place in places]


def _with(verb: str, target: str | None, *more: str) -> tuple[str, ...] | None:
    return None if target is None else (verb, target, *more)
