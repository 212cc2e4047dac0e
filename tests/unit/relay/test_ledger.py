"""The books of a prompt: who belongs to it, what was sent, what it came to."""

from __future__ import annotations

from typing import Any

import pytest

from chutes_opencode.catalog.models import Price
from chutes_opencode.masking import MASK
from chutes_opencode.relay.ledger import Entry, Ledger
from chutes_opencode.results import Exchange, Usage

PRICES = {"m": Price(1.0, 10.0, 0.1), "cheap": Price(0.1, 1.0), "unknown": None}


def ledger(**fields: Any) -> Ledger:
    known: dict[str, Any] = {"max_requests": 100, "session_id": "ses_main"}
    return Ledger(PRICES, **known | fields)


def sent(books: Ledger, session: str = "ses_main", *, model: str = "m", **end: Any) -> Entry:
    """Book a request from its sending to its end."""
    entry = books.begin(session, model, at=0.0)
    books.finish(entry, **{"at": 1.0, "whole": True} | end)
    return entry


# --- sessions ------------------------------------------------------------------------------------


def test_the_announced_session_belongs_to_the_prompt() -> None:
    books = ledger()

    assert books.admit("ses_main", None)
    assert books.is_main("ses_main")
    assert books.main_session == "ses_main"


@pytest.mark.parametrize(
    ("session", "parent"),
    [
        ("ses_other", None),
        ("ses_other", "ses_stranger"),
        (None, None),
        ("", None),
        (None, "ses_main"),
    ],
)
def test_a_session_that_nobody_announced_is_not_admitted(
    session: str | None, parent: str | None
) -> None:
    books = ledger()

    assert not books.admit(session, parent)
    assert not books.knows(session)


def test_sub_agents_join_at_any_depth_and_stay() -> None:
    books = ledger()

    assert books.admit("ses_child", "ses_main")
    assert books.admit("ses_grandchild", "ses_child")
    assert books.admit("ses_grandchild", None)
    assert not books.is_main("ses_grandchild")


def test_without_an_announcement_the_first_session_without_a_parent_is_the_prompts_own() -> None:
    books = ledger(session_id=None)
    assert not books.is_main(None)

    assert not books.admit("ses_child", "ses_first")
    assert books.admit("ses_first", None)
    assert books.admit("ses_child", "ses_first")
    assert not books.admit("ses_second", None)
    assert books.main_session == "ses_first"


def test_a_prompt_has_one_session_of_its_own() -> None:
    books = ledger()
    books.bind("ses_main")

    with pytest.raises(ValueError, match="has a session already"):
        books.bind("ses_other")


# --- attempts ------------------------------------------------------------------------------------


def test_attempts_are_counted_for_each_model_step() -> None:
    books = ledger()

    first = sent(books, whole=False, error="reset")
    second = sent(books)
    third = sent(books)

    assert [entry.exchange.attempt for entry in (first, second, third)] == [1, 2, 1]
    assert (books.tries("ses_main"), books.steps("ses_main")) == (0, 2)


def test_sessions_count_their_attempts_apart() -> None:
    books = ledger()
    books.admit("ses_child", "ses_main")

    sent(books, "ses_main", whole=False)
    sent(books, "ses_child", whole=False)

    assert (books.tries("ses_main"), books.tries("ses_child")) == (1, 1)


def test_an_attempt_that_failed_with_others_is_forgiven() -> None:
    books = ledger()
    sent(books, whole=False)

    books.forgive("ses_main")
    books.forgive("ses_main")

    assert books.tries("ses_main") == 0
    assert books.requests == 1


# --- what is written -----------------------------------------------------------------------------


def test_an_exchange_holds_what_was_seen_of_it() -> None:
    books = ledger()
    books.admit("ses_child", "ses_main")
    headers = {"retry-after": "1", "x-chutes-invocationid": "inv-1"}

    entry = books.begin("ses_child", "m", tools=("bash",), at=10.0)
    books.answer(entry, 200, "text/event-stream", headers, at=10.5)
    books.finish(
        entry,
        at=12.0,
        whole=True,
        usage=Usage(input=1000, output=100),
        finish_reason="stop",
        served_model="m-TEE",
    )

    assert books.exchanges() == (
        Exchange(
            status=200,
            content_type="text/event-stream",
            headers=headers,
            requested_model="m",
            served_model="m-TEE",
            session_id="ses_child",
            parent_session_id="ses_main",
            tools=("bash",),
            finish_reason="stop",
            usage=Usage(input=1000, output=100),
            first_byte_s=0.5,
            duration_s=2.0,
            request_id="inv-1",
            cost_usd=0.002,
        ),
    )


def test_a_request_under_way_shows_as_far_as_it_is_seen() -> None:
    books = ledger()

    entry = books.begin("ses_main", "m", at=10.0)
    books.answer(entry, 200, "text/event-stream", {}, at=10.5)

    (exchange,) = books.exchanges()
    assert (exchange.status, exchange.duration_s, exchange.usage) == (200, None, None)
    assert entry.open


