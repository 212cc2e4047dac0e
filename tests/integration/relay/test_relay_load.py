"""The relay under load and in trouble: the prompt concerned ends, every other one succeeds."""

from __future__ import annotations

import asyncio
import functools
import json
import threading
import time
from collections.abc import Callable
from typing import Any

import httpx
import psutil
import pytest

from chutes_opencode import ServerError, Simulator, TruncatedStreamError
from chutes_opencode.relay.gathering import GatheringClient
from chutes_opencode.relay.server import Relay
from tests.integration.relay.stage import new_async_client, new_client, open_prompt
from tests.patience import WAIT_SECONDS, join, longer_and_longer, wait_until
from tests.unit.relay.stage import DONE, GOOD, Provider, Reply, chunk, stream

StartSimulator = Callable[..., Simulator]
MIB = 1024 * 1024
MODEL = "sim/echo"


def test_five_hundred_streams_at_once(start_simulator: StartSimulator) -> None:
    simulator = start_simulator({"token_delay_s": 0.02})

    async def ask_all(relay: Relay) -> list[httpx.Response]:
        with relay.lease() as lease:
            prompts = [
                open_prompt(relay, lease, simulator, MODEL, session=f"ses_{n}") for n in range(500)
            ]
            async with new_async_client() as client:
                answers = await asyncio.gather(
                    *(prompt.aask(client, f"number {n}") for n, prompt in enumerate(prompts))
                )
            for prompt in prompts:
                await prompt.booking.aclose()
            assert [prompt.booking.error for prompt in prompts] == [None] * 500
        return answers

    with Relay() as relay:
        answers = asyncio.run(ask_all(relay))
        (limiter,) = relay.stats().limiters.values()

    assert all(answer.text.endswith("data: [DONE]\n\n") for answer in answers)
    assert len(simulator.requests) == 500
    assert (limiter.in_flight, limiter.waiting) == (0, 0)


def test_a_request_of_20_mib_arrives_whole() -> None:
    text = "é" * (10 * MIB)
    with Provider(stream(*GOOD)) as provider, Relay() as relay, relay.lease() as lease:
        prompt = open_prompt(relay, lease, provider, MODEL)
        with new_client() as client:
            assert prompt.ask(client, text).content == b"".join(GOOD)

        assert provider.asked[0].body["messages"][0]["content"] == text


def test_a_long_stream_takes_no_memory() -> None:
    piece = chunk("x" * 16_000)
    count = 64 * MIB // 16_000 + 1

    async def long(reply: Reply) -> None:
        await reply.start(200, {})
        for _ in range(count):
            await reply.write(piece)
        await reply.write(chunk(finish="stop") + DONE, more=False)

    process, seen = psutil.Process(), 0
    with Provider(long) as provider, Relay() as relay, relay.lease() as lease:
        prompt = open_prompt(relay, lease, provider, MODEL)
        with (
            new_client() as client,
            client.stream("POST", prompt.url, headers=prompt.headers, json=prompt.body()) as answer,
        ):
            pieces = answer.iter_raw()
            seen += len(next(pieces))
            before = most = process.memory_info().rss
            for number, data in enumerate(pieces):
                seen += len(data)
                if number % 100 == 0:
                    most = max(most, process.memory_info().rss)

    assert seen > 64 * MIB
    assert most - before < 24 * MIB


def test_a_slow_client_slows_nobody_else(start_simulator: StartSimulator) -> None:
    piece = chunk("x" * 16_000)

    async def endless(reply: Reply) -> None:
        await reply.start(200, {})
        while True:
            await reply.write(piece)
            await asyncio.sleep(0)  # writing to a client that has gone does not wait

    simulator = start_simulator()

    def others_are_answered_before_its_end(seconds: float) -> bool:
        with Provider(endless) as provider, Relay() as relay, relay.lease() as lease:
            deadline = time.monotonic() + seconds
            slow = open_prompt(relay, lease, provider, MODEL, session="ses_slow", deadline=deadline)
            with (
                new_client() as client,
                client.stream("POST", slow.url, headers=slow.headers, json=slow.body()),
            ):  # and from here on it does not read
                for n in range(20):
                    other = open_prompt(relay, lease, simulator, MODEL, session=f"ses_{n}")
                    assert other.ask(client).status_code == 200
                lasted = provider.in_flight == 1
                wait_until(lambda: slow.booking.ended == "deadline")
                wait_until(lambda: provider.in_flight == 0)
        return lasted

    assert any(map(others_are_answered_before_its_end, longer_and_longer(2, tries=3)))


