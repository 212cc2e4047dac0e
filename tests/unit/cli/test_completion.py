"""What the shell completes: from files alone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from chutes_opencode.cli.completion import complete_models, complete_providers

Run = Callable[..., Any]


def complete(incomplete: str, provider: str | None = None) -> list[str]:
    return complete_models(SimpleNamespace(params={"provider": provider}), incomplete)


@pytest.fixture
def kept(run: Run, server: Any) -> Any:
    """A list in the cache; whoever asks the provider again is caught."""
    server.rows = [{"id": "Qwen/a"}, {"id": "Qwen/b"}, {"id": "chatty/c"}]
    run("models", "refresh")
    server.paths.clear()
    return server


@pytest.mark.parametrize(
    ("incomplete", "shown"),
    [
        ("", ["chutes/Qwen/a", "chutes/Qwen/b", "chutes/chatty/c"]),
        ("chutes/Q", ["chutes/Qwen/a", "chutes/Qwen/b"]),
        ("Qwen/", ["Qwen/a", "Qwen/b"]),
        ("chat", ["chatty/c"]),
        ("chu", ["chutes/Qwen/a", "chutes/Qwen/b", "chutes/chatty/c"]),
        ("nothing", []),
    ],
)
def test_models_are_those_of_the_cache(kept: Any, incomplete: str, shown: list[str]) -> None:
    assert complete(incomplete) == shown
    assert kept.paths == []


def test_the_settings_choice_counts(kept: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHUTES_OPENCODE_MODEL_FILTER", "*a")
    monkeypatch.setenv("CHUTES_OPENCODE_EXTRA_MODELS", "my-alias")

    assert complete("") == ["chutes/Qwen/a", "chutes/my-alias"]


def test_without_a_cache_they_are_the_registrys(home: Path) -> None:
    assert "chutes/Qwen/Qwen3-32B-TEE" in complete("")
    assert "perplexity/sonar" in complete("", "perplexity")


@pytest.mark.parametrize("provider", ["nobody", "openai-compatible"])
def test_whatever_is_wrong_shows_nothing(home: Path, provider: str) -> None:
    assert complete("", provider) == []


def test_providers_are_those_of_the_registry(home: Path) -> None:
    assert complete_providers("open") == ["openrouter", "openai", "openai-compatible"]


def test_a_malformed_file_completes_nothing(home: Path) -> None:
    Path("chutes-opencode.toml").write_text("retries = 0")

    assert complete_providers("") == []
