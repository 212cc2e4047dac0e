"""How much memory a process holds, as the system tells it."""

from __future__ import annotations

import os

import pytest

from chutes_opencode.memory import parse_ps, parse_status, resident_mib


def test_a_running_process_holds_some_memory() -> None:
    held = resident_mib(os.getpid())

    assert held is not None
    assert 1 < held < 1_000_000


def test_a_process_that_is_not_there_holds_none() -> None:
    assert resident_mib(2**22 + 1) is None


@pytest.mark.parametrize(
    ("text", "kib"),
    [
        (b"Name:\topencode\nVmHWM:\t  999 kB\nVmRSS:\t  330564 kB\nThreads:\t9\n", 330_564),
        (b"Name:\topencode\nState:\tZ (zombie)\n", None),
        (None, None),
    ],
)
def test_what_linux_tells_is_read(text: bytes | None, kib: int | None) -> None:
    assert parse_status(text) == kib


@pytest.mark.parametrize(("text", "kib"), [(" 330564\n", 330_564), ("\n", None), ("", None)])
def test_what_ps_tells_is_read(text: str, kib: int | None) -> None:
    assert parse_ps(text) == kib
