"""ChutesOpenCodeLLM on a fake engine: prompts, streams, batches, and what travels in a pickle."""

from __future__ import annotations

import asyncio
import logging
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cloudpickle  # type: ignore[import-untyped]
import pytest

from chutes_opencode.errors import (
    BillingError,
    ConfigurationError,
    InvalidRequestError,
    ModelNotFoundError,
    OpenCodeError,
    PromptTimeoutError,
)
from chutes_opencode.events import (
    AttemptEnded,
    Done,
    Event,
    PromptCancelled,
    PromptFailed,
    PromptStarted,
    TextDelta,
)
from chutes_opencode.llm import ChutesOpenCodeLLM
from chutes_opencode.request import Limits, McpServer, Params
from tests.patience import WAIT_SECONDS
from tests.unit.echo import KEY, EchoEngine, set_up_echo


@pytest.fixture
def engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> EchoEngine:
    return set_up_echo(tmp_path, monkeypatch)


def llm(**arguments: Any) -> ChutesOpenCodeLLM:
    return ChutesOpenCodeLLM(**{"model": "m"} | arguments)


# --- prompts -------------------------------------------------------------------------------------


def test_a_prompt_is_answered(engine: EchoEngine) -> None:
    result = llm().prompt("hi")

    assert (result.result, result.success, result.model) == ("re: hi", True, "m")


def test_a_prompt_is_answered_on_any_event_loop(engine: EchoEngine) -> None:
    async def main() -> list[str]:
        instance = llm()
        results = await asyncio.gather(*(instance.aprompt(prompt) for prompt in "abc"))
        return [result.result for result in results] + [instance.prompt("sync").result]

    assert asyncio.run(main()) == ["re: a", "re: b", "re: c", "re: sync"]


def test_an_instances_values_reach_the_engine_and_a_prompts_own_win(engine: EchoEngine) -> None:
    web, files = McpServer("web", url="http://h"), McpServer("files", url="http://f")
    instance = llm(
        system_message="Be brief.",
        params=Params(seed=1),
        tools=[web],
        timeout_seconds=5,
        limits=Limits(max_requests=7),
        work_dir="/w",
    )

    instance.prompt("a")
    instance.prompt("b", params=Params(seed=2), tools=[files], work_dir="/v")

    first, second = engine.requests
    assert (first.system_message, first.max_requests) == ("Be brief.", 7)
    assert 4 < first.timeout_seconds <= 5
    assert (first.params.seed, first.tools, first.work_dir) == (1, (web,), Path("/w"))
    assert (second.params.seed, second.tools, second.work_dir) == (2, (files,), Path("/v"))


def test_a_prompts_own_model_and_system_message_reach_the_engine(engine: EchoEngine) -> None:
    instance = llm(model="no/x", system_message="Be brief.")

    result = instance.prompt("a", model="m", system_message=None)

    (request,) = engine.requests
    assert (result.model, request.model, request.system_message) == ("m", "m", None)


