"""``mount.notifyfs``: as mount(8) calls."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

from notifyfs import mounts
from tests.tools.test_cli import BIN, run, said, state, tree

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["tree"]


# As mount(8) calls.


def test_without_a_command_two_paths_are_mounted(tree: Path) -> None:
    code, out, err = said(run(tree / "source", tree / "mount", "-o", "rw,noatime,nofail,x-any"))
    assert (code, err) == (0, "")
    assert out.endswith("/socket\n")
    assert (tree / "mount" / "file").read_text() == "here\n"


def test_mount_8_mounts_by_its_type(tree: Path) -> None:
    # mount.fuse3 looks in the system's directories only, so the program is shown there to this namespace.
    script = """
        mount --bind "$1" /usr/local/bin &&
        mount -t fuse.notifyfs "$2" "$3" -o noexec,nofail,x-any,allow_other >/dev/null &&
        cat "$3/file" &&
        findmnt --noheadings --output SOURCE,FSTYPE "$3" &&
        umount "$3"
    """
    command = ["unshare", "--mount", "sh", "-c", script, "sh", BIN, tree / "source", tree / "mount"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=40)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.split() == ["here", str(tree / "source"), "fuse.notifyfs"]


def test_the_helper_mounts_quietly_and_tolerates_what_it_is_told_to(tree: Path) -> None:
    words = (tree / "source", tree / "mount", "-sn", "-t", "fuse.notifyfs", "-o", "rw,noexec,unheard_of")
    assert said(run(*words, program="mount.notifyfs")) == (0, "", "")
    assert (tree / "mount" / "file").read_text() == "here\n"


def test_the_helper_can_tell_the_socket(tree: Path) -> None:
    code, out, _ = said(run(tree / "source", tree / "mount", "-v", program="mount.notifyfs"))
    assert (code, out) == (0, f"{mounts.socket_path(str(tree / 'mount'))}\n")


def test_the_helper_s_exit_codes_are_those_of_mount_8(tree: Path) -> None:
    nowhere = tree / "nowhere"
    code, out, err = said(run(tree / "source", tree / "mount", "-o", "unheard_of", program="mount.notifyfs"))
    assert (code, out) == (1, "")
    assert err.startswith("notifyfs: -o unheard_of: unknown option; ")
    assert run(tree / "source", program="mount.notifyfs").returncode == 1
    for flags in ("-n", "-f"):
        code, out, err = said(run(nowhere, tree / "mount", flags, program="mount.notifyfs"))
        assert (code, out) == (32, "")
        assert err.startswith(f"notifyfs: {nowhere}: the source: No such file or directory")


def test_a_fake_mount_checks_and_does_not_mount(tree: Path) -> None:
    assert said(run(tree / "source", tree / "mount", "-f", program="mount.notifyfs")) == (0, "", "")
    assert state(tree / "mount") is None
