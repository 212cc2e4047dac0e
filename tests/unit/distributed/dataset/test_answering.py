"""Many threads ask one stream of prompts."""

from __future__ import annotations

import gc
import threading
import weakref
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from chutes_opencode.distributed.dataset.answering import Answering
from chutes_opencode.results import QueryResult
from tests.patience import WAIT_SECONDS, wait_until


def answer(index: int, text: str) -> QueryResult:
    return QueryResult(result=text, returncode=0, stderr="", stream_result=text, index=index)


def items(*texts: str) -> list[dict[str, str]]:
    return [{"prompt": text} for text in texts]


def upper(asked: Iterator[Mapping[str, Any]]) -> Iterator[QueryResult]:
    for index, item in enumerate(asked):
        yield answer(index, item["prompt"].upper())


def pairs_backwards(asked: Iterator[Mapping[str, Any]]) -> Iterator[QueryResult]:
    """Answer each two prompts in the wrong order."""
    waiting: list[QueryResult] = []
    for result in upper(asked):
        waiting.append(result)
        if len(waiting) == 2:
            yield from reversed(waiting)
            waiting.clear()


@pytest.mark.parametrize("stream", [upper, pairs_backwards])
def test_each_caller_gets_its_own_answers_in_its_order(stream: Any) -> None:
    answering = Answering(stream)

    with ThreadPoolExecutor(8) as pool:
        asked = [items(f"a{n}", f"b{n}") for n in range(50)]
        results = list(pool.map(answering.ask, asked))
    answering.close()

    assert [[each.result for each in pair] for pair in results] == [
        [f"A{n}", f"B{n}"] for n in range(50)
    ]


def test_nothing_to_ask_is_answered_at_once() -> None:
    answering = Answering(upper)

    assert answering.ask([]) == []

    answering.close()


def test_who_waits_for_a_slow_answer_keeps_no_other_waiting() -> None:
    release = threading.Event()

    def slow_first(asked: Iterator[Mapping[str, Any]]) -> Iterator[QueryResult]:
        first = None
        for result in upper(asked):
            if result.result == "SLOW":
                first = result
                continue
            yield result
            if release.is_set() and first is not None:
                yield first
                first = None

    answering = Answering(slow_first)
    with ThreadPoolExecutor(1) as pool:
        slow = pool.submit(answering.ask, items("slow"))
        others = answering.ask(items("x", "y"))
        assert not slow.done()
        release.set()
        answering.ask(items("z"))
        assert [each.result for each in slow.result(WAIT_SECONDS)] == ["SLOW"]
    answering.close()

    assert [each.result for each in others] == ["X", "Y"]


def test_a_stream_that_breaks_leaves_nobody_waiting() -> None:
    def broken(asked: Iterator[Mapping[str, Any]]) -> Iterator[QueryResult]:
        next(asked)
        raise OSError("the disk is gone")
        yield

    answering = Answering(broken)

    with pytest.raises(OSError, match="the disk is gone"):
        answering.ask(items("a", "b"))
    with pytest.raises(OSError, match="the disk is gone"):
        answering.ask(items("c"))


def test_a_stream_that_ends_leaves_nobody_waiting() -> None:
    answering = Answering(lambda asked: iter(()))

    with pytest.raises(RuntimeError, match="ended too early"):
        answering.ask(items("a"))


def test_once_closed_nothing_is_taken() -> None:
    answering = Answering(upper)
    answering.close()

    with pytest.raises(RuntimeError, match="no prompt is taken"):
        answering.ask(items("a"))


def test_its_thread_does_not_keep_it() -> None:
    answering = Answering(upper)
    thread = next(each for each in threading.enumerate() if each.name == "chutes-opencode-answers")
    gone = weakref.ref(answering)

    answering.close()
    del answering
    gc.collect()

    assert gone() is None
    wait_until(lambda: not thread.is_alive())