def test_the_default_model_is_used_when_none_is_named(
    engine: EchoEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(
        ConfigurationError, match="no model is named; there are for example chutes/m"
    ):
        llm(model=None).prompt("hi")
    monkeypatch.setenv("CHUTES_OPENCODE_DEFAULT_MODEL", "m")

    assert llm(model=None).prompt("hi").model == "m"


@pytest.mark.parametrize(
    ("arguments", "cls"),
    [
        ({"prompt": " "}, InvalidRequestError),
        ({"prompt": "a\0"}, InvalidRequestError),
        ({"prompt": "a", "files": ["none.txt"]}, InvalidRequestError),
        ({"prompt": "a", "output_schema": 5}, ConfigurationError),
        ({"prompt": "a", "params": Params(temperature=-1)}, ConfigurationError),
    ],
)
def test_what_cannot_be_sent_is_refused_before_anything_runs(
    engine: EchoEngine, arguments: dict[str, Any], cls: type[OpenCodeError]
) -> None:
    with pytest.raises(cls):
        llm().prompt(**arguments)

    assert engine.requests == []


def test_an_unknown_model_is_refused_before_anything_runs(engine: EchoEngine) -> None:
    with pytest.raises(ModelNotFoundError):
        llm(model="no/x").prompt("hi")

    assert engine.requests == []


def test_a_cancelled_prompt_has_ended_when_it_raises(engine: EchoEngine) -> None:
    async def main() -> None:
        asking = asyncio.create_task(llm().aprompt("wait"))
        await asyncio.to_thread(engine.began.wait, WAIT_SECONDS)
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        assert engine.ended.is_set()

    asyncio.run(main())


def test_an_observer_is_told_of_a_cancelled_prompt(engine: EchoEngine) -> None:
    seen: list[Event] = []

    async def main() -> None:
        asking = asyncio.create_task(llm(on_event=seen.append).aprompt("wait"))
        await asyncio.to_thread(engine.began.wait, WAIT_SECONDS)
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking

    asyncio.run(main())

    last = seen[-1]
    assert isinstance(last, PromptCancelled)
    assert (last.result.model, last.result.success) == ("m", False)
    assert len(last.result.attempts) == 1


# --- events --------------------------------------------------------------------------------------


def test_a_stream_ends_with_the_result(engine: EchoEngine) -> None:
    text, done = llm().stream("hi")

    assert isinstance(text, TextDelta)
    assert isinstance(done, Done)
    assert (text.text, done.result.result) == ("re: hi", "re: hi")
    assert text.prompt_id == done.prompt_id != ""


def test_a_stream_raises_at_its_end(engine: EchoEngine) -> None:
    with pytest.raises(BillingError):
        list(llm().stream("poor"))


def test_closing_a_stream_ends_the_prompt(engine: EchoEngine) -> None:
    events = llm().stream("wait")
    assert isinstance(next(events), TextDelta)

    events.close()  # type: ignore[attr-defined]

    assert engine.ended.is_set()


def test_an_observer_is_told_everything_of_every_prompt(engine: EchoEngine) -> None:
    seen: list[Event] = []
    instance = llm(on_event=seen.append)

    instance.prompt("hi")
    with pytest.raises(BillingError):
        instance.prompt("poor")

    kinds = [type(event) for event in seen]
    assert kinds[:4] == [PromptStarted, TextDelta, AttemptEnded, Done]
    assert kinds[4:] == [PromptStarted, AttemptEnded, PromptFailed]
    assert len({event.prompt_id for event in seen}) == 2


def test_an_observer_that_fails_costs_no_prompt(
    engine: EchoEngine, capsys: pytest.CaptureFixture[str]
) -> None:
    def observer(_event: Event) -> None:
        raise ValueError("of the observer")

    assert llm(on_event=observer).prompt("hi").success
    assert "of the observer" in capsys.readouterr().err


def test_log_lines_go_to_stderr_at_the_level_that_was_asked(
    engine: EchoEngine, capsys: pytest.CaptureFixture[str]
) -> None:
    llm().prompt("hi")
    assert capsys.readouterr() == ("", "")

    llm(logging_level=logging.INFO, logging_name="mine").prompt("hi")
    captured = capsys.readouterr()

    assert captured.out == ""
    assert "prompt started" in captured.err
    assert "mine" in captured.err
    assert KEY not in captured.err


# --- the readable log ----------------------------------------------------------------------------


def test_every_prompt_of_an_instance_is_in_its_log(engine: EchoEngine, tmp_path: Path) -> None:
    instance = llm(log_dir=tmp_path / "logs", logging_name="mine")

    instance.prompt("hi")
    with pytest.raises(BillingError):
        instance.prompt("poor")

    (path,) = (tmp_path / "logs").glob("mine_*.log")
    text = path.read_text()
    assert "[User Message]\nhi\n\n[Response]\nre: hi" in text
    assert "[User Message]\npoor\n\n[Error]\nbilling_error" in text


def test_a_log_that_cannot_be_written_costs_no_prompt(
    engine: EchoEngine, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    instance = llm(log_dir=tmp_path / "logs")
    (tmp_path / "logs").rmdir()

    assert instance.prompt("hi").success
    assert "log_dir cannot be written" in capsys.readouterr().err


# --- batches -------------------------------------------------------------------------------------


def test_a_batch_keeps_the_order_of_its_items(engine: EchoEngine) -> None:
    results = llm().batch(["a", {"prompt": "b", "params": Params(seed=5)}, "slow", "c"])

    assert [one.result for one in results] == ["re: a", "re: b", "", "re: c"]
    assert isinstance(results[2].error, PromptTimeoutError)
    assert [one.index for one in results] == [0, 1, 2, 3]


def test_a_batch_stops_at_an_account_error(engine: EchoEngine) -> None:
    results = llm().batch(["poor", "a", "b"], concurrency=1)

    assert [type(one.error) for one in results] == [BillingError] * 3
    assert [request.prompt for request in engine.requests] == ["poor"]


def test_map_yields_on_this_thread_and_amap_on_any_loop(engine: EchoEngine) -> None:
    async def main() -> set[str]:
        return {one.result async for one in llm().amap(list("abc"), concurrency=2)}

    assert {one.result for one in llm().map(list("abc"))} == {"re: a", "re: b", "re: c"}
    assert asyncio.run(main()) == {"re: a", "re: b", "re: c"}


def test_an_abandoned_map_ends_what_runs(engine: EchoEngine) -> None:
    # What never ends comes first: it runs while the other's result is waited for.
    results: Iterator[Any] = llm().map(["wait", "a"], concurrency=2)
    next(results)
    assert engine.began.wait(WAIT_SECONDS)

    results.close()  # type: ignore[attr-defined]

    assert engine.ended.is_set()


def test_a_concurrency_of_nothing_is_refused(engine: EchoEngine) -> None:
    with pytest.raises(ConfigurationError, match="concurrency must be at least 1"):
        llm().batch(["a"], concurrency=0)


# --- its life ------------------------------------------------------------------------------------


@pytest.mark.parametrize("pickler", [pickle, cloudpickle])
def test_a_pickle_carries_neither_key_nor_process(engine: EchoEngine, pickler: Any) -> None:
    instance = llm(model="m", system_message="Be brief.", params=Params(seed=1))
    instance.prompt("hi")

    data = pickler.dumps(instance)
    copy = pickle.loads(data)

    assert KEY.encode() not in data
    assert copy.prompt("hi").success
    assert engine.requests[-1].system_message == "Be brief."
    assert engine.requests[-1].params == Params(seed=1)


@pytest.mark.parametrize("pickler", [pickle, cloudpickle])
def test_a_pickle_carries_no_key_that_was_an_argument(engine: EchoEngine, pickler: Any) -> None:
    from chutes_opencode.settings import load_settings

    secret = "another-key-of-nobody"
    data = pickler.dumps(llm(settings=load_settings(api_token=secret)))

    assert secret.encode() not in data
    assert pickle.loads(data).prompt("hi").success


def test_closing_ends_the_engine_and_the_instance_can_be_used_again(engine: EchoEngine) -> None:
    with llm() as instance:
        instance.prompt("hi")
    instance.close()

    assert engine.closed == 1
    assert instance.prompt("hi").success


@pytest.mark.parametrize(("asked", "engine"), [("auto", "serve"), ("run", "run")])
def test_the_setting_names_the_engine_of_those_that_leave_it_open(
    monkeypatch: pytest.MonkeyPatch, asked: str, engine: str
) -> None:
    monkeypatch.setenv("CHUTES_OPENCODE_ENGINE", "serve")

    assert f"engine={engine!r}" in repr(ChutesOpenCodeLLM("m", engine=asked))


def test_its_repr_tells_no_secret(engine: EchoEngine) -> None:
    assert repr(llm()) == "ChutesOpenCodeLLM(model='m', provider='chutes', engine='auto')"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"relay": False, "cache": "c"}, "cache= needs the relay"),
        ({"engine": "fast"}, "engine='fast' is not offered"),
        ({"provider": "acme"}, "unknown provider 'acme'"),
        ({"params": Params(temperature=-1)}, "params.temperature"),
        ({"limits": Limits(max_requests=0)}, "limits.max_requests"),
        ({"timeout_seconds": -1}, "timeout_seconds"),
        ({"timeout_seconds": 0}, "timeout_seconds"),
        ({"retries": 0}, "retries"),
        ({"tools": ["web"]}, "is no tool server"),
        ({"env": {"A=B": "x"}}, "env: "),
        ({"logging_level": "loud"}, "logging_level 'loud'"),
        ({"logging_level": 15}, "logging_level 15"),
    ],
)
def test_what_cannot_be_is_refused_by_the_constructor(
    engine: EchoEngine, arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigurationError) as caught:
        llm(**arguments)

    assert message in caught.value.raw_message
