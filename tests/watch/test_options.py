"""What ``notifyfs watch`` has and inotifywait has not: filters in the daemon, and words for who is lost."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from notifyfs.commands.watch import filtering, lines
from notifyfs.protocol import flags
from tests.conftest import Mount, wait_until
from tests.subscribers.test_filters import OTHER_USER, USER, Shell
from tests.support.killing import dead, dies_with
from tests.support.watcher import OURS, Program

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

as_root = pytest.mark.skipif(os.getuid() != 0, reason="only root can become another user")


@pytest.fixture
def place(shared: Callable[..., Mount], tmp_path: Path) -> Path:
    """Make a directory of this test's own on a mount that admits everybody."""
    directory = shared("allow_other").root / tmp_path.name
    directory.mkdir()
    directory.chmod(0o777)
    return directory


@pytest.fixture
def told(place: Path) -> Iterator[Callable[..., list[str]]]:
    """Make a function: the paths that ``notifyfs watch -m ARGUMENTS`` prints when *work* is done.

    The last thing that is done is to make ``end``, by this process, which no filter of a test may leave out.
    """
    programs: list[Program] = []

    def told(work: Callable[[], object], *arguments: str) -> list[str]:
        program = Program(OURS, place, "-m", "-e", "create", "--format", "%w%f", *arguments)
        programs.append(program)
        program.established()
        work()
        (place / "end").mkdir()
        program.until(lambda: b"end\n" in program.out)
        (place / "end").rmdir()
        return program.out.decode().splitlines()[:-1]

    yield told
    for program in programs:
        program.end()


def make(place: Path, *paths: str) -> None:
    for path in paths:
        (place / path).parent.mkdir(parents=True, exist_ok=True)
        os.mknod(place / path)


# By name


def test_files_of_patterns_are_read_in_their_order(place: Path, told: Callable[..., list[str]], tmp_path: Path) -> None:
    (tmp_path / "one").write_text("# noise\n*.o\n/build/\n", "utf-8")
    (tmp_path / "two").write_text("!keep.o\n", "utf-8")
    words = ["-r", "--exclude-from", str(tmp_path / "one"), "--exclude-from", str(tmp_path / "two"), "."]
    work = ["a.o", "d/b.o", "d/keep.o", "build/x/y", "d/build/z"]
    assert told(lambda: make(place, *work), *words) == ["./d", "./d/keep.o", "./d/build", "./d/build/z"]


@pytest.mark.parametrize(
    ("globs", "expected"),
    [
        (["*.py", "end"], ["./a.py", "./d/b.py", "./d/test_b.py"]),
        (["*.py", "!test_*", "end"], ["./a.py", "./d/b.py"]),
        (["!test_*", "*.py", "end"], ["./a.py", "./d/b.py"]),
        (["!*.py"], ["./d", "./c"]),
        (["d/", "end"], ["./d", "./d/b.py", "./d/test_b.py"]),
        (["d/", "!*.py", "end"], ["./d"]),
        (["!/d/*"], ["./a.py", "./d", "./c"]),
    ],
    ids=" ".join,
)
def test_globs_say_what_is_wanted_and_what_not(
    place: Path, told: Callable[..., list[str]], globs: list[str], expected: list[str]
) -> None:
    words = [word for glob in globs for word in ("--glob", glob)]
    assert told(lambda: make(place, "a.py", "d/b.py", "d/test_b.py", "c"), "-r", *words, ".") == expected


def test_the_gitignore_files_of_the_tree_count_with_their_place(place: Path, told: Callable[..., list[str]]) -> None:
    for name, text in {".gitignore": "*.o\n", "d/.gitignore": "/x\n!keep.o\n", ".git/info": ""}.items():
        (place / name).parent.mkdir(exist_ok=True)
        (place / name).write_text(text, "utf-8")
    work = ["a.o", "keep.o", "x", "d/x", "d/e/x", "d/e/keep.o", ".git/index"]
    assert told(lambda: make(place, *work), "-r", "--gitignore", ".") == ["./x", "./d/e", "./d/e/x", "./d/e/keep.o"]


def test_each_watched_directory_has_its_own_gitignore(place: Path, told: Callable[..., list[str]]) -> None:
    for name, text in {"d/.gitignore": "x\n", "e/.gitignore": "y\n"}.items():
        (place / name).parent.mkdir()
        (place / name).write_text(text, "utf-8")
    work = ["d/x", "d/y", "e/x", "e/y", "f"]
    assert told(lambda: make(place, *work), "--gitignore", "d", "e", ".") == ["d/y", "e/x", "./f"]


