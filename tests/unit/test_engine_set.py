"""Which engine a prompt gets, and when an engine is made."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from typing import Any

import pytest

from chutes_opencode import engine_set
from chutes_opencode.catalog.providers import find_provider
from chutes_opencode.engine_set import (
    EngineSet,
    choose_engine,
    default_places,
    pool_limits,
    shared_slots,
)
from chutes_opencode.engines.direct import DirectEngine
from chutes_opencode.engines.pool_limits import PoolLimits
from chutes_opencode.engines.run import RunEngine
from chutes_opencode.engines.serve import ServeEngine
from chutes_opencode.errors import ConfigurationError, OpenCodeNotFoundError
from chutes_opencode.opencode.binary import Binary
from chutes_opencode.opencode.config import Target
from chutes_opencode.opencode.sessions import SessionStore
from chutes_opencode.options import Options
from chutes_opencode.settings import Settings, load_settings
from tests.patience import WAIT_SECONDS

KEY = "cpk_unit.test.key.of.nobody"
CHUTES = find_provider("chutes")


def options(**fields: Any) -> Options:
    return Options(model="m", system_message="", provider=CHUTES, **fields)


class Catalog:
    """Knows no model."""

    known = ()


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    place = {"CHUTES_OPENCODE_HOME": str(tmp_path), "HOME": str(tmp_path)}
    values = {"api_token": KEY, "base_url": "http://127.0.0.1:1/v1"}
    return load_settings(environ=place, cwd=tmp_path, **values)


@pytest.fixture
def engines(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> EngineSet:
    newer = Binary(Path("/opt/opencode"), "99.0.0")
    monkeypatch.setattr(engine_set, "find_binary", lambda *_args: newer)
    return EngineSet(settings, CHUTES, Catalog(), {"PATH": "/bin"})  # type: ignore[arg-type]


# --- the choice ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("asked", "single", "keeper", "chosen"),
    [
        pytest.param({}, True, None, "run", id="the first prompt"),
        pytest.param({}, False, None, "serve", id="a later prompt, or a batch"),
        pytest.param({}, True, "serve", "serve", id="a session that a server keeps"),
        pytest.param({}, False, "run", "run", id="a session that a process keeps"),
        pytest.param({"relay": False}, False, None, "run", id="the guard bounds one prompt"),
        pytest.param({"isolation": "prompt"}, False, None, "run", id="a process for each"),
        pytest.param({"extra_cli_args": ("--variant", "x")}, False, None, "run", id="arguments"),
        pytest.param({"engine": "run"}, False, "serve", "run", id="run, asked for"),
        pytest.param({"engine": "serve"}, True, None, "serve", id="serve, asked for"),
        pytest.param({"engine": "direct"}, True, None, "direct", id="direct, asked for"),
    ],
)
def test_auto_is_the_best_that_does_it(
    asked: dict[str, Any], single: bool, keeper: str | None, chosen: str
) -> None:
    assert choose_engine(options(**asked), single=single, keeper=keeper) == chosen


def test_only_the_first_single_prompt_gets_a_process(engines: EngineSet) -> None:
    chosen = [engines.choose(options(), None, single=True) for _ in range(3)]

    assert chosen == ["run", "serve", "serve"]


def test_after_a_batch_no_prompt_is_the_first(engines: EngineSet) -> None:
    chosen = [engines.choose(options(), None, single=single) for single in (False, True)]

    assert chosen == ["serve", "serve"]


def test_a_kept_session_stays_with_its_engine(engines: EngineSet, settings: Settings) -> None:
    store = SessionStore(settings.home / "sessions")
    card = store.place(None, engine="run", version="1")
    store.keep_document("ses_1", card, "{}")

    assert engines.choose(options(), None, single=False) == "serve"
    assert engines.choose(options(), "ses_1", single=False) == "run"


# --- making --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "kind"), [("run", RunEngine), ("serve", ServeEngine), ("direct", DirectEngine)]
)
def test_an_engine_is_made_once(engines: EngineSet, name: str, kind: type) -> None:
    async def main() -> tuple[object, object]:
        return await engines.get(name), await engines.get(name)

    first, second = asyncio.run(main())

    assert first is second
    assert type(first) is kind
    assert first.name == name  # type: ignore[attr-defined]


def test_everything_is_made_from_the_settings(engines: EngineSet, settings: Settings) -> None:
    engine = asyncio.run(engines.get("run"))

    assert isinstance(engine, RunEngine)
    assert engine.target() == Target(CHUTES, "http://127.0.0.1:1/v1", ())
    assert engine.key() == KEY
    assert engine.temp_root == settings.temp_dir
    assert engine.patience.tool_seconds == settings.tool_seconds


def test_direct_needs_no_opencode(engines: EngineSet, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*_args: object) -> Binary:
        raise OpenCodeNotFoundError(raw_message="no opencode")

    monkeypatch.setattr(engine_set, "find_binary", missing)

    assert asyncio.run(engines.get("direct")).name == "direct"
    with pytest.raises(OpenCodeNotFoundError):
        asyncio.run(engines.get("serve"))


def test_a_newer_opencode_is_told_once_and_only_when_it_is_used(engines: EngineSet) -> None:
    before = engines.take_warning()
    asyncio.run(engines.get("run"))

    assert (before, "newer" in engines.take_warning(), engines.take_warning()) == ("", True, "")


@pytest.mark.parametrize("name", ["run", "serve", "direct"])
def test_a_closed_set_makes_no_engine_that_nobody_closes(engines: EngineSet, name: str) -> None:
    async def main() -> None:
        await engines.get("direct")
        await engines.close()
        with pytest.raises(ConfigurationError, match="closed while the prompt ran"):
            await engines.get(name)

    asyncio.run(main())


def test_an_engine_that_is_made_during_the_close_is_closed(
    engines: EngineSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    making, go_on = threading.Event(), threading.Event()
    closed: list[object] = []

    class Slow:
        """An engine that takes a while to be made."""

        def __init__(self) -> None:
            making.set()
            assert go_on.wait(WAIT_SECONDS)

        async def close(self) -> None:
            closed.append(self)

    monkeypatch.setattr(engines, "_make", lambda _name: Slow())

    async def main() -> None:
        getting = asyncio.create_task(engines.get("serve"))
        await asyncio.to_thread(making.wait, WAIT_SECONDS)
        closing = asyncio.create_task(engines.close())
        await asyncio.sleep(0)
        go_on.set()
        await closing
        assert closed == [await getting]

    asyncio.run(main())


def test_a_pool_that_nobody_bounds_has_the_bounds_of_the_settings(settings: Settings) -> None:
    assert pool_limits(settings) == PoolLimits()


# --- places --------------------------------------------------------------------------------------


def test_a_process_is_a_rarer_place_than_a_session(settings: Settings) -> None:
    places = {name: default_places(settings, name) for name in ("run", "serve", "direct")}

    assert places == {"run": settings.max_processes, "serve": 64, "direct": 64}


def test_places_are_shared_within_a_process(monkeypatch: pytest.MonkeyPatch) -> None:
    slots = shared_slots("serve", 987)

    assert shared_slots("direct", 987) is slots
    assert shared_slots("run", 987) is not slots
    assert shared_slots("serve", 986) is not slots

    monkeypatch.setattr(engine_set.os, "getpid", lambda: -1)  # type: ignore[attr-defined]
    assert shared_slots("serve", 987) is not slots
