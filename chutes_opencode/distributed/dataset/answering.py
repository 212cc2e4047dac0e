"""Many threads, one stream of prompts: each thread asks some and waits for its own answers."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from queue import SimpleQueue
from typing import Any

from chutes_opencode.results import QueryResult

Item = Mapping[str, Any]
Answer = Callable[[Iterator[Item]], Iterator[QueryResult]]
"""Items → their results as they complete, each with its item's position in `index`."""


class Answering:
    """Asks what many threads want to know, as one stream whose places are always filled.

    A thread that waits for the last of its prompts keeps no place from another's: what is asked
    first is begun first, whoever asks.
    """

    def __init__(self, answer: Answer) -> None:
        """Begin; a thread of its own reads the results.

        Args:
            answer: Runs the prompts; `ChutesOpenCodeLLM.map`.
        """
        self._asked: SimpleQueue[Item | None] = SimpleQueue()
        self._waiting: dict[int, Future[QueryResult]] = {}
        self._number = 0
        self._lock = threading.Lock()
        self._state = _State()
        # It knows the parts and not the whole, which may then be collected, and closed by that.
        parts = (answer, self._asked, self._waiting, self._lock, self._state)
        threading.Thread(
            target=_serve, args=parts, name="chutes-opencode-answers", daemon=True
        ).start()

    def ask(self, items: Sequence[Item]) -> list[QueryResult]:
        """Run prompts and wait for all of them.

        Args:
            items: Each the arguments of a prompt.

        Returns:
            Their results, in the items' order; a failure is in `error`.

        Raises:
            Exception: What ended the stream for all.
        """
        return [future.result() for future in [self._ask(item) for item in items]]

    def close(self) -> None:
        """Take nothing more; what was asked is still answered."""
        with self._lock:
            self._state.ended = self._state.ended or RuntimeError("no prompt is taken any more")
            self._asked.put(None)

    def _ask(self, item: Item) -> Future[QueryResult]:
        future: Future[QueryResult] = Future()
        with self._lock:
            if self._state.ended is not None:
                raise self._state.ended
            self._waiting[self._number] = future
            self._number += 1
            self._asked.put(item)
        return future


class _State:
    """Why nothing is taken any more; None: something is."""

    ended: BaseException | None = None


def _serve(
    answer: Answer,
    asked: SimpleQueue[Item | None],
    waiting: dict[int, Future[QueryResult]],
    lock: threading.Lock,
    state: _State,
) -> None:
    """Hand each result to the one that waits for it, until the end."""
    failure: BaseException = RuntimeError("the stream of answers ended too early")
    try:
        for result in answer(_items(asked)):
            with lock:
                future = waiting.pop(result.index or 0)
            future.set_result(result)
    except BaseException as error:  # noqa: BLE001 - for those who wait
        failure = error
    with lock:
        state.ended = state.ended or failure
        left = list(waiting.values())
        waiting.clear()
    for future in left:
        future.set_exception(failure)


def _items(asked: SimpleQueue[Item | None]) -> Iterator[Item]:
    while (item := asked.get()) is not None:
        yield item
