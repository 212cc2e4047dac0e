import json
from collections.abc import Callable

import httpx
import pytest

from chutes_opencode.simulator import BillEntry, BillTotal, Simulator
from chutes_opencode.simulator.billing import Ledger, Tokens, key_label
from tests.patience import WAIT_SECONDS

Ask = Callable[..., httpx.Response]
Asking = Callable[[Simulator], Ask]
WaitUntil = Callable[[Callable[[], bool]], None]


def entry(session: str | None = "s", cost: float = 1.0) -> BillEntry:
    return BillEntry("k", "m", session, None, 10, 5, 3, 1, cost, "complete")


def test_cost_is_fresh_input_cached_input_and_output_at_their_prices() -> None:
    tokens = Tokens(input=1_000_000, cached=250_000, output=500_000, reasoning=100_000)

    assert tokens.cost_usd((2.0, 0.4, 8.0)) == 0.75 * 2 + 0.25 * 0.4 + 0.5 * 8


def test_a_bill_adds_up_in_all_its_totals(simulator: Simulator, ask: Ask) -> None:
    for session in ("a", "b", "a"):
        ask("sim/echo", "x" * 400, headers={"x-session-id": session})
    ask("Qwen/Qwen3-32B", "no session")

    bill = simulator.bill
    assert bill.total.requests == len(bill.entries) == 4
    assert {name: total.requests for name, total in bill.by_model.items()} == {
        "sim/echo": 3,
        "Qwen/Qwen3-32B-TEE": 1,
    }
    assert {name: total.requests for name, total in bill.by_session.items()} == {
        "b": 1,
        "a": 2,
        "": 1,
    }
    assert bill.by_key == {key_label(simulator.api_token): bill.total}
    for totals in (bill.by_key, bill.by_model, bill.by_session):
        assert sum(t.cost_usd for t in totals.values()) == pytest.approx(bill.total.cost_usd)
        assert sum(t.input_tokens for t in totals.values()) == bill.total.input_tokens


def test_an_entry_says_what_the_answers_usage_said(simulator: Simulator, ask: Ask) -> None:
    headers = {"x-session-id": "s", "x-parent-session-id": "p"}
    ask("sim/reasoning", "x" * 400, headers=headers)

    usage = ask("sim/reasoning", "x" * 400, headers=headers).json()["usage"]

    (_, last) = simulator.bill.entries
    assert (last.session_id, last.parent_session_id, last.outcome) == ("s", "p", "complete")
    assert (last.input_tokens, last.output_tokens) == (100, usage["completion_tokens"])
    assert last.cached_tokens == usage["prompt_tokens_details"]["cached_tokens"] == 100
    assert last.reasoning_tokens == usage["completion_tokens_details"]["reasoning_tokens"] == 8
    assert last.cost_usd == pytest.approx((100 * 0.01 + last.output_tokens * 0.4) / 1e6)


def test_an_abandoned_stream_costs_what_was_sent(asking: Asking, wait_until: WaitUntil) -> None:
    scenario = {"token_delay_s": 0.05, "chunk_size": 4}
    with Simulator(scenario) as simulator:
        headers = {"authorization": f"Bearer {simulator.api_token}"}
        message = {"role": "user", "content": "x" * 40_000}
        body = {"model": "sim/echo", "stream": True, "messages": [message]}
        url = f"{simulator.base_url}/chat/completions"
        with (
            httpx.Client(trust_env=False, verify=False, timeout=WAIT_SECONDS) as client,
            client.stream("POST", url, json=body, headers=headers) as answer,
        ):
            lines = (line for line in answer.iter_lines() if '"xxxx"' in line)
            seen = [next(lines) for _ in range(3)]
        wait_until(lambda: len(simulator.bill.entries) == 1)

    (billed,) = simulator.bill.entries
    assert billed.outcome == "aborted"
    assert len(seen) <= billed.output_tokens < 1000


def test_a_request_abandoned_before_its_answer_costs_nothing_and_frees_its_place(
    wait_until: WaitUntil,
) -> None:
    slow = {"model": "sim/size/*", "first_byte_delay_s": 3600}
    no_patience = httpx.Timeout(WAIT_SECONDS, read=0.3)
    with Simulator({"max_concurrency": 1, "rules": [slow]}) as simulator:
        headers = {"authorization": f"Bearer {simulator.api_token}"}
        url = f"{simulator.base_url}/chat/completions"
        body = {"model": "sim/size/1", "messages": [{"role": "user", "content": "x"}]}
        with httpx.Client(trust_env=False, verify=False, timeout=WAIT_SECONDS) as client:
            with pytest.raises(httpx.ReadTimeout):
                client.post(url, json=body, headers=headers, timeout=no_patience)
            wait_until(lambda: len(simulator.requests) == 1)
            quick = json.loads(json.dumps(body)) | {"model": "sim/echo"}
            wait_until(lambda: client.post(url, json=quick, headers=headers).is_success)

    assert [entry.model for entry in simulator.bill.entries] == ["sim/echo"]


def test_the_ledger_keeps_its_totals_when_old_entries_go() -> None:
    ledger = Ledger(max_entries=2)

    for session in ("a", "b", None, "b"):
        ledger.add(entry(session))

    bill = ledger.bill()
    assert bill.total == bill.by_model["m"] == BillTotal(4, 40, 20, 12, 4, 4.0)
    assert [kept.session_id for kept in bill.entries] == [None, "b"]
    assert set(bill.by_session) == {"", "b"}
    ledger.clear()
    assert ledger.bill().total == BillTotal()


def test_a_keys_label_does_not_tell_the_key() -> None:
    key = "cpk_0123456789abcdef"

    assert key_label(key) != key_label("cpk_x123456789abcdef")
    assert "0123456789" not in key_label(key)
