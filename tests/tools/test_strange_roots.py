"""The commands where the mount table is not what they would expect: in a chroot, without /proc, among strange names.

Each in a mount namespace of its own, which takes everything away with its last process.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.conftest import SOURCES
from tests.support.faults import root_only

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [root_only, pytest.mark.usefixtures("fuse")]

NOTIFYFS = f"{sys.executable} -m notifyfs.commands.main"
# A root that no mount is on: what this machine has, bound into a directory.
NEW_ROOT = """
set -e
for each in /*; do
    case $each in
        /run | /proc) mkdir "$1$each" ;;
        *) if [ -h "$each" ]; then cp -P "$each" "$1$each"
           elif [ -d "$each" ]; then mkdir "$1$each"; mount --bind "$each" "$1$each"
           fi ;;
    esac
done
mount -t proc proc "$1/proc"
mkdir -p "$1/here/source" "$1/here/mount"
echo here > "$1/here/source/file"
exec chroot "$1" sh -c "$2"
"""


def in_namespace(script: str, *words: str | Path) -> tuple[list[str], str]:
    """The lines that a shell prints in a mount namespace of its own, and its standard error; *words* are $1 and on."""
    done = subprocess.run(
        ["unshare", "--mount", "--propagation", "slave", "sh", "-c", script, "sh", *words],
        capture_output=True,
        text=True,
        check=False,
        timeout=50,
        env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "PYTHONPATH": str(SOURCES)},
    )
    return done.stdout.split("\n")[:-1], done.stderr


def test_in_a_chroot_that_is_no_mountpoint_everything_works(tmp_path: Path) -> None:
    script = f"""
        cd /here
        grep -c ' / / ' /proc/self/mountinfo
        {NOTIFYFS} doctor >/dev/null; echo doctor $?
        {NOTIFYFS} mount source mount && cat mount/file
        {NOTIFYFS} list --json | tr -d '\\n'; echo
        {NOTIFYFS} stats mount | head -1
        {NOTIFYFS} umount mount; echo umount $?
        {NOTIFYFS} list
    """
    said, errors = in_namespace(NEW_ROOT, tmp_path, script)
    assert errors == ""
    without_root, doctor, socket, content, listed, instances, umount, heading = said
    assert (without_root, doctor, content, instances, umount) == ("0", "doctor 0", "here", "instances: 1", "umount 0")
    (mount,) = json.loads(listed)
    assert (mount["mountpoint"], mount["state"], mount["socket"]) == ("/here/mount", "live", socket)
    assert heading.startswith("MOUNTPOINT")


def test_without_proc_each_command_says_what_to_do(tmp_path: Path) -> None:
    commands = ("list", "mount source mount", "umount mount", "doctor")
    script = "cd /here; umount /proc;" + ";".join(f"{NOTIFYFS} {command} 2>&1; echo $?" for command in commands)
    said, errors = in_namespace(NEW_ROOT, tmp_path, script)
    assert errors == ""
    line = "notifyfs: /proc/self/mountinfo: No such file or directory; as root: mount -t proc proc /proc"
    assert said[:6] == [line, "1"] * 3
    assert said[6:8] == ["missing  /proc: not mounted", "         as root: mount -t proc proc /proc"]
    assert said[-1] == "1"


def test_a_mount_that_would_hide_the_directory_of_the_sockets_is_refused(tmp_path: Path) -> None:
    said, errors = in_namespace(f"timeout 20 {NOTIFYFS} mount $1 /run; echo $?", tmp_path)
    assert said == ["1"]
    assert errors == (
        "notifyfs: /run/notifyfs: the directory of the sockets would be hidden by the mount on /run; "
        "choose another mountpoint\n"
    )


def test_a_carriage_return_in_the_name_of_a_mountpoint_anywhere_is_no_end_of_a_line(tmp_path: Path) -> None:
    for name in ("source", "mo\runt", "else\rwhere"):
        (tmp_path / name).mkdir()
    (tmp_path / "source" / "file").write_text("here\n")
    script = f"""
        mount -t tmpfs "no
device\r" "$1/else\rwhere"
        {NOTIFYFS} mount "$1/source" "$1/mo\runt" && cat "$1/mo\runt/file"
        {NOTIFYFS} list --json | tr -d '\\n'; echo
        {NOTIFYFS} doctor >/dev/null; echo doctor $?
        {NOTIFYFS} umount "$1/mo\runt"; echo umount $?
    """
    (socket, content, listed, doctor, umount), errors = in_namespace(script, tmp_path)
    assert errors == ""
    assert re.fullmatch(r".*/mo_unt-[0-9a-f]{8}/socket", socket)
    assert (content, doctor, umount) == ("here", "doctor 0", "umount 0")
    assert [each["state"] for each in json.loads(listed) if each["mountpoint"] == f"{tmp_path}/mo\runt"] == ["live"]
