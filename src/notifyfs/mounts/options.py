"""What ``-o`` says, as a typed value.

The words are those of mount(8), mount.fuse3(8) and our own; those that libfuse
refuses although mount(8) passes them (``relatime``, ``nofail``, ...; measured with libfuse 3.14)
are translated or dropped here.
"""

from __future__ import annotations

import difflib
import grp
import os
import pwd
import re
from typing import TYPE_CHECKING, Any, Final, Literal

import attrs

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

SOCKET_PATH_MAX: Final = 107
"""Bytes in a Unix socket's path: ``sun_path`` of unix(7), less its NUL."""

_PORTS: Final = 65535


class OptionError(ValueError):
    """An option is unknown or its value makes no sense; ``str()`` is one line with the remedy."""


@attrs.frozen(kw_only=True)
class Options:
    """How to mount and to serve; every field has its default here and nowhere else."""

    allow_other: bool = False
    allow_root: bool = False
    """Only root and the mounting user: the kernel has no such word, so the daemon asks libfuse to judge."""
    read_only: bool = False
    suid: bool = False
    dev: bool = False
    exec: bool = True
    noatime: bool = False
    nodiratime: bool = False
    relatime: bool = False
    strictatime: bool = False
    lazytime: bool = False
    sync: bool = False
    dirsync: bool = False

    fsname: str | None = None
    """The device column of the mount table; None: the source as given."""
    socket: str | None = None
    """Absolute path of the control socket; None: ``mounts.socket_path(mountpoint)``."""
    uid: int | None = None
    """Owner of the control socket; None: the daemon's user."""
    gid: int | None = None
    """Group of the control socket, which may then connect; None: the daemon's group, which may not."""
    log: str | None = None
    """Absolute path of the log file; None: standard error in the foreground, else syslog."""
    debug: bool = False
    metrics: tuple[str, int] | None = None
    """Host (no brackets) and TCP port on which Prometheus may fetch the counters; None: nowhere."""

    max_queued_events: int = 16384
    max_user_instances: int = 128
    max_user_watches: int = 1048576
    max_user_queued_bytes: int = 64 << 20
    max_read: int | None = None
    """Bytes in a READ request; None: the kernel's choice."""
    cache: Literal["auto", "always", "never"] = "auto"
    access: Literal["cached", "exact", "off"] = "cached"

    reach: Literal["mountpoint", "socket"] = "mountpoint"
    """Where a subscriber's way to a path begins to be judged: at the root of the file system, or at the mountpoint."""

    @classmethod
    def parse(cls, words: Iterable[str], *, sloppy: bool = False) -> Options:
        r"""Read ``-o`` arguments; each is a comma-separated list in which ``\,`` and ``\\`` escape.

        A later word wins over an earlier one. *sloppy* drops what is unknown (mount's ``-s``).
        Raises OptionError.
        """
        fields: dict[str, Any] = {}
        for word in words:
            for option in split(word):
                name, _, value = option.partition("=")
                if name in _DROPPED or name.startswith(("x-", "X-")):
                    continue
                if option in _SWITCHES:
                    field, state = _SWITCHES[option]
                    fields[field] = state
                elif name in _VALUES:
                    fields[name] = _VALUES[name](name, value)
                elif not sloppy:
                    raise _unknown(option, name)
        if fields.get("allow_other") and fields.get("allow_root"):
            raise OptionError("allow_other,allow_root: each says who may enter, and they differ; leave one out")
        return cls(**fields)


_SWITCHES: Final[dict[str, tuple[str, bool]]] = {
    "allow_other": ("allow_other", True),
    "allow_root": ("allow_root", True),
    "debug": ("debug", True),
    "ro": ("read_only", True),
    "rw": ("read_only", False),
    "suid": ("suid", True),
    "nosuid": ("suid", False),
    "dev": ("dev", True),
    "nodev": ("dev", False),
    "exec": ("exec", True),
    "noexec": ("exec", False),
    "noatime": ("noatime", True),
    "atime": ("noatime", False),
    "nodiratime": ("nodiratime", True),
    "diratime": ("nodiratime", False),
    "relatime": ("relatime", True),
    "norelatime": ("relatime", False),
    "strictatime": ("strictatime", True),
    "nostrictatime": ("strictatime", False),
    "lazytime": ("lazytime", True),
    "nolazytime": ("lazytime", False),
    "sync": ("sync", True),
    "async": ("sync", False),
    "dirsync": ("dirsync", True),
}

