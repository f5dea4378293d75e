"""Real work on the mount: the files come out as on a plain directory, and every subscriber hears what the kernel says.

The same phases run twice at the same absolute path, first as a plain directory, then as the mount: so no path needs to
be normalised away. Between the phases nothing runs, and everybody puts watches on the directories that are new.
"""

from __future__ import annotations

import hashlib
import itertools
import os
import stat
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pytest

from notifyfs.protocol import flags
from tests.support.kernel import Event, Inotify
from tests.support.subscriber import Subscriber

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.conftest import Mount

MASK = (
    flags.CREATE | flags.DELETE | flags.MOVE | flags.MODIFY | flags.CLOSE_WRITE | flags.ATTRIB
    | flags.DELETE_SELF | flags.MOVE_SELF | flags.ONLYDIR | flags.DONT_FOLLOW
)  # fmt: skip
DIRECTORIES = [f"package/part{number}" for number in range(20)]
DATE = "2024-05-06T07:08:09Z"
MODULE = 'def answer() -> int:\n    """The answer of module {number}."""\n    return {number}\n'
TEST = """\
import unittest
from package.part{number}.module0 import answer

class Answer(unittest.TestCase):
    def test_answer(self):
        self.assertEqual(answer(), 0)
"""


def run(*command: str | Path, directory: Path) -> str:
    """Run a command that must succeed, away from the user's settings and from today's date; its output."""
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(directory.parent),
        "LC_ALL": "C.UTF-8",
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_AUTHOR_NAME": "a",
        "GIT_AUTHOR_EMAIL": "a@example.org",
        "GIT_COMMITTER_NAME": "c",
        "GIT_COMMITTER_EMAIL": "c@example.org",
        "GIT_AUTHOR_DATE": DATE,
        "GIT_COMMITTER_DATE": DATE,
        "SOURCE_DATE_EPOCH": "1700000000",  # .pyc files that carry a hash of their source, not its time
        "PYTHONHASHSEED": "0",
        "PIP_CONFIG_FILE": os.devnull,
        "PIP_NO_CACHE_DIR": "1",
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
    }
    done = subprocess.run(command, cwd=directory, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command} ended with {done.returncode}:\n{done.stdout}{done.stderr}"
    return done.stdout


def git(*words: str | Path, directory: Path) -> str:
    """One git command that starts no housekeeping behind our back."""
    return run(
        "git",
        "-c",
        "gc.auto=0",
        "-c",
        "maintenance.auto=false",
        "-c",
        "init.defaultBranch=main",
        *words,
        directory=directory,
    )


@pytest.fixture(scope="module")
def origin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a repository with a few hundred files of many kinds."""
    made = tmp_path_factory.mktemp("origin")
    for number, name in enumerate(DIRECTORIES):
        (made / name).mkdir(parents=True)
        for module in range(15):
            (made / name / f"module{module}.py").write_text(MODULE.format(number=module))
        (made / name / "__init__.py").touch()
        (made / name / f"test_part{number}.py").write_text(TEST.format(number=number))
    (made / "package" / "__init__.py").touch()
    (made / "package" / "big.bin").write_bytes(bytes(range(256)) * 12000)
    (made / "run.sh").write_text("#!/bin/sh\nexec true\n")
    (made / "run.sh").chmod(0o755)
    (made / "link").symlink_to("package/big.bin")
    (made / "späß 文.txt").write_text("not ASCII\n")
    with open(os.fsencode(made) + b"/latin-\xe9.txt", "wb") as file:
        file.write(b"not even UTF-8\n")
    git("init", "--template=", directory=made)
    git("add", ".", directory=made)
    git("commit", "-qm", "everything", directory=made)
    return made


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a small package, ready to be installed."""
    path = tmp_path_factory.mktemp("wheel") / "demo-1.0-py3-none-any.whl"
    files = {
        f"demo/part{part}/module{module}.py": MODULE.format(number=module) for part in range(5) for module in range(10)
    }
    files |= {f"demo/part{part}/__init__.py": "" for part in range(5)}
    files["demo/__init__.py"] = "def main():\n    print('installed')\n"
    info = "demo-1.0.dist-info"
    files[f"{info}/METADATA"] = "Metadata-Version: 2.1\nName: demo\nVersion: 1.0\n"
    files[f"{info}/WHEEL"] = "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    files[f"{info}/entry_points.txt"] = "[console_scripts]\ndemo = demo:main\n"
    files[f"{info}/RECORD"] = "".join(f"{name},,\n" for name in [*files, f"{info}/RECORD"])
    with zipfile.ZipFile(path, "w") as archive:
        for name, text in files.items():
            archive.writestr(zipfile.ZipInfo(name), text)
    return path


