"""What bounds a pool of servers, and what it tells of itself: plain values."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class PoolLimits:
    """How many servers there may be, and how long one lives.

    Attributes:
        max_servers: Servers at once; while one replaces another there is one more.
        idle_seconds: A server without a prompt is stopped after so long.
        max_prompts: A server is replaced after so many prompts.
        max_mib: A server is replaced when it holds so much memory, and more than it needs itself.
        max_disk_mib: A server is replaced when its data takes so much room on the disk.
        max_folders: A server is replaced when it has seen so many folders.
        start_seconds: How long a start may take.
        crash_limit: Crashes and failed starts in a row that are taken for a crash loop.
    """

    max_servers: int = 4
    idle_seconds: float = 300.0
    max_prompts: int = 2000
    max_mib: float = 2500.0
    max_disk_mib: float = 4096.0
    max_folders: int = 256
    start_seconds: float = 120.0
    crash_limit: int = 5


@dataclass(frozen=True, slots=True)
class EngineStats:
    """What this process's warm servers do now, and what has become of them so far.

    Attributes:
        servers: Servers that run, draining ones included.
        draining: Those of them that take no new prompts.
        starting: Servers that are being started.
        prompts: Prompts in flight.
        started: Servers that came up.
        failed_starts: Those that did not.
        crashed: Servers that died by themselves.
        recycled: Servers that were replaced because of their age, memory or folders.
        superseded: Servers whose list of models nobody uses any more.
        evicted: Servers that made room for another one.
        expired: Servers that were stopped because nobody used them.
        interrupted: Attempts whose server was gone before they had ended; what they had asked
            for is asked again, see `QueryResult.failed_usage`.
    """

    servers: int = 0
    draining: int = 0
    starting: int = 0
    prompts: int = 0
    started: int = 0
    failed_starts: int = 0
    crashed: int = 0
    recycled: int = 0
    superseded: int = 0
    evicted: int = 0
    expired: int = 0
    interrupted: int = 0
