"""Blocking work of an engine, off the event loop for as long as there are threads."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import TypeVar

T = TypeVar("T")


async def off_loop(work: Callable[..., T], *arguments: object) -> T:
    """Run work in a thread; here, where the interpreter ends and starts no thread any more.

    What tidies up has to happen then as well.
    """
    try:
        running = asyncio.get_running_loop().run_in_executor(None, partial(work, *arguments))
    except RuntimeError:  # of the executor, not of the work: it is told when it is awaited
        return work(*arguments)
    return await running
