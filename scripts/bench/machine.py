"""What the figures are of: the machine, the versions, the time."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import time
from pathlib import Path
from typing import Any

from scripts import ROOT
from scripts.bench.peers import PEERS, debian
from scripts.bench.processes import ask


def describe(directory: Path) -> dict[str, Any]:
    """All of it; *directory* is where the work is done."""
    return {
        "date": time.strftime("%Y-%m-%d %H:%M %Z"),
        "system": f"{_system()}, Linux {platform.release()}",
        "processor": f"{_field('/proc/cpuinfo', 'model name')}, {len(os.sched_getaffinity(0))} of {os.cpu_count()}",
        "memory": f"{int(_field('/proc/meminfo', 'MemTotal').split()[0]) >> 20} GiB",
        "file system": _file_system(directory),
        "load before": load(),
        "Python": platform.python_version(),
        "commit": ask("git", "-C", str(ROOT), "describe", "--always", "--dirty"),
        "versions": _versions(),
    }


def load() -> str:
    """Processes that want a processor, over 1, 5 and 15 minutes."""
    return " ".join(f"{each:.2f}" for each in os.getloadavg())


def _versions() -> dict[str, str]:
    found = {peer.label: peer.version() for peer in PEERS.values() if not peer.lacks()}
    for package in ("pyfuse3", "trio", "watchdog", "watchfiles"):
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    found["libfuse"] = ask("fusermount3", "--version").rpartition(" ")[2]
    found["inotify-tools"] = debian("inotify-tools")()
    found["git"] = ask("git", "--version").rpartition(" ")[2]
    found["gcc"] = ask("gcc", "-dumpfullversion")
    found["ripgrep"] = ask("rg", "--version").partition(" ")[2].partition(" ")[0]
    return {name: version for name, version in found.items() if version}


def _system() -> str:
    try:
        return platform.freedesktop_os_release()["PRETTY_NAME"]
    except OSError:
        return platform.system()


def _field(path: str, name: str) -> str:
    for line in Path(path).read_text(encoding="utf-8").splitlines():
        key, _, value = line.partition(":")
        if key.strip() == name:
            return value.strip()
    return f"{platform.machine()} 0"


def _file_system(directory: Path) -> str:
    best = ("", "unknown")
    for line in Path("/proc/self/mountinfo").read_text(encoding="utf-8").splitlines():
        words = line.split()
        where, rest = words[4], words[words.index("-") + 1 :]
        if directory.is_relative_to(where) and len(where) >= len(best[0]):
            best = (where, f"{rest[0]} on {'a file' if 'loop' in rest[1] else rest[1]}")
    return best[1]
