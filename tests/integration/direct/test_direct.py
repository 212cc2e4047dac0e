"""DirectEngine before the simulator: the whole way of a prompt but opencode."""

from __future__ import annotations

import asyncio
import base64
import time

import pytest

from chutes_opencode import (
    Params,
    PromptTimeoutError,
    RateLimitError,
    ServerError,
)
from chutes_opencode.events import Event, StepRestarted, TextDelta
from chutes_opencode.request import ChatMessage, FilePart, PromptRequest
from tests.integration.direct.stage import ATTEMPTS, QUICK, MakeStage, Stage, verdict
from tests.integration.test_faults import EXPECTED
from tests.integration.test_files import PDF, png
from tests.patience import longer_and_longer

# --- a chat ---------------------------------------------------------------------------------------


def test_a_prompt_is_answered_and_billed(stage: Stage) -> None:
    result = stage.call("Say this.", "sim/echo")

    assert result.success
    assert (result.result, result.finish_reason, result.returncode) == ("Say this.", "stop", 0)
    assert result.usage.num_requests == result.usage.num_turns == 1
    assert [attempt.engine for attempt in result.attempts] == ["direct"]
    assert result.session_id is None
    assert result.cost_usd == pytest.approx(stage.billed(), abs=1e-12)


def test_reasoning_is_told_apart(stage: Stage) -> None:
    evidence = stage.run("hello", "sim/reasoning")

    assert evidence.transcript.text == "hello"
    assert "[Thinking]\n" in evidence.transcript.trace
    assert evidence.transcript.usage.reasoning > 0


def test_parameters_and_history_and_the_system_message_arrive(stage: Stage) -> None:
    history = (ChatMessage("user", "a"), ChatMessage("assistant", "b"))
    params = Params(0.5, seed=7, stop="zz", reasoning_effort="low", extra_body={"top_k": 3})

    stage.run("hello", history=history, params=params, system_message="Be kind.")

    (body,) = stage.bodies
    messages = [(row["role"], row["content"]) for row in body.pop("messages")]
    assert messages == [
        ("system", "Be kind."),
        ("user", "a"),
        ("assistant", "b"),
        ("user", "hello"),
    ]
    assert body == {
        "model": "sim/echo",
        "max_tokens": 1000,
        "temperature": 0.5,
        "seed": 7,
        "stop": "zz",
        "reasoning_effort": "low",
        "top_k": 3,
        "stream": True,
        "stream_options": {"include_usage": True},
    }


def test_images_and_papers_arrive_as_opencode_sends_them(stage: Stage) -> None:
    image, paper = (
        FilePart("a.png", png(), "image/png"),
        FilePart("p.pdf", PDF, "application/pdf"),
    )

    evidence = stage.run("What is it?", "sim/vision", attachments=(image, paper))

    first, second, text = stage.bodies[0]["messages"][-1]["content"]
    assert base64.b64decode(first["image_url"]["url"].partition(",")[2]) == png()
    assert base64.b64decode(second["file"]["file_data"].partition(",")[2]) == PDF
    assert text == {"type": "text", "text": "What is it?"}
    assert evidence.transcript.text == "What is it?"


def test_deltas_come_while_the_answer_is_written(make_stage: MakeStage) -> None:
    stage = make_stage({"rules": [{"model": "sim/echo", "token_delay_s": 0.05}]})
    arrived: list[float] = []
    terms = stage.terms("sim/echo")

    def observe(event: Event) -> None:
        stage.events.append(event)
        if isinstance(event, TextDelta):
            arrived.append(time.monotonic())

    prompt = "one two three four five six seven"
    asyncio.run(
        stage.engine.run(PromptRequest(prompt, "sim/echo"), observe, lambda _seen: True, terms)
    )

    texts = [event.text for event in stage.events if isinstance(event, TextDelta)]
    assert "".join(texts) == prompt
    assert len(texts) > 3
    assert arrived[-1] - arrived[0] >= 0.05 * (len(texts) - 2), "they came one after the other"


# --- faults ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", [name for name in EXPECTED if name != "endless-tools"])
def test_a_lasting_fault_is_typed_bounded_and_billed(fault: str, stage: Stage) -> None:
    evidence = stage.run(model=f"sim/fault/{fault}", changes={"tries_left": ATTEMPTS})

    found = verdict(evidence)
    assert isinstance(found.error, EXPECTED[fault])
    passing = isinstance(found.error, RateLimitError | ServerError)
    repeated = passing and fault != "unknown-finish-reason"
    assert len(stage.bodies) == found.usage.num_requests == (ATTEMPTS if repeated else 1)
    assert found.cost_usd == pytest.approx(stage.billed(), abs=1e-12)


@pytest.mark.parametrize("fault", ["500-exhausted", "stream-close", "empty-stream", "429-capacity"])
def test_a_fault_that_passes_costs_one_more_request_and_no_answer(
    make_stage: MakeStage, fault: str
) -> None:
    stage = make_stage({"rules": [{"model": "sim/echo", "fault": fault, "times": 1}]})

    result = stage.call("hello there", "sim/echo")

    assert result.result == "hello there"
    assert [attempt.scope for attempt in result.attempts] == ["request", "prompt"]
    assert len(stage.bodies) == result.usage.num_requests == 2
    restarts = [event for event in stage.events if isinstance(event, StepRestarted)]
    assert len(restarts) == (fault == "stream-close")


def test_a_call_makes_never_more_requests_than_retries(stage: Stage) -> None:
    with pytest.raises(ServerError) as raised:
        stage.call("hello", "sim/fault/stream-close")

    assert len(stage.bodies) == QUICK.retries
    assert raised.value.result is not None
    assert raised.value.result.usage.num_requests == QUICK.retries


@pytest.mark.parametrize("fault", ["stream-stall", "stream-stall-first-byte"])
def test_silence_ends_with_the_timeout(fault: str, stage: Stage) -> None:
    for seconds in longer_and_longer(1):
        evidence = stage.run(model=f"sim/fault/{fault}", timeout_seconds=seconds)
        if stage.bodies:
            break

    assert evidence.stopped == "timeout"
    assert type(verdict(evidence).error) is PromptTimeoutError
    assert len(stage.bodies) == 1
