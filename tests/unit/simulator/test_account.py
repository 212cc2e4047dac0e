"""Keys, limits, and the paths of the management API."""

import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime

import httpx
import pytest

from chutes_opencode.simulator import FAULTS, Scenario, Simulator
from chutes_opencode.simulator.state import SimulatorState
from tests.patience import WAIT_SECONDS, join, longer_and_longer

Ask = Callable[..., httpx.Response]
Asking = Callable[[Simulator], Ask]
WaitUntil = Callable[[Callable[[], bool]], None]
MANAGEMENT_PATHS = [
    "/users/me",
    "/users/me/quota_usage/me",
    "/users/me/subscription_usage",
    "/chutes/warmup/sim/echo",
]


@pytest.fixture
def client(simulator: Simulator) -> Iterator[httpx.Client]:
    url = simulator.management_url
    with httpx.Client(base_url=url, trust_env=False, verify=False, timeout=WAIT_SECONDS) as client:
        yield client


@pytest.fixture
def bearer(simulator: Simulator) -> dict[str, str]:
    return {"authorization": f"Bearer {simulator.api_token}"}


@pytest.mark.parametrize(
    ("authorization", "detail"),
    [
        ("", "Authentication required."),
        ("Basic abc", "Authentication required."),
        ("Bearer", "Authentication required."),
        ("Bearer sk-other", "Invalid token."),
        ("Bearer cpk_expired_1", "Token expired."),
        ("Bearer cpk_unknown", "Invalid token or user not found"),
    ],
)
@pytest.mark.parametrize("path", ["/v1/chat/completions", *MANAGEMENT_PATHS])
def test_a_wrong_key_is_refused_in_chutes_words(
    client: httpx.Client, path: str, authorization: str, detail: str
) -> None:
    headers = {"authorization": authorization} if authorization else {}
    method = "POST" if path.startswith("/v1") else "GET"

    answer = client.request(method, path, headers=headers, content=b"{}")

    assert (answer.status_code, answer.json()) == (401, {"detail": detail})


def test_the_scheme_is_read_in_any_case(ask: Ask, simulator: Simulator) -> None:
    headers = {"authorization": f"bearer   {simulator.api_token}"}

    assert ask("sim/echo", headers=headers).status_code == 200


def test_an_x_api_key_is_no_key_and_meets_the_edge_limiter(
    simulator: Simulator, client: httpx.Client
) -> None:
    headers = {"x-api-key": simulator.api_token}

    answer = client.post("/v1/chat/completions", headers=headers, content=b"{}")

    expected = FAULTS["429-nginx"].answer
    assert expected is not None
    assert (answer.status_code, answer.text) == (429, expected.body)


def test_extra_keys_are_accepted_and_billed_apart(asking: Asking) -> None:
    with Simulator({"extra_api_tokens": ["cpk_second_key_9999"]}) as simulator:
        ask = asking(simulator)
        ask("sim/echo")
        ask("sim/echo", headers={"authorization": "Bearer cpk_second_key_9999"})

    by_key = simulator.bill.by_key
    assert [total.requests for total in by_key.values()] == [1, 1]
    assert [name[:9] for name in by_key] == ["cpk_…cdef", "cpk_…9999"]


def test_the_account_tells_balance_quota_and_caps(
    ask: Ask, client: httpx.Client, bearer: dict[str, str]
) -> None:
    ask("sim/size/4000000")  # a million tokens of output at 0.4 USD

    user = client.get("/users/me", headers=bearer).json()
    quota = client.get("/users/me/quota_usage/me", headers=bearer).json()
    usage = client.get("/users/me/subscription_usage", headers=bearer).json()

    assert user["username"] == "simulator"
    assert user["balance"] == pytest.approx(99.6, abs=0.001)
    assert quota == {"quota": 5000, "used": 1}
    for name, cap in (("four_hour", 20.0), ("monthly", 200.0)):
        assert usage[name]["cap"] == cap
        assert usage[name]["usage"] == pytest.approx(0.4, abs=0.001)
        assert usage[name]["remaining"] == pytest.approx(cap - 0.4, abs=0.001)
        assert datetime.fromisoformat(usage[name]["reset_at"]) > datetime.now(UTC)
    assert datetime.fromisoformat(usage["monthly"]["reset_at"]).day == 1


def test_an_unknown_chute_cannot_be_warmed_up(client: httpx.Client, bearer: dict[str, str]) -> None:
    answer = client.get("/chutes/warmup/nope", headers=bearer)

    assert answer.status_code == 404
    assert answer.json() == {"detail": "Chute not found, or does not belong to you"}


@pytest.mark.parametrize(
    ("method", "path", "status", "detail"),
    [
        ("GET", "/", 404, "Not Found"),
        ("POST", "/v1/completions", 404, "Not Found"),
        ("GET", "/v1/chat/completions", 405, "Method Not Allowed"),
        ("POST", "/v1/models", 405, "Method Not Allowed"),
    ],
)
def test_other_paths_and_methods_do_not_exist(
    client: httpx.Client, method: str, path: str, status: int, detail: str
) -> None:
    answer = client.request(method, path)

    assert (answer.status_code, answer.json()) == (status, {"detail": detail})


def test_requests_per_minute_beyond_the_limit_meet_the_edge_limiter(asking: Asking) -> None:
    scenario = {"requests_per_minute": 2, "extra_api_tokens": ["cpk_other"]}
    with Simulator(scenario) as simulator:
        ask = asking(simulator)
        answers = [ask("sim/echo") for _ in range(3)]
        other = ask("sim/echo", headers={"authorization": "Bearer cpk_other"})

    assert [answer.status_code for answer in answers] == [200, 200, 429]
    assert "<center>nginx</center>" in answers[-1].text
    assert other.status_code == 200


def test_the_minute_of_the_limit_slides() -> None:
    now = [0.0]
    state = SimulatorState(Scenario(requests_per_minute=2), "key", clock=lambda: now[0])

    def over_at(seconds: float) -> bool:
        now[0] = seconds
        return state.over_rate("key")

    assert [over_at(second) for second in (0, 30, 59, 60, 61, 90)] == [
        False,
        False,
        True,
        False,
        True,
        False,
    ]


def test_requests_beyond_the_limit_on_concurrency_find_the_instances_full(
    asking: Asking, wait_until: WaitUntil
) -> None:
    for seconds in longer_and_longer(0.5):
        slow = {"model": "sim/size/*", "first_byte_delay_s": seconds}
        with Simulator({"max_concurrency": 1, "rules": [slow]}) as simulator:
            first = threading.Thread(target=asking(simulator), args=("sim/size/1",))
            first.start()
            wait_until(lambda: len(simulator.requests) == 1)
            ask = asking(simulator)
            refused = ask("sim/echo")
            was_full = first.is_alive()
            join(first)
            accepted = ask("sim/echo")
        if was_full:
            break

    detail = "Infrastructure is at maximum capacity, try again later"
    assert (refused.status_code, refused.json()) == (429, {"detail": detail})
    assert accepted.status_code == 200
