"""How much memory a process holds."""

from __future__ import annotations

import sys

from chutes_opencode.process import ProcessTimeout, run_simple
from chutes_opencode.supervisor import read_bytes

PS_SECONDS = 10.0
_KIB_PER_MIB = 1024


def resident_mib(pid: int) -> float | None:
    """Tell how much memory a process holds now.

    Returns:
        Its resident set in MiB; None: there is no such process, or nobody can tell.
    """
    kib = parse_status(read_bytes(f"/proc/{pid}/status")) if _has_proc() else _ask_ps(pid)
    return None if kib is None else kib / _KIB_PER_MIB


def parse_status(text: bytes | None) -> int | None:
    """Return the KiB in what `/proc/<pid>/status` holds; None: a zombie, or no process."""
    for line in (text or b"").splitlines():
        if line.startswith(b"VmRSS:"):
            return int(line.split()[1])
    return None


def parse_ps(text: str) -> int | None:
    """Return the KiB in what `ps -o rss=` printed; None: nothing."""
    return int(text) if text.strip().isdigit() else None


def _has_proc() -> bool:
    return sys.platform == "linux"


def _ask_ps(pid: int) -> int | None:
    argv = ["ps", "-o", "rss=", "-p", str(pid)]
    env = {"PATH": "/bin:/usr/bin"}
    try:
        return parse_ps(run_simple(argv, env=env, timeout_seconds=PS_SECONDS).stdout)
    except (OSError, ProcessTimeout):
        return None
