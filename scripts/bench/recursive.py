"""How long it takes to watch a tree with many directories, and what it costs in memory."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

import attrs

from scripts.bench import seeding
from scripts.bench.latency import Listener, listeners
from scripts.bench.peers import PEERS, Place
from scripts.bench.processes import memory

if TYPE_CHECKING:
    from scripts.bench.measuring import Course

DIRECTORIES: Final = 100_000
ROUNDS: Final = 3
RECURSIVE: Final = ("stream", "notifyfs-watch", "inotifywait", "watchdog", "watchfiles")


def measure(course: Course, base: Path) -> None:
    """Begin to watch the same tree with each reader that can; the time until it says that it does."""
    count = 200 if course.quick else DIRECTORIES
    base.mkdir()
    plain = Place(PEERS["plain"], base)
    course.say(f"recursive: making {count:,} directories")
    seeding.directories(plain.root, count)
    mount = Place(PEERS["notifyfs"], base, source=plain.root)
    try:
        mount.renew()
        found = listeners(mount, plain, base)
        subjects = {listener.name: attrs.evolve(listener) for listener in found.values() if listener.kind in RECURSIVE}

        def sample(listener: Listener) -> dict[str, float]:
            before = kernel_memory(), memory(mount.pid)
            with listener.listening(listener.place.root, recursive=True) as reading:
                after = kernel_memory(), memory(mount.pid)
                own = sum(memory(pid) for pid in family(reading.process.pid))
            return {
                "until it watches": reading.seconds,
                "kernel memory": after[0] - before[0],
                "the daemon's memory": after[1] - before[1],
                "the reader's memory": own,
            }

        rounds = 1 if course.quick else ROUNDS
        course.alternate("recursive", "until it watches", subjects, sample, rounds=rounds)
    finally:
        mount.close()


def kernel_memory() -> int:
    """Bytes that the kernel has allocated for itself (proc(5), meminfo: Slab)."""
    for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
        if line.startswith("Slab:"):
            return int(line.split()[1]) * 1024
    return 0


def family(pid: int) -> list[int]:
    """The process and its children."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split()
    return [pid, *map(int, children)]
