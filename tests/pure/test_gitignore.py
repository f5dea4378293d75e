"""Patterns mean what git says they mean: git itself is asked, about random patterns and names and on real mounts."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from notifyfs.client import Connection, Filter
from notifyfs.commands.watch.filtering import of_tree
from notifyfs.core import filters
from notifyfs.protocol import flags, requests
from tests.support.wireclient import as_user

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from tests.conftest import Mount

PARTS = ["a", "b", "ab", "a.o", "foo", "bar", "x y", ".h", "[z]", "a*b", "é", "!n", "#h", "ba", " s", "t ", "a\\b", "A"]
ATOMS = [
    "a",
    "b",
    "o",
    ".",
    "*",
    "?",
    "[ab]",
    "[!a]",
    "[a-c]",
    "[^b]",
    "\\a",
    "\\*",
    " ",
    "A",
    "foo",
    "é",
    "\\!",
    "\\#",
]
ODD = ["[]]", "[a", "[]-a]", "[+-0]", "\\ ", "[!é]", "\\#", "\t", "\u00a0"]
NOT_TAKEN = ["[[:alpha:]]", "[\\]a]", "[b-a]"]
"""What git knows and we refuse, rather than read it otherwise."""


@pytest.fixture(scope="session", autouse=True)
def git() -> None:
    """The judge; in CI its absence is a failure."""
    if shutil.which("git") is None:
        if os.environ.get("CI") == "true":
            pytest.fail("git is needed as the judge (apt install git)")
        pytest.skip("git is needed as the judge (apt install git)")


def run_git(place: Path, *words: str, stdin: bytes | None = None) -> bytes:
    """What git says in *place*, whatever this user's settings are."""
    environment = os.environ | {"GIT_CONFIG_GLOBAL": "/dev/null", "GIT_CONFIG_SYSTEM": "/dev/null"}
    done = subprocess.run(["git", *words], cwd=place, env=environment, input=stdin, check=False, capture_output=True)
    assert done.returncode in {0, 1}, done.stderr
    return done.stdout


def ignored(place: Path, names: Iterable[bytes]) -> set[bytes]:
    """Those of *names* that git ignores in the repository *place*."""
    said = run_git(place, "check-ignore", "--no-index", "-z", "--stdin", stdin=b"\0".join(names))
    return set(said.split(b"\0")) - {b""}


def plant(place: Path, rng: random.Random, count: int) -> dict[bytes, bool]:
    """Make *count* or fewer random files and directories; for each name whether it is a directory."""
    for _ in range(count):
        path = place.joinpath(*rng.choices(PARTS, k=rng.randint(1, 4)))
        if not any(above.is_file() for above in path.parents) and not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.mkdir() if rng.random() < 0.2 else path.touch()
    found = [path for path in sorted(place.rglob("*")) if path.relative_to(place).parts[0] != ".git"]
    return {bytes(path.relative_to(place)): path.is_dir() for path in found}


def random_line(rng: random.Random) -> str:
    def component() -> str:
        kind = rng.random()
        if kind < 0.2:
            return rng.choice(["*", "**"])
        if kind < 0.5:
            return rng.choice([*PARTS[:7], "*.o", "ba?"])
        text = "".join(rng.choices([*ATOMS, *ODD] if kind < 0.7 else ATOMS, k=rng.randint(1, 3)))
        return text.replace("**", "*")  # after a literal, git 2.39 takes the two for a component

    line = "/".join(component() for _ in range(rng.choice([1, 1, 1, 2, 2, 3])))
    negation, anchor, directory, blank = (rng.random() < chance for chance in (0.3, 0.2, 0.25, 0.05))
    return "!" * negation + "/" * anchor + line + "/" * directory + " " * blank


def read(lines: list[str]) -> filters.Filter:
    draft = filters.Draft(0, 0)
    for line in lines:
        draft.add(requests.FILTER_EXCLUDE, line.encode())
    return draft.take()


def is_taken(line: str) -> bool:
    try:
        read([line])
    except OSError:
        return False
    return True


def is_modest(line: str, names: dict[bytes, bool]) -> bool:
    """Whether *line* leaves most of *names* alone."""
    judge = read([line])
    return sum(not judge.wants(name, is_dir=is_dir) for name, is_dir in names.items()) < len(names) / 8


