"""setuid and setgid when a file is truncated or given away, and what capabilities let a process see and make.

The rules are Linux's (``setattr_should_drop_suidgid``): setuid goes; setgid goes with group execute, and without
it unless the caller is a member of the group; nothing goes for CAP_FSETID, which a user namespace does not give.
"""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

import pytest

from tests.support import kernel
from tests.support.posix import (
    GROUP,
    OTHER,
    SUPPLEMENTARY,
    USER,
    as_user,
    call,
    collect,
    mode_of,
    opened,
    put,
    start_child,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support.posix import Place

pytest_plugins = ["tests.support.posix"]

CLONE_NEWUSER = 0x10000000
CAP_SYS_ADMIN, CAP_MKNOD = 21, 27


@pytest.fixture(autouse=True)
def root_only() -> None:
    if os.getuid():
        pytest.skip("only root can become another user")


def truncate_opened(name: str) -> None:
    with opened(name, os.O_WRONLY) as fd:
        os.ftruncate(fd, 1)


def in_a_namespace(action: Callable[[str], object]) -> Callable[[str], None]:
    """As root of a user namespace of one's own, with all its capabilities."""

    def act(name: str) -> None:
        call("unshare", CLONE_NEWUSER)
        action(name)

    return act


SHORTEN: dict[str, Callable[[str], object]] = {
    "O_TRUNC": lambda name: os.close(os.open(name, os.O_WRONLY | os.O_TRUNC)),
    "truncate": lambda name: os.truncate(name, 1),
    "truncate to the same size": lambda name: os.truncate(name, 7),
    "ftruncate": truncate_opened,
}
WHO: dict[str, Callable[[Callable[[], None]], None]] = {
    "the owner, a member": lambda act: as_user(act, USER, GROUP, ()),
    "a member": lambda act: as_user(act, OTHER, OTHER, (SUPPLEMENTARY, GROUP)),
    "a stranger": lambda act: as_user(act, OTHER, OTHER, (SUPPLEMENTARY,)),
    "root": lambda act: act(),
}


@pytest.mark.parametrize("who", WHO)
@pytest.mark.parametrize("how", SHORTEN)
@pytest.mark.parametrize("mode", [0o6777, 0o6767, 0o4777, 0o2777, 0o2767])
def test_truncating_clears_what_linux_clears(place: Place, who: str, how: str, mode: int) -> None:
    put("f")
    os.chown("f", USER, GROUP)
    os.chmod("f", mode)
    assert mode_of("f") == mode
    WHO[who](lambda: SHORTEN[how]("f") and None)
    left = mode
    if who != "root":
        left &= ~stat.S_ISUID
        if mode & stat.S_IXGRP or who == "a stranger":
            left &= ~stat.S_ISGID
    assert mode_of("f") == left
    assert mode_of(place.source / "f") == left


@pytest.mark.parametrize("how", SHORTEN)
def test_the_capabilities_of_a_user_namespace_keep_nothing(place: Place, how: str) -> None:
    put("f")
    os.chown("f", USER, GROUP)
    os.chmod("f", 0o6777)
    as_user(lambda: in_a_namespace(SHORTEN[how])("f"))
    assert mode_of("f") == mode_of(place.source / "f") == 0o777


def test_a_mode_that_was_cleared_is_shown_to_those_who_know_the_old_one(place: Place) -> None:
    put("f")
    os.chown("f", USER, GROUP)
    os.chmod("f", 0o6767)
    with opened("f", os.O_PATH) as known:
        assert mode_of(known) == 0o6767
        WHO["a stranger"](lambda: SHORTEN["O_TRUNC"]("f") and None)
        assert mode_of(known) == 0o767


@pytest.mark.parametrize("mode", [0o6777, 0o6767, 0o2767])
def test_giving_a_file_to_another_group_clears_what_linux_clears(place: Place, mode: int) -> None:
    for owner_is_member in (True, False):
        name = f"f{owner_is_member}"
        put(name)
        os.chown(name, USER, GROUP if owner_is_member else OTHER)
        os.chmod(name, mode)
        as_user(lambda name=name: os.chown(name, -1, SUPPLEMENTARY))  # type: ignore[misc]
        keeps = owner_is_member and not mode & stat.S_IXGRP
        assert mode_of(name) == (mode & ~stat.S_ISUID if keeps else mode & 0o777)
        assert os.stat(name).st_gid == SUPPLEMENTARY


def as_container_root(action: Callable[[], object]) -> None:
    """As uid 0 of a user namespace, USER outside, where OTHER is uid 1."""
    ready, go = os.pipe(), os.pipe()

    def act() -> None:
        call("unshare", CLONE_NEWUSER)
        os.write(ready[1], b"!")
        os.read(go[0], 1)
        os.setresgid(0, 0, 0)
        os.setresuid(0, 0, 0)
        action()

    child = start_child(act)
    os.read(ready[0], 1)
    for kind in ("uid", "gid"):
        with open(f"/proc/{child[0]}/{kind}_map", "w", encoding="ascii") as table:
            table.write(f"0 {USER} 1\n1 {OTHER} 1\n")
    os.write(go[1], b"!")
    collect(child)
    for end in (*ready, *go):
        os.close(end)


@pytest.mark.parametrize("mode", [0o4755, 0o6755, 0o2755, 0o755])
def test_root_of_a_container_gives_away_the_files_of_its_users(place: Place, mode: int) -> None:
    put("f")
    os.chown("f", OTHER, OTHER)
    os.chmod("f", mode)
    as_container_root(lambda: os.chown("f", 0, 0))
    found = os.stat("f")
    assert (found.st_uid, found.st_gid, mode_of("f")) == (USER, USER, 0o755)


def test_trusted_attributes_are_listed_to_whom_the_kernel_lists_them(place: Place) -> None:
    put("f")
    os.setxattr("f", "trusted.hidden", b"1")
    os.setxattr("f", "user.shown", b"1")

    def listed_without() -> list[str]:
        kernel.keep_capabilities(0, *(number for number in range(41) if number != CAP_SYS_ADMIN))
        return os.listxattr("f")

    assert sorted(os.listxattr("f")) == ["trusted.hidden", "user.shown"]
    assert as_user(listed_without, 0, 0, ()) == ["user.shown"]
    assert as_user(lambda: os.listxattr("f")) == ["user.shown"]


def test_a_user_with_the_capability_makes_devices(place: Place) -> None:
    def make() -> None:
        kernel.keep_capabilities(USER, CAP_MKNOD)
        os.mknod("null", stat.S_IFCHR | 0o666, os.makedev(1, 3))

    as_user(make, 0, 0, ())
    found = os.stat("null")
    assert (found.st_uid, found.st_rdev) == (USER, os.makedev(1, 3))
    with pytest.raises(AssertionError, match="PermissionError"):
        as_user(lambda: os.mknod("other", stat.S_IFCHR | 0o666, os.makedev(1, 3)))
