"""Extended attributes and access control lists, with their errors."""

from __future__ import annotations

import ctypes
import errno
import os
import stat
import subprocess
from typing import TYPE_CHECKING

import pytest

from tests.support.posix import (
    GROUP,
    GROUP_OBJ,
    GROUP_TAG,
    MASK,
    NOBODY,
    OTHER,
    OTHER_GROUP,
    OTHERS,
    SUPPLEMENTARY,
    USER,
    USER_OBJ,
    USER_TAG,
    acl,
    as_user,
    by_both,
    call,
    fails,
    get,
    mode_of,
    opened,
    put,
)

if TYPE_CHECKING:
    from tests.support.posix import Place

pytest_plugins = ["tests.support.posix"]

ACCESS, DEFAULT = "system.posix_acl_access", "system.posix_acl_default"


@by_both
def test_attributes_are_set_read_listed_and_removed(place: Place) -> None:
    put("f")
    os.mkdir("d")
    for name in ("f", "d"):
        assert os.listxattr(name) == []
        for value in (b"", b"x", b"\0\xff\n" * 10, bytes(range(256)) * 8):
            os.setxattr(name, "user.a", value)
            assert os.getxattr(name, "user.a") == value
            assert os.getxattr(place.source / name, "user.a") == value
        os.setxattr(name, b"user.\xff\xfe", b"bytes")
        os.setxattr(name, b"user." + b"n" * 250, b"long")
        assert sorted(map(os.fsencode, os.listxattr(name))) == [b"user.a", b"user." + b"n" * 250, b"user.\xff\xfe"]
        os.removexattr(name, "user.a")
        assert len(os.listxattr(name)) == 2
        with fails(errno.ENODATA):
            os.getxattr(name, "user.a")
        with fails(errno.ENODATA):
            os.removexattr(name, "user.a")
    with opened("f") as fd:
        assert os.getxattr(fd, b"user.\xff\xfe") == b"bytes"
        os.setxattr(fd, "user.b", b"by descriptor")
        assert os.getxattr("f", "user.b") == b"by descriptor"


@by_both
def test_create_and_replace(place: Place) -> None:
    put("f")
    with fails(errno.ENODATA):
        os.setxattr("f", "user.a", b"1", os.XATTR_REPLACE)
    os.setxattr("f", "user.a", b"1", os.XATTR_CREATE)
    with fails(errno.EEXIST):
        os.setxattr("f", "user.a", b"2", os.XATTR_CREATE)
    assert os.getxattr("f", "user.a") == b"1"
    os.setxattr("f", "user.a", b"3", os.XATTR_REPLACE)
    assert os.getxattr("f", "user.a") == b"3"
    with fails(errno.EINVAL):
        os.setxattr("f", "user.a", b"4", 8)


@by_both
def test_a_buffer_too_small(place: Place) -> None:
    put("f")
    os.setxattr("f", "user.a", b"0123456789")
    os.setxattr("f", "user.b", b"")
    buffer = ctypes.create_string_buffer(100)
    assert call("getxattr", b"f", b"user.a", None, 0) == 10
    assert call("getxattr", b"f", b"user.a", buffer, 10) == 10
    with fails(errno.ERANGE):
        call("getxattr", b"f", b"user.a", buffer, 9)
    assert call("listxattr", b"f", None, 0) == 14
    assert call("listxattr", b"f", buffer, 14) == 14
    with fails(errno.ERANGE):
        call("listxattr", b"f", buffer, 13)
    assert call("getxattr", b"f", b"user.b", None, 0) == 0
    with fails(errno.ENODATA):
        call("getxattr", b"f", b"user.c", None, 0)


@by_both
def test_what_is_too_big_or_has_no_such_name(place: Place) -> None:
    put("f")
    with fails(errno.E2BIG):
        os.setxattr("f", "user.big", b"x" * 65537)
    with fails(errno.ENOSPC, errno.E2BIG):
        os.setxattr("f", "user.big", b"x" * 65536)  # one block, on ext4
    with fails(errno.ERANGE):
        os.setxattr("f", "user." + "n" * 251, b"x")
    with fails(errno.ERANGE):
        os.getxattr("f", "user." + "n" * 251)
    for name in ("user.", "nonsense.a", "nodot", "system.nonsense"):
        with fails(errno.EOPNOTSUPP, errno.EINVAL):
            os.setxattr("f", name, b"x")
        with fails(errno.EOPNOTSUPP, errno.EINVAL):
            os.getxattr("f", name)
    with fails(errno.ENOENT):
        os.getxattr("none", "user.a")


