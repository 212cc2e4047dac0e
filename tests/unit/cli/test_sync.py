"""`models refresh`, `diff` and `clear-cache`: what has changed, and what is kept."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

Run = Callable[..., Any]


def row(name: str, price: float = 1.0) -> dict[str, Any]:
    return {"id": name, "pricing": {"prompt": price, "completion": 2 * price}}


BEFORE = [row("a/old"), row("a/x"), row("a/p")]
AFTER = [row("a/x-TEE"), row("a/p", 3), row("a/new")]
CHANGES = [
    "new      chutes/a/new",
    "gone     chutes/a/old",
    "renamed  chutes/a/x → chutes/a/x-TEE",
    "price    chutes/a/p: in 1.00, out 2.00 → in 3.00, out 6.00",
]


@pytest.fixture(autouse=True)
def _models(server: Any) -> None:
    server.rows = BEFORE


class TestRefresh:
    def test_the_first_one_has_nothing_to_compare_with(self, run: Run) -> None:
        result = run("models", "refresh")

        assert result.exit_code == 0
        first, second = result.stdout.splitlines()
        assert first.startswith("Chutes: 3 models, source: api, age: 0 s, took 0.")
        assert second == "there was no list before"
        assert result.stderr == ""

    def test_what_has_changed_is_a_line_each(self, run: Run, server: Any) -> None:
        run("models", "refresh")
        server.rows = AFTER

        assert run("models", "refresh").stdout.splitlines()[1:] == CHANGES
        assert run("models", "refresh").stdout.splitlines()[1:] == ["nothing has changed"]

    def test_json(self, run_json: Run, server: Any) -> None:
        code, shown = run_json("models", "refresh")
        assert (code, shown["source"], shown["changes"]) == (0, "api", None)

        server.rows = AFTER
        code, shown = run_json("models", "refresh")
        assert shown["changes"]["new"] == ["a/new"]

    def test_a_refresh_is_seen_at_the_next_look(self, run: Run, server: Any) -> None:
        run("models", "list")
        server.rows = AFTER
        assert "a/old" in run("models", "list").stdout

        run("models", "refresh")

        assert "a/old" not in run("models", "list").stdout

    def test_a_failure_keeps_the_list_and_says_so(self, run: Run, server: Any) -> None:
        run("models", "refresh")
        server.status = 404

        result = run("models", "refresh")

        assert (result.exit_code, result.stdout) == (7, "")
        assert "HTTP 404" in result.stderr
        assert "Until then the list of 0 s ago is used." in result.stderr
        assert "chutes/a/old" in run("models", "list").stdout

    @pytest.mark.parametrize("token", ["cpk_cli_test_0001", ""])
    def test_a_list_for_good_keys_only_is_a_matter_of_the_key(
        self, run: Run, server: Any, monkeypatch: pytest.MonkeyPatch, token: str
    ) -> None:
        monkeypatch.setenv("CHUTES_API_TOKEN", token)
        server.status = 401

        result = run("models", "refresh")

        assert result.exit_code == 3
        assert "HTTP 401" in result.stderr
        assert "fix: Set CHUTES_API_TOKEN to a valid key" in result.stderr

    def test_a_failure_without_a_list_says_what_is_used(self, run: Run, server: Any) -> None:
        server.status = 404

        result = run("models", "refresh")

        assert result.exit_code == 7
        assert "Until then the registry's own names are used." in result.stderr

    def test_a_failure_without_any_name_says_that(
        self, run: Run, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("OLLAMA_BASE_URL", "http://127.0.0.1:9/v1")

        result = run("models", "refresh", "--provider", "ollama")

        assert result.exit_code == 7
        assert "Until then there are no models." in result.stderr

    def test_a_provider_that_offers_no_list_says_so(self, run: Run) -> None:
        for command in ("refresh", "diff"):
            result = run("models", command, "--provider", "perplexity")

            assert result.exit_code == 2
            assert "Perplexity offers no list" in result.stderr

    def test_a_refused_key_is_a_warning_where_the_list_is_public(
        self, run: Run, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("CHUTES_API_TOKEN", "schlüssel eins")

        result = run("models", "refresh")

        assert result.exit_code == 0
        assert "warning: the key has " in result.stderr


class TestDiff:
    def test_it_compares_with_what_is_kept_and_keeps_nothing(self, run: Run, server: Any) -> None:
        run("models", "refresh")
        server.rows = AFTER

        result = run("models", "diff")

        assert (result.exit_code, result.stdout.splitlines()) == (0, CHANGES)
        assert result.stderr.startswith("since 20")
        assert run("models", "diff").stdout.splitlines() == CHANGES

    def test_after_a_refresh_it_tells_of_the_list_before(self, run: Run, server: Any) -> None:
        run("models", "refresh")
        server.rows = AFTER
        run("models", "refresh")

        assert run("models", "diff").stdout.splitlines() == CHANGES

    def test_where_nothing_is_different_it_says_so(self, run: Run, run_json: Run) -> None:
        run("models", "refresh")

        assert run("models", "diff").stdout == "nothing has changed\n"
        code, shown = run_json("models", "diff")
        assert (code, shown["new"], shown["gone"]) == (0, [], [])
        assert shown["since"] > 0

    def test_without_a_list_there_is_nothing_to_compare_with(self, run: Run) -> None:
        result = run("models", "diff")

        assert (result.exit_code, result.stdout) == (0, "")
        assert "models refresh" in result.stderr

    def test_a_list_that_cannot_be_fetched_is_told_beside_older_changes(
        self, run: Run, server: Any
    ) -> None:
        run("models", "refresh")
        server.rows = AFTER
        run("models", "refresh")
        server.status = 404

        result = run("models", "diff")

        assert (result.exit_code, result.stdout.splitlines()) == (0, CHANGES)
        assert "warning: " in result.stderr

    def test_without_network_it_is_an_error(self, run: Run, server: Any) -> None:
        run("models", "refresh")
        server.status = 404

        result = run("models", "diff")

        assert (result.exit_code, result.stdout) == (7, "")
        assert "HTTP 404" in result.stderr


class TestClearCache:
    def test_the_list_is_forgotten_without_asking_anybody(
        self, run: Run, run_json: Run, server: Any
    ) -> None:
        run("models", "refresh")

        assert run("models", "clear-cache").stdout == "Chutes: the kept list is forgotten\n"
        assert run("models", "clear-cache").stdout == "Chutes: there was no list\n"
        assert run_json("models", "clear-cache") == (
            0,
            {"ok": True, "provider": "chutes", "cleared": False},
        )
        assert server.paths == ["/v1/models"]


def test_the_log_is_shown_to_those_who_ask_for_it(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CHUTES_OPENCODE_LOG_LEVEL", "info")

    assert "model list fetched" in run("models", "refresh").stderr
