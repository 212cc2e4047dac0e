"""Orders and receipts on their way: each packed by itself, and nothing secret in them."""

from __future__ import annotations

import threading
from dataclasses import replace

import pytest

from chutes_opencode.batch.item import BatchItem, Task
from chutes_opencode.batch.record import Record, RecordedError
from chutes_opencode.batch.running.executor import Finished
from chutes_opencode.distributed.work.orders import (
    Ask,
    Receipt,
    Work,
    counted,
    pack_receipt,
    pack_work,
    slim,
    unpack_receipt,
    unpack_work,
)
from chutes_opencode.errors import ConfigurationError, RateLimitError
from chutes_opencode.results import Usage
from tests.unit.batch.room import answer

KEY = "cpk_0123456789abcdef0123456789abcdef"
RECORD = Record("one", "m", 1, "hash", result="long", structured={"a": 1}, metadata={"b": 2})


@pytest.mark.parametrize(
    "work", [Task(BatchItem("one", "hello"), "m", 2), Ask("hello", {"model": "m"})]
)
def test_work_arrives_as_it_was(work: Work) -> None:
    assert unpack_work(pack_work(work)) == work


def test_a_class_of_the_callers_own_program_travels_too() -> None:
    class Answer:
        text: str

    work = unpack_work(pack_work(Ask("hello", {"output_schema": Answer})))

    assert isinstance(work, Ask)
    assert work.arguments["output_schema"].__annotations__ == {"text": "str"}


def test_what_cannot_travel_is_refused_where_it_was_given() -> None:
    with pytest.raises(ConfigurationError, match="cannot be sent to a worker"):
        pack_work(Ask("hello", {"files": [threading.Lock()]}))


def test_a_key_is_not_sent_to_workers() -> None:
    with pytest.raises(ConfigurationError, match="key"):
        pack_work(Ask(f"my key is {KEY}"), KEY)


def test_a_receipt_arrives_with_its_error_and_what_was_paid() -> None:
    error = RateLimitError("node-1", raw_message="slow down", result=answer("half"))
    error.__cause__ = ValueError("why")

    back = unpack_receipt(pack_receipt(Receipt(7, Finished(answer("half")), error)))

    assert (back.number, type(back.error)) == (7, RateLimitError)
    assert back.error is not None
    assert back.error.result == answer("half")
    assert repr(back.error.__cause__) == "ValueError('why')"


def test_a_receipt_that_cannot_travel_says_why() -> None:
    result = replace(answer(), structured=threading.Lock())

    back = unpack_receipt(pack_receipt(Receipt(7, Finished(result))))

    assert (back.number, back.finished) == (7, None)
    assert "cannot pickle" in back.fault


def test_a_driver_is_told_what_it_counts_and_not_what_was_said() -> None:
    usage = Usage(input=3, output=4)
    record = replace(RECORD, usage=usage, cost_usd=0.5, error=RecordedError("A", "words"))

    finished = counted(record)

    assert finished.stored == slim(record)
    assert finished.stored is not None
    assert finished.stored.key == record.key
    assert (finished.stored.usage, finished.stored.cost_usd) == (usage, 0.5)
    assert (finished.stored.result, finished.stored.structured, finished.stored.metadata) == (
        "",
        None,
        {},
    )
    assert finished.result.success