@by_both
def test_user_attributes_are_for_files_and_directories(place: Place) -> None:
    os.mkfifo("p")
    os.symlink("p", "l")
    for name in ("p", "l"):
        with fails(errno.EPERM):
            os.setxattr(name, "user.a", b"x", follow_symlinks=False)
        with fails(errno.ENODATA):
            os.getxattr(name, "user.a", follow_symlinks=False)
    put("f")
    os.symlink("f", "to-f")
    os.setxattr("to-f", "user.a", b"followed")
    assert os.getxattr("f", "user.a") == b"followed"
    assert os.listxattr("to-f", follow_symlinks=False) == []


def test_attributes_take_the_permission_of_the_content(place: Place) -> None:
    for name, mode in (("readable", 0o644), ("writable", 0o666), ("secret", 0o600)):
        put(name)
        os.chmod(name, mode)
        os.setxattr(name, "user.a", b"x")
    os.mkdir("sticky")
    os.chmod("sticky", 0o1777)

    def body() -> None:
        assert os.getxattr("readable", "user.a") == b"x"
        with fails(errno.EACCES):
            os.setxattr("readable", "user.a", b"y")
        with fails(errno.EACCES):
            os.removexattr("readable", "user.a")
        os.setxattr("writable", "user.a", b"y")
        with fails(errno.EACCES):
            os.getxattr("secret", "user.a")
        with fails(errno.EPERM):
            os.setxattr("sticky", "user.a", b"x")
        with fails(errno.EPERM):
            os.setxattr("writable", "security.made-up", b"x")

    as_user(body)


def test_trusted_attributes_are_roots(place: Place) -> None:
    put("f", mode=0o666)
    os.chmod("f", 0o666)
    os.setxattr("f", "trusted.t", b"root's")
    os.setxattr("f", "user.u", b"all's")
    assert sorted(os.listxattr("f")) == ["trusted.t", "user.u"]
    assert os.getxattr("f", "trusted.t") == b"root's"

    def body() -> None:
        assert os.listxattr("f") == ["user.u"]
        assert call("listxattr", b"f", None, 0) == 7
        with fails(errno.ENODATA):
            os.getxattr("f", "trusted.t")
        with fails(errno.EPERM):
            os.setxattr("f", "trusted.t", b"x")
        with fails(errno.EPERM):
            os.removexattr("f", "trusted.t")
        with opened("f") as fd:
            assert os.listxattr(fd) == ["user.u"]

    as_user(body)


@by_both
def test_attributes_of_an_unlinked_and_a_renamed_file(place: Place) -> None:
    put("f")
    os.setxattr("f", "user.a", b"1")
    os.rename("f", "g")
    assert os.getxattr("g", "user.a") == b"1"
    with opened("g", os.O_RDWR) as fd:
        os.unlink("g")
        assert os.getxattr(fd, "user.a") == b"1"
        os.setxattr(fd, "user.a", b"2")
        with fails(errno.EEXIST):
            os.setxattr(fd, "user.a", b"3", os.XATTR_CREATE)
        os.removexattr(fd, "user.a")
        assert os.listxattr(fd) == []


@by_both
def test_cp_and_tar_take_attributes_and_lists_along(place: Place) -> None:
    put("f", mode=0o640)
    os.setxattr("f", "user.a", b"kept")
    subprocess.run(["setfacl", "-m", f"u:{OTHER}:rw", "f"], check=True)
    subprocess.run(["cp", "-a", "f", "copied"], check=True)
    subprocess.run(["tar", "--xattrs", "--acls", "-cf", "f.tar", "f"], check=True)
    os.mkdir("out")
    subprocess.run(["tar", "--xattrs", "--acls", "-xf", "f.tar", "-C", "out"], check=True)
    for name in ("copied", "out/f"):
        assert os.getxattr(name, "user.a") == b"kept"
        assert os.getxattr(name, ACCESS) == os.getxattr("f", ACCESS)