@pytest.mark.parametrize("seed", range(6))
def test_any_lines_mean_what_git_says(tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)  # noqa: S311 - to be repeated
    run_git(tmp_path, "init", "-q")
    names = plant(tmp_path, rng, 200)
    assert len(names) > 100
    for _ in range(50):
        lines = [line for line in (random_line(rng) for _ in range(rng.randint(1, 5))) if is_taken(line)]
        (tmp_path / ".git/info/exclude").write_text("".join(f"{line}\n" for line in lines), "utf-8")
        judge = read(lines or [""])
        ours = {name for name, is_dir in names.items() if not judge.wants(name, is_dir=is_dir)}
        expected = ignored(tmp_path, names)
        assert ours == expected, f"{lines}: git also {expected - ours}, we also {ours - expected}"


def test_nearly_every_line_is_taken() -> None:
    rng = random.Random(0)  # noqa: S311 - to be repeated
    lines = [random_line(rng) for _ in range(2000)]
    refused = [line for line in lines if not is_taken(line)]
    assert len(refused) < 60, refused


@pytest.mark.parametrize("odd", NOT_TAKEN)
def test_what_would_be_read_otherwise_is_refused(odd: str) -> None:
    assert not is_taken(f"a{odd}")
    assert not is_taken(f"!d/{odd}*")


IDIOMS = {
    "all but": "/*\n!/a/\n!/foo\n",
    "only one kind": "*\n!*/\n!*.o\n",
    "one file of a directory": "foo/*\n!foo/bar\n",
    "not from an ignored directory": ".*\n!bar\n",
    "all below": "a/**\n!a/b/\n",
    "any depth": "**/b/\na/**/ab\n",
    "byte by byte": "?\n",
}


@pytest.mark.parametrize("idiom", IDIOMS)
def test_idioms_mean_what_git_says(tmp_path: Path, idiom: str) -> None:
    run_git(tmp_path, "init", "-q")
    names = plant(tmp_path, random.Random(7), 400)  # noqa: S311 - to be repeated
    (tmp_path / ".git/info/exclude").write_text(IDIOMS[idiom], "utf-8")
    judge = read(IDIOMS[idiom].splitlines())
    expected = ignored(tmp_path, names)
    assert expected
    assert {name for name, is_dir in names.items() if not judge.wants(name, is_dir=is_dir)} == expected


# On a mount


@contextlib.contextmanager
def opened(place: Path) -> Iterator[int]:
    descriptor = os.open(place, os.O_PATH)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


@pytest.fixture
def place(shared: Callable[..., Mount], tmp_path: Path) -> Path:
    """A repository of this test's own on a mount."""
    directory = shared().root / tmp_path.name
    directory.mkdir()
    run_git(directory, "init", "-q")
    return directory


def told_of(shared: Callable[..., Mount], place: Path, chosen: Filter, names: dict[bytes, bool]) -> set[bytes]:
    """The *names* that a watch with this filter tells of when each is touched."""
    with Connection(shared().socket, timeout=30) as connection:
        connection.add_watch(flags.ATTRIB | flags.X_RECURSIVE, os.fsencode(place.name), filter=chosen)
        for name in names:
            os.utime(os.fsencode(place) + b"/" + name)
        connection.sync()
        return {record.name for record in connection.read(0)}


def test_a_watch_tells_of_what_git_does_not_ignore(shared: Callable[..., Mount], place: Path) -> None:
    rng = random.Random(11)  # noqa: S311 - to be repeated
    names = plant(place, rng, 300)
    lines = [line for line in (random_line(rng) for _ in range(100)) if is_taken(line) and is_modest(line, names)]
    (place / ".git/info/exclude").write_text("".join(f"{line}\n" for line in lines), "utf-8")
    expected = ignored(place, names)
    assert 20 < len(expected) < len(names) - 20
    assert told_of(shared, place, Filter.from_file(place / ".git/info/exclude"), names) == set(names) - expected


@pytest.mark.parametrize("seed", range(4))
def test_gitignore_files_all_over_the_tree_mean_what_git_says(
    shared: Callable[..., Mount], place: Path, seed: int
) -> None:
    rng = random.Random(seed)  # noqa: S311 - to be repeated
    directories = [place, *(place / os.fsdecode(name) for name, is_dir in plant(place, rng, 250).items() if is_dir)]
    for directory in rng.sample(directories, 12):
        lines = [line for line in (random_line(rng) for _ in range(6)) if is_taken(line)]
        (directory / ".gitignore").write_text("".join(f"{line}\n" for line in lines), "utf-8")
    names = plant(place, rng, 0)
    expected = ignored(place, names)
    assert expected
    with opened(place) as descriptor:
        chosen = of_tree(descriptor, b"x/", recursive=True)
    assert told_of(shared, place, chosen, names) == set(names) - expected


