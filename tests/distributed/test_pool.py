"""A pool of warm workers: prompts from many threads, typed errors, and workers that die."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import CancelledError
from pathlib import Path

import pytest

from chutes_opencode import BillingError, ConfigurationError, Simulator, WorkerLostError
from chutes_opencode.distributed.pool import PromptPool
from tests.distributed.batch_room import StartSimulator, Wait, asked, direct, items, warm
from tests.distributed.nodes import Nodes
from tests.patience import join

STALLED_ONCE = {
    "rules": [{"model": "sim/script", "fault": "stream-stall-first-byte", "times": 1}],
}
LONG = {"first_byte_delay_s": 600.0}


def prompts(count: int) -> list[str]:
    return [row["prompt"] for row in items(count)]


def test_many_threads_share_warm_workers_on_all_nodes(
    nodes: Nodes, simulator: Simulator, wait_until: Wait
) -> None:
    answers: dict[int, str] = {}

    with PromptPool(warm(), concurrency=4) as pool:
        wait_until(lambda: len([w for w in pool.stats().workers if w.state == "ready"]) == 3)

        def ask(number: int, prompt: str) -> None:
            answers[number] = pool.prompt(prompt).result

        threads = [threading.Thread(target=ask, args=pair) for pair in enumerate(prompts(12))]
        with simulator.held():
            for thread in threads:
                thread.start()
            wait_until(lambda: asked(simulator).total() == 12)
        join(*threads)
        workers = pool.stats().workers

    assert answers == {number: f"answer {number}" for number in range(12)}
    assert {worker.node for worker in workers} == set(nodes.ids)
    assert all(worker.done for worker in workers)
    wait_until(lambda: nodes.processes("opencode") == [])


def test_prompts_can_be_called_submitted_and_mapped(nodes: Nodes, simulator: Simulator) -> None:
    texts = prompts(20)

    with PromptPool(direct(), concurrency=2) as pool:
        futures = [pool.submit(text) for text in texts]
        submitted = [future.result().result for future in futures]
        mapped = {result.index: result.result for result in pool.map(texts)}

        async def both() -> tuple[str, dict[int | None, str]]:
            one = (await pool.aprompt(texts[3])).result
            return one, {each.index: each.result async for each in pool.amap(texts[:5])}

        one, some = asyncio.run(both())

    expected = {number: f"answer {number}" for number in range(20)}
    assert submitted == list(expected.values())
    assert mapped == expected
    assert (one, some) == ("answer 3", {n: expected[n] for n in range(5)})


def test_errors_come_back_as_they_were_raised(
    nodes: Nodes, start_simulator: StartSimulator
) -> None:
    start_simulator({"rules": [{"model": "sim/*", "fault": "402-quota"}]})

    with PromptPool(direct(), workers=1) as pool:
        with pytest.raises(BillingError) as caught:
            pool.prompt("hello")
        results = list(pool.map(prompts(3)))
        with pytest.raises(ConfigurationError, match="no argument 'modle'"):
            pool.prompt("hello", modle="x")  # type: ignore[call-arg]

    assert type(caught.value) is BillingError
    assert caught.value.status == 402
    assert caught.value.node_id in nodes.ids
    assert [type(result.error) for result in results] == [BillingError] * 3


def test_a_prompt_whose_worker_is_killed_fails_and_the_worker_is_replaced(
    nodes: Nodes, start_simulator: StartSimulator, wait_until: Wait
) -> None:
    simulator = start_simulator(STALLED_ONCE)

    with PromptPool(direct(), workers=1, concurrency=2) as pool:
        future = pool.submit(prompts(1)[0])
        wait_until(lambda: asked(simulator).total() == 1)
        node = pool.stats().workers[0].node
        (worker,) = nodes.workers(node)
        worker.kill()

        with pytest.raises(WorkerLostError, match="lost while the prompt ran") as caught:
            future.result()
        again = pool.prompt(prompts(1)[0])

    assert caught.value.node_id == node
    assert again.result == "answer 0"


def test_a_prompt_may_be_sent_again_if_the_caller_says_so(
    nodes: Nodes, start_simulator: StartSimulator, wait_until: Wait
) -> None:
    simulator = start_simulator(STALLED_ONCE)

    with PromptPool(direct(), workers=1, resends=1) as pool:
        future = pool.submit(prompts(1)[0])
        wait_until(lambda: asked(simulator).total() == 1)
        (worker,) = nodes.workers(pool.stats().workers[0].node)
        worker.kill()
        result = future.result()
        resent = pool.stats().resent

    assert (result.result, resent) == ("answer 0", 1)
    assert asked(simulator).total() == 2


def test_a_cancelled_prompt_is_ended_on_its_worker(
    nodes: Nodes, start_simulator: StartSimulator, wait_until: Wait, tmp_path: Path
) -> None:
    simulator = start_simulator(LONG)

    with PromptPool(direct(), workers=1) as pool:
        future = pool.submit(prompts(1)[0])
        wait_until(lambda: asked(simulator).total() == 1)
        future.cancel()
        wait_until(lambda: pool.stats().workers[0].in_flight == 0)

    with pytest.raises(CancelledError):
        future.result()


def test_submit_waits_where_too_many_wait_already(
    nodes: Nodes, start_simulator: StartSimulator, wait_until: Wait
) -> None:
    simulator = start_simulator(LONG)

    with PromptPool(direct(), workers=1, concurrency=1) as pool:
        futures = [pool.submit(text) for text in prompts(2)]
        third = threading.Thread(target=lambda: futures.append(pool.submit("a third")))
        third.start()
        wait_until(lambda: asked(simulator).total() == 1)
        assert third.is_alive()

        for future in futures[:2]:
            future.cancel()
        join(third)
        futures[2].cancel()