def test_a_request_ends_once() -> None:
    books = ledger()
    entry = sent(books, usage=Usage(input=1000), finish_reason="stop")

    books.finish(entry, at=5.0, whole=True, usage=Usage(input=1000))

    assert books.usage.input == 1000
    assert books.steps("ses_main") == 1
    assert entry.exchange.duration_s == 1.0


def test_secrets_in_bodies_and_errors_are_masked() -> None:
    books = ledger()

    entry = sent(books, whole=False, body="Bearer abcdefgh12345", error="key cpk_abcdefgh12345")

    assert entry.exchange.body == f"Bearer {MASK}"
    assert entry.exchange.error == f"key {MASK}"


def test_our_own_hand_shows_in_a_request_that_it_ended() -> None:
    books = ledger()
    entry = sent(books, whole=False, error="cut")

    books.end(entry, "max_tokens")

    assert entry.exchange.refused == "max_tokens"


def test_a_refusal_is_noted_and_was_not_sent() -> None:
    books = ledger()

    books.refuse("ses_stranger", "m", "unknown session", tools=("bash",), at=3.0)

    assert books.exchanges() == (
        Exchange(
            requested_model="m",
            session_id="ses_stranger",
            tools=("bash",),
            refused="unknown session",
            cost_usd=0.0,
            duration_s=0.0,
        ),
    )
    assert (books.requests, books.refusals) == (0, 1)


def test_of_refusals_without_end_a_hundred_are_kept() -> None:
    books = ledger()

    for _ in range(150):
        books.refuse(None, None, "over", at=0.0)

    assert (len(books.exchanges()), books.refusals) == (100, 150)


def test_a_replayed_answer_costs_nothing_and_counts_as_a_request_and_a_step() -> None:
    books = ledger(max_requests=1)

    books.replayed("ses_main", "m", at=1.0, usage=Usage(input=5000), finish_reason="stop")

    (exchange,) = books.exchanges()
    assert (exchange.replayed, exchange.cost_usd, exchange.status) == (True, 0.0, 200)
    assert (books.usage, books.cost_usd) == (Usage(), 0.0)
    assert books.steps("ses_main") == 1
    assert books.limit_reached() == "max_requests"


# --- sums and limits -----------------------------------------------------------------------------


def test_every_attempt_and_sub_agent_is_summed_at_the_price_of_its_model() -> None:
    books = ledger()
    books.admit("ses_child", "ses_main")

    sent(books, usage=Usage(input=1000, num_requests=1, estimated=True), whole=False)
    sent(books, usage=Usage(output=100, num_requests=1))
    sent(books, "ses_child", model="cheap", usage=Usage(output=100, num_requests=1))
    sent(books, whole=False, error="503")

    assert books.usage == Usage(input=1000, output=200, num_requests=4, estimated=True)
    assert books.cost_usd == pytest.approx(0.001 + 0.001 + 0.0001)


def test_one_unknown_price_makes_the_sum_unknown() -> None:
    books = ledger()

    sent(books, model="unknown", usage=Usage(input=1))
    sent(books, usage=Usage(input=1))

    assert books.cost_usd is None


def test_a_failure_that_used_nothing_costs_nothing_whatever_the_price() -> None:
    books = ledger()

    sent(books, model="unknown", whole=False, error="503")

    assert books.cost_usd == 0.0


def test_requests_that_were_sent_reach_their_limit_whether_they_succeed_or_not() -> None:
    books = ledger(max_requests=2)
    assert books.limit_reached() is None

    sent(books, whole=False)
    assert books.limit_reached() is None
    books.begin("ses_main", "m", at=0.0)

    assert books.limit_reached() == "max_requests"


def test_tokens_reach_their_limit_together_with_those_of_running_streams() -> None:
    books = ledger(max_tokens=1000)
    sent(books, usage=Usage(input=500, output=300))

    assert books.limit_reached() is None
    assert books.limit_crossed(199) is None
    assert books.limit_crossed(200) == "max_tokens"

    sent(books, usage=Usage(input=200))
    assert books.limit_reached() == "max_tokens"


def test_a_key_that_a_provider_echoes_is_masked() -> None:
    key = "cpk_0123456789abcdef"
    books = ledger()
    entry = books.begin("ses_main", "m", at=0.0)

    books.answer(entry, 401, "", {"x-request-id": key, "x-chutes-key": key}, at=1.0)

    assert key not in repr(books.exchanges())


def test_sub_agents_without_end_are_not_admitted() -> None:
    books = ledger()

    admitted = sum(books.admit(f"ses_{number}", "ses_main") for number in range(3000))

    assert admitted < 2000
    assert books.admit("ses_0", "ses_main")