def test_an_explicit_file_overrules_the_trees_own(place: Path, told: Callable[..., list[str]], tmp_path: Path) -> None:
    (place / ".gitignore").write_text("*.o\n", "utf-8")
    (tmp_path / "more").write_text("!keep.o\n*.c\n", "utf-8")
    work = ["a.o", "keep.o", "a.c", "a.h"]
    words = ["--gitignore", "--exclude-from", str(tmp_path / "more"), "."]
    assert told(lambda: make(place, *work), *words) == ["./keep.o", "./a.h"]


def test_filters_of_the_daemon_and_expressions_both_count(place: Path, told: Callable[..., list[str]]) -> None:
    words = ["--glob", "!*.o", "--exclude", "b", "--include", "[ab]|end", "."]
    assert told(lambda: make(place, "a.o", "a.c", "b.c", "c.c"), *words) == ["./a.c"]


def test_with_a_socket_names_are_filtered_too(
    place: Path, told: Callable[..., list[str]], shared: Callable[..., Mount]
) -> None:
    words = ["-r", "--socket", shared("allow_other").socket, "--glob", "!*.o", place.name]
    expected = [f"{place.name}/d", f"{place.name}/d/b"]
    assert told(lambda: make(place, "a.o", "d/b", "d/c.o"), *words) == expected


# By process and user


def test_processes(place: Path, told: Callable[..., list[str]]) -> None:
    with Shell(place) as one, Shell(place) as other:

        def work() -> None:
            one.make("a")
            other.make("b")

        pids = [str(shell.process.pid) for shell in (one, other)]
        this = ["--pid", str(os.getpid())]
        assert told(work, "--pid", pids[0], *this, ".") == ["./a"]
        assert told(work_again(one, other), "--not-pid", pids[0], ".") == ["./b2"]
        assert told(work_again(one, other), "--not-pid", pids[0], "--not-pid", pids[1], ".") == []


def work_again(one: Shell, other: Shell) -> Callable[[], None]:
    def work() -> None:
        for shell, name in ((one, "a2"), (other, "b2")):
            (shell.place / name).unlink(missing_ok=True)
            shell.make(name)

    return work


@as_root
@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--user", str(USER), "--user", "root"], ["./a"]),
        (["--uid", str(USER), "--uid", str(OTHER_USER), "--uid", "0"], ["./a", "./b"]),
        (["--not-user", str(USER)], ["./b"]),
        (["--not-uid", str(USER), "--not-uid", str(OTHER_USER)], []),
    ],
    ids=" ".join,
)
def test_users(place: Path, told: Callable[..., list[str]], arguments: list[str], expected: list[str]) -> None:
    with Shell(place, USER) as one, Shell(place, OTHER_USER) as other:
        assert told(lambda: (one.make("a"), other.make("b")), *arguments, ".") == expected


def test_it_does_not_hear_itself_write_its_own_output(place: Path) -> None:
    log = place / "log"
    program = Program(OURS, place, "-m", "--ignore-self", "-e", "create,modify", "-o", "log", ".")
    program.established()
    for name in ("a", "b", "c"):
        (place / name).mkdir()
        wait_until(lambda: name.encode() in log.read_bytes())  # noqa: B023 - called at once
    program.end()
    assert log.read_text("utf-8").splitlines() == [f"./ CREATE,ISDIR {name}" for name in "abc"]


# What is wrong


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--settle", "soon"], "'soon' is not a valid duration; write 100ms, 1s or 0.5"),
        (["--settle", "-1"], "'-1' is not a valid duration"),
        (["--settle", "1h"], "'1h' is not a valid duration"),
        (["--user", "no-such-user"], "no-such-user: no such user on this machine; write a number"),
        (["--not-user", ""], ": no such user on this machine; write a number"),
        (["--pid", "x"], "Invalid value for '--pid'"),
        (["--pid", "0"], "Invalid value for '--pid'"),
        (["--uid", "99999999999"], "99999999999: not the number of a process or user"),
        (["--exclude-from", "missing"], "Couldn't open missing: No such file or directory"),
        (["--exclude-from", "."], "Couldn't open .: Is a directory"),
        (["--glob", "a\nb"], "a pattern is one line"),
        (["--gitignore", "--socket", "s"], "--gitignore and --socket cannot both be specified"),
        (["--format", "%{to}"], "%{to} is in --format string, but --settle was not specified."),
    ],
    ids=str,
)
def test_misuse_is_one_line_that_names_it(tmp_path: Path, arguments: list[str], complaint: str) -> None:
    code, out, err = Program(OURS, tmp_path, *arguments, ".").end(None)
    assert (code, out, err.count(b"\n")) == (1, b"", 1)
    assert complaint in err.decode()


