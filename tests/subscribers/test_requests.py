"""The requests of the control socket: every row of the table in ``docs/protocol.md``, and every way to say no."""

from __future__ import annotations

import contextlib
import errno
import os
import select
import stat
from typing import TYPE_CHECKING

import pytest

from tests.support import wireclient as w
from tests.support.kernel import Inotify
from tests.support.wireclient import ADD, HELLO, PENDING, STATISTICS, Wire

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.conftest import Mount

LONE_FLAGS = {
    "ISDIR": w.ISDIR,
    "ONESHOT": w.ONESHOT,
    "IGNORED": w.IGNORED,
    "UNMOUNT": w.UNMOUNT,
    "Q_OVERFLOW": w.Q_OVERFLOW,
    "MASK_ADD": w.MASK_ADD,
    "MASK_CREATE": w.MASK_CREATE,
    "DONT_FOLLOW": w.DONT_FOLLOW,
    "EXCL_UNLINK": w.EXCL_UNLINK,
    "ONLYDIR": w.ONLYDIR,
}
UNKNOWN_BITS = (0x00001000, 0x00040000, 0x00080000, 0x00100000, 0x00200000, 0x00400000, 0x08000000)


@pytest.fixture
def mount(shared: Callable[..., Mount]) -> Mount:
    """The session's mount: a test has a directory of its own in it."""
    return shared()


@pytest.fixture
def wire(mount: Mount) -> Iterator[Wire]:
    with Wire(mount) as connection:
        yield connection


# Hello


def test_a_greeting_is_answered_with_the_version_the_mount_and_its_limits(mount: Mount, wire: Wire) -> None:
    greeting = wire.hello()

    assert greeting["version"]
    assert greeting["mountpoint"] == str(mount.root)
    assert greeting["source"] == str(mount.source)
    for limit in ("max_queued_events", "max_user_instances", "max_user_watches"):
        assert greeting[limit] > 0
    assert wire.descriptors == [], "a descriptor was passed that nobody asked for"


@pytest.mark.parametrize("name", [b"notifyfs 2", b"notifyfs", b"notifyfs 10", b""])
def test_a_greeting_in_another_version_is_refused_and_the_connection_goes_on(wire: Wire, name: bytes) -> None:
    assert wire.ask(HELLO, 0, name) == -errno.EINVAL
    assert wire.ask(PENDING) == 0


def test_a_connection_works_without_a_greeting(tree: Path, wire: Wire) -> None:
    assert wire.add(w.CREATE, tree) == 1


def test_a_greeting_after_another_request_is_refused_and_the_connection_goes_on(tree: Path, wire: Wire) -> None:
    wire.add(w.CREATE, tree)

    assert wire.ask(HELLO, w.EVENT_FD, w.GREETING) == -errno.EINVAL
    assert wire.descriptors == []
    w.touch(tree / "f")
    assert wire.told() == [(1, w.CREATE, b"f")]


def test_a_second_greeting_is_refused(wire: Wire) -> None:
    wire.hello()

    assert wire.ask(HELLO, 0, w.GREETING) == -errno.EINVAL
    assert wire.ask(PENDING) == 0


# Framing


def test_a_request_may_arrive_byte_by_byte(tree: Path, wire: Wire) -> None:
    for byte in w.encode(ADD, w.CREATE, 77, wire.below(tree)):
        wire.socket.send(bytes([byte]))

    events, reply = wire.until_reply(77)
    assert (events, reply.wd) == ([], 1)


def test_a_descriptor_travels_with_the_first_byte_of_its_request(tree: Path, wire: Wire) -> None:
    path = os.open(tree, os.O_PATH)
    data = w.encode(ADD, w.CREATE, 78)
    wire.send_bytes(data[:1], [path])
    os.close(path)
    for byte in data[1:]:
        wire.socket.send(bytes([byte]))

    assert wire.until_reply(78)[1].wd == 1
    assert wire.add(w.CREATE, tree) == 1


