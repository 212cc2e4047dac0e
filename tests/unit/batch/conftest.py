"""An instance whose provider is a simulator in this process."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from chutes_opencode import ChutesOpenCodeLLM, Simulator, load_settings
from tests.unit.batch.estimating import MODEL


@pytest.fixture
def simulator() -> Iterator[Simulator]:
    with Simulator({"models": [{"id": "acme/free", "context_length": 1000}]}) as simulator:
        yield simulator


@pytest.fixture
def make_llm(simulator: Simulator, tmp_path: Path) -> Callable[..., ChutesOpenCodeLLM]:
    """Make an instance that would ask the simulator; no engine is started."""

    def make(model: str | None = MODEL, **arguments: Any) -> ChutesOpenCodeLLM:
        settings = load_settings(
            base_url=simulator.base_url,
            management_url=simulator.management_url,
            api_token=simulator.api_token,
            home=tmp_path / "home",
        )
        return ChutesOpenCodeLLM(model, settings=settings, **{"builtin_tools": False} | arguments)

    return make
