"""Every fault that is a whole answer, by model id: status, headers and body."""

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime

import httpx
import pytest

from chutes_opencode.simulator import FAULTS, Simulator, fault_names
from tests.patience import WAIT_SECONDS

Ask = Callable[..., httpx.Response]
Asking = Callable[[Simulator], Ask]

NGINX = (
    "<html>\r\n<head><title>{0}</title></head>\r\n<body>\r\n<center><h1>{0}</h1></center>\r\n"
    "<hr><center>nginx</center>\r\n</body>\r\n</html>\r\n"
)
# Chutes answers {"detail": …} with exactly these words.
DETAILS = {
    "401-required": "Authentication required.",
    "401-not-found": "Invalid token or user not found",
    "401-invalid": "Invalid token.",
    "401-expired": "Token expired.",
    "402-cap": "Subscription usage cap exceeded. Please add balance to continue.",
    "402-tier-tee": "TEE models require an active subscription or positive balance.",
    "402-tier-model": "This model requires a higher subscription tier or positive balance.",
    "402-creator": "Chute unavailable because the creator of this chute has zero balance.",
    "404-model": "model not found: sim/fault/404-model",
    "404-chute": "No matching chute found!",
    "429-capacity": "Infrastructure is at maximum capacity, try again later",
    "429-infra-overload": "infra_overload",
    "429-no-targets": "no_targets",
    "429-maintenance": "model is under maintenance",
    "429-free-limit": "Free models limit reached for today - maintain >= $10 balance or upgrade "
    "subscription to pro to unlock more.",
    "503-disabled": "This chute is currently disabled.",
    "500-exhausted": "exhausted all available targets to no avail",
    "500-no-result": "No result returned from upstream",
}
PAGES = {
    "429-nginx": (429, "429 Too Many Requests"),
    "502-html": (502, "502 Bad Gateway"),
    "504-html": (504, "504 Gateway Time-out"),
    "html-200": (200, "200 Welcome to nginx!"),
}
ENGINE_TEXTS = {
    "400-invalid": "temperature must be non-negative, got -1.0.",
    "400-overflow-vllm": "This model's maximum context length is 200000 tokens. However, you "
    "requested 200101 tokens (200001 in the messages, 100 in the completion). Please reduce the "
    "length of the messages or completion.",
    "400-overflow-sglang-input": "The input (200001 tokens) is longer than the model's context "
    "length (200000 tokens).",
}
ENGINE_OBJECTS = {
    "400-invalid-object": "temperature must be non-negative, got -1.0.",
    "400-overflow-sglang-total": "Requested token count exceeds the model's maximum context length "
    "of 200000 tokens. You requested a total of 200101 tokens: 200001 tokens from the input "
    "messages and 100 tokens for the completion. Please reduce the number of tokens in the input "
    "messages or the completion to fit within the limit.",
}
OPENAI = [
    *("403", "408", "409", "413", "422", "425", "499"),
    "429-retry-after-seconds",
    "429-retry-after-date",
    "json-200",
]


def test_each_fault_that_is_a_whole_answer_is_tested_here_and_documented() -> None:
    tables = (DETAILS, PAGES, ENGINE_TEXTS, ENGINE_OBJECTS, OPENAI, ["402-quota", "503-cold"])
    tested = [name for table in tables for name in table]

    assert sorted(tested) == sorted(name for name in FAULTS if FAULTS[name].answer is not None)
    assert all(FAULTS[name].name == name and FAULTS[name].about for name in fault_names())


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize(("name", "detail"), DETAILS.items())
def test_chutes_refusals(ask: Ask, name: str, detail: str, stream: bool) -> None:
    answer = ask(f"sim/fault/{name}", stream=stream)

    assert answer.status_code == int(name[:3])
    assert answer.headers["content-type"] == "application/json"
    assert answer.json() == {"detail": detail}
    assert "retry-after" not in answer.headers


def test_a_used_quota_names_the_next_utc_midnight(ask: Ask) -> None:
    before = datetime.now(UTC)

    answer = ask("sim/fault/402-quota")

    detail = answer.json()["detail"]
    reset = datetime.fromisoformat(detail["quota_reset_timestamp"])
    assert answer.status_code == 402
    assert detail["message"].startswith("Quota exceeded and account balance is $0.0, ")
    assert (reset.hour, reset.minute, reset.second, reset.utcoffset()) == (
        0,
        0,
        0,
        UTC.utcoffset(None),
    )
    assert 0 < (reset - before).total_seconds() <= 86_401


@pytest.mark.parametrize(("name", "page"), PAGES.items())
def test_pages_of_the_edge_server(ask: Ask, name: str, page: tuple[int, str]) -> None:
    answer = ask(f"sim/fault/{name}", stream=True)

    assert answer.status_code == page[0]
    assert answer.headers["content-type"] == "text/html"
    assert answer.text == NGINX.format(page[1])