def test_many_requests_in_one_write_are_answered_in_order(tree: Path, wire: Wire) -> None:
    directories = [tree / str(number) for number in range(100)]
    for directory in directories:
        directory.mkdir()
    requests, expected = b"", []
    for number, directory in enumerate(directories, start=1):
        requests += w.encode(ADD, w.CREATE, 4 * number, wire.below(directory))
        requests += w.encode(-77, 0, 4 * number + 1)
        requests += w.encode(number, 0, 4 * number + 2)
        requests += w.encode(ADD, w.CREATE, 4 * number + 3, b"absent")
        for offset, result in enumerate((number, -errno.EINVAL, 0, -errno.ENOENT)):
            expected.append((4 * number + offset, result))

    wire.socket.sendall(requests)

    replies, events = [], []
    while len(replies) < len(expected):
        record = wire.record()
        if record.mask & w.REPLY:
            replies.append((record.cookie, record.wd))
        else:
            events.append(record.brief)
    events += wire.told()
    assert replies == expected
    assert events == [(number, w.IGNORED, b"") for number in range(1, 101)]


@pytest.mark.parametrize("cookie", [0, 1, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF])
def test_a_reply_carries_whatever_number_the_client_chose(wire: Wire, cookie: int) -> None:
    assert wire.until_reply(wire.send(PENDING, cookie=cookie))[1].cookie == cookie


def test_a_reply_has_the_reply_bit_and_a_plain_result_has_no_name(tree: Path, wire: Wire) -> None:
    _, reply = wire.until_reply(wire.send(ADD, w.CREATE, wire.below(tree)))

    assert reply.mask & w.REPLY
    assert reply.field == b""


@pytest.mark.parametrize("number", [-4, -5, -100, -(2**31)])
def test_an_unknown_request_is_refused_and_the_connection_goes_on(wire: Wire, number: int) -> None:
    assert wire.ask(number) == -errno.EINVAL
    assert wire.ask(PENDING) == 0


# Adding by path


def test_the_empty_path_is_the_root(mount: Mount, tree: Path, wire: Wire) -> None:
    wd = wire.add(w.ATTRIB)
    mount.root.chmod(stat.S_IMODE(mount.root.stat().st_mode))

    assert wire.told() == [(wd, w.ATTRIB | w.ISDIR, b"")]
    assert wire.add(w.ATTRIB, wire.below(tree) + b"/..") == wd


def test_a_nested_path_is_found(tree: Path, wire: Wire) -> None:
    deep = tree / "a" / "b" / "c"
    deep.mkdir(parents=True)
    wd = wire.add(w.CREATE, deep)
    w.touch(deep / "f")

    assert wire.told() == [(wd, w.CREATE, b"f")]


@pytest.mark.parametrize("detour", [b"d/../f", b"./f", b"d//..//f", b"d/./../f", b"d/e/../../f"])
def test_every_spelling_of_a_path_finds_the_same_file(tree: Path, wire: Wire, detour: bytes) -> None:
    (tree / "d" / "e").mkdir(parents=True)
    wd = wire.add(w.MODIFY, w.touch(tree / "f"))

    assert wire.add(w.MODIFY, wire.below(tree) + b"/" + detour) == wd


def test_a_directory_may_have_a_trailing_slash_and_a_file_may_not(tree: Path, wire: Wire) -> None:
    (tree / "d").mkdir()
    w.touch(tree / "f")

    assert wire.add(w.CREATE, wire.below(tree / "d") + b"/") == wire.add(w.CREATE, tree / "d")
    assert wire.watch(w.MODIFY, wire.below(tree / "f") + b"/") == -errno.ENOTDIR


@pytest.mark.parametrize("name", [b"\xff\xfe", b"line\nfeed", b" ", b"\\", b"n" * 255, "ä€𝄞".encode(), b"~", b"-1"])
def test_names_are_bytes(tree: Path, wire: Wire, name: bytes) -> None:
    parent = wire.add(w.CREATE, tree)
    path = os.fsencode(tree) + b"/" + name
    os.close(os.open(path, os.O_CREAT | os.O_WRONLY))
    wd = wire.add(w.ATTRIB, wire.below(tree) + b"/" + name)
    os.chmod(path, 0o600)

    assert wire.told() == [(parent, w.CREATE, name), (wd, w.ATTRIB, b"")]


