"""Prometheus fetches the counters over real HTTP, and its own parser reads them."""

from __future__ import annotations

import contextlib
import errno
import http.client
import itertools
import os
import re
import select
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as open_metrics
from prometheus_client.parser import text_string_to_metric_families as plain_text

from notifyfs.mounts.options import OptionError, Options
from tests.conftest import wait_until
from tests.support import wireclient as w
from tests.support.faults import root_only
from tests.support.wireclient import Wire

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.conftest import Mount

ROOT = Path(__file__).resolve().parents[2]
PORT = 9464
_hosts = itertools.count(1)

Labels = frozenset[tuple[str, str]]
Samples = dict[tuple[str, Labels], float]


@pytest.fixture
def host() -> str:
    """An address of this machine that nobody else uses: all of 127.0.0.0/8 is there to choose from."""
    return f"127.{next(_hosts)}.{os.getpid() >> 8 & 255}.{os.getpid() & 255}"


def fetch(host: str, accept: str = "*/*", port: int = PORT) -> str:
    """What a scrape gets."""
    with contextlib.closing(http.client.HTTPConnection(host, port, timeout=w.PATIENCE)) as connection:
        connection.request("GET", "/metrics", headers={"Accept": accept})
        answer = connection.getresponse()
        assert answer.status == http.HTTPStatus.OK
        return answer.read().decode()


def samples(text: str) -> Samples:
    """Each sample by its name and labels."""
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in plain_text(text)
        for sample in family.samples
    }


def of(found: Samples, name: str, **labels: str) -> float:
    """One sample's value."""
    return found[name, frozenset(labels.items())]


def mounting(source: Path, mountpoint: Path, option: str, before: str = "") -> subprocess.CompletedProcess[str]:
    """Try to mount in the foreground, after the statement *before*; it must end by itself."""
    return subprocess.run(
        [
            sys.executable,
            "-c",
            f"import sys; {before}\nfrom notifyfs.commands.main import main; main()",
            *("mount", "-f", "-o", option, source, mountpoint),
        ],
        capture_output=True,
        text=True,
        check=False,
        timeout=w.PATIENCE,
        env=os.environ | {"PYTHONPATH": str(ROOT / "src")},
    )


@pytest.fixture
def places(fuse: None, tmp_path: Path) -> Iterator[tuple[Path, Path]]:
    """A source and a mountpoint on which nothing may be mounted in the end."""
    for name in ("source", "mount"):
        (tmp_path / name).mkdir()
    yield tmp_path / "source", tmp_path / "mount"
    assert not os.path.ismount(tmp_path / "mount")


# What is told


def test_the_counters_are_those_of_what_was_done(mounted: Callable[..., Mount], host: str) -> None:
    mount = mounted(metrics=f"{host}:{PORT}")
    with Wire(mount) as wire:
        wire.add(w.CREATE | w.DELETE | w.RECURSIVE)
        for number in range(100):
            (mount.root / f"d{number}").mkdir()
        for number in range(3):
            (mount.root / f"d{number}").rmdir()
        with contextlib.suppress(OSError):
            (mount.root / "d9" / "f").touch()
            (mount.root / "d9").rmdir()
        found = samples(fetch(host))
        told = wire.statistics()["mount"]

    assert of(found, "notifyfs_events_total", kind="CREATE") == 101
    assert of(found, "notifyfs_events_total", kind="DELETE") == 3
    assert of(found, "notifyfs_events_total", kind="MODIFY") == 0
    assert of(found, "notifyfs_requests_seconds_count", operation="mkdir") == 100
    assert of(found, "notifyfs_requests_seconds_count", operation="rmdir") == 4
    assert of(found, "notifyfs_request_errors_total", operation="rmdir") == 1
    assert of(found, "notifyfs_request_errors_total", operation="mkdir") == 0
    for name in ("instances", "watches", "inodes", "descriptors"):
        assert of(found, f"notifyfs_{name}") == told[name] > 0
    assert of(found, "notifyfs_mount_info", mountpoint=str(mount.root), source=str(mount.source)) == 1
    assert of(found, "notifyfs_instance_events_total", number="1") == 104
    assert of(found, "process_open_fds") > 3