def work(root: Path, origin: Path, wheel: Path) -> Iterator[str]:
    """Do the work below *root*, yielding before each phase what it is going to be."""
    tree, venv = root / "tree", root / "venv"
    python = venv / "bin" / "python"
    yield "clone"
    git("clone", "-q", "--no-hardlinks", "--no-checkout", "--template=", origin, tree, directory=root)
    for name in DIRECTORIES:
        (tree / name).mkdir(parents=True)
    yield "checkout"
    git("checkout", "-q", "main", directory=tree)
    yield "status"
    assert git("status", "--short", directory=tree) == ""
    assert git("status", "--short", directory=tree) == ""
    yield "commit"
    with (tree / "package" / "part3" / "module1.py").open("a") as file:
        file.write("# changed\n")
    (tree / "package" / "part3" / "module2.py").unlink()
    assert git("status", "--short", directory=tree) == " M package/part3/module1.py\n D package/part3/module2.py\n"
    git("commit", "-qam", "a change", directory=tree)
    git("mv", "package/part4", "package/moved", directory=tree)
    git("stash", "-q", directory=tree)
    yield "test"
    for path in tree.rglob("*.py"):
        os.utime(path, (1600000000, 1600000000))  # a .pyc made by an import carries its source's time
    os.link(tree / "run.sh", tree / "package" / "run-again.sh")
    run(sys.executable, "-m", "unittest", "discover", "-s", "package", "-t", ".", directory=tree)
    yield "venv"
    run(sys.executable, "-m", "venv", "--without-pip", "--symlinks", venv, directory=root)
    yield "install"
    install = (sys.executable, "-m", "pip", "--python", python, "install", "-q", "--no-index")
    run(*install, wheel, directory=root)
    assert run(venv / "bin" / "demo", directory=root) == "installed\n"
    yield "reinstall"
    run(*install, "--force-reinstall", wheel, directory=root)
    yield "copy"
    run("cp", "-a", tree / "package", tree / "copy", directory=root)
    run("tar", "-C", tree, "-cf", root / "package.tar", "--sort=name", "--mtime=@0", "package", directory=root)


class Entry(NamedTuple):
    """What must be equal about a file."""

    kind: int
    mode: int
    owner: tuple[int, int]
    content: str
    links: frozenset[bytes]


def snapshot(root: Path) -> dict[bytes, Entry]:
    """Everything below *root* by its relative name."""
    found = {}
    names: dict[int, set[bytes]] = {}
    top = os.fsencode(root)
    for directory, below, files in os.walk(top):
        for name in below + files:
            path = os.path.join(directory, name)
            status = os.lstat(path)
            relative = os.path.relpath(path, top)
            if not stat.S_ISDIR(status.st_mode):
                names.setdefault(status.st_ino, set()).add(relative)
            found[relative] = (path, status)
    return {
        name: Entry(
            stat.S_IFMT(status.st_mode),
            stat.S_IMODE(status.st_mode),
            (status.st_uid, status.st_gid),
            content(path, status.st_mode),
            frozenset(names.get(status.st_ino, ())),
        )
        for name, (path, status) in found.items()
    }