def test_what_git_itself_keeps_is_left_out(shared: Callable[..., Mount], place: Path) -> None:
    (place / "f").touch()
    with opened(place) as descriptor:
        chosen = of_tree(descriptor, b"x/", recursive=True)
    assert told_of(shared, place, chosen, {b".git": True, b".git/HEAD": False, b"f": False}) == {b"f"}


# Reading the files of a tree, without a mount


def of(place: Path, *, recursive: bool = True) -> list[bytes]:
    with opened(place) as descriptor:
        return [rule.value for rule in of_tree(descriptor, b"x/", recursive=recursive).rules]


def write(place: Path, name: str, text: str) -> None:
    (place / name).parent.mkdir(parents=True, exist_ok=True)
    (place / name).write_text(text, "utf-8")


def test_directories_that_are_ignored_are_not_even_read(tmp_path: Path) -> None:
    write(tmp_path, ".gitignore", "node_modules/\n")
    write(tmp_path, "node_modules/m/.gitignore", "a\n")
    write(tmp_path, "d/node_modules/m/.gitignore", "b\n")
    write(tmp_path, "d/.gitignore", "!kept/\n/e\n")
    write(tmp_path, "d/e/.gitignore", "c\n")
    write(tmp_path, ".git/.gitignore", "d\n")
    assert of(tmp_path) == [b".git", b"node_modules/", b"!/d/**/kept/", b"/d/e"]


def test_a_watch_that_is_not_recursive_needs_one_file(tmp_path: Path) -> None:
    write(tmp_path, ".gitignore", "*.o\n")
    write(tmp_path, "d/.gitignore", "*.a\n")
    assert of(tmp_path, recursive=False) == [b".git", b"*.o"]


def test_what_is_no_regular_file_is_passed_over_as_git_does(tmp_path: Path) -> None:
    write(tmp_path, "elsewhere", "a\n")
    (tmp_path / ".gitignore").symlink_to("elsewhere")
    (tmp_path / "d").mkdir()
    os.mkfifo(tmp_path / "d/.gitignore")
    (tmp_path / "e/.gitignore").mkdir(parents=True)
    (tmp_path / "link").symlink_to("elsewhere")
    assert of(tmp_path) == [b".git"]
    assert of(tmp_path / "elsewhere", recursive=False) == [b".git"]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("a*b*c*", "'/d/**/a*b*c*' (x/d/.gitignore, line 2): not a pattern"),
        ("x" * 4200, "x/d/.gitignore, line 2: a pattern has at most"),
    ],
)
def test_a_line_that_is_refused_is_named(tmp_path: Path, line: str, said: str) -> None:
    write(tmp_path, "d/.gitignore", f"ok\n{line}\n")
    with pytest.raises(OSError, match=r"d/\.gitignore") as caught:
        of(tmp_path)
    assert caught.value.strerror is not None
    assert caught.value.strerror.startswith(said)


def test_a_tree_deeper_than_any_stack_is_read() -> None:
    """Not in ``tmp_path``: what is left there by a killed run, pytest takes away by recursion, and dies of this."""
    top = tempfile.mkdtemp(prefix="notifyfs-deep-")
    try:
        place = os.open(top, os.O_RDONLY)
        for _ in range(3000):
            os.mkdir("d", dir_fd=place)
            below = os.open("d", os.O_RDONLY, dir_fd=place)
            os.close(place)
            place = below
        os.close(place)
        assert of(Path(top)) == [b".git"]
    finally:
        subprocess.run(["rm", "-rf", top], check=True)


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become another user")
def test_a_file_that_may_not_be_read_is_named(tmp_path: Path) -> None:
    write(tmp_path, "d/.gitignore", "a\n")
    (tmp_path / "d/.gitignore").chmod(0)
    tmp_path.chmod(0o755)
    of(tmp_path, recursive=False)  # what is imported late, while it can be

    with opened(tmp_path) as descriptor:

        def ask() -> str | None:
            try:
                of_tree(descriptor, b"x/", recursive=True)
            except OSError as error:
                return error.strerror
            return None

        assert as_user(12345, ask) == "x/d/.gitignore: Permission denied"
