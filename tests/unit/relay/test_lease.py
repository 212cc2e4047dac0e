"""Whom a lease serves: which request belongs to which prompt."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from chutes_opencode.errors import ConfigurationError
from tests.unit.relay.stage import MODEL, Stage, whole

MakeStage = Callable[..., Stage]


def test_a_prompt_without_a_session_takes_the_first_that_has_no_parent(stage: MakeStage) -> None:
    s = stage()
    booking = s.open(session=None)

    assert s.ask("ses_child", "ses_unknown").status_code == 422
    assert whole(s.ask("ses_any"))
    assert s.ask("ses_another").status_code == 422

    assert [exchange.session_id for exchange in booking.exchanges()] == ["ses_any"]
    assert s.lease.refused == 2
    assert len(s.provider.asked) == 1


def test_sub_agents_join_their_parents_prompt_at_any_depth(stage: MakeStage) -> None:
    s = stage()
    one, two = s.open("ses_one"), s.open("ses_two")

    asked = [("ses_two", None), ("ses_child", "ses_two"), ("ses_grandchild", "ses_child")]
    assert all(whole(s.ask(*names)) for names in asked)

    assert one.exchanges() == ()
    assert [e.session_id for e in two.exchanges()] == ["ses_two", "ses_child", "ses_grandchild"]
    assert [e.parent_session_id for e in two.exchanges()] == [None, "ses_two", "ses_child"]


@pytest.mark.parametrize(
    ("session", "parent"),
    [(None, None), ("", None), ("ses_forged", None), ("ses_forged", "ses_unknown")],
)
def test_a_request_of_no_prompt_is_refused_and_counted(
    stage: MakeStage, session: str | None, parent: str | None
) -> None:
    s = stage()
    booking = s.open("ses_one")

    answer = s.ask(session, parent)

    assert answer.status_code == 422
    assert s.provider.asked == []
    assert booking.exchanges() == ()
    assert s.lease.refused == 1


def test_a_closed_prompt_is_served_no_more(stage: MakeStage) -> None:
    s = stage()
    booking = s.open()
    booking.close()

    assert s.ask().status_code == 422
    assert s.provider.asked == []


def test_a_session_that_goes_on_belongs_to_its_newest_prompt(stage: MakeStage) -> None:
    s = stage()
    first = s.open()
    s.ask()
    first.close()
    second = s.open()

    assert whole(s.ask())
    assert (len(first.exchanges()), len(second.exchanges())) == (1, 1)


def test_a_closed_lease_is_a_key_that_nobody_knows(stage: MakeStage) -> None:
    s = stage()
    booking = s.open()

    s.lease.close()

    assert s.ask().status_code == 401
    assert booking.closed


def test_leases_do_not_see_each_others_sessions(stage: MakeStage) -> None:
    s = stage()
    s.open("ses_one")

    with s.relay.lease() as other:
        other.open(s.terms(), "ses_two")
        headers = {**s.headers("ses_one"), "authorization": f"Bearer {other.key}"}
        answer = s.http.post(
            f"{s.relay.url}/chat/completions", headers=headers, json={"model": MODEL}
        )

    assert answer.status_code == 422
    assert s.provider.asked == []


def test_keys_differ_and_stay_out_of_reprs(stage: MakeStage) -> None:
    s = stage()

    with s.relay.lease() as other:
        assert other.key != s.lease.key
        assert other.key not in repr(other)


def test_a_dollar_limit_needs_a_price(stage: MakeStage) -> None:
    s = stage()

    with pytest.raises(ConfigurationError, match="price"):
        s.open(prices={MODEL: None}, max_cost_usd=1.0)
