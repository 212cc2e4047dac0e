"""Many processes and one list of models: who fetches, what is left, how often it is a hit."""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from chutes_opencode.catalog.cache import RECORD, TOTALS, Cache
from chutes_opencode.catalog.totals import Counter, LookupStats
from chutes_opencode.loopback import serve
from tests.patience import PROCESS_SECONDS

MODELS = [{"id": f"maker/model-{number}", "context_length": 1000} for number in range(60)]
BEGIN = 1_000_000.0

RunPython = Callable[..., subprocess.Popen[str]]
WaitUntil = Callable[..., None]

LOOK_UP = """
import json, sys, httpx
from chutes_opencode.catalog import lookup
from chutes_opencode.catalog.catalog import Catalog

lookup.HOLD_EMPTY_SECONDS = 300  # however slow the machine is
catalog = Catalog()
with httpx.Client(trust_env=False, timeout=300) as client:
    client.get(f"{catalog.settings.base_url}/turn")
listing = catalog.models()
print(json.dumps([listing.source, len(listing), listing.problems]))
"""

DAY = """
import asyncio, json, sys, httpx
from pathlib import Path
from chutes_opencode.catalog import lookup, totals
from chutes_opencode.catalog.cache import Cache
from chutes_opencode.catalog.lookup import ModelLookup
from chutes_opencode.catalog.providers import Provider

lookup.HOLD_EMPTY_SECONDS = totals.LOCKED_SECONDS = 300  # however slow the machine is
url, home, turns, interval = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4])
now = [0.0]

async def main():
    acme = Provider(id="acme", needs_key=False)
    lookup = ModelLookup(
        acme, url, cache=Cache(home, "acme", url), refresh_interval=interval, clock=lambda: now[0]
    )
    counts = set()
    async with httpx.AsyncClient(trust_env=False, timeout=300) as client:
        for _ in range(turns):
            now[0] = (await client.get(f"{url}/turn")).json()
            counts.add(len(await lookup.listing()))
            # Minutes pass: what goes on in the background comes to its end.
            await asyncio.gather(*(asyncio.all_tasks() - {asyncio.current_task()}))
    lookup.close()
    stats = lookup.stats
    print(json.dumps([sorted(counts), stats.lookups, stats.hits, stats.syncs, stats.failed_syncs]))

asyncio.run(main())
"""

FORK = """
import asyncio, os, signal, sys
from pathlib import Path
from chutes_opencode.catalog.cache import Cache

async def main():
    async with Cache(Path(sys.argv[2]), "acme", sys.argv[1]).lock(1.0, lambda: False):
        child = os.fork()
        if child:
            print(child, flush=True)
        signal.pause()

asyncio.run(main())
"""


class Provider:
    """A provider's server; `/turn` lets processes go on when `parties` of them are there."""

    def __init__(self) -> None:
        self.parties = 1
        self.turns = 0
        self.seconds_a_turn = 0.0
        self.fetches = 0
        self.seconds = 0.1
        self.failing: Callable[[int], bool] = lambda _number: False
        self.hanging = 0
        self._waiting: list[asyncio.Event] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        status, body = await (self._turn() if scope["path"].endswith("/turn") else self._list())
        headers = [(b"content-type", b"application/json")]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": json.dumps(body).encode()})

    async def _turn(self) -> tuple[int, Any]:
        arrived = asyncio.Event()
        self._waiting.append(arrived)
        if len(self._waiting) >= self.parties:
            self.turns += 1
            for other in self._waiting:
                other.set()
            self._waiting = []
        await arrived.wait()
        return 200, BEGIN + self.turns * self.seconds_a_turn

    async def _list(self) -> tuple[int, Any]:
        self.fetches += 1
        number = self.fetches
        if number <= self.hanging:
            await asyncio.Event().wait()
        await asyncio.sleep(self.seconds)  # as a provider takes its time
        return (503, {}) if self.failing(number) else (200, {"data": MODELS})


@pytest.fixture
def provider() -> Iterator[tuple[Provider, str]]:
    made = Provider()
    with serve(made, grace_seconds=0) as server:
        yield made, f"{server.url}/v1"


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "catalogue-home"


