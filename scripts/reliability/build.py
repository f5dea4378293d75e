"""Real C projects, configured, compiled and tested on the mount by their own test suites, as an unprivileged user."""

from __future__ import annotations

import hashlib
import os
import platform
import re
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

from scripts.reliability.stage import Clock, Failed, cores, run

if TYPE_CHECKING:
    from scripts.reliability.stage import Place

USER = "nobody"
SOURCES = {"zlib": "zlib_*.dsc", "sqlite3": "sqlite3_*.dsc"}

FAILS_ANYWHERE = {"io-5.5"}
"""Of sqlite3 3.40.1-2+deb12u2: its patch 31 lets pages be larger than the test wants, on a plain directory, too."""


def work(place: Place, sources: Path | None, only: str | None) -> None:
    """See the module."""
    clock = Clock()
    for package in [only] if only else SOURCES:
        found = _source(package, sources or _fetch(place, package))
        home = place.directory(package, USER)
        run("dpkg-source", "--no-check", "-x", found, "tree", user=USER, directory=home)
        clock.done(f"{package}: unpacked {found.name}: {sum(len(files) for _, _, files in os.walk(home))} files")
        (_zlib if package == "zlib" else _sqlite)(home / "tree", clock)
        place.check()
        if _digest(home) != _digest(place.source / package):
            raise Failed(f"{package}: the tree on the mount and its source differ")
        clock.done(f"{package}: tree on the mount and source have the same names, sizes and contents")


def _zlib(tree: Path, clock: Clock) -> None:
    run("./configure", user=USER, directory=tree)
    clock.done("zlib: configure")
    run("make", "-j", cores(), user=USER, directory=tree)
    clock.done("zlib: make")
    said = run("make", "test", user=USER, directory=tree)
    passed = re.findall(r"\*\*\* (.+ test OK) \*\*\*", said)
    if not passed or "FAILED" in said:
        raise Failed(f"zlib's tests: {said[-2000:]}")
    clock.done(f"zlib: make test: {', '.join(sorted(set(passed)))}")


def _sqlite(tree: Path, clock: Clock) -> None:
    made = tree / "build"
    run("mkdir", made, user=USER, directory=tree)
    run("../configure", "--enable-debug=no", user=USER, directory=made)
    clock.done("sqlite3: configure")
    # Debian links the shell with the library, and recover.test wants that to have this, as the shell's own has.
    options = "OPTS=-DSQLITE_ENABLE_DBPAGE_VTAB"
    run("make", "-j", cores(), options, "sqlite3", user=USER, directory=made)
    clock.done("sqlite3: make sqlite3")
    run("make", options, "testfixture", user=USER, directory=made)
    clock.done("sqlite3: make testfixture")
    said = run("./testfixture", "../test/veryquick.test", user=USER, directory=made, seconds=3600, codes=(0, 1))
    clock.done(f"sqlite3: veryquick.test: {_verdict(said)}")


def _verdict(said: str) -> str:
    """What SQLite's tests say in the end; Failed if it is not good."""
    found = re.search(r"\d+ errors out of (\d+) tests", said)
    failed = re.search(r"!Failures on these tests: (.*)", said)
    names = set(failed.group(1).split()) if failed else set()
    if found is None or not names <= FAILS_ANYWHERE:
        raise Failed(f"sqlite3's veryquick.test:\n{said[-3000:]}")
    return f"{found.group(1)} tests, all OK" + (f" but {', '.join(sorted(names))}, as on ext4 itself" if names else "")


def _fetch(place: Place, package: str) -> Path:
    """Get the source by apt, with a list of its own: Debian's installations often name no sources."""
    release = platform.freedesktop_os_release()["VERSION_CODENAME"]
    keys = "/usr/share/keyrings/debian-archive-keyring.gpg"
    place.aside.joinpath("sources.list").write_text(
        f"deb-src [signed-by={keys}] http://deb.debian.org/debian {release} main\n", encoding="ascii"
    )
    for made in ("lists/partial", "cache/archives/partial"):
        (place.aside / made).mkdir(parents=True, exist_ok=True)
    settings = {
        "Dir::Etc::sourcelist": place.aside / "sources.list",
        "Dir::Etc::sourceparts": "/nonexistent",
        "Dir::State::lists": place.aside / "lists",
        "Dir::Cache": place.aside / "cache",
    }
    words = [word for name, value in settings.items() for word in ("-o", f"{name}={value}")]
    for command in (["update"], ["source", "--download-only", package]):
        done = subprocess.run(
            ["/usr/bin/apt-get", "-q", *words, *command], cwd=place.aside, capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise Failed(f"apt-get {' '.join(command)}: {done.stdout}{done.stderr}")
    return place.aside


def _source(package: str, directory: Path) -> Path:
    found = sorted(directory.resolve().glob(SOURCES[package]))
    if not found:
        raise Failed(f"no {SOURCES[package]} in {directory}: apt-get source --download-only {package}")
    return found[-1]


def _digest(top: Path) -> str:
    """Of all that is below *top*: names, sizes, contents, targets of links."""
    digest = hashlib.sha256()
    for directory, names, files in os.walk(top):
        names.sort()
        for name in sorted(files):
            path = Path(directory, name)
            digest.update(os.fsencode(path.relative_to(top)) + b"\0")
            if path.is_symlink():
                digest.update(os.fsencode(path.readlink()))
            elif path.is_file():
                digest.update(b"%d\0" % path.stat().st_size + path.read_bytes())
    return digest.hexdigest()
