"""What opencode writes, read: the run's stream, the export, the log. On output of real runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from chutes_opencode.events import Event, ReasoningDelta, StepEnd, TextDelta, ToolCall, ToolResult
from chutes_opencode.opencode.transcript import (
    event_records,
    json_lines,
    parse_run_error,
    parse_session_id,
    transcript_from_events,
    transcript_from_export,
)
from chutes_opencode.results import (
    Message,
    ReasoningPart,
    TextPart,
    ToolPart,
    Transcript,
    Usage,
)

CAPTURES = Path(__file__).parents[2] / "captures"
OLD, NEW = "opencode-1.15.13", "opencode-1.18.33"
# Every captured turn was billed so: 123 input tokens of which 23 cached, 45 output of which 5
# reasoning.
TURN = Usage(input=100, output=40, reasoning=5, cache_read=23, num_turns=1)


def captured(version: str, name: str) -> str:
    return (CAPTURES / version / name).read_text("utf-8")


# --- the session id -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("version", "name", "session_id"),
    [
        (OLD, "run_ok.jsonl", "ses_e06f9043affefUK9oPRIOXXoii"),
        (OLD, "run_402.jsonl", "ses_e06f8ec4dffeJPAbB9MqMEBaSw"),
        (OLD, "run_tool.jsonl", "ses_e06f8ca4affeWuat5ihq2ws2el"),
        (OLD, "unknown_model.txt", "ses_e06f8e43bffee9Re3zwPXzakV3"),
        (NEW, "run_ok.jsonl", "ses_e06fe32e0ffePnSqYB8y1MBHaP"),
        (NEW, "run_402.jsonl", "ses_e06fc9e7bffeLM01l79kq1Ahgo"),
        (NEW, "run_tool.jsonl", "ses_e06f2d0c3fferj65UO0d6iazpY"),
        (NEW, "run_reasoning_thinking.jsonl", "ses_e06f2c5a9ffejbLCO7dubyWKhM"),
        (NEW, "run_unknown_model.txt", "ses_e06fccb62ffeHyQE78Pup6MpPN"),
        (NEW, "run_unknown_agent.txt", "ses_e06fd243bffep4YB5uF07h3SjV"),
    ],
)
def test_the_session_id_stands_in_the_stream(version: str, name: str, session_id: str) -> None:
    assert parse_session_id(captured(version, name)) == session_id


@pytest.mark.parametrize(
    ("stdout", "session_id"),
    [
        pytest.param('{"sessionID": "ses_a"}\n{"sessionID": "ses_b"}', "ses_a", id="first event"),
        pytest.param('{"part": {"sessionID": "ses_a"}}', "ses_a", id="only in the part"),
        pytest.param('{"x": 1}\n\n{"sessionID": "ses_a"}', "ses_a", id="a later event"),
        pytest.param('  {"sessionID": "ses_a"} \r\n', "ses_a", id="white space around"),
        pytest.param('noise\n{"sessionID": "ses_a"}', "ses_a", id="noise before"),
        pytest.param("Session ses_Ab12 began", "ses_Ab12", id="another shape: scanned for"),
        pytest.param('{"session": "ses_Ab12"}', "ses_Ab12", id="another field: scanned for"),
        pytest.param('{"sessionID": 5}\nses_c', "ses_c", id="no string"),
        pytest.param('{"part": null}', None, id="null part"),
        pytest.param('{"part": "x"}', None, id="part is no object"),
        pytest.param("[1]\n7\nnull", None, id="no objects"),
        pytest.param("xses_abc", None, id="inside a word"),
        pytest.param("", None, id="nothing"),
    ],
)
def test_the_first_session_id_counts_else_the_text_is_scanned(
    stdout: str, session_id: str | None
) -> None:
    assert parse_session_id(stdout) == session_id


# --- the run's error ------------------------------------------------------------------------

UNEXPECTED = "Unexpected server error. Check server logs for details."


@pytest.mark.parametrize(
    ("version", "name", "error_name", "message"),
    [
        (OLD, "unknown_model.txt", "UnknownError", UNEXPECTED),
        (OLD, "run_402.jsonl", "APIError", 'Payment Required: {"detail": "error 402"}'),
        (NEW, "run_unknown_model.txt", "UnknownError", UNEXPECTED),
        (NEW, "run_unknown_provider.txt", "UnknownError", UNEXPECTED),
        (NEW, "run_model_noslash.txt", "UnknownError", UNEXPECTED),
        (NEW, "run_402.jsonl", "APIError", 'Payment Required: {"detail": "error 402"}'),
        (
            NEW,
            "run_content_filter.jsonl",
            "ContentFilterError",
            "The response was blocked by the provider's content filter",
        ),
    ],
)
def test_a_failure_before_the_answer_stands_in_the_stream(
    version: str, name: str, error_name: str, message: str
) -> None:
    error = parse_run_error(captured(version, name))

    assert error is not None
    assert error["name"] == error_name
    assert error["data"]["message"] == message


@pytest.mark.parametrize("version", [OLD, NEW])
def test_a_good_run_has_no_error(version: str) -> None:
    assert parse_run_error(captured(version, "run_ok.jsonl")) is None
    assert parse_run_error(captured(version, "run_tool.jsonl")) is None


@pytest.mark.parametrize(
    ("stdout", "error"),
    [
        pytest.param(
            '{"type": "error", "error": {"name": "A"}}\n{"type": "error", "error": {"name": "B"}}',
            {"name": "A"},
            id="the first counts",
        ),
        pytest.param(
            '{"type": "error", "error": {"data": {}}}\n{"type": "error", "error": {"name": "B"}}',
            {"name": "B"},
            id="one without a name is none",
        ),
        pytest.param('{"type": "text", "error": {"name": "A"}}', None, id="of another event"),
        pytest.param('{"type": "error", "error": "A"}', None, id="only words"),
        pytest.param('{"type": "error"}', None, id="nothing told"),
        pytest.param("error: broken", None, id="no JSON"),
        pytest.param("", None, id="nothing"),
    ],
)
def test_only_a_structured_error_counts(stdout: str, error: dict[str, Any] | None) -> None:
    assert parse_run_error(stdout) == error


# --- the export -----------------------------------------------------------------------------


def test_the_export_of_the_tested_version_is_read() -> None:
    transcript = transcript_from_export(json.loads(captured(NEW, "export_ok.json")))

    assert transcript.session_id == "ses_e06fe32e0ffePnSqYB8y1MBHaP"
    assert [message.role for message in transcript.messages] == ["user", "assistant"] * 3
    assert transcript.messages[0] == Message("user", (TextPart("Say hi"),))
    assert transcript.messages[1] == Message(
        "assistant",
        (TextPart("Hello from ok/short"),),
        usage=TURN,
        cost_usd=0.000028,
        finish_reason="stop",
        model="ok/short",
    )
    assert transcript.usage == TURN + TURN + TURN
    assert transcript.cost_usd == pytest.approx(0.000084)


def test_the_export_of_the_old_version_is_read_too() -> None:
    transcript = transcript_from_export(json.loads(captured(OLD, "export.json")))

    assert transcript.session_id == "ses_e06f9043affefUK9oPRIOXXoii"
    assert transcript.text == "Hello from ok/short"
    assert transcript.finish_reason == "stop"
    assert transcript.usage == TURN


def test_messages_from_before_the_attempt_are_history() -> None:
    export = json.loads(captured(NEW, "export_ok.json"))
    second_prompt_ms = export["messages"][2]["info"]["time"]["created"]

    transcript = transcript_from_export(export, since_ms=second_prompt_ms)

    assert len(transcript.messages) == 4
    assert transcript.usage == TURN + TURN


def test_a_failed_turn_carries_its_error() -> None:
    answer = json.loads(captured(NEW, "serve_message_402.json"))

    transcript = transcript_from_export({"messages": [answer]})

    assert transcript.error is not None
    assert transcript.error["name"] == "APIError"
    assert transcript.error["data"]["statusCode"] == 402


def test_an_aborted_turn_keeps_its_partial_text() -> None:
    answer = json.loads(captured(NEW, "serve_message_aborted.json"))

    transcript = transcript_from_export({"messages": [answer]})

    assert transcript.error is not None
    assert transcript.error["name"] == "MessageAbortedError"
    assert transcript.finish_reason is None


@pytest.mark.parametrize(
    ("parts", "read"),
    [
        pytest.param([{"type": "text", "text": "a"}], (TextPart("a"),), id="text"),
        pytest.param([{"type": "reasoning", "text": "a"}], (ReasoningPart("a"),), id="reasoning"),
        pytest.param([{"type": "text"}], (TextPart(""),), id="text without text"),
        pytest.param([{"type": "step-start"}, {"type": "patch"}, {}], (), id="of no interest"),
        pytest.param([1, None, "x"], (), id="no objects"),
        pytest.param("text", (), id="no list"),
        pytest.param(None, (), id="null"),
        pytest.param(
            [{"type": "tool", "tool": "bash", "callID": "c", "state": {"status": "pending"}}],
            (ToolPart("bash", "c", "pending"),),
            id="a tool that waits",
        ),
        pytest.param(
            [{"type": "tool", "state": {"status": "error", "error": "denied", "input": {"a": 1}}}],
            (ToolPart("unknown", "", "error", {"a": 1}, error="denied"),),
            id="a tool that failed",
        ),
        pytest.param(
            [{"type": "tool", "tool": "t", "state": {"status": "completed", "output": {"n": 1}}}],
            (ToolPart("t", "", "completed", output='{"n": 1}'),),
            id="a structured output",
        ),
        pytest.param([{"type": "tool", "state": 5}], (ToolPart("unknown", "", ""),), id="no state"),
    ],
)
def test_parts_are_read_leniently(parts: Any, read: tuple[object, ...]) -> None:
    transcript = transcript_from_export(
        {"messages": [{"info": {"role": "assistant"}, "parts": parts}]}
    )

    assert transcript.messages[0].parts == read


def test_only_an_assistants_message_is_a_turn() -> None:
    messages = [{"info": {"role": role, "tokens": {"input": 7}}} for role in ("user", "assistant")]

    transcript = transcript_from_export({"messages": messages})

    assert transcript.messages[0].usage == Usage()
    assert transcript.messages[1].usage == Usage(input=7, num_turns=1)


@pytest.mark.parametrize(
    "export", [None, [], "x", 5, {}, {"messages": None}, {"messages": {}}, {"messages": [None, 1]}]
)
def test_what_is_no_export_is_an_empty_transcript(export: object) -> None:
    assert transcript_from_export(export) == Transcript()


@pytest.mark.parametrize("number", ["12", True, None, [], {}, 1.5, float("nan"), float("inf")])
def test_what_is_no_count_counts_nothing(number: object) -> None:
    info = {"role": "assistant", "tokens": {"input": number, "cache": {"read": number}}}

    assert transcript_from_export({"messages": [{"info": info}]}).usage == Usage(num_turns=1)


@pytest.mark.parametrize("cost", ["1", True, None, {}, float("nan"), float("inf"), 10**400])
def test_what_is_no_cost_costs_nothing(cost: object) -> None:
    info = {"role": "assistant", "cost": cost}

    assert transcript_from_export({"messages": [{"info": info}]}).cost_usd == 0.0


# --- the stream of a run that was ended ------------------------------------------------------


def test_the_stream_alone_tells_text_and_usage() -> None:
    transcript = transcript_from_events(captured(NEW, "run_reasoning_thinking.jsonl"))

    assert transcript == Transcript(
        "ses_e06f2c5a9ffejbLCO7dubyWKhM",
        (
            Message(
                "assistant",
                (ReasoningPart("thinking hard"), TextPart("Hello from ok/reason")),
                usage=TURN,
                cost_usd=0.000028,
                finish_reason="stop",
            ),
        ),
    )


def test_the_stream_of_an_agent_is_a_message_a_step() -> None:
    transcript = transcript_from_events(captured(NEW, "run_tool.jsonl"))

    first, last = transcript.messages
    assert first.finish_reason == "tool-calls"
    assert first.parts[0] == ToolPart(
        "bash",
        "c3",
        "completed",
        {"command": "echo hi; pwd", "description": "x"},
        "hi\n/workspace/w0\n",
    )
    assert (last.text, last.finish_reason) == ("Hello from tool/bash", "stop")
    assert transcript.usage == TURN + TURN


def test_the_old_version_loses_text_so_its_last_turn_never_ended() -> None:
    transcript = transcript_from_events(captured(OLD, "run_tool.jsonl"))

    assert [turn.finish_reason for turn in transcript.turns] == ["tool-calls", None]
    assert transcript.text == ""


# --- stream() and the log ---------------------------------------------------------------------


def records(version: str, name: str) -> list[Event]:
    return [
        record for event in json_lines(captured(version, name)) for record in event_records(event)
    ]


def test_a_stream_becomes_records() -> None:
    assert records(NEW, "run_reasoning_thinking.jsonl") == [
        ReasoningDelta(text="thinking hard"),
        TextDelta(text="Hello from ok/reason"),
        StepEnd(usage=TURN, finish_reason="stop"),
    ]


def test_a_tool_call_is_told_with_its_result() -> None:
    call, result, step, *_ = records(NEW, "run_tool.jsonl")

    assert call == ToolCall(
        tool="bash", call_id="c3", input={"command": "echo hi; pwd", "description": "x"}
    )
    assert result == ToolResult(tool="bash", call_id="c3", output="hi\n/workspace/w0\n")
    assert step == StepEnd(usage=TURN, finish_reason="tool-calls")


def test_an_error_event_is_no_record() -> None:
    assert records(NEW, "run_402.jsonl") == []
