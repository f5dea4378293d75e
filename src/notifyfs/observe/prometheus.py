"""The counters for Prometheus, over HTTP. Needs prometheus_client (``notifyfs[metrics]``), 0.16 or later."""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
import select
import socket
import socketserver
import sys
import threading
from http.server import HTTPServer
from time import monotonic
from typing import TYPE_CHECKING, Any, Final

from prometheus_client import MetricsHandler, ProcessCollector
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
)
from prometheus_client.registry import Collector, CollectorRegistry

from notifyfs.observe import counters
from notifyfs.protocol import flags

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from prometheus_client.core import Metric

    from notifyfs.core.instances import Instance
    from notifyfs.observe.counters import RequestCounter
    from notifyfs.observe.statistics import Statistics

log = logging.getLogger(__name__)

_PATIENCE: Final = 2.0  # seconds that a client has for all of it, once it is its turn
_HURRY: Final = 0.5  # and until its request must be there while others wait
_GRACE: Final = 1.0  # seconds that an answer under way has when the mount ends
# Seconds after each request. An answer takes milliseconds in which the mount has to share the interpreter with it,
# and whoever can connect can ask. It also is the time to wait while there is no descriptor for a connection.
_PAUSE: Final = 0.1
# The upper bounds of the histogram, 2**n ns as counted: 16 us to 4 ms by factors of two, to 17 s of four.
_EXPONENTS: Final = (*range(14, 22), *range(22, 35, 2))
_KINDS: Final = {
    int(flag): flags.spell(flag)
    for flag in flags.flags.from_mask(flags.EVENTS | flags.UNMOUNT | flags.Q_OVERFLOW | flags.IGNORED)
}
_HELD: Final = {
    "instances": "Connections of subscribers.",
    "watches": "Watches of all instances.",
    "inodes": "Files that the kernel, a watch or an open file keeps in mind.",
    "open_files": "Open files and directories on the mount.",
    "descriptors": "Descriptors kept for the source tree, those of open files not counted.",
    "queued_events": "Events not sent yet.",
    "queued_bytes": "Size of the events not sent yet, as records.",
}
_Family = type[GaugeMetricFamily | CounterMetricFamily]
_OF_INSTANCE: Final[tuple[tuple[_Family, str, str, Callable[[Instance], int]], ...]] = (
    (GaugeMetricFamily, "watches", "Its watches.", lambda one: len(one.watches)),
    (GaugeMetricFamily, "queued_events", "Its events not sent yet.", lambda one: len(one.queue)),
    (GaugeMetricFamily, "queue_high_water", "The most that were queued at once.", lambda one: one.queue.high_water),
    (CounterMetricFamily, "events", "Events queued for it.", lambda one: one.queue.entered),
    (CounterMetricFamily, "events_dropped", "Its events lost to overflow.", lambda one: one.queue.dropped),
    (CounterMetricFamily, "events_coalesced", "Its events that were merged.", lambda one: one.queue.coalesced),
)


class Exporter(HTTPServer):
    """An HTTP server in a thread of its own. It has the address when it is made, and answers from ``start`` on.

    One request at a time: however many connect, the daemon spends one thread and one descriptor on them.
    """

    def __init__(self, address: tuple[str, int]) -> None:
        """Listen on *address*. OSError: it cannot be had."""
        self.address_family, _, _, _, place = socket.getaddrinfo(*address, type=socket.SOCK_STREAM)[0]
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._serve, name="metrics", daemon=True)
        self._registry = CollectorRegistry()
        super().__init__((str(place[0]), address[1]), MetricsHandler.factory(self._registry))

    def server_bind(self) -> None:
        """Bind, and do not ask the resolver for a name, which may take long."""
        socketserver.TCPServer.server_bind(self)

    def get_request(self) -> tuple[socket.socket, object]:
        """Accept the next client."""
        client, address = super().get_request()
        return _Client(client, self._others_wait), address

    def start(self, statistics: Statistics, mountpoint: str, source: str) -> None:
        """Answer from now on. The thread has the capabilities that the calling thread has."""
        self._registry.register(_Counters(statistics, {"mountpoint": _text(mountpoint), "source": _text(source)}))
        ProcessCollector(registry=self._registry)
        self._thread.start()

    def stop(self) -> None:
        """End, and give the address back."""
        self._ending.set()
        if self._thread.ident is not None:
            self.socket.shutdown(socket.SHUT_RDWR)  # wakes the thread
            self._thread.join(_GRACE)
        self.server_close()

    def handle_error(self, request: object, client_address: object) -> None:  # noqa: ARG002 - socketserver's signature
        """Log why there was no answer."""
        error = sys.exception()
        ours = not isinstance(error, OSError | ValueError)  # a client that went away, was slow, or talked nonsense
        log.log(logging.ERROR if ours else logging.DEBUG, "metrics: no answer for %s", client_address, exc_info=error)

    def _others_wait(self) -> bool:
        poll = select.poll()
        poll.register(self.socket, select.POLLIN)
        return bool(poll.poll(0))

    def _serve(self) -> None:
        while not self._ending.is_set():
            self.handle_request()
            self._ending.wait(_PAUSE)