def test_the_histogram_agrees_with_the_clock(mounted: Callable[..., Mount], host: str) -> None:
    mount = mounted(metrics=f"{host}:{PORT}")
    before = time.perf_counter()
    for number in range(200):
        (mount.root / f"d{number}").mkdir()
    took = time.perf_counter() - before
    found = samples(fetch(host))

    buckets = sorted(
        (float(dict(labels)["le"]), value)
        for (name, labels), value in found.items()
        if name == "notifyfs_requests_seconds_bucket" and ("operation", "mkdir") in labels
    )
    counts = [count for _, count in buckets]
    total = of(found, "notifyfs_requests_seconds_sum", operation="mkdir")
    assert counts == sorted(counts)
    assert counts[-1] == of(found, "notifyfs_requests_seconds_count", operation="mkdir") == 200
    assert 0 < total < took
    bounds = [0, *(bound for bound, _ in buckets)]
    steps = [later - earlier for earlier, later in itertools.pairwise([0, *counts])]
    assert sum(low * step for low, step in zip(bounds, steps, strict=False)) <= total
    assert total <= sum(high * step for high, step in zip(bounds[1:], steps, strict=True) if step)


def test_a_subscriber_has_its_series_as_long_as_it_is_there(mounted: Callable[..., Mount], host: str) -> None:
    mount = mounted(f"metrics={host}:{PORT}", "max_queued_events=10")
    with Wire(mount) as staying:
        staying.ask(w.PENDING)
        with Wire(mount, event_fd=True) as going:
            going.add(w.CREATE)
            for number in range(30):
                (mount.root / f"d{number}").mkdir()
            going.ask(w.PENDING)
            during = samples(fetch(host))
        w.wait_until(lambda: staying.statistics()["mount"]["instances"] == 1, "it is gone")
        after = samples(fetch(host))

    assert of(during, "notifyfs_instance_watches", number="2") == 1
    assert of(during, "notifyfs_instance_events_dropped_total", number="2") == 20
    assert ("notifyfs_instance_watches", frozenset({("number", "2")})) not in after
    assert of(after, "notifyfs_instance_watches", number="1") == 0
    for found in (during, after):
        assert of(found, "notifyfs_events_dropped_total") == 20
        assert of(found, "notifyfs_events_total", kind="Q_OVERFLOW") == 1
    assert not re.search(r'(pid|uid)="', fetch(host)), "whose they are is not for everybody"


def test_openmetrics_is_spoken_to_who_asks_for_it(mounted: Callable[..., Mount], host: str) -> None:
    mounted(metrics=f"{host}:{PORT}")
    text = fetch(host, "application/openmetrics-text; version=1.0.0")
    assert text.endswith("# EOF\n")
    families = {family.name: family.type for family in open_metrics(text)}
    assert families["notifyfs_events"] == "counter"
    assert families["notifyfs_requests_seconds"] == "histogram"
    assert families["notifyfs_mount"] == "info"


def test_the_metrics_are_those_of_the_document(mounted: Callable[..., Mount], host: str) -> None:
    mount = mounted(metrics=f"{host}:{PORT}")
    with Wire(mount) as wire:
        wire.ask(w.PENDING)
        text = fetch(host)
    names = set(re.findall(r"^# TYPE (notifyfs_\w+)", text, re.MULTILINE))
    page = (ROOT / "docs" / "operating.md").read_text("utf-8")
    table = page.partition("| metric | |\n")[2].partition("\n\n")[0]
    documented = {name for row in table.splitlines() for name in re.findall(r"`(notifyfs_\w+)`", row.split("|")[1])}

    assert documented == names
    assert set(re.findall(r"`(process_\w+)`", page)) <= set(re.findall(r"^# TYPE (\w+)", text, re.MULTILINE))


def test_a_path_that_is_no_text_is_told_all_the_same(mounted: Callable[..., Mount], host: str, tmp_path: Path) -> None:
    root = tmp_path / os.fsdecode(b'\xff"\n')
    mount = mounted(root=root, metrics=f"{host}:{PORT}")
    found = samples(fetch(host))
    assert of(found, "notifyfs_mount_info", mountpoint=f'{tmp_path}/\\xff"\n', source=str(mount.source)) == 1


# How it is served