def test_the_mount_names_its_socket(place: Place) -> None:
    put("f")
    if place.mounted:
        assert os.getxattr("f", "notifyfs.socket").endswith(b"/socket")
        as_user(lambda: os.getxattr(".", "notifyfs.socket"))
    else:
        with fails(errno.EOPNOTSUPP):
            os.getxattr("f", "notifyfs.socket")
    assert os.listxattr("f") == []


# Access control lists


def entries(user: int = 6, named: int = 4, group: int = 0, mask: int = 4, uid: int = USER) -> bytes:
    """A list with one named user, and nothing for others."""
    return acl(
        (USER_OBJ, user, NOBODY),
        (USER_TAG, named, uid),
        (GROUP_OBJ, group, NOBODY),
        (MASK, mask, NOBODY),
        (OTHERS, 0, NOBODY),
    )


def test_a_named_user_gets_what_the_list_and_the_mask_say(place: Place) -> None:
    put("f")
    os.chmod("f", 0o600)
    with pytest.raises(AssertionError, match="PermissionError"):
        as_user(lambda: get("f"))
    os.setxattr("f", ACCESS, entries(named=6, mask=6))
    assert mode_of("f") == 0o660
    as_user(lambda: put("f", b"written by the list"))
    assert get("f") == b"written by the list"

    os.chmod("f", 0o640)  # the group's bits are the mask now
    assert os.getxattr("f", ACCESS) == entries(named=6, mask=4)

    def read_only() -> None:
        get("f")
        with fails(errno.EACCES):
            put("f")

    as_user(read_only)
    os.removexattr("f", ACCESS)
    with pytest.raises(AssertionError, match="PermissionError"):
        as_user(lambda: get("f"))
    with fails(errno.ENODATA):
        os.getxattr("f", ACCESS)


def test_a_named_group_also_a_supplementary_one(place: Place) -> None:
    put("f")
    os.chmod("f", 0o600)
    os.setxattr(
        "f",
        ACCESS,
        acl(
            (USER_OBJ, 6, NOBODY),
            (GROUP_OBJ, 0, NOBODY),
            (GROUP_TAG, 6, SUPPLEMENTARY),
            (MASK, 6, NOBODY),
            (OTHERS, 0, NOBODY),
        ),
    )
    as_user(lambda: put("f", b"member"))
    with pytest.raises(AssertionError, match="PermissionError"):
        as_user(lambda: get("f"), groups=())
    assert get("f") == b"member"


@by_both
def test_a_default_list_is_inherited_and_replaces_the_umask(place: Place) -> None:
    os.mkdir("d", 0o755)
    default = entries(user=7, named=7, group=5, mask=7, uid=OTHER)
    os.setxattr("d", DEFAULT, default)
    os.umask(0o077)
    put("d/f", mode=0o666)
    put("d/g", mode=0o600)
    os.mkdir("d/sub", 0o777)
    os.mkfifo("d/p", 0o666)
    os.symlink("x", "d/l")
    os.mkdir("d/sub/subsub", 0o700)

    assert mode_of("d/f") == 0o660
    assert os.getxattr("d/f", ACCESS) == entries(user=6, named=7, group=5, mask=6, uid=OTHER)
    assert mode_of("d/g") == 0o600
    assert os.getxattr("d/g", ACCESS) == entries(user=6, named=7, group=5, mask=0, uid=OTHER)
    assert mode_of("d/p") == 0o660
    assert mode_of("d/sub") == 0o770
    assert os.getxattr("d/sub", DEFAULT) == os.getxattr("d/sub/subsub", DEFAULT) == default
    assert os.getxattr("d/sub", ACCESS) == default
    for name in ("d/f", "d/sub", "d/p"):
        assert os.getxattr(place.source / name, ACCESS) == os.getxattr(name, ACCESS)
        assert mode_of(place.source / name) == mode_of(name)
    with fails(errno.EOPNOTSUPP, errno.ENODATA):
        os.getxattr("d/l", ACCESS, follow_symlinks=False)
    os.removexattr("d", DEFAULT)
    put("d/h", mode=0o666)
    assert mode_of("d/h") == 0o600