@pytest.fixture
def look_up(provider: tuple[Provider, str], home: Path, run_python: RunPython) -> RunPython:
    """Start a process that waits for its turn and looks up once."""

    def start() -> subprocess.Popen[str]:
        changes = {"CHUTES_BASE_URL": provider[1], "CHUTES_API_TOKEN": "cpk_nobody_0123456789"}
        return run_python(LOOK_UP, CHUTES_OPENCODE_HOME=str(home), **changes)

    return start


def answer(process: subprocess.Popen[str]) -> Any:
    """What a process has printed, at its end."""
    out, err = process.communicate(timeout=PROCESS_SECONDS)
    assert process.returncode == 0, err
    return json.loads(out)


def is_free(folder: Path) -> bool:
    """Whether nobody holds the folder's lock."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    else:
        return True
    finally:
        os.close(descriptor)


def test_twenty_processes_at_once_on_an_empty_cache_fetch_once_or_twice(
    provider: tuple[Provider, str], home: Path, look_up: RunPython, wait_until: WaitUntil
) -> None:
    server, url = provider
    server.parties = 20
    folder = Cache(home, "chutes", url).folder
    processes = [look_up() for _ in range(20)]

    def all_done() -> bool:
        with suppress(FileNotFoundError):
            assert len(json.loads((folder / RECORD).read_text())["rows"]) == len(MODELS)
        return all(process.poll() is not None for process in processes)

    wait_until(all_done)

    answers = [answer(process) for process in processes]
    assert [(count, problems) for _, count, problems in answers] == [(len(MODELS), [])] * 20
    assert {source for source, _, _ in answers} == {"api", "cache"}
    assert server.fetches in (1, 2)
    assert sorted(path.name for path in folder.iterdir()) == [RECORD, TOTALS]
    assert is_free(folder)


def test_who_is_killed_while_it_fetches_leaves_no_lock(
    provider: tuple[Provider, str], home: Path, look_up: RunPython, wait_until: WaitUntil
) -> None:
    server, url = provider
    server.hanging = 1
    folder = Cache(home, "chutes", url).folder
    killed = look_up()
    wait_until(lambda: server.fetches == 1)
    assert not is_free(folder)
    waiting = look_up()
    wait_until(lambda: server.turns == 2)

    killed.kill()
    killed.wait()

    assert answer(waiting) == ["api", len(MODELS), []]
    assert server.fetches == 2
    assert is_free(folder)
    assert sorted(path.name for path in folder.iterdir()) == [RECORD, TOTALS]


def test_a_forked_child_does_not_keep_the_lock_of_a_killed_parent(
    home: Path, run_python: RunPython, wait_until: WaitUntil
) -> None:
    url = "http://127.0.0.1:1/v1"
    folder = Cache(home, "acme", url).folder
    parent = run_python(FORK, url, str(home))
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    try:
        assert not is_free(folder)
        parent.kill()
        parent.wait()

        wait_until(lambda: is_free(folder))  # the child may not have run yet
    finally:
        os.kill(child, signal.SIGKILL)


def test_a_day_of_eight_processes_is_served_from_the_cache(
    provider: tuple[Provider, str], home: Path, run_python: RunPython
) -> None:
    server, url = provider
    server.parties, turns = 8, 200
    server.seconds_a_turn = 86400.0 / turns
    # Old at every turn, more often than by default, so that one per cent is some.
    interval = server.seconds_a_turn - 1.0
    server.failing = lambda number: number % 100 == 50
    server.seconds = 0.01

    processes = [
        run_python(DAY, url, str(home), str(turns), str(interval)) for _ in range(server.parties)
    ]
    answers = [answer(process) for process in processes]

    assert [counts for counts, *_ in answers] == [[len(MODELS)]] * 8
    lookups, hits, syncs, failed = (sum(column) for column in list(zip(*answers, strict=True))[1:])
    assert lookups == 8 * turns
    assert hits / lookups > 0.9
    assert syncs / (syncs + failed) > 0.99
    assert turns <= server.fetches < 1.5 * turns
    told = LookupStats(lookups, hits, syncs, failed)
    assert Counter(Cache(home, "acme", url).totals).totals == told
