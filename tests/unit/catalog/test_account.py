"""The management API: whom the key is shown to, and what the answers mean."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

import httpx
import pytest

from chutes_opencode.catalog.account import (
    Account,
    Cap,
    ManagementApi,
    WarmUp,
    check_key,
    fetch_account,
    warm_up,
)
from chutes_opencode.errors import (
    AuthenticationError,
    BillingError,
    ConfigurationError,
    ModelNotFoundError,
    ServerError,
)
from chutes_opencode.simulator import Simulator

KEY = "cpk_account_test_0001"
NOW = datetime(2026, 8, 22, 13, 30, tzinfo=UTC)
RESET = "2026-08-22T16:00:00+00:00"
PAGES = {
    "/users/me": {"balance": 12.5},
    "/users/me/quota_usage/me": {"quota": 300, "used": 12},
    "/users/me/subscription_usage": {
        "subscription": True,
        "four_hour": {"usage": 1, "cap": 20, "remaining": 19, "reset_at": RESET},
    },
}

Handler = Callable[[httpx.Request], httpx.Response]


def api(handler: Handler) -> ManagementApi:
    return ManagementApi("https://api.chutes.ai", KEY, httpx.MockTransport(handler))


def pages(changes: Mapping[str, Any]) -> ManagementApi:
    """An API that answers `PAGES`, but for `changes`: a status, a text or an object each."""
    told = {**PAGES, **changes}

    def answer(request: httpx.Request) -> httpx.Response:
        page = told[request.url.path]
        if isinstance(page, int):
            return httpx.Response(page, json={"detail": "no"})
        return httpx.Response(200, text=page if isinstance(page, str) else json.dumps(page))

    return api(answer)


def no_network(request: httpx.Request) -> httpx.Response:
    raise httpx.ConnectError("no network", request=request)


class TestKey:
    @pytest.mark.parametrize(
        ("status", "verdict"),
        [(200, "accepted"), (401, "refused"), (403, "refused"), (302, "unknown"), (500, "unknown")],
    )
    def test_the_answer_counts_and_the_key_goes_to_one_url(self, status: int, verdict: str) -> None:
        seen: list[httpx.Request] = []

        def answer(request: httpx.Request) -> httpx.Response:
            seen.append(request)
            return httpx.Response(status, headers={"location": "https://evil.example/"})

        assert check_key(api(answer)).verdict == verdict

        (request,) = seen
        assert str(request.url) == "https://api.chutes.ai/users/me"
        assert request.headers["authorization"] == f"Bearer {KEY}"

    def test_without_a_network_nothing_is_known(self) -> None:
        checked = check_key(api(no_network))

        assert checked.verdict == "unknown"
        assert "no network" in checked.detail

    def test_it_is_never_sent_unencrypted(self) -> None:
        with pytest.raises(ConfigurationError, match="unencrypted"):
            ManagementApi("http://api.example.org", KEY)

    def test_it_is_not_shown(self) -> None:
        assert KEY not in repr(ManagementApi("https://api.chutes.ai", KEY))


class TestAccount:
    def test_the_simulators_account_is_read(self) -> None:
        with Simulator() as simulator:
            told = fetch_account(ManagementApi(simulator.management_url, simulator.api_token))

        assert told.balance_usd == 100
        assert told.used == 0
        assert [cap.window for cap in told.caps] == ["4 hours", "month"]
        assert all(cap.reset_at is not None for cap in told.caps)
        assert told.problems == ()

    def test_each_part_has_its_place(self) -> None:
        assert fetch_account(pages({}), now=NOW) == Account(
            balance_usd=12.5,
            quota=300,
            used=12,
            quota_reset_at=datetime(2026, 8, 23, tzinfo=UTC),
            caps=(Cap("4 hours", 1, 20, 19, datetime(2026, 8, 22, 16, tzinfo=UTC)),),
        )

    @pytest.mark.parametrize(
        ("told", "balance"),
        [
            ("12.5", 12.5),
            (None, None),
            (True, None),
            ("much", None),
            (10**400, None),
            (float("nan"), None),
            ([], None),
        ],
    )
    def test_a_number_may_be_a_text_and_what_is_none_is_unknown(
        self, told: object, balance: float | None
    ) -> None:
        assert fetch_account(pages({"/users/me": {"balance": told}})).balance_usd == balance

    @pytest.mark.parametrize(
        ("told", "caps"),
        [
            ({"subscription": False}, ()),
            ({"monthly": {"usage": 3, "uncapped": True}}, (Cap("month", usage=3),)),
            ({"new_window": {"cap": "5"}}, (Cap("new window", cap=5),)),
            ({"plan": {"name": "pro"}, "four_hour": None}, ()),
        ],
    )
    def test_the_windows_of_a_subscription_are_its_caps(
        self, told: object, caps: tuple[Cap, ...]
    ) -> None:
        assert fetch_account(pages({"/users/me/subscription_usage": told})).caps == caps

    @pytest.mark.parametrize("page", [500, 404, "<html>", "[]"])
    def test_a_part_that_cannot_be_had_costs_no_other(self, page: object) -> None:
        told = fetch_account(pages({"/users/me/quota_usage/me": page}))

        assert (told.balance_usd, told.quota, told.quota_reset_at) == (12.5, None, None)
        (problem,) = told.problems
        assert "/users/me/quota_usage/me" in problem

    def test_without_any_part_it_is_an_error(self) -> None:
        with pytest.raises(ServerError, match="/users/me answered HTTP 500"):
            fetch_account(pages(dict.fromkeys(PAGES, 500)))

    def test_a_refused_key_is_told_at_once(self) -> None:
        with pytest.raises(AuthenticationError, match="HTTP 401"):
            fetch_account(pages({"/users/me": 401}))

    def test_without_a_network_it_is_an_error_with_a_hint(self) -> None:
        with pytest.raises(ServerError, match="no network") as caught:
            fetch_account(api(no_network))

        assert "network" in caught.value.hint


def events(*statuses: str, end: Exception | None = None) -> ManagementApi:
    """An API that streams these statuses, then ends or fails."""

    class Stream(httpx.SyncByteStream):
        def __iter__(self) -> Iterator[bytes]:
            for status in statuses:
                yield f'data: {{"status": "{status}", "log": "is {status}"}}\n\n'.encode()
            if end is not None:
                raise end

    return api(lambda request: httpx.Response(200, stream=Stream()))


class TestWarmUp:
    def test_the_simulators_chute_gets_hot(self) -> None:
        with Simulator() as simulator:
            management = ManagementApi(simulator.management_url, simulator.api_token)
            assert warm_up(management, "Qwen/Qwen3-32B-TEE").is_hot
            (request,) = simulator.requests

        assert request.headers["authorization"] == f"Bearer {simulator.api_token}"

    def test_the_first_status_is_enough(self) -> None:
        assert warm_up(events("cold", "hot"), "x") == WarmUp("cold", "is cold")

    def test_one_may_wait_until_it_is_hot(self) -> None:
        seen: list[str] = []

        told = warm_up(
            events("cold", "warming", "hot", "never"),
            "x",
            wait_seconds=60,
            on_status=lambda status: seen.append(status.status),
        )

        assert told.is_hot
        assert seen == ["cold", "warming", "hot"]

    def test_the_wait_has_an_end(self) -> None:
        times = iter([0.0, 30.0, 60.0])

        told = warm_up(
            events("cold", "warming", "hot"), "x", wait_seconds=60, clock=lambda: next(times)
        )

        assert told.status == "warming"

    @pytest.mark.parametrize("end", [None, httpx.ReadTimeout("slow")])
    def test_the_last_status_holds_when_the_stream_ends(self, end: Exception | None) -> None:
        assert warm_up(events("cold", end=end), "x", wait_seconds=60).status == "cold"

    def test_a_failure_before_any_status_is_an_error(self) -> None:
        with pytest.raises(ServerError, match="ReadTimeout"):
            warm_up(events(end=httpx.ReadTimeout("slow")), "x")

    @pytest.mark.parametrize("body", ["", "{}", ": ping\n", '{"status": 7}'])
    def test_an_answer_without_a_status_says_that_it_was_asked(self, body: str) -> None:
        assert warm_up(api(lambda _: httpx.Response(200, text=body)), "x") == WarmUp("asked")

    @pytest.mark.parametrize(
        ("status", "error"),
        [(404, ModelNotFoundError), (401, AuthenticationError), (402, BillingError)],
    )
    def test_a_refusal_is_its_typed_error(self, status: int, error: type[Exception]) -> None:
        refusing = api(lambda _: httpx.Response(status, json={"detail": "Chute not found"}))

        with pytest.raises(error, match=f"HTTP {status}: Chute not found"):
            warm_up(refusing, "x")

    def test_an_id_cannot_leave_its_place_in_the_url(self) -> None:
        seen: list[bytes] = []

        def answer(request: httpx.Request) -> httpx.Response:
            seen.append(request.url.raw_path)
            return httpx.Response(200, json={"status": "hot"})

        warm_up(api(answer), "../users/me?x=1")

        assert seen == [b"/chutes/warmup/..%2Fusers%2Fme%3Fx%3D1"]