def content(path: bytes, mode: int) -> str:
    """Give the bytes of a file, in short, or where a link leads."""
    if stat.S_ISLNK(mode):
        return os.fsdecode(os.readlink(path))
    if not stat.S_ISREG(mode):
        return ""
    if path.endswith(b"/.git/index"):  # carries inode numbers and times of the files: ask git what it lists instead
        return git("ls-files", "--stage", directory=Path(os.fsdecode(path)).parent.parent)
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class Audience:
    """The kernel's inotify and two of ours, all watching the same directories with the same watch descriptors."""

    def __init__(self, mount: Mount) -> None:
        self._root = os.fsencode(mount.root)
        self._subscribers: dict[str, Inotify | Subscriber] = {
            "kernel": Inotify(self._root),
            "in-band": Subscriber(mount.socket),
            "event-fd": Subscriber(mount.socket, event_fd=True),
        }
        self._paths: dict[int, bytes] = {}
        self.count = 0

    def watch_every_directory(self) -> None:
        """Add those that are not watched yet."""
        for directory, below, _ in os.walk(self._root):
            below.sort()
            path = os.path.relpath(directory, self._root).removeprefix(b".")
            wds = {name: subscriber.add(path, MASK) for name, subscriber in self._subscribers.items()}
            assert len(set(wds.values())) == 1, f"{path!r} is watched as {wds}"
            self._paths.setdefault(wds["kernel"], path)

    def compare(self, phase: str) -> None:
        """Each directory must have heard the same from everybody."""
        os.statvfs(self._root)  # a request behind every RELEASE
        heard = {name: self._by_directory(subscriber.drain()) for name, subscriber in self._subscribers.items()}
        judge = heard.pop("kernel")
        for name, told in heard.items():
            for path in judge.keys() | told.keys():
                assert told.get(path) == judge.get(path), f"{phase}: {name} differs from the kernel about {path!r}"
        self.count += sum(map(len, judge.values()))

    def close(self) -> None:
        for subscriber in self._subscribers.values():
            subscriber.close()

    def _by_directory(self, events: list[Event]) -> dict[bytes, list[str]]:
        """Each directory's own sequence.

        Equal neighbours are squeezed: whether the queue merged them depends on what other directories told in between.
        """
        cookies: dict[int, int] = {}
        told: dict[bytes, list[str]] = {}
        for event in events:
            assert event.wd in self._paths, f"an event of no directory: {event}"
            cookie = cookies.setdefault(event.cookie, len(cookies) + 1) if event.cookie else 0
            name = event.name.decode(errors="backslashreplace")
            told.setdefault(self._paths[event.wd], []).append(
                f"{flags.spell(event.mask)} {name} {cookie or ''}".strip()
            )
        return {path: [line for line, _ in itertools.groupby(lines)] for path, lines in told.items()}


@pytest.mark.limit(300)
def test_git_and_pip_work_as_on_a_plain_directory_and_every_event_is_told(
    mounted: Callable[..., Mount], origin: Path, wheel: Path, tmp_path: Path
) -> None:
    root, plain = tmp_path / "root", tmp_path / "plain"
    root.mkdir()
    for _phase in work(root, origin, wheel):
        pass
    root.rename(plain)

    mount = mounted(root=root)
    audience = Audience(mount)
    phase = "nothing"
    for following in work(root, origin, wheel):
        audience.compare(phase)
        audience.watch_every_directory()
        phase = following
    audience.compare(phase)
    expected = snapshot(plain)
    assert len(expected) > 1000
    assert snapshot(root) == expected
    assert snapshot(mount.source) == expected

    audience.watch_every_directory()
    run("rm", "-rf", *root.iterdir(), directory=tmp_path)
    audience.compare("rm -rf")
    assert snapshot(root) == snapshot(mount.source) == {}
    assert audience.count > 3000
    audience.close()
