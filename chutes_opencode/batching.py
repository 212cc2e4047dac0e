"""Many prompts at once: as they complete, with a bounded read-ahead."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import (
    AsyncGenerator,
    Awaitable,
    Callable,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from concurrent.futures import Future
from contextvars import copy_context
from dataclasses import replace
from queue import SimpleQueue
from typing import Any

from chutes_opencode.arguments import check_names
from chutes_opencode.errors import (
    AuthenticationError,
    BillingError,
    ConfigurationError,
    OpenCodeError,
)
from chutes_opencode.results import QueryResult

Item = str | Mapping[str, Any]
Ask = Callable[[Mapping[str, Any]], Awaitable[QueryResult]]
AccountError = AuthenticationError | BillingError
_Entry = tuple[int, Item]


async def completed(
    items: Iterable[Item], ask: Ask, concurrency: int
) -> AsyncGenerator[QueryResult, None]:
    """Run items and yield their results as they complete.

    Args:
        items: Prompts, or mappings of a prompt's arguments; read only as places become free.
        ask: Runs one.
        concurrency: How many run at once.

    Yields:
        A result per item with its position in `index`. A failure is in `error`; after an account
        error, which every further item would meet too, the rest is not sent.
    """
    reader = _Reader(items)
    running: set[asyncio.Task[QueryResult]] = set()
    reading: asyncio.Future[_Entry | None] | None = None
    more = True
    stopped_by: AccountError | None = None
    try:
        while True:
            if more and reading is None and len(running) < concurrency:
                reading = reader.read()
            waiting: set[asyncio.Future[Any]] = {*running, *([reading] if reading else [])}
            if not waiting:
                return
            done, _ = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            if reading in done:
                entry, reading = reading.result(), None
                if entry is None:
                    more = False
                elif stopped_by is None:
                    running.add(asyncio.create_task(_one(*entry, ask)))
                else:
                    yield _unsent(entry[0], stopped_by)
            for task in running & done:
                running.discard(task)
                result = task.result()
                if isinstance(result.error, AccountError):
                    stopped_by = result.error
                yield result
    finally:
        reader.close()
        await _end([*running, *([reading] if reading else [])])


class _Reader:
    """Reads the caller's iterable in a thread of its own, as it is asked to.

    It may block (a file, a queue): neither the shared loop nor the results wait for it, nor what
    else has to be done in threads. One that blocks for ever does not keep the interpreter alive.
    """

    def __init__(self, items: Iterable[Item]) -> None:
        self._items = items
        self._asked: SimpleQueue[Future[_Entry | None] | None] = SimpleQueue()
        serve = copy_context().run
        threading.Thread(
            target=serve, args=(self._serve,), name="chutes-opencode-items", daemon=True
        ).start()

    def read(self) -> asyncio.Future[_Entry | None]:
        """Read the next item and its position; None: there is none any more."""
        asked: Future[_Entry | None] = Future()
        self._asked.put(asked)
        return asyncio.wrap_future(asked)

    def close(self) -> None:
        """Let the thread end, once the iterable does not block any more."""
        self._asked.put(None)

    def _serve(self) -> None:
        numbered: Iterator[_Entry] | None = None
        while (asked := self._asked.get()) is not None:
            if not asked.set_running_or_notify_cancel():
                continue
            try:
                numbered = numbered or enumerate(self._items)
                asked.set_result(next(numbered, None))
            except BaseException as error:  # noqa: BLE001 - the caller's, for whoever waits
                asked.set_exception(error)


def check_batch(items: object, concurrency: object) -> None:
    """Refuse what is no batch; a string would be one prompt for each of its characters.

    Raises:
        ConfigurationError: The items are no list, or the concurrency is not positive.
    """
    if isinstance(items, str | bytes | Mapping) or not isinstance(items, Iterable):
        raise ConfigurationError(
            raw_message=f"items must be a list of prompts, not one {type(items).__name__}",
            hint="Put it into a list, or use prompt().",
        )
    if not isinstance(concurrency, int) or concurrency < 1:
        raise ConfigurationError(raw_message=f"concurrency must be at least 1, not {concurrency!r}")


async def _end(tasks: Sequence[asyncio.Future[Any]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def _one(index: int, item: Item, ask: Ask) -> QueryResult:
    try:
        arguments = {"prompt": item} if isinstance(item, str) else item
        _check_item(arguments)
        result = await ask(arguments)
    except OpenCodeError as error:
        result = error.result or failed_result(error)
    return replace(result, index=index)


def _check_item(arguments: Mapping[str, Any]) -> None:
    """Refuse an item that is none, rather than the whole batch."""
    if not isinstance(arguments, Mapping):
        raise ConfigurationError(
            raw_message=f"an item is a {type(arguments).__name__}, not a prompt or a mapping",
            hint="Give strings, or mappings of prompt()'s arguments.",
        )
    check_names(arguments)


def failed_result(error: OpenCodeError) -> QueryResult:
    """Return the result of a prompt that failed before anything was asked."""
    return QueryResult(
        result="", returncode=error.exit_code, stderr="", stream_result="", error=error
    )


def _unsent(index: int, cause: AccountError) -> QueryResult:
    message = f"not sent: {cause.raw_message}"
    error = type(cause)(cause.node_id, -1, message, hint=cause.hint, status=cause.status)
    error.__cause__ = cause
    return replace(failed_result(error), index=index)