class _Client(socket.socket):
    """A connection with one limit for all of it: with one for each byte, who drips would keep the others out."""

    def __init__(self, accepted: socket.socket, others_wait: Callable[[], bool]) -> None:
        super().__init__(fileno=accepted.detach())
        self._began = monotonic()
        self._others_wait = others_wait

    def recv_into(self, *args: Any) -> int:
        """Receive, as the handler's stream does. TimeoutError: the time for all of it is over."""
        while monotonic() - self._began < (_HURRY if self._others_wait() else _PATIENCE):
            self.settimeout(_PAUSE)
            with contextlib.suppress(TimeoutError):  # look again whether somebody waits
                return super().recv_into(*args)
        raise TimeoutError

    def sendall(self, *args: Any) -> None:
        """Send, as the handler does. TimeoutError: as above."""
        self.settimeout(max(self._began + _PATIENCE - monotonic(), 0.001))  # 0 would mean: do not wait
        super().sendall(*args)


class _Counters(Collector):
    """One mount's counters, as they are when somebody asks."""

    def __init__(self, statistics: Statistics, mount: dict[str, str]) -> None:
        self._statistics = statistics
        self._mount = mount

    def collect(self) -> Iterator[Metric]:
        """Every metric; in the server's thread, see ``notifyfs.observe.statistics``."""
        yield InfoMetricFamily("notifyfs_mount", "Which mount this is.", value=self._mount)
        now = self._statistics.now()
        for name, told in _HELD.items():
            yield GaugeMetricFamily(f"notifyfs_{name}", told, value=now[name])
        yield from self._events()
        yield from self._requests()
        yield from self._instances()

    def _events(self) -> Iterator[Metric]:
        tally = self._statistics.books.tally()
        kinds = CounterMetricFamily("notifyfs_events", "Events queued, once for each watch.", labels=["kind"])
        for mask, name in _KINDS.items():
            kinds.add_metric([name], tally.kinds[mask])
        yield kinds
        yield CounterMetricFamily("notifyfs_events_dropped", "Events lost to overflow.", value=tally.dropped)
        told = "Events merged into the one before."
        yield CounterMetricFamily("notifyfs_events_coalesced", told, value=tally.coalesced)
        told = "The most events that any one instance had queued at once."
        yield GaugeMetricFamily("notifyfs_queue_high_water", told, value=tally.high_water)

    @staticmethod
    def _requests() -> Iterator[Metric]:
        times = HistogramMetricFamily("notifyfs_requests_seconds", "Requests of the kernel.", labels=["operation"])
        errors = CounterMetricFamily(
            "notifyfs_request_errors", "Requests answered with an error.", labels=["operation"]
        )
        for operation, counter in counters.REQUESTS.items():
            times.add_metric([operation], *_histogram(counter))
            errors.add_metric([operation], counter.errors)
        yield times
        yield errors

    def _instances(self) -> Iterator[Metric]:
        # By number only: the statistics request tells whose they are, but not to everybody.
        living = self._statistics.books.living
        for kind, name, told, value in _OF_INSTANCE:
            family = kind(f"notifyfs_instance_{name}", told, labels=["number"])
            for instance, (number, _) in living.items():
                family.add_metric([str(number)], value(instance))
            yield family


def _histogram(counter: RequestCounter) -> tuple[list[tuple[str, float]], float]:
    """Cumulative buckets and the sum, as prometheus_client wants them."""
    upto = list(itertools.accumulate(counter.buckets))
    bounds = [(str(2**exponent / 1e9), float(upto[exponent])) for exponent in _EXPONENTS]
    return [*bounds, ("+Inf", float(upto[-1]))], counter.nanoseconds / 1e9


def _text(path: str) -> str:
    return os.fsencode(path).decode(errors="backslashreplace")
