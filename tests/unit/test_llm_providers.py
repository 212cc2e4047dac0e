"""An instance on another provider: its entry, its URL, its key."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import pytest

from chutes_opencode.errors import ConfigurationError
from chutes_opencode.llm import ChutesOpenCodeLLM
from chutes_opencode.settings import load_settings

KEY = "cpk_unit.test.key.of.nobody"


@pytest.fixture(autouse=True)
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An environment that holds nothing but a home and a key of Chutes."""
    for name in os.environ:
        if name.startswith(("CHUTES_", "OPENCODE_", "XDG_", "OLLAMA_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("CHUTES_API_TOKEN", KEY)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_it_has_the_url_and_key_of_its_provider() -> None:
    llm = ChutesOpenCodeLLM("m", provider="ollama")

    assert (llm.settings.base_url, llm.settings.api_token) == ("http://localhost:11434/v1", None)
    assert "provider='ollama'" in repr(llm)
    assert pickle.loads(pickle.dumps(llm)).settings.require_token() == ""


def test_a_url_for_one_instance_wins() -> None:
    lan = "http://192.168.1.20:11434/v1"

    assert ChutesOpenCodeLLM(provider="ollama", base_url=lan).settings.base_url == lan
    assert ChutesOpenCodeLLM(base_url="http://127.0.0.1:1/v1").settings.require_token() == KEY
    loaded = load_settings(base_url="http://127.0.0.1:2/v1")
    assert ChutesOpenCodeLLM(provider="ollama", settings=loaded).settings.base_url == (
        "http://127.0.0.1:2/v1"
    )


def test_settings_of_another_instance_lead_to_the_provider_that_is_asked_for() -> None:
    ollama = ChutesOpenCodeLLM(provider="ollama", retries=7)

    chutes = ChutesOpenCodeLLM(settings=ollama.settings)

    assert chutes.settings.base_url == "https://llm.chutes.ai/v1"
    assert (chutes.settings.require_token(), chutes.settings.retries) == (KEY, 7)


def test_a_file_adds_a_provider(machine: Path) -> None:
    path = machine / "mine.toml"
    path.write_text("[providers.mine]\nbase_url = 'http://127.0.0.1:3/v1'\n")

    llm = ChutesOpenCodeLLM(provider="mine", settings=load_settings(providers_file=path))

    assert llm.settings.base_url == "http://127.0.0.1:3/v1"


@pytest.mark.parametrize(
    ("arguments", "flaw"),
    [
        ({"provider": "olama"}, "unknown provider 'olama'; did you mean ollama?"),
        ({"provider": None}, "provider must be a string"),
        ({"base_url": 7}, "base_url must be a URL"),
        ({"base_url": "host"}, "argument: base_url: should be a URL like https://host/v1"),
        ({"provider": "openai-compatible"}, "no base_url is known for provider"),
    ],
)
def test_what_leads_nowhere_is_refused_at_once(arguments: dict[str, str], flaw: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        ChutesOpenCodeLLM(**arguments)  # type: ignore[arg-type]

    assert flaw in caught.value.raw_message
