"""Extended attributes, with their errors."""

from __future__ import annotations

import ctypes
import errno
import os
import subprocess
from typing import TYPE_CHECKING

from tests.support.posix import (
    OTHER,
    as_user,
    by_both,
    call,
    fails,
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