def test_only_a_port_is_one_of_127_0_0_1() -> None:
    assert Options.parse(["metrics=9464"]).metrics == ("127.0.0.1", 9464)
    assert Options.parse(["metrics=192.0.2.7:80"]).metrics == ("192.0.2.7", 80)
    assert Options.parse(["metrics=[2001:db8::7]:65535"]).metrics == ("2001:db8::7", 65535)
    assert Options.parse(["metrics=some.host:1"]).metrics == ("some.host", 1)
    assert Options.parse([]).metrics is None


@pytest.mark.parametrize("word", ["", "0", "65536", "host", ":9464", "::1:9464", "[::1]", "[host]:1", "h:1:2", "1 2:3"])
def test_what_is_no_address_is_refused_with_its_forms(word: str) -> None:
    with pytest.raises(OptionError) as caught:
        Options.parse([f"metrics={word}"])
    said = "wants HOST:PORT, [IPV6]:PORT or PORT (then of 127.0.0.1), the port from 1 to 65535"
    assert str(caught.value) == f"metrics={word}: {said}"


def test_ipv6_works(mounted: Callable[..., Mount]) -> None:
    port = 20000 + os.getpid() % 10000  # there is one such address only, for all who test here
    try:
        socket.create_server(("::1", port), family=socket.AF_INET6).close()
    except OSError as error:
        pytest.skip(f"[::1]:{port}: {error.strerror}")
    mounted(metrics=f"[::1]:{port}")
    assert "notifyfs_mount_info" in fetch("::1", port=port)


def test_an_address_that_is_taken_fails_the_mount(places: tuple[Path, Path], host: str) -> None:
    with socket.create_server((host, PORT)):
        done = mounting(*places, f"metrics={host}:{PORT}")
    said = f"metrics={host}:{PORT}: Address already in use; choose another address with -o metrics=HOST:PORT"
    assert (done.returncode, done.stdout, done.stderr) == (1, "", f"notifyfs: {said}\n")


def test_an_address_of_another_machine_fails_the_mount(places: tuple[Path, Path]) -> None:
    done = mounting(*places, f"metrics=[2001:db8::7]:{PORT}")
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)
    assert done.stderr.startswith(f"notifyfs: metrics=[2001:db8::7]:{PORT}: ")
    assert done.stderr.endswith("; choose another address with -o metrics=HOST:PORT\n")


def test_without_the_library_the_mount_fails_and_says_what_to_install(places: tuple[Path, Path], host: str) -> None:
    done = mounting(*places, f"metrics={host}:{PORT}", "sys.modules['prometheus_client'] = None")
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)
    assert done.stderr.startswith(f"notifyfs: metrics={host}:{PORT}: ")
    assert done.stderr.endswith("; install it: pip install 'notifyfs[metrics]'\n")


def test_without_the_option_nobody_needs_the_library(fuse: None) -> None:
    code = "import sys; from notifyfs import daemon; print('prometheus_client' in sys.modules)"
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src")}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert done.stdout == "False\n"


@root_only
def test_the_server_s_thread_has_no_more_rights_than_the_daemon(mounted: Callable[..., Mount], host: str) -> None:
    mount = mounted(metrics=f"{host}:{PORT}")
    fetch(host)
    threads = [path.read_text("utf-8") for path in Path(f"/proc/{mount.pid}/task").glob("*/status")]
    rights = {tuple(re.findall(r"^(Cap(?:Prm|Eff)|NoNewPrivs):\s*(\w+)", text, re.MULTILINE)) for text in threads}

    assert len(threads) >= 2
    assert len(rights) == 1, "each thread has its own"
    permitted = int(dict(rights.pop())["CapPrm"], 16)
    assert not permitted & 1 << 16, "CAP_SYS_MODULE"


def test_who_says_nothing_is_given_up_on(mounted: Callable[..., Mount], host: str) -> None:
    mount = mounted(metrics=f"{host}:{PORT}")
    fetch(host)
    before = len(w.descriptors_of(mount.pid))
    with contextlib.ExitStack() as stack:
        silent = [stack.enter_context(socket.create_connection((host, PORT), w.PATIENCE)) for _ in range(3)]
        (mount.root / "d").mkdir()
        with Wire(mount) as wire:
            assert wire.statistics()["mount"]["instances"] == 1
        w.wait_until(lambda: len(w.descriptors_of(mount.pid)) <= before + 1, "the subscriber is gone")
        assert "notifyfs_mount_info" in fetch(host)
        assert [client.recv(1) for client in silent] == [b""] * 3


