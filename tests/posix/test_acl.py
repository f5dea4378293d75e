"""Access control lists, with their errors."""

from __future__ import annotations

import errno
import os
import stat
import subprocess
from typing import TYPE_CHECKING

import pytest

from tests.posix.test_xattr import ACCESS, DEFAULT
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
    fails,
    get,
    mode_of,
    put,
)

if TYPE_CHECKING:
    from tests.support.posix import Place


pytest_plugins = ["tests.support.posix"]


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
