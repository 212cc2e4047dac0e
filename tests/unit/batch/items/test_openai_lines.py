"""OpenAI's Batch lines: requests become rows as they are, results take its form."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from chutes_opencode.batch.items.lines import Layout, parse_row
from chutes_opencode.batch.items.openai_lines import (
    RequestLineError,
    is_request,
    item_row,
    output_line,
)
from chutes_opencode.batch.record import FAILED, Record, RecordedError
from chutes_opencode.results import Usage

MESSAGES = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Hi"}]
SCHEMA = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}


def request(body: dict[str, Any] | None = None, **more: Any) -> dict[str, Any]:
    return {
        "custom_id": "request-1",
        "method": "POST",
        "url": "/v1/chat/completions",
        "body": {"model": "org/Model", "messages": MESSAGES, **(body or {})},
        **more,
    }


# --- which lines are requests ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("row", "is_one"),
    [
        (request(), True),
        ({"custom_id": "a", "body": {}}, True),
        ({"url": "/v1/chat/completions", "body": {}}, True),
        ({"body": {}}, False),
        ({"url": "https://host", "body": "the text of a page"}, False),
        ({"prompt": "p", "custom_id": "a"}, False),
        ({}, False),
    ],
)
def test_a_request_has_a_body_and_an_envelope(row: dict[str, Any], is_one: bool) -> None:
    assert is_request(row) is is_one


# --- what they become -----------------------------------------------------------------------------


def test_a_request_becomes_an_item() -> None:
    body = {"temperature": 0, "max_tokens": 50, "seed": None, "top_k": 3, "user": "u"}

    item = parse_row(item_row(request(body)), line=2, layout=Layout())

    assert (item.id, item.model, item.messages) == ("request-1", "org/Model", tuple(MESSAGES))
    assert item.params == {"temperature": 0, "max_tokens": 50, "top_k": 3, "user": "u"}
    assert (item.prompt, item.system, item.output_schema, item.metadata) == ("", None, None, {})


@pytest.mark.parametrize(
    ("response_format", "schema"),
    [
        (None, None),
        ({"type": "text"}, None),
        ({"type": "json_object"}, {"type": "object"}),
        ({"type": "json_schema", "json_schema": {"name": "n", "schema": SCHEMA}}, SCHEMA),
    ],
)
def test_a_response_format_is_an_output_schema(
    response_format: dict[str, Any] | None, schema: dict[str, Any] | None
) -> None:
    assert item_row(request({"response_format": response_format}))["output_schema"] == schema


def test_openais_newer_name_of_the_output_limit_is_known() -> None:
    assert item_row(request({"max_completion_tokens": 9}))["params"] == {"max_tokens": 9}


def test_metadata_of_the_body_and_of_the_line_are_both_kept() -> None:
    row = request({"metadata": {"a": "body", "b": "body"}}, metadata={"b": "line"}, label=1)

    item = parse_row(item_row(row), line=1, layout=Layout(extra="metadata"))

    assert item.metadata == {"a": "body", "b": "line", "label": 1}


def test_what_agents_need_may_stand_beside_the_request() -> None:
    item = parse_row(
        item_row(request(repo="https://host/r", commit="abc")), line=1, layout=Layout()
    )

    assert (item.repo, item.commit) == ("https://host/r", "abc")


@pytest.mark.parametrize(
    "harmless",
    [
        *({"stream": False}, {"n": 1}, {"tools": []}, {"tool_choice": "auto"}, {"store": False}),
        *({"logprobs": False}, {"stream": None}, {"modalities": ["text"]}),
        *({"service_tier": "auto"}, {"parallel_tool_calls": True}),
    ],
)
def test_what_asks_for_nothing_is_left_out(harmless: dict[str, Any]) -> None:
    assert item_row(request(harmless))["params"] == {}


@pytest.mark.parametrize(
    ("body", "named"),
    [
        ({"stream": True}, "body.stream cannot"),
        ({"n": 2}, "body.n cannot"),
        ({"n": True}, "body.n cannot"),
        ({"tools": [{"type": "function"}]}, "body.tools cannot"),
        ({"stream": True, "logprobs": True}, "body.stream, body.logprobs cannot"),
        ({"response_format": {"type": "yaml"}}, "body.response_format cannot"),
        ({"response_format": "json"}, "body.response_format cannot"),
        ({"response_format": {"type": "json_schema"}}, "json_schema.schema is missing"),
        ({"max_tokens": 1, "max_completion_tokens": 2}, "are the same"),
        ({"messages": None}, "body.messages is missing"),
    ],
)
def test_what_cannot_be_honoured_is_named(body: dict[str, Any], named: str) -> None:
    with pytest.raises(RequestLineError, match=named):
        item_row(request(body))


@pytest.mark.parametrize(
    ("envelope", "named"),
    [
        ({"method": "GET"}, "method must be POST, not 'GET'"),
        ({"method": None}, "method must be POST"),
        ({"url": "/v1/embeddings"}, "url must be /v1/chat/completions, not '/v1/embeddings'"),
        ({"custom_id": None}, "custom_id must be text"),
        ({"custom_id": 5}, "custom_id must be text"),
        ({"custom_id": ""}, "custom_id must be text"),
        ({"prompt": "p", "model": "m"}, "model, prompt cannot stand beside a body"),
        ({"metadata": [1], "body": {"messages": [], "metadata": {}}}, "metadata must be an object"),
    ],
)
def test_an_envelope_of_something_else_is_refused(envelope: dict[str, Any], named: str) -> None:
    with pytest.raises(RequestLineError, match=named):
        item_row(request() | envelope)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)
body_keys = st.sampled_from(["messages", "model", "metadata", "response_format", "n", "stop", "x"])


@given(st.dictionaries(body_keys, json_values), st.dictionaries(st.text(), json_values))
def test_any_request_becomes_a_row_or_is_refused(
    body: dict[str, Any], more: dict[str, Any]
) -> None:
    row = {**more, **request(), "body": body}

    try:
        taken = item_row(row)
    except RequestLineError as error:
        taken = {"messages": None, "why": str(error)}

    assert (taken["messages"] is None) is bool(taken.get("why"))


# --- results --------------------------------------------------------------------------------------


def test_an_answer_is_a_chat_completion() -> None:
    usage = Usage(input=10, output=4, reasoning=2, cache_read=5, cache_write=1)
    record = Record(
        "request-1",
        "org/Model",
        result="Hello.",
        usage=usage,
        served_model="org/Model-TEE",
        finish_reason="tool-calls",
        session_id="ses_1",
        started_at=1000.0,
        duration_s=2.5,
    )

    line = output_line(record)

    body = line["response"]["body"]
    assert (line["custom_id"], line["error"]) == ("request-1", None)
    assert (line["response"]["status_code"], line["response"]["request_id"]) == (200, "ses_1")
    assert (body["object"], body["created"], body["model"]) == (
        *("chat.completion", 1002),
        "org/Model-TEE",
    )
    assert body["choices"][0]["message"]["content"] == "Hello."
    assert body["choices"][0]["finish_reason"] == "tool_calls"
    assert body["usage"] == {
        "prompt_tokens": 16,
        "completion_tokens": 6,
        "total_tokens": 22,
        "prompt_tokens_details": {"cached_tokens": 5},
        "completion_tokens_details": {"reasoning_tokens": 2},
    }
    assert orjson.loads(orjson.dumps(line)) == line


@pytest.mark.parametrize(
    ("ours", "openais"),
    [("stop", "stop"), ("length", "length"), (None, "stop"), ("content-filter", "content_filter")],
)
def test_finish_reasons_are_openais(ours: str | None, openais: str) -> None:
    response = output_line(Record("a", "m", finish_reason=ours))["response"]

    assert response["body"]["choices"][0]["finish_reason"] == openais


def test_a_failure_has_an_error_and_no_response() -> None:
    error = RecordedError("ServerError", "the provider is down", status=503)

    line = output_line(Record("a", "m", status=FAILED, error=error))

    assert line["response"] is None
    assert line["error"] == {"code": "ServerError", "message": "the provider is down"}


def test_the_samples_of_an_item_have_lines_of_their_own() -> None:
    lines = [output_line(Record("a", "m", sample=number)) for number in range(2)]

    assert lines[0]["custom_id"] == lines[1]["custom_id"]
    assert lines[0]["id"] != lines[1]["id"]
    assert output_line(Record("a", "m"))["id"] == lines[0]["id"]
