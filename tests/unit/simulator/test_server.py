import asyncio
import socket
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from chutes_opencode.simulator import (
    DEFAULT_API_TOKEN,
    Scenario,
    ScenarioError,
    Simulator,
    run_forever,
)
from tests.patience import WAIT_SECONDS

Ask = Callable[..., httpx.Response]
Asking = Callable[[Simulator], Ask]
WaitUntil = Callable[[Callable[[], bool]], None]


def test_it_runs_inside_with_and_keeps_its_records_after(asking: Asking) -> None:
    with Simulator() as simulator:
        url = simulator.management_url
        assert simulator.base_url == f"{url}/v1"
        assert simulator.api_token == DEFAULT_API_TOKEN
        asking(simulator)("sim/echo")

    assert [request.model for request in simulator.requests] == ["sim/echo"]
    assert simulator.bill.total.requests == 1
    with pytest.raises(RuntimeError, match="not running"):
        _ = simulator.base_url


def test_start_and_stop_may_be_repeated(asking: Asking) -> None:
    simulator = Simulator({"chunk_size": 5})

    for _ in range(2):
        simulator.start()
        simulator.start()
        asking(simulator)("sim/echo")
        simulator.stop()
        simulator.stop()

    assert simulator.bill.total.requests == 2
    assert simulator.scenario == Scenario(chunk_size=5)


def test_reset_forgets_what_was_asked(simulator: Simulator, ask: Ask) -> None:
    ask("sim/echo")

    simulator.reset()

    assert simulator.requests == ()
    assert simulator.bill.total.requests == 0
    assert ask("sim/echo").headers["x-chutes-quota-used"] == "1"


def test_its_key_can_be_chosen_and_is_not_shown(asking: Asking) -> None:
    with Simulator(api_token="cpk_mine_0123456789") as simulator:
        shown = repr(simulator)
        status = asking(simulator)("sim/echo").status_code

    assert status == 200
    assert "cpk_mine" not in shown
    assert "127.0.0.1" in shown
    assert repr(simulator) == "Simulator('stopped')"


def test_a_malformed_scenario_is_refused_before_anything_listens(tmp_path: Path) -> None:
    path = tmp_path / "scenario.toml"
    path.write_text("requests_per_minute = -1\n")

    with pytest.raises(ScenarioError, match=r"scenario\.toml: requests_per_minute: expected"):
        Simulator(path)


def test_two_simulators_know_nothing_of_each_other(asking: Asking) -> None:
    with Simulator() as one, Simulator() as two:
        asking(one)("sim/echo")

        assert (len(one.requests), len(two.requests)) == (1, 0)


def test_two_hundred_streams_at_once_are_whole_and_their_own(simulator: Simulator) -> None:
    async def one(client: httpx.AsyncClient, number: int) -> bool:
        text = f"marker {number} " * 50
        message = {"role": "user", "content": text}
        body = {"model": "sim/echo", "stream": True, "messages": [message]}
        headers = {"authorization": f"Bearer {simulator.api_token}", "x-session-id": str(number)}
        answer = await client.post("/chat/completions", json=body, headers=headers)
        return answer.text.endswith("data: [DONE]\n\n") and f"marker {number} " in answer.text

    async def all_at_once() -> list[bool]:
        limits = httpx.Limits(max_connections=200)
        async with httpx.AsyncClient(
            base_url=simulator.base_url,
            limits=limits,
            trust_env=False,
            verify=False,
            timeout=WAIT_SECONDS,
        ) as client:
            return await asyncio.gather(*(one(client, number) for number in range(200)))

    assert asyncio.run(all_at_once()) == [True] * 200
    assert len(simulator.bill.by_session) == 200
    assert all(total.requests == 1 for total in simulator.bill.by_session.values())


def test_a_body_that_never_arrives_whole_is_nobodys_request(simulator: Simulator, ask: Ask) -> None:
    port = httpx.URL(simulator.base_url).port
    with socket.create_connection(("127.0.0.1", port or 0)) as client:
        client.sendall(
            b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{"
        )

    assert ask("sim/echo").status_code == 200
    assert [request.model for request in simulator.requests] == ["sim/echo"]


def test_run_forever_tells_when_it_is_ready_and_ends_when_told(asking: Asking) -> None:
    seen: list[int] = []
    until = threading.Event()

    def on_ready(simulator: Simulator) -> None:
        seen.append(asking(simulator)("sim/echo").status_code)
        until.set()

    run_forever({"chunk_size": 2}, on_ready=on_ready, until=until)
    run_forever(until=until)

    assert seen == [200]


def test_a_bug_of_the_simulator_is_a_logged_500_and_no_hang(
    simulator: Simulator,
    ask: Ask,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def fail(*_: object) -> None:
        raise LookupError("a bug")

    with monkeypatch.context() as patch:
        patch.setattr("chutes_opencode.simulator.app.make_plan", fail)
        status = ask("sim/echo").status_code

    assert status == 500
    assert "LookupError: a bug" in caplog.text
    assert ask("sim/echo").status_code == 200


def test_answers_are_kept_back_while_it_is_held(
    simulator: Simulator, ask: Ask, wait_until: WaitUntil
) -> None:
    with ThreadPoolExecutor(3) as threads:
        with simulator.held():
            asked = [threads.submit(ask, "sim/echo") for _ in range(3)]
            wait_until(lambda: len(simulator.requests) == 3)
            answered = [each.done() for each in asked]
        statuses = [each.result(WAIT_SECONDS).status_code for each in asked]

    assert answered == [False] * 3
    assert statuses == [200] * 3
    assert ask("sim/echo").status_code == 200


def test_a_simulator_that_is_held_can_be_stopped(asking: Asking, wait_until: WaitUntil) -> None:
    with ThreadPoolExecutor(1) as thread, Simulator() as simulator, simulator.held():
        asked = thread.submit(asking(simulator), "sim/echo")
        wait_until(lambda: len(simulator.requests) == 1)

        simulator.stop()

        with pytest.raises(httpx.HTTPError):
            asked.result(WAIT_SECONDS)
