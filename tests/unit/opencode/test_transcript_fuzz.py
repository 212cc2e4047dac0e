"""No text and no JSON, however odd, breaks a parser of opencode's output."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from chutes_opencode.opencode.transcript import (
    event_records,
    exchanges_from_guard,
    json_lines,
    parse_log_line,
    parse_run_error,
    parse_session_id,
    transcript_from_events,
    transcript_from_export,
    without_log_lines,
)

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(["info", "messages", "parts", "type", "tokens", "state", "error"])
            | st.text(max_size=5),
            inner,
            max_size=4,
        )
    ),
    max_leaves=20,
)
STREAM_FIELDS = ("type", "sessionID", "part", "error", "data", "id", "kind", "time", "status")
PART_FIELDS = ("messageID", "tokens", "cost", "reason", "state", "text", "tool", "callID")
GUARD_FIELDS = ("headers", "body", "tools", "usage", "size", "chars", "finish", "model", "session")
KINDS = ["step_finish", "error", "text", "tool", "step-finish", "request", "response", "end"]
stream_lines = st.dictionaries(
    st.sampled_from(STREAM_FIELDS + PART_FIELDS + GUARD_FIELDS),
    st.sampled_from([*KINDS, 10**400, -1]) | json_values,
).map(json.dumps)


@given(st.text())
def test_no_text_breaks_a_parser(text: str) -> None:
    list(json_lines(text))
    parse_session_id(text)
    parse_run_error(text)
    transcript_from_events(text)
    parse_log_line(text)
    parse_log_line(f"timestamp={text}")
    without_log_lines(text)
    exchanges_from_guard(text)


@given(st.lists(stream_lines, max_size=4).map("\n".join))
def test_no_stream_of_events_breaks_a_parser(stdout: str) -> None:
    parse_session_id(stdout)
    parse_run_error(stdout)
    transcript_from_events(stdout)
    exchanges_from_guard(stdout)
    for event in json_lines(stdout):
        event_records(event)


@given(json_values)
def test_no_export_breaks_the_parser(export: Any) -> None:
    transcript_from_export(export)
    transcript_from_export({"messages": [{"info": export, "parts": [export]}, export]})


def test_a_line_that_is_nested_without_end_is_passed_over() -> None:
    assert list(json_lines("[" * 100_000 + '\n{"a": 1}')) == [{"a": 1}]


def test_a_line_end_of_another_alphabet_does_not_split_an_event() -> None:
    line = json.dumps({"text": "a\u2028b\u0085c"}, ensure_ascii=False)

    assert list(json_lines(line)) == [{"text": "a\u2028b\u0085c"}]