@pytest.mark.parametrize(("name", "message"), ENGINE_TEXTS.items())
def test_an_engines_error_as_text(ask: Ask, name: str, message: str) -> None:
    answer = ask(f"sim/fault/{name}", max_tokens=100)

    start, _, error = answer.json()["detail"].rpartition("Invalid request: {")
    assert answer.status_code == 400
    assert start == "Invalid request: "
    assert json.loads("{" + error)["message"] == message


@pytest.mark.parametrize(("name", "message"), ENGINE_OBJECTS.items())
def test_an_engines_error_as_an_object(ask: Ask, name: str, message: str) -> None:
    answer = ask(f"sim/fault/{name}", max_tokens=100)

    assert answer.status_code == 400
    assert answer.json()["detail"] == {
        "object": "error",
        "message": message,
        "type": "BadRequestError",
        "param": None,
        "code": 400,
    }


@pytest.mark.parametrize("name", OPENAI)
def test_errors_in_openais_shape(ask: Ask, name: str) -> None:
    answer = ask(f"sim/fault/{name}")

    assert answer.status_code == (200 if name == "json-200" else int(name[:3]))
    assert set(answer.json()["error"]) == {"message", "type", "param", "code"}


def test_retry_after_comes_in_seconds_or_as_a_date(ask: Ask) -> None:
    seconds = ask("sim/fault/429-retry-after-seconds").headers["retry-after"]
    before = datetime.now(UTC)
    date = ask("sim/fault/429-retry-after-date").headers["retry-after"]
    after = datetime.now(UTC)

    assert seconds == "2"
    assert date.endswith(" GMT")
    told = parsedate_to_datetime(date)
    assert before + timedelta(seconds=1) <= told <= after + timedelta(seconds=2)


@pytest.mark.parametrize("name", ["429-retry-after-seconds", "429-capacity"])
def test_a_rule_may_set_retry_after(asking: Asking, name: str) -> None:
    with Simulator({"rules": [{"model": "sim/fault/*", "retry_after": "3600"}]}) as simulator:
        answer = asking(simulator)(f"sim/fault/{name}")

    assert answer.headers.get_list("retry-after") == ["3600"]


def test_a_cold_model_names_its_chute_until_it_is_warmed_up(simulator: Simulator, ask: Ask) -> None:
    cold = ask("sim/fault/503-cold")
    chute = cold.json()["detail"].partition("'")[2].rstrip("'")
    headers = {"authorization": f"Bearer {simulator.api_token}"}

    url = f"{simulator.management_url}/chutes/warmup/{chute}"
    warm_up = httpx.get(url, headers=headers, trust_env=False, verify=False, timeout=WAIT_SECONDS)

    assert cold.status_code == 503
    assert cold.json()["detail"] == f"No instances available (yet) for chute_id='{chute}'"
    assert warm_up.json() == {"chute_id": chute, "status": "hot"}
    assert ask("sim/fault/503-cold").status_code == 200
    simulator.reset()
    assert ask("sim/fault/503-cold").status_code == 503


def test_refusals_cost_nothing(simulator: Simulator, ask: Ask) -> None:
    for name, fault in FAULTS.items():
        if fault.answer is not None:
            ask(f"sim/fault/{name}")

    assert simulator.bill.total.requests == 0


def test_a_rule_fails_n_times_and_then_succeeds(asking: Asking) -> None:
    rules = [{"model": "Qwen/*", "fault": "429-capacity", "skip": 1, "times": 2}]
    with Simulator({"rules": rules}) as simulator:
        ask = asking(simulator)
        first = [ask("Qwen/Qwen3-32B").status_code for _ in range(5)]
        other_model = [ask("Qwen/Qwen3.6-27B-TEE").status_code for _ in range(2)]
        simulator.reset()
        again = [ask("Qwen/Qwen3-32B-TEE").status_code for _ in range(2)]

    assert first == [200, 429, 429, 200, 200]
    assert other_model == [200, 429]
    assert again == [200, 429]


def test_a_fault_model_may_recover_by_a_rule(asking: Asking) -> None:
    with Simulator({"rules": [{"model": "sim/fault/500-*", "times": 1}]}) as simulator:
        ask = asking(simulator)
        statuses = [ask("sim/fault/500-exhausted").status_code for _ in range(3)]

    assert statuses == [500, 200, 200]


def test_a_script_step_may_fail_first_and_differs_by_session(ask: Ask) -> None:
    prompt = json.dumps({"steps": [{"text": "ok", "fault": "503-disabled", "times": 1}]})

    def status(session: str) -> int:
        return ask("sim/script", prompt, headers={"x-session-id": session}).status_code

    assert [status("a"), status("a"), status("b"), status("b")] == [503, 200, 503, 200]


def test_a_script_step_without_times_always_fails(ask: Ask) -> None:
    prompt = json.dumps({"steps": [{"fault": "500-no-result"}]})

    assert [ask("sim/script", prompt).status_code for _ in range(3)] == [500] * 3