def test_a_relative_symlink_is_followed(tree: Path, wire: Wire) -> None:
    (tree / "d").mkdir()
    w.touch(tree / "f")
    (tree / "d" / "link").symlink_to("../f")
    (tree / "chain").symlink_to("d/link")

    assert wire.add(w.MODIFY, tree / "d" / "link") == wire.add(w.MODIFY, tree / "f")
    assert wire.add(w.MODIFY, tree / "chain") == wire.add(w.MODIFY, tree / "f")


def test_a_symlink_on_the_way_is_followed_even_with_dont_follow(tree: Path, wire: Wire) -> None:
    (tree / "d").mkdir()
    wd = wire.add(w.MODIFY, w.touch(tree / "d" / "f"))
    (tree / "link").symlink_to("d")

    assert wire.add(w.MODIFY | w.DONT_FOLLOW, tree / "link" / "f") == wd


def test_an_absolute_symlink_back_into_the_mount_is_followed(mount: Mount, tree: Path, wire: Wire) -> None:
    w.touch(tree / "f")
    (tree / "link").symlink_to(tree / "f")
    (tree / "up").symlink_to(mount.root)

    assert wire.add(w.MODIFY, tree / "link") == wire.add(w.MODIFY, tree / "f")
    assert wire.add(w.MODIFY, tree / "up" / tree.relative_to(mount.root) / "f") == wire.add(w.MODIFY, tree / "f")
    assert wire.add(w.MODIFY, tree / "up") == wire.add(w.MODIFY)


@pytest.mark.parametrize("target", ["/", "/etc/passwd", "/nowhere/at/all"])
def test_an_absolute_symlink_out_of_the_mount_is_not_followed(tree: Path, wire: Wire, target: str) -> None:
    (tree / "link").symlink_to(target)

    assert wire.watch(w.MODIFY, tree / "link") == -errno.EXDEV
    assert wire.watch(w.MODIFY | w.DONT_FOLLOW, tree / "link") > 0


def test_a_symlink_to_a_sibling_whose_name_begins_like_the_mountpoint_leads_out(
    mount: Mount, tree: Path, wire: Wire
) -> None:
    (tree / "link").symlink_to(f"{mount.root}-other/f")

    assert wire.watch(w.MODIFY, tree / "link") == -errno.EXDEV


@pytest.mark.parametrize("path", [b"..", b"../..", b"../../../../../../../../etc/passwd", b"./../x"])
def test_dot_dot_does_not_lead_out_of_the_mount(wire: Wire, path: bytes) -> None:
    assert wire.watch(w.MODIFY, path) == -errno.EXDEV


def test_a_leading_slash_does_not_lead_out_of_the_mount(wire: Wire) -> None:
    assert wire.watch(w.MODIFY, b"/etc/passwd") < 0


def test_a_relative_symlink_does_not_lead_out_of_the_mount(tree: Path, wire: Wire) -> None:
    (tree / "link").symlink_to("../" * 20 + "etc/passwd")

    assert wire.watch(w.MODIFY, tree / "link") == -errno.EXDEV


def test_a_loop_of_symlinks_is_eloop(tree: Path, wire: Wire) -> None:
    (tree / "a").symlink_to("b")
    (tree / "b").symlink_to("a")

    assert wire.watch(w.MODIFY, tree / "a") == -errno.ELOOP
    assert wire.watch(w.MODIFY, tree / "a" / "f") == -errno.ELOOP
    assert wire.watch(w.ATTRIB | w.DONT_FOLLOW, tree / "a") > 0


def test_a_symlink_to_nothing_is_enoent_but_can_be_watched_itself(tree: Path, wire: Wire) -> None:
    (tree / "link").symlink_to("absent")

    assert wire.watch(w.MODIFY, tree / "link") == -errno.ENOENT
    assert wire.watch(w.ATTRIB | w.DONT_FOLLOW, tree / "link") > 0


def test_what_is_too_long_is_enametoolong(tree: Path, wire: Wire) -> None:
    wd = wire.add(w.MODIFY)

    assert wire.watch(w.MODIFY, tree / ("n" * 256)) == -errno.ENAMETOOLONG
    assert wire.watch(w.MODIFY, b"./" * 2048) == -errno.ENAMETOOLONG, "4096 bytes"
    assert wire.watch(w.MODIFY, b"./" * 2047 + b".") == wd, "4095 bytes"


