"""Connections to providers: used again while they are good, and never one too many."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import httpx
import pytest

from chutes_opencode.connections import Connections
from tests.patience import wait_until
from tests.unit.relay.stage import GOOD, Answer, Provider, closing, nothing, stalling, stream

Work = Callable[[httpx.AsyncClient, Connections], Awaitable[object]]


@asynccontextmanager
async def opened(
    kept: int, expiry_seconds: float
) -> AsyncIterator[tuple[httpx.AsyncClient, Connections]]:
    connections = Connections(None, kept=kept, expiry_seconds=expiry_seconds)
    async with httpx.AsyncClient(transport=connections, trust_env=False) as client:
        yield client, connections


def work(work: Work, *, kept: int = 2, expiry_seconds: float = 60) -> None:
    async def run() -> None:
        async with opened(kept, expiry_seconds) as made:
            await work(*made)

    asyncio.run(run())


def idle(connections: Connections) -> int:
    return sum(map(len, connections._idle.values()))


async def ask(client: httpx.AsyncClient, provider: Provider) -> httpx.Response:
    return await client.post(provider.base_url, json={})


def test_a_connection_is_used_again() -> None:
    with Provider() as provider:

        async def ask_twice(client: httpx.AsyncClient, connections: Connections) -> None:
            for _ in range(2):
                assert (await ask(client, provider)).content == b"".join(GOOD)
                assert idle(connections) == 1

        work(ask_twice)


@pytest.mark.parametrize(("kept", "left"), [(0, 0), (1, 1), (3, 3), (9, 4)])
def test_no_more_are_kept_than_wanted(kept: int, left: int) -> None:
    with Provider(stream(*GOOD, pause_s=0.02)) as provider:

        async def ask_at_once(client: httpx.AsyncClient, connections: Connections) -> None:
            answers = await asyncio.gather(*(ask(client, provider) for _ in range(4)))
            assert {answer.content for answer in answers} == {b"".join(GOOD)}
            assert idle(connections) == left

        work(ask_at_once, kept=kept)


def test_each_server_has_its_own() -> None:
    with Provider() as one, Provider() as other:

        async def ask_both(client: httpx.AsyncClient, connections: Connections) -> None:
            await ask(client, one)
            await ask(client, other)
            assert idle(connections) == 2

        work(ask_both, kept=1)


def test_old_ones_go_and_are_not_used() -> None:
    with Provider(stream(*GOOD, pause_s=0.02)) as provider:

        async def ask_later(client: httpx.AsyncClient, connections: Connections) -> None:
            await asyncio.gather(*(ask(client, provider) for _ in range(3)))
            assert idle(connections) < 3, "the oldest went as others came back"
            await ask(client, provider)
            assert idle(connections) == 1

        work(ask_later, kept=5, expiry_seconds=0)


def test_one_that_the_server_has_closed_is_not_used() -> None:
    async def run() -> None:
        async with opened(2, 60) as (client, connections):
            with Provider() as provider:
                await ask(client, provider)
            with pytest.raises(httpx.ConnectError):
                await ask(client, provider)
            assert idle(connections) == 0

    asyncio.run(run())


@pytest.mark.parametrize("answer", [nothing, stalling(*GOOD)])
def test_one_whose_request_was_given_up_is_closed(answer: Answer) -> None:
    with Provider(answer) as provider:

        async def give_up(client: httpx.AsyncClient, connections: Connections) -> None:
            asking = asyncio.ensure_future(ask(client, provider))
            await asyncio.to_thread(wait_until, lambda: provider.in_flight)
            asking.cancel()
            await asyncio.sleep(0)
            asking.cancel()  # once more, while it closes
            await asyncio.wait([asking])
            assert asking.cancelled()
            await asyncio.to_thread(wait_until, lambda: provider.in_flight == 0)
            assert idle(connections) == 0

        work(give_up)


def test_errors_are_those_of_httpx() -> None:
    with Provider(closing(*GOOD)) as provider:

        async def fail(client: httpx.AsyncClient, connections: Connections) -> None:
            with pytest.raises(httpx.RemoteProtocolError, match="incomplete chunked read"):
                await ask(client, provider)
            with pytest.raises(httpx.UnsupportedProtocol):
                await client.post("ftp://127.0.0.1/")
            assert idle(connections) == 0

        work(fail)


def test_none_that_is_being_closed_is_used() -> None:
    async def run() -> None:
        async with opened(4, 60) as (client, connections):
            with Provider(stream(*GOOD, pause_s=0.02)) as provider:
                await asyncio.gather(*(ask(client, provider) for _ in range(4)))
            assert idle(connections) == 4
            asking = asyncio.ensure_future(ask(client, provider))
            await asyncio.gather(connections.aclose(), asyncio.wait([asking]))
            assert isinstance(asking.exception(), httpx.ConnectError)

    asyncio.run(run())
