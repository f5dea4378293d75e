"""What each operation tells, to whom, in which order: parity.md row by row, without a mount."""

from __future__ import annotations

import pytest

from tests.support.tree import Tree

ROWS = {
    # id and what is special: (before, what is done, what is heard); D watches the root
    "C1 new file": ("", "create f", "D:CREATE f, D:OPEN f"),
    "C2 new, truncating": ("", "create f, close f", "D:CREATE f, D:OPEN f, D:CLOSE_WRITE f"),
    "C3 existing": ("make f, watch F f", "open f", "D:OPEN f, F:OPEN"),
    "C4 mkdir": ("", "mkdir s", "D:CREATE|ISDIR s"),
    "C4 mknod, symlink": ("", "make p", "D:CREATE p"),
    "C6 target's directory": ("mkdir s, watch S s", "create s/f", "S:CREATE f, S:OPEN f"),
    "C7": ("make f, mkdir s, watch S s, watch F f", "link f s/g", "F:ATTRIB, S:CREATE g"),
    "U1": ("make f, watch F f", "unlink f", "F:ATTRIB, F:DELETE_SELF, F:IGNORED, D:DELETE f"),
    "U2": ("make f, link f g, watch F f", "unlink f", "F:ATTRIB, D:DELETE f"),
    "U3": (
        "make f, watch F f, edit f h",
        "unlink f, write h, close h",
        "F:ATTRIB, D:DELETE f, D:MODIFY f, F:MODIFY, D:CLOSE_WRITE f, F:CLOSE_WRITE, F:DELETE_SELF, F:IGNORED",
    ),
    "U3 a new file of that name": ("make f, edit f h, unlink f", "make f, write h", "D:CREATE f, D:MODIFY f"),
    "U4 O_PATH": (
        "make f, watch F f, hold f",
        "unlink f, give_up, release f",
        "F:ATTRIB, D:DELETE f, F:DELETE_SELF, F:IGNORED",
    ),
    "U4 working directory": (
        "mkdir s, watch S s, hold s",
        "rmdir s, give_up, release s",
        "D:DELETE|ISDIR s, S:DELETE_SELF, S:IGNORED",
    ),
    "U5 released late": (
        "make f, open f h, unlink f, watch F h",
        "close h",
        "D:CLOSE_NOWRITE f, F:CLOSE_NOWRITE, F:DELETE_SELF, F:IGNORED",
    ),
    "U6": (
        "make a, link a b, watch F a, edit a h, unlink a",
        "unlink b, write h",
        "F:ATTRIB, F:DELETE_SELF, F:IGNORED, D:DELETE b, D:MODIFY a",
    ),
    "U7": ("mkdir s, watch S s", "rmdir s", "S:DELETE_SELF, S:IGNORED, D:DELETE|ISDIR s"),
    "U7 only itself": ("mkdir r, mkdir r/s, watch S r/s", "rmdir r/s", "S:DELETE_SELF, S:IGNORED"),
    "U8": (
        "mkdir s, watch S s, open s h",
        "rmdir s, setattr h mode, close h",
        (
            "D:DELETE|ISDIR s, D:ATTRIB|ISDIR s, S:ATTRIB|ISDIR, D:CLOSE_NOWRITE|ISDIR s, S:CLOSE_NOWRITE|ISDIR, "
            "S:DELETE_SELF, S:IGNORED"
        ),
    ),
    "U9": (
        "mkdir s, make s/f, watch S s, watch F s/f, edit s/f h, unlink s/f, rmdir s",
        "write h, close h",
        "S:MODIFY f, F:MODIFY, S:CLOSE_WRITE f, F:CLOSE_WRITE, F:DELETE_SELF, F:IGNORED, S:DELETE_SELF, S:IGNORED",
    ),
    "U10": ("make f, watch F f OPEN", "unlink f", "F:IGNORED, D:DELETE f"),
    "U11": (
        "make f, watch F f",
        "unlink f, make f, watch G f, setattr f mode",
        "F:ATTRIB, F:DELETE_SELF, F:IGNORED, D:DELETE f, D:CREATE f, D:ATTRIB f, G:ATTRIB",
    ),
    "W1": ("make f, watch F f, edit f h", "write h, write h", "D:MODIFY f, F:MODIFY, D:MODIFY f, F:MODIFY"),
    "W3": ("make f, watch F f", "setattr f size", "D:MODIFY f, F:MODIFY"),
    "W4": (
        "make f, watch F f",
        "empty f, close f",
        "D:OPEN f, F:OPEN, D:MODIFY f, F:MODIFY, D:CLOSE_NOWRITE f, F:CLOSE_NOWRITE",
    ),
    "R1": ("make f, watch F f, open f h", "read h", "D:ACCESS f, F:ACCESS"),
    "R3": (
        "make t, watch T t",
        "open t, read t, close t",
        "D:OPEN t, T:OPEN, D:ACCESS t, T:ACCESS, D:CLOSE_NOWRITE t, T:CLOSE_NOWRITE",
    ),
    "R4": ("mkdir s, watch S s, open s h", "read h", "D:ACCESS|ISDIR s, S:ACCESS|ISDIR"),
    "R4 the watched root": ("open / h", "read h, close h", "D:ACCESS|ISDIR, D:CLOSE_NOWRITE|ISDIR"),
    "O1 directory": ("mkdir s, watch S s", "open s", "D:OPEN|ISDIR s, S:OPEN|ISDIR"),
    "O3 the last of two": ("make f, open f g, open f h", "close g, close h", "D:CLOSE_NOWRITE f"),
    "O4 unwritten": ("make f, edit f h", "close h", "D:CLOSE_WRITE f"),
    "O5 opened before the watch": ("make f, edit f h, watch F f", "close h", "D:CLOSE_WRITE f, F:CLOSE_WRITE"),
    "A1": ("make f, watch F f", "setattr f mode", "D:ATTRIB f, F:ATTRIB"),
    "A1 directory": ("mkdir s, watch S s", "setattr s owner", "D:ATTRIB|ISDIR s, S:ATTRIB|ISDIR"),
    "A2": ("make f", "setattr f", ""),
    "A2 strips setuid": ("make f", "setattr f mode", "D:ATTRIB f"),
    "A3": ("make f", "setattr f atime mtime", "D:ATTRIB f"),
    "A4 accessed": ("make f", "setattr f atime", "D:ACCESS f"),
    "A4 modified": ("make f", "setattr f mtime", "D:MODIFY f"),
    "A5": ("make f, watch F f", "setattr f size mode", "D:MODIFY|ATTRIB f, F:MODIFY|ATTRIB"),
    "A6": ("make f, edit f h", "setattr h mode, write h", "D:ATTRIB f, D:MODIFY f"),
    "A9": ("make l, watch L l", "setattr l owner", "D:ATTRIB l, L:ATTRIB"),
    "M1": ("make a, watch F a", "rename a b", "D:MOVED_FROM a c1, D:MOVED_TO b c1, F:MOVE_SELF"),
    "M1 across": ("mkdir y, make a, watch Y y", "rename a y/b", "D:MOVED_FROM a c1, Y:MOVED_TO b c1"),
    "M2 out": ("mkdir y, make a", "rename a y/b", "D:MOVED_FROM a c1"),
    "M2 in": ("mkdir y, make y/b", "rename y/b c", "D:MOVED_TO c c1"),
    "M3": (
        "make a, make b, watch A a, watch B b",
        "rename a b",
        "D:MOVED_FROM a c1, D:MOVED_TO b c1, B:ATTRIB, A:MOVE_SELF, B:DELETE_SELF, B:IGNORED",
    ),
    "M4": (
        "make a, make b, watch B b, edit b h, rename a b",
        "write h, close h",
        "D:MODIFY b, B:MODIFY, D:CLOSE_WRITE b, B:CLOSE_WRITE, B:DELETE_SELF, B:IGNORED",
    ),
    "M5": ("make a, make b, link b c, watch B b", "rename a b", "D:MOVED_FROM a c1, D:MOVED_TO b c1, B:ATTRIB"),
    "M6": (
        "mkdir a, mkdir b, watch A a, watch B b",
        "rename a b",
        "D:MOVED_FROM|ISDIR a c1, D:MOVED_TO|ISDIR b c1, B:ATTRIB|ISDIR, A:MOVE_SELF, B:DELETE_SELF, B:IGNORED",
    ),
    "M7": (
        "mkdir y, mkdir y/s, make a, watch Y y, watch A a, watch S y/s",
        "exchange a y/s",
        "D:MOVED_FROM a c1, Y:MOVED_TO s c1, A:MOVE_SELF, Y:MOVED_FROM|ISDIR s c2, D:MOVED_TO|ISDIR a c2, S:MOVE_SELF",
    ),
    "M7 in one directory": (
        "make a, make b",
        "exchange a b",
        "D:MOVED_FROM a c1, D:MOVED_TO b c1, D:MOVED_FROM b c2, D:MOVED_TO a c2",
    ),
    "M10": ("mkdir y, watch Y y, make a, edit a h, rename a y/b", "write h, close h", "Y:MODIFY b, Y:CLOSE_WRITE b"),
    "M11": ("mkdir x, mkdir y, watch X x, rename x y/t", "make y/t/n", "X:CREATE n"),
    "M12": (
        "make a, make b",
        "rename a c, rename b d",
        "D:MOVED_FROM a c1, D:MOVED_TO c c1, D:MOVED_FROM b c2, D:MOVED_TO d c2",
    ),
    "N1 whatever the order of adding": ("mkdir s, make s/f, watch F s/f, watch S s", "open s/f", "S:OPEN f, F:OPEN"),
    "N2 one level": ("mkdir s, mkdir s/t, watch S s", "make s/t/f", ""),
    "N2 masks of their own": (
        "mkdir s, make s/f, watch S s MODIFY, watch F s/f OPEN",
        "edit s/f h, write h",
        "F:OPEN, S:MODIFY f",
    ),
    "N3": (
        "mkdir s, make a, link a s/c, watch S s, watch F a",
        "open a, open s/c",
        "D:OPEN a, F:OPEN, S:OPEN c, F:OPEN",
    ),
    "N4": (
        "make f, watch D / ALL_EVENTS|EXCL_UNLINK, watch F f ALL_EVENTS|EXCL_UNLINK, edit f h, unlink f",
        "write h, read h, setattr h size, setattr h mode, close h",
        "D:MODIFY f, F:MODIFY, D:ATTRIB f, F:ATTRIB, F:DELETE_SELF, F:IGNORED",
    ),
    "N4 replaced": (
        "make a, make b, watch D / ALL_EVENTS|EXCL_UNLINK, edit b h, rename a b",
        "write h, close h",
        "",
    ),
    "N4 directory": (
        "mkdir s, watch D / ALL_EVENTS|EXCL_UNLINK, watch S s ALL_EVENTS|EXCL_UNLINK, open s h",
        "rmdir s, close h",
        "D:DELETE|ISDIR s, S:DELETE_SELF, S:IGNORED",
    ),
    "N5": (
        "make a, link a b, watch F a ALL_EVENTS|EXCL_UNLINK, edit a dead, edit b live, unlink a",
        "write dead, write live",
        "D:MODIFY a, D:MODIFY b, F:MODIFY",
    ),
    "N6": (
        "make f, edit f h, watch F f MODIFY|ONESHOT",
        "write h, write h",
        "D:MODIFY f, F:MODIFY, F:IGNORED, D:MODIFY f",
    ),
    "N6 rename": ("make a, watch D / ALL_EVENTS|ONESHOT", "rename a b", "D:MOVED_FROM a c1, D:IGNORED"),
    "N6 unlink": ("make f, watch F f ATTRIB|DELETE_SELF|ONESHOT", "unlink f", "F:ATTRIB, F:IGNORED, D:DELETE f"),
    "N6 DELETE_SELF": ("make f, watch F f DELETE_SELF|ONESHOT", "unlink f", "F:DELETE_SELF, F:IGNORED, D:DELETE f"),
    "N6 both": (
        "make f, watch D / ALL_EVENTS|ONESHOT, watch F f ALL_EVENTS|ONESHOT",
        "empty f, close f",
        "D:OPEN f, D:IGNORED, F:OPEN, F:IGNORED",
    ),
    "N7 tail only": (
        "make f, make g, edit f, edit g",
        "write f, write g, write f, write f",
        "D:MODIFY f, D:MODIFY g, D:MODIFY f",
    ),
    "N7 cookies": (
        "mkdir y, make a, watch D / MOVED_FROM",
        "rename a y/a, rename y/a a, rename a y/a",
        "D:MOVED_FROM a c1",
    ),
    "N9": (
        "mkdir s, make s/f, watch S s ONESHOT|OPEN, watch F s/f DELETE",
        "unmount",
        "F:UNMOUNT, F:IGNORED, S:UNMOUNT|ISDIR, S:IGNORED, D:UNMOUNT|ISDIR, D:IGNORED",
    ),
    "P6 replaces": (
        "make f, watch F f MODIFY|ONESHOT, watch F f MODIFY",
        "setattr f mtime, setattr f mtime",
        "D:MODIFY f, F:MODIFY, D:MODIFY f, F:MODIFY",
    ),
    "P6 adds": (
        "make f, watch F f MODIFY, watch F f ATTRIB|MASK_ADD",
        "setattr f mtime, setattr f mode",
        "D:MODIFY f, F:MODIFY, D:ATTRIB f, F:ATTRIB",
    ),
    "P10": (
        "make a, watch A a",
        "setattr a mode, unwatch A, setattr a size",
        "D:ATTRIB a, A:ATTRIB, A:IGNORED, D:MODIFY a",
    ),
}