def test_a_default_list_for_users_in_roots_directory(place: Place) -> None:
    os.mkdir("d")
    os.chown("d", 0, OTHER_GROUP)
    os.chmod("d", 0o2777)
    os.setxattr("d", DEFAULT, entries(user=7, named=6, group=7, mask=7, uid=OTHER))

    def body() -> None:
        os.umask(0o077)
        put("d/f", mode=0o664)

    as_user(body)
    found = os.stat("d/f")
    assert (found.st_uid, found.st_gid, oct(found.st_mode)) == (USER, OTHER_GROUP, oct(stat.S_IFREG | 0o660))
    as_user(lambda: put("d/f", b"the other"), uid=OTHER, gid=OTHER, groups=())
    assert get("d/f") == b"the other"


@by_both
def test_lists_that_make_no_sense(place: Place) -> None:
    put("f")
    os.mkdir("d")
    os.symlink("f", "l")
    for value in (
        b"",
        b"nonsense",
        acl((USER_OBJ, 6, NOBODY)),
        acl((USER_OBJ, 6, NOBODY), (USER_TAG, 6, USER), (GROUP_OBJ, 4, NOBODY), (OTHERS, 4, NOBODY)),
        acl((OTHERS, 6, NOBODY), (USER_OBJ, 6, NOBODY), (GROUP_OBJ, 4, NOBODY)),
    ):
        for name, kind in (("f", ACCESS), ("d", DEFAULT)):
            if value:
                with fails(errno.EINVAL, errno.EOPNOTSUPP):
                    os.setxattr(name, kind, value)
    with fails(errno.EACCES):
        os.setxattr("f", DEFAULT, entries())
    with fails(errno.EOPNOTSUPP):
        os.setxattr("l", ACCESS, entries(), follow_symlinks=False)
    with fails(errno.ENODATA):
        os.getxattr("f", ACCESS)
    assert mode_of("f") == 0o644
    # Three entries are a mode and no list.
    os.setxattr("f", ACCESS, acl((USER_OBJ, 7, NOBODY), (GROUP_OBJ, 5, NOBODY), (OTHERS, 1, NOBODY)))
    assert mode_of("f") == 0o751
    with fails(errno.ENODATA):
        os.getxattr("f", ACCESS)


def test_only_the_owner_sets_lists(place: Place) -> None:
    put("f")
    os.chmod("f", 0o666)
    os.mkdir("d")
    os.chmod("d", 0o777)

    def body() -> None:
        with fails(errno.EPERM):
            os.setxattr("f", ACCESS, entries())
        with fails(errno.EPERM):
            os.setxattr("d", DEFAULT, entries())
        put("mine")
        os.setxattr("mine", ACCESS, entries(uid=OTHER, named=6, mask=6))
        with fails(errno.EPERM):
            os.removexattr("f", ACCESS)

    as_user(body)
    as_user(lambda: put("mine", b"by the other"), uid=OTHER, gid=OTHER_GROUP, groups=())


@pytest.mark.parametrize(("gid", "result"), [(OTHER_GROUP, 0o660), (SUPPLEMENTARY, 0o2660), (GROUP, 0o2660)])
def test_a_list_set_by_an_owner_outside_the_group_clears_setgid(place: Place, gid: int, result: int) -> None:
    put("f")
    os.chown("f", USER, gid)
    os.chmod("f", 0o2644)

    as_user(lambda: os.setxattr("f", ACCESS, entries(named=6, group=4, mask=6)))

    assert oct(mode_of("f")) == oct(result)
    assert oct(mode_of(place.source / "f")) == oct(result)


@by_both
def test_setfacl_and_getfacl(place: Place) -> None:
    put("f", mode=0o640)
    os.mkdir("d")
    subprocess.run(["setfacl", "-m", f"u:{OTHER}:rwx,g:{SUPPLEMENTARY}:r,m::rx", "f"], check=True)
    subprocess.run(["setfacl", "-d", "-m", f"u:{OTHER}:rwx", "d"], check=True)

    def shown(name: object) -> list[str]:
        done = subprocess.run(["getfacl", "-cpn", str(name)], check=True, capture_output=True, text=True)
        return done.stdout.split("\n")

    assert [f"user:{OTHER}:rwx", "#effective:r-x"] in [line.split() for line in shown("f")]
    assert shown("f") == shown(place.source / "f")
    assert f"default:user:{OTHER}:rwx" in shown("d")
    assert shown("d") == shown(place.source / "d")
    subprocess.run(["setfacl", "-b", "f", "d"], check=True)
    subprocess.run(["setfacl", "-k", "d"], check=True)
    assert os.listxattr("f") == os.listxattr("d") == []
    assert mode_of("f") == 0o640