def test_a_provider_that_goes_ends_its_prompts_only(start_simulator: StartSimulator) -> None:
    dying = start_simulator({"token_delay_s": 600})
    healthy = start_simulator({"token_delay_s": 0.05})

    with Relay() as relay, relay.lease() as lease, new_client() as client:
        doomed = open_prompt(relay, lease, dying, MODEL, session="ses_doomed")
        lucky = open_prompt(relay, lease, healthy, MODEL, session="ses_lucky")
        told: list[httpx.Response] = []
        asking = [
            threading.Thread(target=lambda: told.append(doomed.step(client))),
            threading.Thread(target=lambda: told.append(lucky.ask(client))),
        ]
        for thread in asking:
            thread.start()
        wait_until(lambda: dying.requests and healthy.requests)
        dying.stop()
        join(*asking)
        doomed.booking.close()
        lucky.booking.close()

    assert len(told) == 2
    assert isinstance(doomed.booking.error, ServerError | TruncatedStreamError)
    assert lucky.booking.error is None


def test_a_relay_that_stops_ends_its_prompts_only(start_simulator: StartSimulator) -> None:
    endless = {"model": "sim/size/*", "token_delay_s": 600}
    simulator = start_simulator({"token_delay_s": 0.2, "rules": [endless]})

    with (
        Relay() as first,
        Relay() as second,
        first.lease() as one,
        second.lease() as two,
        new_client() as client,
    ):
        doomed = open_prompt(first, one, simulator, "sim/size/100", session="ses_doomed")
        lucky = open_prompt(second, two, simulator, MODEL, session="ses_lucky")
        told: list[Any] = []
        asking = [
            threading.Thread(target=lambda: told.append(_ask(doomed, client))),
            threading.Thread(target=lambda: told.append(_ask(lucky, client))),
        ]
        for thread in asking:
            thread.start()
        wait_until(lambda: len(simulator.requests) == 2)
        first.stop()
        join(*asking)
        lucky.booking.close()

    assert len(told) == 2
    assert doomed.booking.ended == "relay"
    assert isinstance(doomed.booking.error, ServerError)
    assert lucky.booking.error is None
    assert lucky.booking.exchanges()[0].finish_reason == "stop"


def test_a_storm_against_narrow_limits_succeeds_without_hammering(
    start_simulator: StartSimulator,
) -> None:
    prompts = 100
    simulator = start_simulator({"max_concurrency": 4, "token_delay_s": 0.02})

    async def ask_all(relay: Relay) -> list[int]:
        with relay.lease() as lease:
            storm = [
                open_prompt(relay, lease, simulator, MODEL, session=f"ses_{n}", tries_left=3)
                for n in range(prompts)
            ]
            async with new_async_client() as client:
                answers = await asyncio.gather(*(prompt.aask(client) for prompt in storm))
        return [answer.status_code for answer in answers]

    with Relay() as relay:
        statuses = asyncio.run(ask_all(relay))

    assert statuses == [200] * prompts
    # How long it takes, also with a limit a minute, is for `scripts/bench storm`.
    assert len(simulator.requests) <= 1.3 * prompts


def _ask(prompt: Any, client: httpx.Client) -> Any:
    try:
        return prompt.ask(client)
    except httpx.HTTPError as error:
        return error


def test_a_stream_of_tokens_comes_in_few_pieces(
    start_simulator: StartSimulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    longer = functools.partial(GatheringClient, seconds=WAIT_SECONDS)
    monkeypatch.setattr("chutes_opencode.relay.app.GatheringClient", longer)
    words = "a word and a word " * 15
    simulator = start_simulator({"token_delay_s": 0.01, "chunk_size": 2})

    with Relay() as relay, relay.lease() as lease, new_client() as client:
        prompt = open_prompt(relay, lease, simulator, MODEL)
        with client.stream(
            "POST", prompt.url, headers=prompt.headers, json=prompt.body(words)
        ) as answer:
            lines = answer.iter_lines()
            first = next(lines)
            unfinished = not simulator.bill.entries
            data = [line.removeprefix("data: ") for line in [first, *lines] if line]

    deltas = [
        choice["delta"].get("content")
        for row in map(json.loads, data[:-1])
        for choice in row["choices"]
    ]
    assert unfinished, "the first piece came at once"
    assert "".join(filter(None, deltas)) == words
    assert len(deltas) <= 4, "and the others together, with their beginning and their end"
