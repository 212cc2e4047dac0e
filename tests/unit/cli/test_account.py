"""Whom the key is shown to, and what the answers mean."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest

from chutes_opencode.cli.account import check_key
from chutes_opencode.errors import AuthenticationError
from chutes_opencode.settings import Settings, load_settings

KEY = "cpk_account_test_0001"


def settings(tmp_path: Path, **overrides: str) -> Settings:
    return load_settings(environ={"HOME": str(tmp_path)}, cwd=tmp_path, **overrides)


@pytest.mark.parametrize(
    ("status", "verdict"),
    [(200, "accepted"), (401, "refused"), (403, "refused"), (302, "unknown"), (500, "unknown")],
)
def test_the_answer_of_the_management_api_counts(tmp_path: Path, status: int, verdict: str) -> None:
    seen: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        return httpx.Response(status, headers={"location": "https://evil.example/"})

    checked = check_key(settings(tmp_path, api_token=KEY), transport=httpx.MockTransport(answer))

    assert checked.verdict == verdict
    (request,) = seen
    assert str(request.url) == "https://api.chutes.ai/users/me"
    assert request.headers["authorization"] == f"Bearer {KEY}"


def test_without_a_network_nothing_is_known(tmp_path: Path) -> None:
    def fail(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("no network", request=request)

    checked = check_key(settings(tmp_path, api_token=KEY), transport=httpx.MockTransport(fail))

    assert checked.verdict == "unknown"
    assert "no network" in checked.detail


@pytest.mark.parametrize("management_url", [None, "https://llm.example.org/api"])
def test_another_host_is_not_asked(tmp_path: Path, management_url: str | None) -> None:
    urls = {"base_url": "https://llm.example.org/v1"}
    urls |= {"management_url": management_url} if management_url else {}

    def never(request: httpx.Request) -> httpx.Response:
        raise AssertionError(f"the key was sent to {request.url}")

    checked = check_key(
        settings(tmp_path, api_token=KEY, **urls), transport=httpx.MockTransport(never)
    )

    assert checked.verdict == "unknown"


def test_a_key_that_cannot_be_one_is_not_sent(tmp_path: Path) -> None:
    with pytest.raises(AuthenticationError):
        check_key(settings(tmp_path, api_token="two words"))