# Words for mount(8), its callers and older libfuse, not for a filesystem. default_permissions is always on.
_DROPPED: Final = frozenset(
    {
        "_netdev",
        "auto",
        "comment",
        "default_permissions",
        "defaults",
        "group",
        "noauto",
        "nofail",
        "nonempty",
        "nouser",
        "owner",
        "user",
        "users",
    }
)


def split(argument: str) -> Iterator[str]:
    r"""Cut *argument* at its commas, except at ``\,``; ``\\`` is one backslash, and so is a lone ``\``."""
    for part in re.findall(r"(?:\\[\\,]|[^,])+", argument):
        yield re.sub(r"\\([\\,])", r"\1", part)


def escape(value: str) -> str:
    """Write *value* so that ``split`` and libfuse read it back as one option."""
    return re.sub(r"([\\,])", r"\\\1", value)


def _unknown(option: str, name: str) -> OptionError:
    if name in _SWITCHES:
        return OptionError(f"{option}: takes no value; write {name}")
    near = difflib.get_close_matches(name, [*_SWITCHES, *_VALUES], n=1)
    remedy = f"did you mean {near[0]}?" if near else "`notifyfs mount --help` lists the known ones"
    return OptionError(f"{option}: unknown option; {remedy}")


def _text(name: str, value: str) -> str:
    if not value:
        raise OptionError(f"{name}: needs a value; write {name}=...")
    return value


def _path(name: str, value: str) -> str:
    return os.path.abspath(_text(name, value))  # the daemon's working directory is /


def _socket(name: str, value: str) -> str:
    path = _path(name, value)
    if len(os.fsencode(path)) > SOCKET_PATH_MAX:
        raise OptionError(f"{name}={value}: a socket's path has at most {SOCKET_PATH_MAX} bytes; choose a shorter one")
    return path


def _address(name: str, value: str) -> tuple[str, int]:
    found = re.fullmatch(r"(?:(\[[0-9A-Fa-f:.]+\]|[^][:/\s]+):)?([0-9]{1,5})", value)
    if not found or not 1 <= int(found[2]) <= _PORTS:
        raise OptionError(
            f"{name}={value}: wants HOST:PORT, [IPV6]:PORT or PORT (then of 127.0.0.1), the port from 1 to {_PORTS}"
        )
    return (found[1] or "127.0.0.1").strip("[]"), int(found[2])


def _number(least: int) -> Callable[[str, str], int]:
    def convert(name: str, value: str) -> int:
        if not re.fullmatch("[0-9]{1,10}", value) or not least <= int(value) < 1 << 31:
            raise OptionError(f"{name}={value}: wants a whole number from {least} to {(1 << 31) - 1}")
        return int(value)

    return convert


def _account(find: Callable[[str], int]) -> Callable[[str, str], int]:
    def convert(name: str, value: str) -> int:
        if value.isdecimal():
            return int(value)
        try:
            return find(value)
        except KeyError:
            raise OptionError(f"{name}={value}: no such name on this machine; write a number") from None

    return convert


def _choice(*choices: str) -> Callable[[str, str], str]:
    def convert(name: str, value: str) -> str:
        if value not in choices:
            raise OptionError(f"{name}={value}: no such choice; it is one of {', '.join(choices)}")
        return value

    return convert


_VALUES: Final[dict[str, Callable[[str, str], object]]] = {
    "fsname": _text,
    "socket": _socket,
    "uid": _account(lambda name: pwd.getpwnam(name).pw_uid),
    "gid": _account(lambda name: grp.getgrnam(name).gr_gid),
    "log": _path,
    "metrics": _address,
    "max_queued_events": _number(1),
    "max_user_instances": _number(1),
    "max_user_watches": _number(1),
    "max_user_queued_bytes": _number(1),
    "max_read": _number(4096),  # the kernel raises less to a page (fuse_fill_super)
    "cache": _choice("auto", "always", "never"),
    "access": _choice("cached", "exact", "off"),
    "reach": _choice("mountpoint", "socket"),
}
