"""The requests of the control socket: their numbers, kinds and words (``docs/protocol.md``)."""

from __future__ import annotations

from typing import Final

ADD: Final = 0
HELLO: Final = -1
STATISTICS: Final = -2
PENDING: Final = -3
FILTER: Final = -4

EVENT_FD: Final = 1
"""Bit 0 of a hello's mask: deliver the events on a descriptor of their own."""

STATISTICS_OPERATIONS: Final = 1
STATISTICS_INSTANCES: Final = 2
"""What a ``STATISTICS`` request's mask asks for, in pages; 0: the counters of the instance and the mount."""

FILTER_EXCLUDE: Final = 1
FILTER_INCLUDE: Final = 2
FILTER_PROCESS: Final = 4
FILTER_NOT_PROCESS: Final = 8
FILTER_USER: Final = 16
FILTER_NOT_USER: Final = 32
"""What kind of rule a ``FILTER`` request's mask says."""

GREETING: Final = b"notifyfs 1"
