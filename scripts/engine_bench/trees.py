"""CPU time and memory of a process with everything that it has started."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

import psutil

MIB = 1024 * 1024
SAMPLE_SECONDS = 0.25


def tree(pid: int) -> list[psutil.Process]:
    """Return a process and its descendants."""
    with suppress(psutil.Error):
        root = psutil.Process(pid)
        return [root, *root.children(recursive=True)]
    return []


def cpu_seconds(pid: int) -> float:
    """Return what the tree has used since it began, with its processes that have ended.

    Those are in their parents' figures, which Linux keeps; elsewhere they are missing.
    """
    total = 0.0
    for process in tree(pid):
        with suppress(psutil.Error):
            times = process.cpu_times()
            total += times.user + times.system
            total += getattr(times, "children_user", 0.0) + getattr(times, "children_system", 0.0)
    return total


def own_cpu_seconds(pid: int) -> float:
    """Return what a process itself has used since it began."""
    times = psutil.Process(pid).cpu_times()
    return float(times.user + times.system)


def memory_mib(pid: int, name: str = "") -> float:
    """Return the resident memory of the tree's processes whose name holds `name`.

    Pages that several of them share are counted in each.
    """
    total = 0
    for process in tree(pid):
        with suppress(psutil.Error):
            if name in process.name():
                total += process.memory_info().rss
    return total / MIB


def descriptors(pid: int, name: str = "") -> int:
    """Return how many files and sockets the tree's processes whose name holds `name` have open."""
    total = 0
    for process in tree(pid):
        with suppress(psutil.Error):
            if name in process.name():
                total += process.num_fds()
    return total


@dataclass(slots=True)
class TreeUse:
    """What a tree used in a span of time.

    Attributes:
        cpu_seconds: User and system time.
        root_cpu_seconds: That of the root process alone.
        peak_mib: The most memory that was seen.
    """

    cpu_seconds: float = 0.0
    root_cpu_seconds: float = 0.0
    peak_mib: float = 0.0


@contextmanager
def measured(pid: int) -> Iterator[TreeUse]:
    """Watch a tree; what is yielded holds the figures afterwards."""
    use, stop = TreeUse(), threading.Event()

    def watch() -> None:
        while True:
            use.peak_mib = max(use.peak_mib, memory_mib(pid))
            if stop.wait(SAMPLE_SECONDS):
                return

    before, root_before = cpu_seconds(pid), own_cpu_seconds(pid)
    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield use
    finally:
        use.cpu_seconds = cpu_seconds(pid) - before
        use.root_cpu_seconds = own_cpu_seconds(pid) - root_before
        stop.set()
        watcher.join()
