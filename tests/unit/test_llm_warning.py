"""What an instance tells its user besides the answer."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest

from chutes_opencode.catalog.catalog import Catalog
from chutes_opencode.catalog.discovery import Listing
from chutes_opencode.catalog.models import Model
from chutes_opencode.catalog.providers import Provider
from chutes_opencode.errors import ModelNotFoundError
from chutes_opencode.llm import ChutesOpenCodeLLM
from chutes_opencode.runtime import Runtime
from chutes_opencode.settings import Settings, load_settings


def test_an_opencode_newer_than_tested_is_a_warning_told_once(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    async def fetch(_url: str, _token: str | None) -> Listing:
        return Listing((Model("m"),))

    def make(settings: Settings, provider: Provider) -> Runtime:
        catalog = Catalog(settings.base_url, fetch=fetch)
        engine = cast("Any", None)  # an unknown model is refused before it is needed
        slots = asyncio.Semaphore(1)
        return Runtime(settings, provider, engine, catalog, slots, "9.9.9 is newer than tested")

    monkeypatch.setattr(Runtime, "make", make)
    settings = load_settings(api_token="cpk_warning_test_01", base_url="http://127.0.0.1:1/v1")
    llm = ChutesOpenCodeLLM("nope", settings=settings)

    for _ in range(2):
        with pytest.raises(ModelNotFoundError):
            llm.prompt("hi")

    assert capsys.readouterr().err.count("9.9.9 is newer than tested") == 1
