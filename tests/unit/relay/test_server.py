"""The life of a relay: started once, shared, stopped in the middle, forked."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import ExitStack

import httpx
import pytest

from chutes_opencode.errors import ServerError
from chutes_opencode.relay import server as relay_server
from chutes_opencode.relay.limiter import AdaptiveLimiter, Limiter, Pace
from chutes_opencode.relay.resources import use_limiters
from chutes_opencode.relay.server import Relay, shared_relay
from tests.patience import WAIT_SECONDS, join, wait_until
from tests.unit.relay.stage import MAIN, Stage, nothing, set_up, whole


@pytest.fixture
def own_relay() -> Iterator[Relay]:
    with Relay() as relay:
        yield relay


@pytest.fixture
def shared(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No relay of this process is shared before the test, or after it."""
    monkeypatch.setattr(relay_server, "_shared", {})
    yield
    for relay in relay_server._shared.values():
        relay.stop()


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


@pytest.mark.usefixtures("shared")
def test_one_relay_is_shared_and_a_dead_one_is_replaced() -> None:
    first = shared_relay()

    assert shared_relay() is first
    assert first.alive
    first.stop()
    assert not first.alive
    second = shared_relay()
    assert second is not first
    assert second.alive


@pytest.mark.usefixtures("shared")
def test_a_forked_child_starts_its_own() -> None:
    parent = shared_relay()
    reader, writer = os.pipe()

    child = os.fork()
    if child == 0:
        try:
            own = shared_relay()
            answer = _get(own)
            told = f"{own.url != parent.url} {parent.alive} {answer.status_code}"
            own.stop()
            os.write(writer, told.encode())
        finally:
            os._exit(0)
    os.close(writer)
    heard = os.read(reader, 1000)
    os.waitpid(child, 0)
    os.close(reader)

    assert heard == b"True False 401"
    assert parent.alive
    assert _get(parent).status_code == 401


def test_a_relay_that_stops_ends_its_prompts_and_hangs_nobody(stack: ExitStack) -> None:
    relay = stack.enter_context(Relay())
    s = set_up(stack, relay, nothing)
    running, idle = s.open(), s.open("ses_idle")
    told: list[object] = []
    asking = threading.Thread(target=lambda: told.append(_ask(s)))
    asking.start()
    wait_until(lambda: s.provider.in_flight == 1)

    relay.stop()
    join(asking)

    assert len(told) == 1
    for booking in (running, idle):
        assert booking.ended == "relay"
        assert isinstance(booking.error, ServerError)
        booking.close()
    assert running.exchanges()[0].refused == "relay"
    wait_until(lambda: s.provider.in_flight == 0)


def test_a_lease_of_a_stopped_relay_ends_each_prompt_at_once(own_relay: Relay) -> None:
    with ExitStack() as stack:
        s = set_up(stack, own_relay)
        own_relay.stop()

        assert s.open().ended == "relay"
        with own_relay.lease() as late:
            assert late.open(s.terms()).ended == "relay"
        with pytest.raises(RuntimeError, match="does not start again"):
            own_relay.start()


def test_stop_may_be_called_twice_and_leaves_no_thread() -> None:
    before = set(threading.enumerate())
    relay = Relay()
    relay.start()
    relay.start()

    relay.stop()
    relay.stop()

    assert set(threading.enumerate()) == before


def test_a_relay_that_was_not_started_has_no_url() -> None:
    with pytest.raises(RuntimeError, match="not started"):
        _ = Relay().url


def test_stats_tell_what_goes_on(stack: ExitStack) -> None:
    relay = stack.enter_context(Relay())
    s = set_up(stack, relay)
    booking = s.open()
    s.ask()
    s.ask("ses_forged")

    before = relay.stats()
    booking.close()
    s.lease.close()
    after = relay.stats()

    assert (before.leases, before.prompts, before.refused) == (1, 1, 1)
    assert (after.leases, after.prompts, after.refused) == (0, 0, 1)
    assert s.limiter().permits == 1


def test_the_limiter_can_be_replaced_and_is_one_for_each_account(stack: ExitStack) -> None:
    accounts: list[str] = []

    def make(account: str) -> Limiter:
        accounts.append(account)
        return AdaptiveLimiter(Pace(start=1))

    relay = stack.enter_context(Relay(make))
    s = set_up(stack, relay)
    upstream = type(s.terms().upstream)("stage", s.provider.base_url, lambda: "cpk_another_key_01")
    s.open()
    s.open("ses_two", upstream=upstream)

    assert all(whole(s.ask(session)) for session in (MAIN, "ses_two", MAIN))
    assert len(accounts) == 2
    assert not any("cpk_" in account for account in accounts)


@pytest.mark.usefixtures("shared")
def test_a_process_can_have_other_limiters_for_new_accounts(stack: ExitStack) -> None:
    accounts: list[str] = []

    def make(account: str) -> Limiter:
        accounts.append(account)
        return AdaptiveLimiter(Pace(start=3))

    relay = shared_relay()
    stack.callback(use_limiters, None)
    known, new, other = set_up(stack, relay), set_up(stack, relay), set_up(stack, relay)
    known.open()
    assert whole(known.ask())

    use_limiters(make)
    for each in (new, known):
        each.open("ses_two")
        assert whole(each.ask("ses_two"))
    use_limiters(None)
    other.open()
    assert whole(other.ask())

    assert len(accounts) == 1
    assert [each.limiter().limit for each in (known, new, other)] == [16, 3, 16]


@pytest.mark.usefixtures("shared")
def test_a_forked_child_has_limiters_of_its_own(stack: ExitStack) -> None:
    stack.callback(use_limiters, None)
    use_limiters(lambda _account: AdaptiveLimiter(Pace(start=3)))
    reader, writer = os.pipe()

    child = os.fork()
    if child == 0:
        try:
            with ExitStack() as inner:
                s = set_up(inner, inner.enter_context(Relay()))
                s.open()
                s.ask()
                os.write(writer, f"{s.limiter().limit}".encode())
        finally:
            os._exit(0)
    os.close(writer)
    heard = os.read(reader, 1000)
    os.waitpid(child, 0)
    os.close(reader)

    assert heard == b"16"


def _get(relay: Relay) -> httpx.Response:
    url = f"{relay.url}/models"
    return httpx.get(url, trust_env=False, verify=False, timeout=WAIT_SECONDS)


def _ask(s: Stage) -> object:
    try:
        return s.ask().status_code
    except httpx.HTTPError as error:
        return error