def test_who_drips_is_given_up_on(mounted: Callable[..., Mount], host: str) -> None:
    """Two seconds for all of it: a byte now and then gains no time."""
    mounted(metrics=f"{host}:{PORT}")
    with socket.create_connection((host, PORT), w.PATIENCE) as client:
        began = time.monotonic()
        request = itertools.chain(b"GET / HTTP/1.0\r\nX: ", itertools.repeat(ord("x")))
        with contextlib.suppress(ConnectionError):
            while not select.select([client], [], [], 0.2)[0]:
                assert time.monotonic() - began < 5, "it still has the server to itself"
                client.send(bytes([next(request)]))
    assert "notifyfs_mount_info" in fetch(host)
    assert time.monotonic() - began < 5


def test_those_who_drip_keep_nobody_out_together(mounted: Callable[..., Mount], host: str) -> None:
    """As many as there can be before the scrape: it has its turn in less time than Prometheus gives it (10 s)."""
    mounted(metrics=f"{host}:{PORT}")
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(socket.create_connection((host, PORT), w.PATIENCE)) for _ in range(5)]
        began = time.monotonic()
        scrape = stack.enter_context(contextlib.closing(http.client.HTTPConnection(host, PORT, timeout=w.PATIENCE)))
        scrape.request("GET", "/metrics")
        while not select.select([scrape.sock], [], [], 0.2)[0]:
            assert time.monotonic() - began < 6, "they have the server to themselves"
            for client in clients:
                with contextlib.suppress(ConnectionError):
                    client.send(b"G")
        assert b"notifyfs_mount_info" in scrape.getresponse().read()


def test_who_asks_again_and_again_is_answered_ten_times_a_second(mounted: Callable[..., Mount], host: str) -> None:
    mounted(metrics=f"{host}:{PORT}")
    fetch(host)
    before = time.monotonic()
    for _ in range(8):
        fetch(host)
    assert time.monotonic() - before >= 0.7


@pytest.mark.parametrize("line", [b"nonsense", b"GET //[ HTTP/1.0", b"POST / HTTP/1.0", b"\0", b"x" * 70000])
def test_nonsense_ends_nothing(mounted: Callable[..., Mount], host: str, line: bytes) -> None:
    mount = mounted(metrics=f"{host}:{PORT}")
    with socket.create_connection((host, PORT), w.PATIENCE) as client:
        client.sendall(line + b"\r\n\r\n")
        client.shutdown(socket.SHUT_WR)
        with contextlib.suppress(ConnectionResetError):  # not all of it was read
            while client.recv(1 << 16):
                pass
    assert "notifyfs_mount_info" in fetch(host)
    mount.check()


@pytest.mark.parametrize("busy", [False, True], ids=["idle", "while it waits for a client"])
def test_the_server_ends_with_the_mount(mounted: Callable[..., Mount], host: str, busy: bool) -> None:  # noqa: FBT001
    mount = mounted(metrics=f"{host}:{PORT}")
    fetch(host)
    with contextlib.ExitStack() as stack:
        if busy:
            client = stack.enter_context(socket.create_connection((host, PORT), w.PATIENCE))
            client.sendall(b"GET /")
        mount.unmount()
        mount.process.wait(4)
        with pytest.raises(ConnectionRefusedError) as caught:
            socket.create_connection((host, PORT), w.PATIENCE)
        assert caught.value.errno == errno.ECONNREFUSED
    again = mounted(metrics=f"{host}:{PORT}")
    assert of(samples(fetch(host)), "notifyfs_mount_info", mountpoint=str(again.root), source=str(again.source)) == 1


def test_a_scrape_in_between_costs_no_event(mounted: Callable[..., Mount], host: str) -> None:
    mount = mounted(metrics=f"{host}:{PORT}")
    with Wire(mount) as wire:
        wire.add(w.CREATE)
        for number in range(300):
            (mount.root / f"d{number}").mkdir()
            if not number % 10:
                fetch(host)
        assert [name for _, _, name in wire.told()] == [b"d%d" % number for number in range(300)]
    wait_until(lambda: of(samples(fetch(host)), "notifyfs_instances") == 0, 5, "the subscriber is gone")
