"""What an instance tells its user besides the answer."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any, cast

import pytest

from chutes_opencode.catalog.cache import Cache
from chutes_opencode.catalog.discovery import Fetched
from chutes_opencode.catalog.lookup import ModelLookup
from chutes_opencode.catalog.models import Model
from chutes_opencode.catalog.providers import Provider
from chutes_opencode.errors import ModelNotFoundError
from chutes_opencode.llm import ChutesOpenCodeLLM
from chutes_opencode.runtime import Runtime
from chutes_opencode.settings import Settings, load_settings


def test_an_opencode_newer_than_tested_is_a_warning_told_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    async def fetch(*_args: object, **_options: object) -> Fetched:
        return Fetched((Model("m"),), ({"id": "m"},))

    def make(settings: Settings, provider: Provider, **_options: object) -> Runtime:
        cache = Cache(tmp_path, provider.id, settings.base_url)
        catalog = ModelLookup(provider, settings.base_url, cache=cache, fetch=fetch)
        engine = cast("Any", None)  # an unknown model is refused before it is needed
        slots = asyncio.Semaphore(1)
        warning = "9.9.9 is newer than tested"
        return Runtime(settings, provider, engine, catalog, slots, binary_warning=warning)

    monkeypatch.setattr(Runtime, "make", make)
    settings = load_settings(api_token="cpk_warning_test_01", base_url="http://127.0.0.1:1/v1")
    llm = ChutesOpenCodeLLM("no/such", settings=settings)

    for _ in range(2):
        with pytest.raises(ModelNotFoundError):
            llm.prompt("hi")

    assert capsys.readouterr().err.count("9.9.9 is newer than tested") == 1
