"""Set-user-id, set-group-id and capabilities: who keeps them, and what takes them away."""

from __future__ import annotations

import errno
import os
import stat
import struct
import subprocess
from typing import TYPE_CHECKING

import pytest

from tests.posix.test_permissions import directory, fails_with, owned, root_only, write
from tests.support.posix import (
    GROUP,
    OTHER,
    OTHER_GROUP,
    SUPPLEMENTARY,
    USER,
    as_user,
    by_both,
    fails,
    get,
    mode_of,
    opened,
    put,
)

if TYPE_CHECKING:
    from tests.support.posix import Place


__all__ = ["root_only"]

pytest_plugins = ["tests.support.posix"]

# VFS_CAP_REVISION_2 with cap_net_raw permitted and effective (linux/capability.h).
CAPABILITY = struct.pack("<IIIII", 0x02000001, 1 << 13, 0, 0, 0)


@by_both
def test_special_bits_of_a_new_file_are_kept(place: Place) -> None:
    os.umask(0)
    for mode in (0o4711, 0o2710, 0o1644, 0o7777, 0):
        put(f"f{mode}", mode=mode)
        assert mode_of(f"f{mode}") in (mode, mode & ~0o6000), "writing cleared setuid and setgid"
        os.close(os.open(f"g{mode}", os.O_CREAT | os.O_EXCL | os.O_RDONLY, mode))
        assert mode_of(f"g{mode}") == mode
        os.mkdir(f"d{mode}", mode)
        assert mode_of(f"d{mode}") == mode & 0o1777, "mkdir(2) leaves setuid and setgid out"


@pytest.mark.parametrize("who", ["root", "user"])
def test_a_setgid_directory_gives_its_group(place: Place, who: str) -> None:
    directory("d", 0o2777, 0, OTHER_GROUP)

    def make() -> None:
        os.umask(0)
        put("d/f")
        os.mkdir("d/d", 0o755)
        os.mkfifo("d/p")
        os.symlink("x", "d/l")

    make() if who == "root" else as_user(make)

    for name in "fdpl":
        assert os.lstat(f"d/{name}").st_gid == OTHER_GROUP, name
        assert os.lstat(f"d/{name}").st_uid == (0 if who == "root" else USER), name
    assert mode_of("d/d") == 0o2755, "and a directory is setgid as well"
    assert mode_of("d/f") == 0o644


@pytest.mark.parametrize(
    ("gid", "mode", "result"),
    [
        (OTHER_GROUP, 0o2770, 0o770),
        (OTHER_GROUP, 0o2760, 0o2760),
        (SUPPLEMENTARY, 0o2770, 0o2770),
        (GROUP, 0o2770, 0o2770),
    ],
    ids=["a foreign group loses setgid", "no group execution", "a supplementary group", "the own group"],
)
def test_setgid_in_a_setgid_directory_is_only_for_members(place: Place, gid: int, mode: int, result: int) -> None:
    directory("d", 0o2777, 0, gid)

    def make() -> None:
        os.umask(0)
        os.close(os.open("d/f", os.O_CREAT | os.O_RDONLY, mode))
        os.mknod("d/n", stat.S_IFREG | mode)

    as_user(make)

    assert (oct(mode_of("d/f")), os.stat("d/f").st_gid) == (oct(result), gid)
    assert (oct(mode_of("d/n")), os.stat("d/n").st_gid) == (oct(result), gid)


def test_chmod_drops_setgid_for_a_group_that_one_is_not_in(place: Place) -> None:
    owned("foreign", 0o644, USER, OTHER_GROUP)
    owned("supplementary", 0o644, USER, SUPPLEMENTARY)
    directory("d", 0o755, USER, OTHER_GROUP)

    def body() -> None:
        for name in ("foreign", "supplementary", "d"):
            os.chmod(name, 0o2755)

    as_user(body)

    assert mode_of("foreign") == 0o755
    assert mode_of("supplementary") == 0o2755
    assert mode_of("d") == 0o755


def shorten(name: str) -> None:
    with opened(name, os.O_WRONLY) as fd:
        os.ftruncate(fd, 2)


def truncate_at_open(name: str) -> None:
    os.close(os.open(name, os.O_WRONLY | os.O_TRUNC))


CHANGES = {
    "write": write,
    "truncate": lambda name: os.truncate(name, 1),
    "ftruncate": shorten,
    "O_TRUNC": truncate_at_open,
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_users_change_of_the_content_clears_setuid_and_setgid(place: Place, change: str) -> None:
    modes = {0o6777: 0o777, 0o4777: 0o777, 0o2777: 0o777, 0o4666: 0o666}
    for mode in modes:
        owned(f"f{mode}", mode)
        owned(f"own{mode}", mode, USER, GROUP)

    def body() -> None:
        for mode, result in modes.items():
            for name in (f"f{mode}", f"own{mode}"):
                CHANGES[change](name)
                assert oct(mode_of(name)) == oct(result), name

    as_user(body)
    for mode, result in modes.items():
        assert oct(mode_of(place.source / f"f{mode}")) == oct(result)


@pytest.mark.parametrize("change", CHANGES)
def test_roots_change_of_the_content_leaves_setuid_and_setgid(place: Place, change: str) -> None:
    owned("f", 0o6755)

    CHANGES[change]("f")

    assert oct(mode_of("f")) == oct(0o6755)


@pytest.mark.parametrize("who", ["root", "user"])
def test_chown_clears_setuid_and_setgid(place: Place, who: str) -> None:
    for mode in (0o6755, 0o2745, 0o4644):
        owned(f"f{mode}", mode, USER, GROUP)
    directory("d", 0o6755, USER, GROUP)

    def body() -> None:
        for name in os.listdir("."):
            os.chown(name, -1, SUPPLEMENTARY)

    body() if who == "root" else as_user(body)

    assert oct(mode_of("f3565")) == oct(0o755)
    assert oct(mode_of(f"f{0o2745}")) == oct(0o2745), "without group execution it is no setgid program"
    assert oct(mode_of(f"f{0o4644}")) == oct(0o644)
    assert oct(mode_of("d")) == oct(0o6755), "directories keep theirs"


@pytest.mark.parametrize("change", [*CHANGES, "chown", "chown of nothing"])
@pytest.mark.parametrize("who", ["root", "user"])
def test_a_change_clears_file_capabilities(place: Place, change: str, who: str) -> None:
    owned("f", 0o777, USER, GROUP)
    os.setxattr("f", "security.capability", CAPABILITY)
    assert os.getxattr("f", "security.capability") == CAPABILITY

    def body() -> None:
        if change.startswith("chown"):
            os.chown("f", -1, -1 if change == "chown of nothing" else SUPPLEMENTARY)
        else:
            CHANGES[change]("f")

    body() if who == "root" else as_user(body)

    with fails(errno.ENODATA):
        os.getxattr("f", "security.capability")
    with fails(errno.ENODATA):
        os.getxattr(place.source / "f", "security.capability")


def test_a_user_may_not_give_capabilities(place: Place) -> None:
    owned("f", 0o777, USER, GROUP)

    as_user(lambda: fails_with(errno.EPERM, lambda: os.setxattr("f", "security.capability", CAPABILITY)))


def test_a_setuid_program_runs_as_its_owner(place: Place) -> None:
    put("whoami", get("/usr/bin/id"))
    os.chown("whoami", OTHER, OTHER_GROUP)
    os.chmod("whoami", 0o4755)

    def body() -> bytes:
        return subprocess.run(["./whoami", "-u"], check=True, capture_output=True).stdout

    assert as_user(body).strip() == b"%d" % OTHER
