"""Processes that write into shards are killed, or freeze: nothing is lost or counted twice."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import IO

import pytest

from chutes_opencode.batch.running.runner import run_batch
from chutes_opencode.batch.store.folder import RunFolder, open_folder
from chutes_opencode.batch.store.manifest import Manifest
from chutes_opencode.batch.store.run_store import RunStore
from chutes_opencode.batch.store.shards import ShardWriter, fence_shard, read_shard
from tests.patience import PROCESS_SECONDS
from tests.unit.batch.shard_room import Workers, bring, ids
from tests.unit.batch.store_room import record

Start = Callable[..., subprocess.Popen[str]]

KILLS = 3
SEED = 20261122
ITEMS = 150
MANIFEST = Manifest("20260101-000000-abcdef", 1_767_225_600.0)

WRITER = """
import asyncio, sys, time
from chutes_opencode.batch.record import Record
from chutes_opencode.batch.store.shards import ShardWriter
from chutes_opencode.results import QueryResult

place, name, pace = sys.argv[1:]
answer = QueryResult("x", 0, "", "", True)

async def bring(writer, start):
    number = start
    while True:
        record = Record(str(number), "m", result="x" * 5000, started_at=time.time())
        await writer.append(record, answer)
        print(number, flush=True)
        number += 8
        await asyncio.sleep(float(pace))

async def work():
    with ShardWriter.open(place, name) as writer:
        await asyncio.gather(*(bring(writer, start) for start in range(8)))

asyncio.run(work())
"""

BATCH = """
import json, sys
from chutes_opencode.batch.running.runner import run_batch
from tests.unit.batch.room import answer
from tests.unit.batch.shard_room import Workers

out, count = sys.argv[1:]

async def act(task):
    print(task.item.id, flush=True)
    return answer(task.item.prompt)

items = [{"id": str(n), "prompt": f"prompt {n}"} for n in range(int(count))]
summary = run_batch(items, None, out, executor=Workers(act, places=8))
print(json.dumps([summary.done, summary.skipped, summary.left, summary.resent]))
"""


@pytest.fixture(params=["folder", "file"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    folder = tmp_path / "run"
    return str(folder) if request.param == "folder" else f"file://{folder}"


def read_told(stream: IO[str] | None, count: int) -> list[str]:
    """Wait until a process has told so many lines; return them."""
    assert stream is not None
    return [stream.readline().strip() for _ in range(count)]


def rest(process: subprocess.Popen[str]) -> list[str]:
    """Return the whole lines that a process has told besides; it is ending.

    From the stream that was read before: `communicate` knows nothing of what stands in its buffer,
    and would begin in the midst of a line.
    """
    assert process.stdout is not None
    lines = process.stdout.readlines()
    process.wait(PROCESS_SECONDS)
    return [line.strip() for line in lines if line.endswith("\n")]


def begin(place: str) -> None:
    RunStore.open(place, manifest=MANIFEST).close()


def test_a_writer_that_is_killed_has_told_nothing_that_is_lost(
    place: str, run_python: Start
) -> None:
    begin(place)
    moments = random.Random(SEED)
    told: set[str] = set()
    for number in range(KILLS):
        process = run_python(WRITER, place, f"w{number}", "0")
        here = read_told(process.stdout, moments.randint(1, 40))
        process.kill()
        here += rest(process)

        fence_shard(place, f"w{number}")
        found = ids(read_shard(place, f"w{number}"))

        assert set(here) <= set(found)
        assert len(found) == len(set(found)) <= len(here) + 8
        told |= set(here)

    run = open_folder(place)
    seen = ids(run.records())
    assert told <= set(seen)
    assert len(seen) == len(set(seen))
    with RunStore.open(place, manifest=MANIFEST) as store:
        assert store.totals().ok == len(seen)
        assert sorted(ids(store.records())) == sorted(seen)
        assert not any("damaged" in sentence for sentence in store.mended)


def test_a_writer_that_freezes_and_comes_back_is_told_that_it_was_given_up(
    place: str, run_python: Start
) -> None:
    begin(place)
    process = run_python(WRITER, place, "w0", "0")
    told = read_told(process.stdout, 10)
    os.kill(process.pid, signal.SIGSTOP)

    fence_shard(place, "w0")
    found = ids(read_shard(place, "w0"))
    lost = [str(number) for number in range(200) if str(number) not in found]
    with ShardWriter.open(place, "w1") as writer:
        bring(writer, *(record(name, at=5.0) for name in lost))
    os.kill(process.pid, signal.SIGCONT)
    told += rest(process)
    assert process.stderr is not None

    assert process.returncode == 1
    assert "the shard w0 is closed" in process.stderr.read()
    with RunStore.open(place, manifest=MANIFEST) as store:
        seen = ids(store.records())
    assert {*told, *lost} <= set(seen)
    assert len(seen) == len(set(seen))


@pytest.mark.parametrize("scheme", ["", "file://"])
def test_a_driver_that_is_killed_goes_on_where_it_was(
    tmp_path: Path, run_python: Start, scheme: str
) -> None:
    out, moments = f"{scheme}{tmp_path / 'run'}", random.Random(SEED)
    done: set[str] = set()
    for _ in range(KILLS):
        process = run_python(BATCH, out, str(ITEMS))
        asked = set(read_told(process.stdout, moments.randint(1, 40)))
        assert not asked & done, "what is done is not asked again"
        process.kill()
        process.communicate()
        before = done
        done = set(ids(open_folder(out).records()))
        assert before <= done

    output, errors = run_python(BATCH, out, str(ITEMS)).communicate(timeout=PROCESS_SECONDS)
    finished, skipped, left, resent = json.loads(output.splitlines()[-1])

    assert (finished, skipped, left) == (ITEMS - len(done), len(done), 0), errors
    assert 0 <= resent <= 16 * KILLS
    assert sorted(ids(open_folder(out).records()), key=int) == [str(n) for n in range(ITEMS)]
    summary = run_batch(
        [{"id": str(n), "prompt": f"prompt {n}"} for n in range(ITEMS)],
        None,
        out,
        executor=Workers(),
    )
    assert (summary.skipped, summary.done) == (ITEMS, 0)
    assert RunFolder(out).totals().ok == ITEMS