def test_what_does_not_exist_is_enoent(tree: Path, wire: Wire) -> None:
    assert wire.watch(w.MODIFY, tree / "absent") == -errno.ENOENT
    assert wire.watch(w.MODIFY, tree / "absent" / "f") == -errno.ENOENT


def test_a_file_on_the_way_is_enotdir(tree: Path, wire: Wire) -> None:
    w.touch(tree / "f")

    assert wire.watch(w.MODIFY, tree / "f" / "x") == -errno.ENOTDIR
    assert wire.watch(w.MODIFY, wire.below(tree) + b"/f/..") == -errno.ENOTDIR


def test_a_name_that_is_gone_is_not_found_any_more(tree: Path, wire: Wire) -> None:
    wire.add(w.MODIFY, w.touch(tree / "f"))
    (tree / "f").rename(tree / "g")

    assert wire.watch(w.MODIFY, tree / "f") == -errno.ENOENT
    (tree / "g").unlink()
    assert wire.watch(w.MODIFY, tree / "g") == -errno.ENOENT


# Adding by descriptor


def test_a_descriptor_of_a_file_watches_that_file(tree: Path, wire: Wire) -> None:
    w.touch(tree / "f")
    path = os.open(tree / "f", os.O_PATH)
    wd = wire.add_descriptor(w.ATTRIB, path)
    os.close(path)
    (tree / "f").chmod(0o600)

    assert wire.told() == [(wd, w.ATTRIB, b"")]
    assert wire.add(w.ATTRIB, tree / "f") == wd


def test_a_descriptor_follows_its_file_through_a_rename(tree: Path, wire: Wire) -> None:
    path = os.open(w.touch(tree / "f"), os.O_PATH)
    (tree / "f").rename(tree / "g")
    w.touch(tree / "f")
    wd = wire.add_descriptor(w.ATTRIB, path)
    os.close(path)

    assert wire.add(w.ATTRIB, tree / "g") == wd
    assert wire.add(w.ATTRIB, tree / "f") != wd


def test_a_descriptor_of_the_root_watches_the_root(mount: Mount, wire: Wire) -> None:
    path = os.open(mount.root, os.O_PATH | os.O_DIRECTORY)
    wd = wire.add_descriptor(w.CREATE, path)
    os.close(path)

    assert wire.add(w.CREATE) == wd


def test_a_descriptor_of_a_symlink_watches_the_symlink(tree: Path, wire: Wire) -> None:
    w.touch(tree / "f")
    (tree / "link").symlink_to("f")
    path = os.open(tree / "link", os.O_PATH | os.O_NOFOLLOW)
    wd = wire.add_descriptor(w.ATTRIB, path)
    os.close(path)

    assert wire.add(w.ATTRIB | w.DONT_FOLLOW, tree / "link") == wd
    assert wire.add(w.ATTRIB, tree / "f") != wd


def test_a_deleted_file_that_is_open_can_be_watched_by_descriptor(tree: Path, wire: Wire) -> None:
    content = os.open(tree / "f", os.O_RDWR | os.O_CREAT)
    path = os.open(tree / "f", os.O_PATH)
    (tree / "f").unlink()
    wd = wire.add_descriptor(w.MODIFY | w.DELETE_SELF, path)
    os.write(content, b"x")

    assert wd > 0
    assert wire.told() == [(wd, w.MODIFY, b"")]
    os.close(path)
    os.close(content)


def test_a_watch_on_a_file_deleted_before_ends_with_the_last_reference_to_the_file(tree: Path, wire: Wire) -> None:
    path = os.open(w.touch(tree / "f"), os.O_PATH)
    (tree / "f").unlink()
    wd = wire.add_descriptor(w.DELETE_SELF, path)
    assert wd > 0
    os.close(path)

    # Only FUSE's FORGET tells of this end, and it is asynchronous.
    assert [wire.record().brief for _ in range(2)] == [(wd, w.DELETE_SELF, b""), (wd, w.IGNORED, b"")]


