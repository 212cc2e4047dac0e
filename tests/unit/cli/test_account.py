"""`account`, and whom the key is shown to."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from chutes_opencode.catalog import account as management
from chutes_opencode.catalog.account import Account, Cap, KeyCheck
from chutes_opencode.cli.account import account_lines, check_key, management_api
from chutes_opencode.errors import AuthenticationError, ConfigurationError
from chutes_opencode.settings import Settings, load_settings

Run = Callable[..., Any]

KEY = "cpk_account_test_0001"
NOW = datetime(2026, 8, 22, 13, 30, tzinfo=UTC)
AT = datetime(2026, 8, 22, 16, tzinfo=UTC)


def settings(tmp_path: Path, **overrides: str) -> Settings:
    return load_settings(environ={"HOME": str(tmp_path)}, cwd=tmp_path, **overrides)


def test_the_account_is_printed_a_line_each(run: Run) -> None:
    result = run("account", "--simulate")

    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    assert lines[0] == "balance         100.00 USD"
    assert lines[1].startswith("requests today  0 of 5,000, resets in ")
    assert lines[2].startswith("spent, 4 hours  0.00 of 20.00 USD, resets in ")
    assert lines[3].startswith("spent, month    0.00 of 200.00 USD, resets in ")


def test_json_has_every_number(run_json: Run) -> None:
    code, shown = run_json("account", "--simulate")

    assert (code, shown["ok"], shown["provider"]) == (0, True, "chutes")
    assert shown["balance_usd"] == 100
    assert shown["quota"]["limit"] == 5000
    assert [cap["window"] for cap in shown["caps"]] == ["4 hours", "month"]
    assert shown["caps"][0]["reset_at"].endswith("+00:00")


@pytest.mark.parametrize(
    ("told", "lines"),
    [
        (
            Account(),
            [("balance", "unknown"), ("requests today", "-"), ("caps", "none")],
        ),
        (
            Account(1.5, used=7, caps=(Cap("month", 3.0), Cap("4 hours", 0.25, 20, 19, AT))),
            [
                ("balance", "1.50 USD"),
                ("requests today", "7"),
                ("spent, month", "3.00 USD, no cap"),
                ("spent, 4 hours", "0.25 of 20.00 USD, resets in 2.5 h (2026-08-22 16:00 UTC)"),
            ],
        ),
        (
            Account(0, 10, 10, datetime(2026, 8, 22, tzinfo=UTC)),
            [
                ("balance", "0.00 USD"),
                ("requests today", "10 of 10, reset at 2026-08-22 00:00 UTC"),
                ("caps", "none"),
            ],
        ),
    ],
)
def test_what_is_not_told_is_not_made_up(told: Account, lines: list[tuple[str, str]]) -> None:
    assert account_lines(told, now=NOW) == lines


def test_a_part_that_is_missing_is_a_warning(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    told = Account(balance_usd=5, problems=("no quota",))
    monkeypatch.setattr(management, "fetch_account", lambda api: told)

    result = run("account", "--simulate")

    assert result.exit_code == 0
    assert "balance         5.00 USD" in result.stdout
    assert result.stderr == "warning: no quota\n"


@pytest.mark.parametrize(
    ("environ", "code", "said"),
    [
        ({}, 3, "no Chutes API key"),
        ({"CHUTES_API_KEY": KEY, "CHUTES_BASE_URL": "http://127.0.0.1:9/v1"}, 7, "cannot be asked"),
        ({"CHUTES_API_KEY": KEY, "CHUTES_BASE_URL": "https://x.example/v1"}, 2, "no management"),
    ],
)
def test_each_failure_has_its_exit_code(
    run: Run, monkeypatch: pytest.MonkeyPatch, environ: dict[str, str], code: int, said: str
) -> None:
    for name, value in environ.items():
        monkeypatch.setenv(name, value)

    result = run("account")

    assert (result.exit_code, result.stdout) == (code, "")
    assert said in result.stderr
    assert "fix: " in result.stderr


def test_another_provider_has_no_account(run: Run) -> None:
    assert run("account", "--provider", "ollama").exit_code == 2


@pytest.mark.parametrize("management_url", [None, "https://llm.example.org/api"])
def test_the_key_of_another_host_is_not_judged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, management_url: str | None
) -> None:
    urls = {"base_url": "https://llm.example.org/v1"}
    urls |= {"management_url": management_url} if management_url else {}

    def never(api: object) -> KeyCheck:
        raise AssertionError(f"the key was sent to {api}")

    monkeypatch.setattr(management, "check_key", never)

    assert check_key(settings(tmp_path, api_token=KEY, **urls)).verdict == "unknown"
    with pytest.raises(ConfigurationError, match="no management API"):
        management_api(settings(tmp_path, api_token=KEY, **urls), "Mine")


def test_a_key_that_cannot_be_one_is_not_sent(tmp_path: Path) -> None:
    with pytest.raises(AuthenticationError):
        check_key(settings(tmp_path, api_token="two words"))
