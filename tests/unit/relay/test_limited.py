"""Limits, where the money is spent: requests, tokens and dollars of a prompt and of many."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from chutes_opencode.errors import LimitExceededError, ServerError
from chutes_opencode.limits import Budget
from tests.patience import join, wait_until
from tests.unit.relay.stage import (
    GOOD,
    MODEL,
    USAGE,
    Answer,
    Stage,
    chunk,
    ended,
    error,
    event,
    page,
    stalling,
    stream,
    whole,
)

MakeStage = Callable[..., Stage]


def test_exactly_as_many_requests_as_allowed_are_sent(stage: MakeStage) -> None:
    s = stage()
    booking = s.open(max_requests=3)

    answers = [s.ask() for _ in range(5)]
    booking.close()

    assert [answer.status_code for answer in answers] == [200, 200, 200, 422, 422]
    assert len(s.provider.asked) == 3
    assert booking.ended == "max_requests"
    assert isinstance(booking.error, LimitExceededError)
    assert booking.error.limit == "max_requests"
    assert booking.error.__cause__ is None


def test_retries_and_sub_agents_count_and_the_last_error_is_the_cause(stage: MakeStage) -> None:
    s = stage(stream(*GOOD), error(500, "no"))
    booking = s.open(max_requests=3)

    assert whole(s.ask())
    assert s.ask("ses_child", "ses_main").status_code == 422
    booking.close()

    assert len(s.provider.asked) == 3
    assert booking.ended == "max_requests"
    assert booking.error is not None
    assert isinstance(booking.error.__cause__, ServerError)


def test_no_request_slips_past_the_limit_while_others_wait(stage: MakeStage) -> None:
    s = stage(stream(*GOOD, pause_s=0.03))
    booking = s.open(max_requests=20)
    s.ask()
    codes: list[int] = []
    asking = [
        threading.Thread(target=lambda n=n: codes.append(s.ask(f"ses_{n}", "ses_main").status_code))
        for n in range(40)
    ]
    for thread in asking:
        thread.start()
    join(*asking)
    booking.close()

    assert len(codes) == 40
    assert booking.ledger.requests == 20
    assert len(s.provider.asked) <= 20  # what was on its way when the limit came was cut
    assert booking.ended == "max_requests"


def test_tokens_that_are_used_up_let_no_further_request_go(stage: MakeStage) -> None:
    s = stage()  # 14 tokens a request
    booking = s.open(max_tokens=20)

    assert [s.ask().status_code for _ in range(3)] == [200, 200, 422]
    booking.close()
    assert booking.ended == "max_tokens"


def test_a_stream_that_crosses_the_limit_of_tokens_is_cut(stage: MakeStage) -> None:
    s = stage(stalling(chunk("x" * 40), chunk("x" * 400), chunk("never sent on")))
    booking = s.open(max_tokens=50)

    answer = s.ask()
    booking.close()

    assert ended(answer)
    assert booking.ended == "max_tokens"
    assert booking.exchanges()[0].refused == "max_tokens"
    assert booking.usage.estimated
    wait_until(lambda: s.provider.in_flight == 0)


def test_a_limit_cuts_the_streams_of_sub_agents_too(stage: MakeStage) -> None:
    s = stage(stalling(chunk("x" * 40)), stalling(chunk("x" * 400)))
    booking = s.open(max_tokens=50)
    told: list[bool] = []
    main = threading.Thread(target=lambda: told.append(ended(s.ask())))
    main.start()
    wait_until(lambda: s.provider.in_flight == 1)

    assert ended(s.ask("ses_child", "ses_main"))
    join(main)

    assert told == [True]
    booking.close()


def test_usage_in_each_chunk_is_believed(stage: MakeStage) -> None:
    usage = {"prompt_tokens": 45, "completion_tokens": 6}
    s = stage(stalling(chunk("x", usage=usage)))
    booking = s.open(max_tokens=50)

    assert ended(s.ask())
    booking.close()
    assert booking.usage.total == 51
    assert not booking.usage.estimated


def test_an_answer_longer_than_it_was_allowed_is_cut_at_the_dollar_limit(stage: MakeStage) -> None:
    s = stage(stalling(chunk("x" * 4_000), chunk("x" * 4_000), chunk("never sent on")))
    booking = s.open(max_cost_usd=0.003)  # $2 per million output tokens

    assert ended(s.ask())
    booking.close()

    assert booking.ended == "max_cost_usd"
    assert isinstance(booking.error, LimitExceededError)
    assert booking.error.overrun
    assert len(s.provider.asked) == 1


def test_a_longer_answer_may_go_on_while_there_is_money(stage: MakeStage) -> None:
    s = stage(stream(chunk("x" * 8_000), *GOOD))
    booking = s.open(max_cost_usd=1.0)

    assert whole(s.ask())
    booking.close()
    assert booking.ended is None


def test_longer_answers_at_once_share_what_is_free(stage: MakeStage) -> None:
    told = event({"choices": [], "usage": {"prompt_tokens": 10, "completion_tokens": 2_000}})
    piece = chunk("x" * 200)  # $0.0001
    long = (*[piece] * 40, chunk(finish="stop"), told)
    s = stage(stream(*long, pause_s=0.005))  # $0.004 each, of which $0.0004 are set aside
    budget = Budget("batch", 0.01)
    bookings = [s.open(f"ses_{n}", budgets=(budget,)) for n in range(4)]

    asking = [threading.Thread(target=s.ask, args=[f"ses_{n}"]) for n in range(4)]
    for thread in asking:
        thread.start()
    join(*asking)
    for booking in bookings:
        booking.close()

    assert "budget:batch" in {booking.ended for booking in bookings}
    assert budget.spent <= 0.01 + 4 * 0.0001, "a piece each was on its way"


def test_of_a_stream_that_died_a_bound_stays_out_of_use(stage: MakeStage) -> None:
    s = stage(stream(chunk("Hel"), chunk("lo")))
    budget = Budget("batch", 1.0)
    booking = s.open(budgets=(budget,))

    s.ask()
    booking.close()

    size = len(s.provider.asked[0].raw)
    assert budget.spent == booking.cost_usd
    assert budget.spent + budget.doubtful == pytest.approx((size * 1.0 + 5 * 2.0) / 1e6)


def test_an_answer_that_was_asked_for_whole_was_made_before_it_died(stage: MakeStage) -> None:
    s = stage(page(200, '{"choices": [', "application/json"))
    budget = Budget("batch", 1.0)
    booking = s.open(budgets=(budget,), tries_left=1)

    s.ask(stream=False)
    booking.close()

    size = len(s.provider.asked[0].raw)
    assert budget.spent + budget.doubtful == pytest.approx((size * 1.0 + 100 * 2.0) / 1e6)


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(stream(*GOOD), id="whole"),
        pytest.param(stream(chunk("Hello"), chunk(finish="stop")), id="whole, without usage"),
        pytest.param(stream(chunk("Hel", usage=USAGE), chunk("lo")), id="broken, with its usage"),
        pytest.param(error(500, "no"), id="refused"),
    ],
)
def test_what_is_known_leaves_no_doubt(stage: MakeStage, answer: Answer) -> None:
    s = stage(answer)
    budget = Budget("batch", 1.0)
    booking = s.open(budgets=(budget,))

    s.ask()
    booking.close()

    assert budget.doubtful == 0.0


def test_what_can_never_fit_into_the_dollars_is_not_sent(stage: MakeStage) -> None:
    s = stage()
    booking = s.open(max_cost_usd=0.0001)  # 100 output tokens alone may cost $0.0002

    assert s.ask().status_code == 422
    booking.close()

    assert s.provider.asked == []
    assert booking.ended == "max_cost_usd"
    assert isinstance(booking.error, LimitExceededError)
    assert booking.error.limit == "max_cost_usd"
    assert not booking.error.overrun


def test_a_shared_budget_is_never_overdrawn_by_what_runs_at_once(stage: MakeStage) -> None:
    s = stage(stream(*GOOD, pause_s=0.02))
    budget = Budget("batch", 0.0006)  # a bound of about $0.0004 each: one at a time
    bookings = [s.open(f"ses_{n}", budgets=(budget,)) for n in range(4)]
    most: list[float] = []
    codes: list[int] = []

    def ask(n: int) -> None:
        codes.append(s.ask(f"ses_{n}").status_code)
        most.append(budget.spent + budget.reserved)

    asking = [threading.Thread(target=ask, args=[n]) for n in range(4)]
    for thread in asking:
        thread.start()
    join(*asking)

    assert codes == [200] * 4
    assert max(most) <= 0.0006
    assert budget.reserved == 0
    assert budget.spent == pytest.approx(sum(b.cost_usd or 0 for b in bookings))


def test_a_shared_budget_that_is_used_up_ends_every_prompt_of_it(stage: MakeStage) -> None:
    s = stage(stream(chunk("x", finish="stop"), event(_dear())))
    budget = Budget("batch-500", 0.001)
    first = s.open("ses_one", budgets=(budget,))
    second = s.open("ses_two", budgets=(budget,))

    assert s.ask("ses_one").status_code == 200
    assert s.ask("ses_two").status_code == 422

    assert first.ended is None
    assert second.ended == "budget:batch-500"
    assert second.error is not None
    assert "batch-500" in second.error.raw_message


def test_a_failed_request_gives_its_reservation_back(stage: MakeStage) -> None:
    s = stage(error(500, "no"))
    budget = Budget("batch", 0.0006)
    booking = s.open(budgets=(budget,))

    s.ask()
    booking.close()

    assert (budget.reserved, budget.spent) == (0, 0)
    assert len(s.provider.asked) == 3


def _dear() -> dict[str, object]:
    usage = {"prompt_tokens": 900, "completion_tokens": 0}
    return {"model": MODEL, "choices": [], "usage": usage}
