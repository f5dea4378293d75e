"""The mount table: escapes, optional fields, what is on top."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from hypothesis import given
from hypothesis import strategies as st

from notifyfs.mounts import mountinfo

if TYPE_CHECKING:
    from pathlib import Path

# The mount table.

TABLE = rb"""22 1 254:0 / / rw,relatime - ext4 /dev/root rw
30 22 0:45 / /mnt/a\040b\011c\134d\012e\043 rw shared:3 master:1 - fuse.notifyfs /src\040dir rw,user_id=1000,group_id=0
31 30 0:46 /sub /mnt/- rw - tmpfs  rw
32 22 0:47 / /mnt/- ro propagate_from:2 - fuseblk /dev/sda1 ro
"""


def test_a_table_is_read_with_its_escapes_and_optional_fields() -> None:
    root, ours, below, above = mountinfo.parse(TABLE)
    assert (root.mount_id, root.parent_id, root.device, root.fstype) == (22, 1, "254:0", "ext4")
    assert ours.mountpoint == "/mnt/a b\tc\\d\ne#"
    assert (ours.source, ours.user_id, ours.is_fuse) == ("/src dir", 1000, True)
    assert (below.source, below.super_options, below.is_fuse) == ("", "rw", False)
    assert (above.fstype, above.is_fuse, above.user_id) == ("fuseblk", True, 0)


def test_the_later_of_two_mounts_on_a_mountpoint_is_on_top() -> None:
    lines = mountinfo.parse(TABLE)
    assert mountinfo.top("/mnt/-", lines) is lines[3]
    assert mountinfo.top("/mnt", lines) is None


@given(st.binary())
def test_escaped_names_are_read_back(name: bytes) -> None:
    escaped = b"".join(b"\\%03o" % byte if byte in b" \t\n\\#" else bytes([byte]) for byte in name)
    assert os.fsencode(mountinfo.unescape(escaped)) == name


def test_a_path_is_resolved_through_links_and_dots(tmp_path: Path) -> None:
    (tmp_path / "dir").mkdir()
    (tmp_path / "link").symlink_to("dir")
    wanted = str((tmp_path / "dir").resolve())
    assert mountinfo.real(str(tmp_path / "link")) == wanted
    assert mountinfo.real(f"{tmp_path}/link/") == wanted
    assert mountinfo.real(os.path.relpath(tmp_path / "link")) == wanted
    assert mountinfo.real(str(tmp_path / "link" / "missing")) == f"{wanted}/missing"
