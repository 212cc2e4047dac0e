import time
from collections.abc import Callable

import httpx
import pytest

from chutes_opencode.simulator import RecordedRequest, Simulator
from chutes_opencode.simulator.recording import Headers, Recorder
from tests.patience import WAIT_SECONDS

Ask = Callable[..., httpx.Response]
KEY = "cpk_secret_key"


def request(path: str = "/", body: bytes = b"") -> RecordedRequest:
    headers = Headers([(b"Authorization", b"Bearer " + KEY.encode())])
    return RecordedRequest("POST", path, "", headers, body, None, None, None, 0.0)


def test_a_request_is_recorded_as_it_came(simulator: Simulator, ask: Ask) -> None:
    before = time.monotonic()
    sent = ask("sim/echo", "hé", headers={"x-session-id": "s", "x-parent-session-id": "p"}).request

    (recorded,) = simulator.requests
    assert (recorded.method, recorded.path, recorded.query) == ("POST", "/v1/chat/completions", "")
    assert recorded.body == sent.content
    assert recorded.json["messages"] == [{"role": "user", "content": "hé"}]
    assert (recorded.model, recorded.session_id, recorded.parent_session_id) == (
        "sim/echo",
        "s",
        "p",
    )
    assert recorded.headers["Authorization"] == f"Bearer {simulator.api_token}"
    assert before <= recorded.time <= time.monotonic()


def test_refused_and_odd_requests_are_recorded_too(simulator: Simulator) -> None:
    with httpx.Client(trust_env=False, verify=False, timeout=WAIT_SECONDS) as client:
        client.post(f"{simulator.base_url}/chat/completions", content=b"[1]")
        client.get(f"{simulator.base_url}/mod%65ls?a=b")
        client.post(f"{simulator.management_url}/nope", content=b"\xff", params={"c": "d"})

    assert [(r.path, r.query, r.json, r.model) for r in simulator.requests] == [
        ("/v1/chat/completions", "", [1], None),
        ("/v1/models", "a=b", None, None),
        ("/nope", "c=d", None, None),
    ]


@pytest.mark.parametrize("shown", [repr(request()), repr(request().headers), str(request())])
def test_the_key_is_kept_but_not_shown(shown: str) -> None:
    assert KEY not in shown
    assert KEY in request().headers["authorization"]


def test_headers_are_read_in_any_case_and_repeated_ones_joined() -> None:
    headers = Headers([(b"A", b"1"), (b"a", b"2"), (b"X-Api-Key", b"secret")])

    assert headers["a"] == headers["A"] == "1, 2"
    assert (len(headers), list(headers)) == (2, ["a", "x-api-key"])
    assert "b" not in headers
    assert repr(headers) == "Headers({'a': '1, 2', 'x-api-key': '***'})"


def test_the_recorder_drops_the_oldest_beyond_its_bounds() -> None:
    recorder = Recorder(max_requests=3, max_bytes=10)

    def kept() -> list[str]:
        return [request.path for request in recorder.all()]

    for path in "abcd":
        recorder.add(request(path))
    assert kept() == ["b", "c", "d"]
    recorder.add(request("e", b"12345678"))
    recorder.add(request("f", b"123"))
    assert kept() == ["f"]
    recorder.add(request("g", b"more than the bound"))
    assert kept() == ["g"]
    recorder.clear()
    recorder.add(request("h", b"1234567890"))
    assert kept() == ["h"]