@pytest.mark.parametrize("elsewhere", ["/", "/dev/null", "/proc/self/status"])
def test_a_descriptor_of_another_file_system_is_exdev(wire: Wire, elsewhere: str) -> None:
    path = os.open(elsewhere, os.O_PATH)

    assert wire.add_descriptor(w.MODIFY, path) == -errno.EXDEV
    os.close(path)
    assert wire.ask(PENDING) == 0


def test_a_descriptor_of_the_source_is_not_one_of_the_mount(mount: Mount, wire: Wire) -> None:
    path = os.open(mount.source, os.O_PATH)

    assert wire.add_descriptor(w.CREATE, path) == -errno.EXDEV
    os.close(path)


def test_a_pipe_is_not_a_file_of_the_mount(wire: Wire) -> None:
    ours, theirs = os.pipe()

    assert wire.add_descriptor(w.MODIFY, theirs) < 0
    os.close(ours)
    os.close(theirs)
    assert wire.ask(PENDING) == 0


def test_masks_are_judged_for_descriptors_too(tree: Path, wire: Wire) -> None:
    path = os.open(w.touch(tree / "f"), os.O_PATH)

    assert wire.add_descriptor(0, path) == -errno.EINVAL
    assert wire.add_descriptor(w.MODIFY | w.ONLYDIR, path) == -errno.ENOTDIR
    assert wire.add_descriptor(w.MODIFY, path) == 1
    assert wire.add_descriptor(w.MODIFY | w.MASK_CREATE, path) == -errno.EEXIST
    os.close(path)


# Masks


def test_a_mask_of_zero_is_refused(tree: Path, wire: Wire) -> None:
    assert wire.watch(0, tree) == -errno.EINVAL


@pytest.mark.parametrize("bit", UNKNOWN_BITS, ids=hex)
def test_an_unknown_bit_is_refused_even_beside_a_known_one(tree: Path, wire: Wire, bit: int) -> None:
    assert wire.watch(bit, tree) == -errno.EINVAL
    assert wire.watch(bit | w.OPEN, tree) == -errno.EINVAL


@pytest.mark.parametrize("flag", LONE_FLAGS)
def test_a_lone_flag_is_accepted_and_asks_for_no_event(tree: Path, wire: Wire, flag: str) -> None:
    (tree / "d").mkdir()
    wd = wire.add(LONE_FLAGS[flag], tree / "d")
    (tree / "d" / "e").mkdir()
    (tree / "d" / "e").rmdir()

    assert wire.told() == []
    (tree / "d").rmdir()
    assert wire.told() == [(wd, w.IGNORED, b"")]


def test_mask_add_with_mask_create_is_refused(tree: Path, wire: Wire) -> None:
    assert wire.watch(w.OPEN | w.MASK_ADD | w.MASK_CREATE, tree) == -errno.EINVAL


def test_mask_create_refuses_an_inode_that_this_instance_watches(mount: Mount, tree: Path, wire: Wire) -> None:
    assert wire.watch(w.CREATE | w.MASK_CREATE, tree) == 1
    assert wire.watch(w.DELETE | w.MASK_CREATE, tree) == -errno.EEXIST
    w.touch(tree / "f").unlink()
    assert wire.told() == [(1, w.CREATE, b"f")], "the refused request left the watch as it was"
    with Wire(mount) as other:
        assert other.watch(w.CREATE | w.MASK_CREATE, tree) == 1


def test_onlydir_refuses_what_is_not_a_directory(tree: Path, wire: Wire) -> None:
    (tree / "d").mkdir()
    w.touch(tree / "f")
    (tree / "link").symlink_to("d")

    assert wire.watch(w.CREATE | w.ONLYDIR, tree / "f") == -errno.ENOTDIR
    assert wire.watch(w.CREATE | w.ONLYDIR | w.DONT_FOLLOW, tree / "link") == -errno.ENOTDIR
    assert wire.watch(w.CREATE | w.ONLYDIR, tree / "link") == 1
    assert wire.watch(w.CREATE | w.ONLYDIR, tree / "d") == 1


