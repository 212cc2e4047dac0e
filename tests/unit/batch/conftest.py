"""An instance whose provider is a simulator in this process, and places for runs."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from chutes_opencode import ChutesOpenCodeLLM, Simulator, load_settings
from chutes_opencode.batch.store import run_place, shards
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


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let commits follow each other without a pause."""
    monkeypatch.setattr(shards, "PART_SECONDS", 0.0)
    monkeypatch.setattr(run_place, "PART_SECONDS", 0.0)


@pytest.fixture
def memory_url(at_once: None) -> Iterator[str]:
    """A URL whose objects are in the memory of this process."""
    from fsspec.implementations.memory import MemoryFileSystem

    name = f"/runs/{uuid.uuid4().hex}"
    yield f"memory:/{name}"
    files = MemoryFileSystem()
    if files.exists(name):
        files.rm(name, recursive=True)


@pytest.fixture(params=["folder", "memory", "file"])
def place(request: pytest.FixtureRequest, tmp_path: Path, memory_url: str) -> str:
    """A place where no run is yet."""
    folder = tmp_path / "run"
    return {"folder": str(folder), "memory": memory_url, "file": f"file://{folder}"}[request.param]
