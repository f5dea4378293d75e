"""What is known to differ, and is left out unless ``--include`` names it: a word for each, and why."""

from __future__ import annotations

from typing import Final

KNOWN: Final = {
    "whiteout": "ext4 changes a directory's times although the rename that was to leave a whiteout in it failed; the"
    " mount shows that up to a second later",
    "setgid": "a stranger's write does not clear setgid where the group may not execute: the kernel's FUSE leaves it",
    "far": "lseek(2), sendfile(2), copy_file_range(2) to where no file of the source can reach are errors there, and"
    " work on the mount; write(2) is EFBIG on both, and on the mount takes setuid away before it fails",
    "appended": "a file that was opened with O_APPEND is written past the cache: it cannot be mapped shared, and setuid"
    " is cleared as for who opened it, whoever writes",
    "mapped": "storing through a shared map takes the file capabilities away: FUSE writes the page back as any data",
}