def test_dont_follow_watches_the_symlink_itself(tree: Path, wire: Wire) -> None:
    w.touch(tree / "f")
    (tree / "link").symlink_to("f")
    target = wire.add(w.ATTRIB, tree / "link")
    link = wire.add(w.ATTRIB | w.MOVE_SELF | w.DONT_FOLLOW, tree / "link")
    assert link != target

    os.utime(tree / "link", (1, 1), follow_symlinks=False)
    (tree / "f").chmod(0o600)
    (tree / "link").rename(tree / "link2")

    assert wire.told() == [(link, w.ATTRIB, b""), (target, w.ATTRIB, b""), (link, w.MOVE_SELF, b"")]


def test_oneshot_sends_one_event_and_then_ignored_and_the_watch_is_gone(tree: Path, wire: Wire) -> None:
    wd = wire.add(w.CREATE | w.DELETE | w.ONESHOT, tree)
    w.touch(tree / "f").unlink()

    assert wire.told() == [(wd, w.CREATE, b"f"), (wd, w.IGNORED, b"")]
    assert wire.ask(wd) == -errno.EINVAL
    assert wire.add(w.CREATE, tree) == wd + 1


def test_a_second_add_replaces_the_mask_and_mask_add_adds_to_it(tree: Path, wire: Wire) -> None:
    file = w.touch(tree / "f")
    wd = wire.add(w.MODIFY, file)

    assert wire.add(w.ATTRIB | w.MASK_ADD, file) == wd
    file.chmod(0o600)
    os.truncate(file, 1)
    assert wire.told() == [(wd, w.ATTRIB, b""), (wd, w.MODIFY, b"")]

    assert wire.add(w.ATTRIB, file) == wd
    os.truncate(file, 2)
    file.chmod(0o640)
    assert wire.told() == [(wd, w.ATTRIB, b"")]


def test_a_second_add_replaces_the_flags_too(tree: Path, wire: Wire) -> None:
    file = w.touch(tree / "f")
    wd = wire.add(w.ATTRIB | w.ONESHOT, file)
    assert wire.add(w.ATTRIB, file) == wd
    for mode in (0o600, 0o640):
        file.chmod(mode)
        assert wire.told() == [(wd, w.ATTRIB, b"")]


def test_a_second_add_without_recursion_ends_the_recursion(tree: Path, wire: Wire) -> None:
    (tree / "d").mkdir()
    wd = wire.add(w.CREATE | w.RECURSIVE, tree)
    w.touch(tree / "d" / "f")
    assert wire.told() == [(wd, w.CREATE, b"d/f")]

    assert wire.add(w.CREATE, tree) == wd
    w.touch(tree / "d" / "g")
    w.touch(tree / "h")
    assert wire.told() == [(wd, w.CREATE, b"h")]


# Watch descriptors


def test_watch_descriptors_count_from_one_in_each_instance_and_are_never_reused(mount: Mount, tree: Path) -> None:
    for name in "abc":
        (tree / name).mkdir()
    with Wire(mount) as first, Wire(mount) as second:
        assert [first.add(w.CREATE, tree / name) for name in "abc"] == [1, 2, 3]
        assert first.ask(3) == 0
        assert first.ask(1) == 0
        assert first.add(w.CREATE, tree / "a") == 4
        assert first.add(w.CREATE, tree / "b") == 2
        assert first.add(w.CREATE, tree / "c") == 5
        assert second.add(w.CREATE, tree / "c") == 1


def test_hard_links_are_one_inode_and_have_one_watch_descriptor(tree: Path, wire: Wire) -> None:
    w.touch(tree / "f")
    os.link(tree / "f", tree / "g")

    assert wire.add(w.MODIFY, tree / "f") == wire.add(w.MODIFY, tree / "g") == 1


def test_a_file_made_anew_under_an_old_name_is_another_inode(tree: Path, wire: Wire) -> None:
    assert wire.add(w.MODIFY, w.touch(tree / "f")) == 1
    (tree / "f").unlink()
    assert wire.add(w.MODIFY, w.touch(tree / "f")) == 2


# Removing


