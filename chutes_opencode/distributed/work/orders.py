"""What goes between a driver and its workers: orders there, receipts back. Plain values.

Each order and each receipt is packed by itself, so that one that cannot travel costs nobody else.
"""

from __future__ import annotations

import pickle
import traceback
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from chutes_opencode.batch.item import Task
from chutes_opencode.batch.record import Record
from chutes_opencode.batch.running.executor import Finished
from chutes_opencode.distributed.extra import ray
from chutes_opencode.distributed.setup.secrets import pack
from chutes_opencode.errors import OpenCodeError
from chutes_opencode.results import QueryResult


@dataclass(frozen=True, slots=True)
class Ask:
    """A prompt of a pool.

    Attributes:
        prompt: The user's message.
        arguments: As in `ChutesOpenCodeLLM.prompt`.
    """

    prompt: str
    arguments: Mapping[str, Any] = field(default_factory=dict)


Work = Task | Ask


@dataclass(frozen=True, slots=True)
class Order:
    """Something to be carried out by one worker.

    Attributes:
        number: Tells it from all others of its driver.
        packed: The `Work`, pickled.
    """

    number: int
    packed: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Receipt:
    """What an order came to.

    Attributes:
        number: The order's.
        finished: What there is, paid for or not; None: nothing was begun, or see `fault`.
        error: What `ChutesOpenCodeLLM.prompt` would have raised; of prompts of a pool alone.
        cut: Whether it was ended by us; `finished` tells what was paid for by then.
        refused: Whether the worker has not begun it, because it begins nothing any more.
        fault: A fault of ours, with its traceback; "": there was none.
    """

    number: int
    finished: Finished | None = None
    error: OpenCodeError | None = None
    cut: bool = False
    refused: bool = False
    fault: str = ""


@dataclass(frozen=True, slots=True)
class Load:
    """How a worker does.

    Attributes:
        places: How many orders at once are sensible for it now; at least 1.
        settling: Orders whose prompt has ended and whose answer is being written: they take no
            place any more.
        waiting: What its prompts wait for, in words for people.
        draining: Whether it begins nothing new.
    """

    places: int = 1
    settling: int = 0
    waiting: str = ""
    draining: bool = False


@dataclass(frozen=True, slots=True)
class Report:
    """What a worker answers when it is asked for receipts.

    Attributes:
        receipts: Those that were not told, or not acknowledged, before; packed, oldest first.
        last: Number of the last of them, to be acknowledged; counted from 1 as they were made.
        load: How it does.
    """

    receipts: tuple[bytes, ...]
    last: int
    load: Load


def pack_work(work: Work, key: str | None = None) -> bytes:
    """Pickle what is to be done; see `pack`."""
    return pack(work, key)


def unpack_work(packed: bytes) -> Work:
    """Return what is to be done.

    Raises:
        Exception: Whatever a class raises that this process does not know.
    """
    work: Work = pickle.loads(packed)
    return work


def pack_receipt(receipt: Receipt) -> bytes:
    """Pickle a receipt; one that cannot travel whole becomes a fault that says so."""
    dumps: Any = ray.cloudpickle.dumps
    try:
        packed: bytes = dumps(receipt)
        pickle.loads(packed)
    except Exception:  # noqa: BLE001 - whatever a foreign object raises, the driver must be told
        fault = Receipt(receipt.number, fault=traceback.format_exc())
        packed = dumps(fault)
    return packed


def unpack_receipt(packed: bytes) -> Receipt:
    """Return a receipt."""
    receipt: Receipt = pickle.loads(packed)
    return receipt


def slim(record: Record) -> Record:
    """Return a record without its words: a driver counts it, and must not hold what it says."""
    return replace(record, result="", structured=None, diff=None, metadata={}, error=None)


def counted(record: Record) -> Finished:
    """Return what a task came to whose answer is durable in a shard."""
    result = QueryResult(
        result="", returncode=0, stderr="", stream_result="", success=True, usage=record.usage
    )
    return Finished(result, stored=slim(record))