@pytest.mark.parametrize(
    ("arguments", "where"),
    [
        (["--glob", "a*b*c*"], "'a*b*c*'"),
        (["--exclude-from", "rules"], "'a*b*c*' (rules, line 3)"),
        (["-r", "--gitignore"], "'/d/**/a*b*c*' (./d/.gitignore, line 2)"),
    ],
    ids=str,
)
def test_a_refused_pattern_is_named_with_its_file_and_line(place: Path, arguments: list[str], where: str) -> None:
    (place / "d").mkdir()
    (place / "rules").write_text("x\n\na*b*c*\n", "utf-8")
    (place / "d/.gitignore").write_text("x\na*b*c*\n", "utf-8")
    code, out, err = Program(OURS, place, *arguments, ".").end(None)
    assert (code, out) == (1, b"")
    reason = "not a pattern of gitignore(5), or with more wildcards than a filter may have"
    assert err.decode().splitlines()[1:] == [f"Couldn't watch .: {where}: {reason}"]


@pytest.mark.parametrize("below", ["", "/d", "/d/f", "/d/../d/"])
def test_who_watches_the_source_is_led_to_the_mount(mount: Mount, below: str) -> None:
    (mount.root / "d").mkdir()
    (mount.root / "d/f").touch()
    path = f"{mount.source}{below}"
    code, out, err = Program(OURS, mount.source, path).end(None)
    assert (code, out) == (1, b"")
    there = os.path.normpath(f"{mount.root}{below}")
    assert err.decode().splitlines()[1:] == [
        f"Couldn't watch {path}: this is the source of the mount {mount.root}, where events are; watch {there}"
    ]


def test_beside_the_source_is_not_in_it(mount: Mount) -> None:
    beside = mount.source.with_name("source-of-another")
    beside.mkdir()
    _, _, err = Program(OURS, beside, ".").end(None)
    assert b"not on a notifyfs mount; make one with" in err
    assert b"--socket" in err


@pytest.mark.parametrize("below", ["", "/d", "/d/f"])
def test_a_dead_mount_is_named_with_the_remedy(mounted: Callable[..., Mount], below: str, tmp_path: Path) -> None:
    mount = mounted()
    (mount.root / "d").mkdir()
    with dies_with(mount):
        dead(mount)
        path = f"{mount.root}{below}"
        code, out, err = Program(OURS, tmp_path, path).end(None)
    assert (code, out) == (1, b"")
    remedy = f"clear it away with `notifyfs umount {mount.root}`, then mount again"
    assert err.decode().splitlines()[1:] == [f"Couldn't watch {path}: the mount's daemon is gone; {remedy}"]


# The parts


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("100ms", 0.1), ("1s", 1.0), ("0.5", 0.5), (".5s", 0.5), ("2m", 120.0), ("0", 0.0), ("1.", 1.0)],
)
def test_durations(text: str, seconds: float) -> None:
    assert filtering.seconds(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "s", "1h", "-1", "1e3", "nan", "1 s", "1,5", "٣"])
def test_what_is_no_duration(text: str) -> None:
    with pytest.raises(ValueError, match="not a valid duration"):
        filtering.seconds(text)


def test_a_rename_in_one_piece_is_printed_in_every_form() -> None:
    old = lines.Report(b"d/", b'a"', flags.MOVED_FROM | flags.ISDIR, 7, 1, None, "/m")
    new = old._replace(watched=b"e/", name=b"b c,", mask=flags.MOVED_TO | flags.ISDIR, wd=2)
    event = old._replace(mask=old.mask | new.mask, to=new)
    assert lines.plain(event) == b'd/ MOVED_FROM,MOVED_TO,ISDIR a" -> e/b c,'
    assert lines.csv(event) == b'd/,"MOVED_FROM,MOVED_TO,ISDIR","a""",e/,"b c,"'
    assert lines.template(b"%c %w%f>%{to}", None)(event) == b'7 d/a">e/b c,'
    assert lines.template(b"%e %w%f;", None)(event) == b'MOVED_FROM,ISDIR d/a";MOVED_TO,ISDIR e/b c,;'
    assert lines.template(b"%f>%{to}", None)(new) == b"b c,>"