def test_removing_a_watch_sends_what_was_queued_and_then_ignored(tree: Path, wire: Wire) -> None:
    wd = wire.add(w.CREATE, tree)
    w.touch(tree / "f")
    assert wire.ask(wd) == 0
    w.touch(tree / "g")

    assert wire.told() == [(wd, w.CREATE, b"f"), (wd, w.IGNORED, b"")]


def test_removing_a_watch_leaves_the_others_alone(mount: Mount, tree: Path, wire: Wire) -> None:
    (tree / "d").mkdir()
    with Wire(mount) as other:
        wire.add(w.CREATE, tree)
        wire.add(w.CREATE, tree / "d")
        other.add(w.CREATE, tree)
        assert wire.ask(1) == 0
        w.touch(tree / "f")
        w.touch(tree / "d" / "f")
        assert wire.told() == [(1, w.IGNORED, b""), (2, w.CREATE, b"f")]
        assert other.told() == [(1, w.CREATE, b"f")]


def test_a_watch_that_is_not_there_cannot_be_removed(mount: Mount, tree: Path, wire: Wire) -> None:
    with Wire(mount) as other:
        other.add(w.CREATE, tree)
        assert wire.ask(1) == -errno.EINVAL, "another instance's"
    assert wire.ask(2**31 - 1) == -errno.EINVAL
    wd = wire.add(w.CREATE, tree)
    assert wire.ask(wd) == 0
    assert wire.ask(wd) == -errno.EINVAL


def test_the_watch_of_a_deleted_directory_is_gone_already(tree: Path, wire: Wire) -> None:
    (tree / "d").mkdir()
    wd = wire.add(w.CREATE, tree / "d")
    (tree / "d").rmdir()

    assert wire.ask(wd) == -errno.EINVAL
    assert wire.told() == [(wd, w.IGNORED, b"")]


# Statistics and pending


def test_statistics_count_this_instance_and_the_mount(mount: Mount, tree: Path) -> None:
    (tree / "d").mkdir()
    with Wire(mount) as wire, Wire(mount) as other:
        wire.add(w.CREATE, tree)
        wire.add(w.CREATE, tree / "d")
        other.add(w.CREATE, tree)
        counters = wire.statistics()

    assert counters["instance"]["watches"] == 2
    assert counters["instance"]["dropped"] == 0
    assert counters["mount"]["watches"] >= 3
    assert counters["mount"]["instances"] >= 2


def test_nothing_is_pending_on_an_idle_connection(tree: Path, wire: Wire) -> None:
    wire.add(w.CREATE, tree)
    w.touch(tree / "f")

    assert wire.told() == [(1, w.CREATE, b"f")]
    assert wire.ask(PENDING) == 0


@pytest.mark.parametrize("count", [1, 200, 4000])
def test_pending_and_the_descriptors_own_count_make_what_inotify_would_say(
    mount: Mount, tree: Path, count: int
) -> None:
    with Wire(mount, event_fd=True) as wire, contextlib.closing(Inotify(os.fsencode(tree))) as kernel:
        wire.add(w.CREATE, tree)
        kernel.add(b"", w.CREATE)
        for number in range(count):
            os.mkdir(tree / f"{number:0{1 + number % 60}}")
        queued = wire.ask(PENDING)

        assert queued + w.unread(wire.events_fd) == kernel.pending()


# Finding the socket


def test_the_socket_is_named_by_an_attribute_of_every_inode_that_is_not_listed(mount: Mount, tree: Path) -> None:
    w.touch(tree / "f")
    os.mkfifo(tree / "fifo")
    (tree / "link").symlink_to("absent")
    for path in (mount.root, tree, tree / "f", tree / "fifo", tree / "link"):
        assert os.getxattr(path, "notifyfs.socket", follow_symlinks=False) == os.fsencode(mount.socket)
        assert "notifyfs.socket" not in os.listxattr(path, follow_symlinks=False)


def test_the_socket_is_a_stream_socket_that_is_ready_at_once(mount: Mount, wire: Wire) -> None:
    assert stat.S_ISSOCK(os.stat(mount.socket).st_mode)
    wire.send(STATISTICS)
    poll = select.poll()
    poll.register(wire.socket, select.POLLIN)
    assert poll.poll(w.PATIENCE * 1000)