ELSEWHERE = {
    "C5": "nothing is told of what failed: a change is told after the system call",
    "C8": "pyfuse3 has no TMPFILE",
    "U12": "the kernel's dentry cache",
    "W2": "no request, or READ of 0 bytes: the handler",
    "W5": "pyfuse3 has no FALLOCATE",
    "W6": "the kernel's page cache",
    "W7": "the kernel's page cache",
    "R2": "the kernel's page cache",
    "O2": "FUSE sends no request",
    "O6": "never sent to FUSE",
    "A7": "a setattr's row: test_every_operation_is_told_or_silent has setxattr and removexattr",
    "A8": "pyfuse3 has no IOCTL",
    "M8": "flags of renameat2(2): the handler",
    "M9": "the kernel sends no RENAME",
    "N8": "test_queue",
    "N10": "resolving a path: resolve",
    "P1": "test_records",
    "P2": "read(2): the client",
    "P3": "test_queue",
    "P4": "a descriptor's: the client",
    "P5": "test_watches",
    "P7": "test_watches",
    "P8": "test_watches",
    "P9": "resolving a path: resolve; ONLYDIR: test_watches",
    "P11": "test_watches",
    "P12": "of the preloaded library",
}
"""Rows of parity.md that this room alone cannot decide, and who can."""

PARITY = {"C": 8, "U": 12, "W": 7, "R": 4, "O": 6, "A": 9, "M": 12, "N": 10, "P": 12}


@pytest.mark.parametrize("row", ROWS)
def test_parity(row: str) -> None:
    before, done, heard = ROWS[row]
    tree = Tree()
    tree.play("watch D /")
    tree.play(before)
    tree.records()
    tree.play(done)
    assert tree.heard() == list(filter(None, map(str.strip, heard.split(","))))


def test_every_row_of_parity_is_here_or_said_to_be_elsewhere() -> None:
    here = {row.split()[0] for row in ROWS}
    assert here | set(ELSEWHERE) == {f"{letter}{number + 1}" for letter in PARITY for number in range(PARITY[letter])}
    assert not here & set(ELSEWHERE)
