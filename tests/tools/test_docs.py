"""The documents do not lie: what they name exists, what they quote is said, what they show runs."""

from __future__ import annotations

import ast
import errno
import importlib
import json
import re
import socket
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import attrs
import pytest

from notifyfs.fuse import probe
from notifyfs.mounts import options
from notifyfs.protocol import flags
from tests.conftest import wait_until
from tests.support import wireclient as w
from tests.support.documents import DOCS, ROOT, SPAN, blocks, number, rows, spans, text

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.conftest import Mount

PACKAGE = ROOT / "src" / "notifyfs"
PAGES = sorted([*DOCS.glob("*.md"), *ROOT.glob("*.md")])
LINK = re.compile(r"\]\(([^)\s]+)\)")
ANSWERING = (
    "subscribers/connection.py",
    "subscribers/requests.py",
    "subscribers/descriptors.py",
    "subscribers/resolve.py",
    "subscribers/rights.py",
    "passthrough/source.py",
    "core/accounts.py",
    "core/inodes.py",
    "core/gitignore.py",
    "core/filters.py",
    "core/watches.py",
)
"""The modules whose errors a subscriber is told."""


# Every page


def anchors(page: Path) -> set[str]:
    """What GitHub calls the headings of *page*."""
    headings = re.findall(r"^#+ (.+)$", page.read_text("utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_relative_link_leads_somewhere(page: Path) -> None:
    for link in LINK.findall(page.read_text("utf-8")):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        assert target.exists(), f"{page.name} links to {link}"
        assert not anchor or anchor in anchors(target), f"{page.name} links to {link}"


# architecture.md


def definitions() -> dict[str, set[str]]:
    """For each module, by its last name: ``name``, ``Class`` and ``Class.name`` of what it defines."""
    found: dict[str, set[str]] = {}
    for path in PACKAGE.rglob("*.py"):
        names = found.setdefault(path.stem, set())
        for node in ast.parse(path.read_text("utf-8")).body:
            names |= set(defined(node))
            if isinstance(node, ast.ClassDef):
                names |= {f"{node.name}.{name}" for inner in node.body for name in defined(inner)}
    return found


def defined(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
        yield node.name
    targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
    names = [target.id for target in targets if isinstance(target, ast.Name)]
    yield from names
    if names == ["__slots__"] and isinstance(node, ast.Assign):
        yield from ast.literal_eval(node.value)


def test_every_module_has_its_row_and_every_row_its_module() -> None:
    named = [span for row in rows("architecture.md", "Rooms") for span in spans(row[0])]
    modules = [str(path.relative_to(PACKAGE)) for path in PACKAGE.rglob("*.py") if path.name != "__init__.py"]

    assert sorted(named) == sorted(modules)


@pytest.mark.parametrize("page", ["architecture.md", "protocol.md"])
def test_every_function_that_is_named_exists(page: str) -> None:
    known = definitions()
    named = re.findall(r"`(?:core\.)?([a-z_]+)\.([A-Za-z_]+(?:\.[a-z_]+)?)`", text(page))
    named = [(module, name) for module, name in named if module in known and name not in {"py", "md"}]

    assert named
    assert [f"{module}.{name}" for module, name in named if name not in known[module]] == []


def test_every_file_that_is_named_exists() -> None:
    for page in PAGES:
        for path in SPAN.findall(page.read_text("utf-8")):
            if re.fullmatch(r"(src|tests|docs|scripts|examples)/[\w./]*", path):
                assert (ROOT / path).exists(), f"{page.name} names {path}"


# protocol.md


def test_the_mask_bits_are_those_of_the_code() -> None:
    told = {spans(name)[0]: int(spans(value)[0], 16) for value, name, _ in rows("protocol.md", "Masks")}

    assert told == {f"IN_{flag.name}": flag.value for flag in flags.flags}


def test_the_errors_are_those_that_the_code_raises() -> None:
    told = {span for row in rows("protocol.md", "Errors") for span in spans(row[0])}
    raised = set()
    for name in ANSWERING:
        raised |= set(re.findall(r"\berrno\.(E[A-Z0-9]+)\b", (PACKAGE / name).read_text("utf-8")))

    assert all(hasattr(errno, name) for name in told)
    assert told == raised


def test_the_default_limits_are_those_of_the_options() -> None:
    defaults = attrs.asdict(options.Options())
    told = {spans(row[0])[0]: number(row[1]) for row in rows("protocol.md", "Limits") if row[0].startswith("`max_")}

    assert told == {name: value for name, value in defaults.items() if name.startswith("max_") and value is not None}


def test_the_constants_are_those_of_the_code() -> None:
    checked = 0
    for row in rows("protocol.md", "Limits"):
        if len(row) > 2 and spans(row[2]):
            module, _, name = spans(row[2])[0].rpartition(".")
            assert number(row[1]) == getattr(importlib.import_module(f"notifyfs.{module}"), name), name
            checked += 1
    assert checked


def keys(section: str) -> set[str]:
    return {span for row in rows("protocol.md", section) for span in spans(row[0])}


def test_the_keys_of_the_json_are_those_of_a_real_answer(mount: Mount) -> None:
    with w.Wire(mount) as wire:
        greeting = wire.hello()
        counters: dict[str, dict[str, Any]] = wire.statistics()

    assert keys("The answer to hello") == set(greeting)
    flat = {f"{group}.{key}" for group, values in counters.items() for key in values}
    assert keys("The answer to statistics") == flat


def test_each_thing_that_is_tried_of_the_kernel_has_its_row() -> None:
    named = [span for row in rows("operating.md", "Kernels") for span in spans(row[0])]
    assert named == [field.name for field in attrs.fields(probe.Kernel)]


def test_the_bytes_are_what_is_really_sent_and_received(mount: Mount) -> None:
    """The transcript, line by line, on a fresh mount."""
    (mount.root / "d").mkdir()
    (transcript,) = blocks("protocol.md", "transcript")
    compared = 0
    with socket.socket(socket.AF_UNIX) as stream:
        stream.settimeout(w.PATIENCE)
        stream.connect(mount.socket)
        for line in transcript.splitlines():
            direction, said = line[0], line[2:]
            if direction == "$":
                subprocess.run(["/bin/sh", "-ec", said], cwd=mount.root, check=True, timeout=w.PATIENCE)
                continue
            octets = bytes.fromhex(said[:35])
            assert len(octets) == 16, line
            if direction == ">":
                stream.sendall(octets)
            else:
                assert stream.recv(16, socket.MSG_WAITALL).hex(" ", 4) == said[:35], line
                compared += 1
        assert stream.recv(16) == b"", "the connection ends after the last line"
    assert compared


def test_the_example_client_runs(mount: Mount, tmp_path: Path) -> None:
    (program,) = blocks("protocol.md", "python")
    script = tmp_path / "client.py"
    script.write_text(program, "utf-8")
    watched = mount.root / "tree"
    watched.mkdir()
    client = subprocess.Popen(
        [sys.executable, "-I", "-S", script, watched], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        assert client.stdout is not None
        assert w.readable(client.stdout.fileno(), w.PATIENCE), "the client says nothing"
        assert client.stdout.readline() == f"watching {watched}\n"
        subprocess.run(["/bin/mkdir", watched / "new"], check=True, timeout=w.PATIENCE)
        subprocess.run(["/bin/mv", watched / "new", watched / "old"], check=True, timeout=w.PATIENCE)
        mount.unmount()
        output, complaints = client.communicate(timeout=w.PATIENCE)
    finally:
        client.kill()
        client.wait()

    heard = re.sub(r"pid [1-9]\d*", "pid N", output).splitlines()
    uid = mount.source.stat().st_uid
    assert heard[:3] == [
        f"CREATE|ISDIR new by mkdir (pid N, uid {uid})",
        f"MOVED_FROM|ISDIR new by mv (pid N, uid {uid})",
        f"MOVED_TO|ISDIR old by mv (pid N, uid {uid})",
    ]
    assert [line.partition(" ")[0] for line in heard[3:]] == ["UNMOUNT|ISDIR", "IGNORED"]
    assert (client.returncode, complaints) == (0, "")


# filesystem.md


def option_rows() -> list[tuple[list[str], str]]:
    return [(spans(row[0]), row[1]) for row in rows("filesystem.md", "Options") if spans(row[0])]


def test_the_mount_options_are_those_of_the_code() -> None:
    told = [span.removesuffix("=") for names, _ in option_rows() for span in names]
    known = {*options._SWITCHES, *options._VALUES, *options._DROPPED}  # noqa: SLF001 - the tables that parse uses

    assert sorted(told) == sorted({*known, "x-*"})


def test_the_options_take_a_value_where_the_table_says_so() -> None:
    examples = {"cache": "never", "access": "off", "reach": "socket", "max_read": "4096", "comment": "x"}
    for names, _ in option_rows():
        for name in names:
            word = name.replace("*", "systemd.automount")
            if name.endswith("="):
                word += examples.get(name[:-1], "7")
                if name != "comment=":
                    with pytest.raises(options.OptionError):
                        options.Options.parse([name[:-1]])
            assert isinstance(options.Options.parse([word]), options.Options)


def test_the_options_have_the_defaults_that_the_table_says() -> None:
    parse, default = options.Options.parse, options.Options()
    checked = 0
    for names, said in option_rows():
        if said == "off":
            assert parse(names) != default
        elif spans(said) and not names[0].endswith("="):
            assert parse(spans(said)) == default
            assert all(parse([name]) != default for name in names if name not in spans(said))
        elif spans(said) or said.isdigit():
            value = (spans(said) or [said])[0]
            assert parse([names[0] + value]) == default
        else:
            continue
        checked += 1
    assert checked


def test_the_caching_times_are_those_of_the_code(fuse: None) -> None:
    timeouts = importlib.import_module("notifyfs.fuse.handlers").TIMEOUTS
    told = {
        spans(row[0])[0]: float(re.sub(r"\D", "", row[1]) or 0)
        for row in rows("filesystem.md", "Caching")
        if not row[0].endswith("=`")
    }

    assert told == timeouts


PROBES = """
import ctypes, fcntl, os, sys
libc, seen = ctypes.CDLL(None, use_errno=True), {}
def tried(name, call):
    try:
        seen[name] = call() and 0
    except OSError as error:
        seen[name] = error.errno
def fallocate():
    if libc.fallocate(fd, 0, ctypes.c_long(0), ctypes.c_long(4096)):
        raise OSError(ctypes.get_errno(), "fallocate")
os.chdir(sys.argv[1])
fd = os.open("f", os.O_RDWR | os.O_CREAT)
os.ftruncate(fd, 1 << 20)
tried("fallocate", fallocate)
tried("posix_fallocate", lambda: os.posix_fallocate(fd, 0, 8192))
tried("tmpfile", lambda: os.close(os.open(".", os.O_TMPFILE | os.O_RDWR)))
tried("ioctl", lambda: fcntl.ioctl(fd, 0x80086601, bytes(8)))
tried("set the attribute", lambda: os.setxattr("f", "notifyfs.socket", b"x"))
os.truncate("f", 0)
os.truncate("f", 1 << 20)
seen["hole at"] = os.lseek(fd, 0, os.SEEK_HOLE)
import json
print(json.dumps(seen))
"""


def test_what_does_not_work_on_the_mount_is_what_the_table_says(mount: Mount) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROBES, mount.root], check=True, capture_output=True, text=True, timeout=w.PATIENCE
    )
    table = {row[0].partition("(")[0]: " ".join(row) for row in rows("filesystem.md", "What is different")}

    assert json.loads(done.stdout) == {
        "fallocate": errno.EOPNOTSUPP,
        "posix_fallocate": None,
        "tmpfile": errno.EOPNOTSUPP,
        "ioctl": errno.ENOTTY,
        "set the attribute": errno.EOPNOTSUPP,
        "hole at": 1 << 20,
    }
    assert "EOPNOTSUPP" in table["fallocate"]
    assert "O_TMPFILE" in table["open"]
    assert "EOPNOTSUPP" in table["open"]
    assert "ENOTTY" in table["ioctl"]


def test_locks_on_the_mount_are_not_seen_in_the_source(mount: Mount) -> None:
    """The table says so; when pyfuse3 passes locks on, the table must change."""
    take = "import fcntl, sys; fcntl.flock(open(sys.argv[1]), fcntl.LOCK_EX | fcntl.LOCK_NB)"
    (mount.root / "f").touch()
    hold = (
        "import fcntl, sys; f = open(sys.argv[1]); fcntl.flock(f, fcntl.LOCK_EX); print(flush=True); sys.stdin.read()"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", hold, mount.root / "f"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "\n"
        codes = {
            place: subprocess.run(
                [sys.executable, "-c", take, place / "f"], check=False, capture_output=True
            ).returncode
            for place in (mount.root, mount.source)
        }
    finally:
        holder.communicate()
    assert codes == {mount.root: 1, mount.source: 0}


def test_the_source_changed_behind_the_mount_is_seen_within_the_time_that_is_said(mount: Mount) -> None:
    (mount.source / "f").write_bytes(b"old")
    assert (mount.root / "f").read_bytes() == b"old"
    assert (mount.root / "f").stat().st_size == 3
    (mount.source / "f").write_bytes(b"changed")
    (mount.source / "new").touch()

    assert (mount.root / "new").exists()
    wait_until(lambda: (mount.root / "f").read_bytes() == b"changed", 3, "the change behind the mount")


def test_every_scenario_that_expects_something_else_of_notifyfs_has_its_row_in_parity() -> None:
    rows_there = {spans(row[0])[0] if spans(row[0]) else row[0] for row in rows("parity.md", "Where they differ")}
    scenarios = ROOT / "tests/scenarios"
    differing = {
        file.name.partition("-")[0]
        for file in scenarios.glob("*.txt")
        if any(line in {"--- notifyfs", "--- in-band", "--- event-fd"} for line in file.read_text("utf-8").splitlines())
    }
    assert differing
    assert differing <= rows_there
