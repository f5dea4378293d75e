"""What ``-o`` says becomes a typed value, or one line that names the word and the remedy."""

from __future__ import annotations

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from notifyfs.mounts.options import OptionError, Options, escape, split


def test_no_words_give_the_defaults() -> None:
    assert Options.parse([]) == Options()
    assert not Options().suid
    assert not Options().dev
    assert Options().exec


def test_words_of_several_arguments_add_up() -> None:
    options = Options.parse(["ro,noatime", "allow_other", "max_queued_events=7,cache=never"])
    assert (options.read_only, options.noatime, options.allow_other) == (True, True, True)
    assert (options.max_queued_events, options.cache) == (7, "never")


def test_the_last_of_two_words_wins() -> None:
    assert Options.parse(["ro,rw"]).read_only is False
    assert Options.parse(["rw", "ro"]).read_only is True
    assert Options.parse(["suid,nosuid,dev"]) == Options(dev=True)
    assert Options.parse(["max_user_watches=5,max_user_watches=6"]).max_user_watches == 6


def test_what_mount_and_fstab_add_is_dropped() -> None:
    said = "rw,nofail,_netdev,noauto,auto,user,users,nouser,owner,group,defaults,nonempty"
    assert Options.parse([said, "x-systemd.automount,x-gvfs-show,X-mount.mkdir=0755,comment=a,user=bob"]) == Options()


@pytest.mark.parametrize(
    ("word", "field"),
    [
        ("relatime", "relatime"),
        ("strictatime", "strictatime"),
        ("nodiratime", "nodiratime"),
        ("lazytime", "lazytime"),
        ("sync", "sync"),
        ("dirsync", "dirsync"),
        ("allow_root", "allow_root"),
        ("debug", "debug"),
    ],
)
def test_a_switch_sets_its_field(word: str, field: str) -> None:
    assert Options.parse([word]) == Options(**{field: True})


@pytest.mark.parametrize(
    "word", ["atime", "diratime", "norelatime", "nostrictatime", "nolazytime", "async", "nosuid", "nodev", "exec"]
)
def test_the_opposite_of_what_is_off_changes_nothing(word: str) -> None:
    assert Options.parse([word]) == Options()


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("max_read_=1", "max_read_=1: unknown option; did you mean max_read?"),
        ("alow_other", "alow_other: unknown option; did you mean allow_other?"),
        ("zzz", "zzz: unknown option; `notifyfs mount --help` lists the known ones"),
        ("ro=1", "ro=1: takes no value; write ro"),
        ("fsname", "fsname: needs a value; write fsname=..."),
        ("socket=", "socket: needs a value; write socket=..."),
        ("max_queued_events=0", "max_queued_events=0: wants a whole number from 1 to 2147483647"),
        ("max_user_watches=-1", "max_user_watches=-1: wants a whole number from 1 to 2147483647"),
        ("max_user_instances=2147483648", "max_user_instances=2147483648: wants a whole number from 1 to 2147483647"),
        ("max_read=4k", "max_read=4k: wants a whole number from 4096 to 2147483647"),
        ("max_read=4095", "max_read=4095: wants a whole number from 4096 to 2147483647"),
        ("cache=often", "cache=often: no such choice; it is one of auto, always, never"),
        ("access=", "access=: no such choice; it is one of cached, exact, off"),
        ("allow_other,allow_root", "allow_other,allow_root: each says who may enter, and they differ; leave one out"),
    ],
)
def test_a_wrong_word_is_named_with_its_remedy(word: str, said: str) -> None:
    with pytest.raises(OptionError) as caught:
        Options.parse([word])
    assert str(caught.value) == said


def test_sloppy_drops_the_unknown_but_not_a_wrong_value() -> None:
    assert Options.parse(["zzz,ro,qqq=1"], sloppy=True) == Options(read_only=True)
    with pytest.raises(OptionError, match="max_read=x"):
        Options.parse(["max_read=x"], sloppy=True)


def test_paths_are_made_absolute_for_a_daemon_whose_directory_is_the_root() -> None:
    options = Options.parse(["socket=s.sock,log=../l"])
    assert options.socket == os.path.join(os.getcwd(), "s.sock")
    assert options.log == os.path.join(os.path.dirname(os.getcwd()), "l")


def test_a_socket_path_may_fill_sun_path_and_no_more() -> None:
    longest = "/" + "s" * 106
    assert Options.parse([f"socket={longest}"]).socket == longest
    with pytest.raises(OptionError, match="at most 107 bytes; choose a shorter one"):
        Options.parse([f"socket={longest}s"])


def test_backslashes_escape_commas_and_themselves_only() -> None:
    assert list(split(r"fsname=a\,b\\,ro,x=c:\d")) == ["fsname=a,b\\", "ro", "x=c:\\d"]
    assert Options.parse([r"fsname=/a\,b"]).fsname == "/a,b"
    assert list(split("")) == []
    assert list(split(",,ro,,")) == ["ro"]


@given(st.lists(st.text(min_size=1)))
def test_escaped_words_are_read_back(words: list[str]) -> None:
    assert list(split(",".join(escape(word) for word in words))) == words
