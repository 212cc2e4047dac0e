"""One prompt on a session of a warm server: sent, watched, stopped where needed, read back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from chutes_opencode.catalog.models import Price
from chutes_opencode.events import TextDelta
from chutes_opencode.opencode.api import ApiError
from chutes_opencode.request import FilePart
from chutes_opencode.results import Exchange
from tests.unit.engines.turns import (
    ANSWERED,
    GONE,
    FakeApi,
    FakeWire,
    Play,
    asked,
    said,
)

CALLED = Exchange(200, finish_reason="tool_calls")
KEY = "cpk_unit.test.key.of.nobody"
PICTURE = FilePart("a.png", b"1", "image/png")
ERROR = {"name": "APIError", "data": {"message": "no"}}


# --- an answer ------------------------------------------------------------------------------------


def test_an_answer_is_read_back_under_the_id_that_the_caller_knows() -> None:
    played = Play()

    evidence = played.run(seated={"work_dir": Path("/work")})

    assert evidence.transcript.session_id == "ses_0"
    assert [message.role for message in evidence.transcript.messages] == ["user", "assistant"]
    assert evidence.transcript.text == "well"
    assert (evidence.returncode, evidence.stopped, evidence.run_error) == (0, None, None)
    assert (evidence.exchanges, evidence.relayed, evidence.stderr) == ((ANSWERED,), True, "")
    assert evidence.work_dir == Path("/work")
    assert played.api.calls == ["send"]


def test_what_the_session_held_before_is_no_part_of_it() -> None:
    played = Play()
    played.api.rows["ses_1"] = [asked("before"), said("earlier")]

    evidence = played.run(seated={"before": 2})

    assert len(evidence.transcript.turns) == 1


def test_the_only_answer_needs_no_look_at_the_messages() -> None:
    played = Play()
    played.api.failing["messages"] = GONE

    evidence = played.run()

    assert [message.text for message in evidence.transcript.messages] == ["hello", "well"]


@pytest.mark.parametrize(
    ("wire", "fields"),
    [
        pytest.param((CALLED, ANSWERED), {}, id="a tool was called"),
        pytest.param((CALLED,), {}, id="a tool is yet to run"),
        pytest.param((Exchange(200), ANSWERED), {}, id="a step was repeated"),
        pytest.param((Exchange(200),), {}, id="the answer broke"),
        pytest.param((ANSWERED,), {"attachments": (PICTURE,)}, id="opencode adds words of its own"),
        pytest.param((ANSWERED,), {"relayed": False}, id="nobody has seen each request"),
    ],
)
def test_where_there_may_be_other_messages_they_are_read(
    wire: tuple[Exchange, ...], fields: dict[str, Any]
) -> None:
    played = Play(wire=FakeWire(*wire, relayed=fields.get("relayed", True)))

    async def answers_in_two(api: FakeApi, session_id: str) -> dict[str, Any]:
        api.rows[session_id] = [asked(), said("first"), said("second")]
        return said("second")

    played.api.work = answers_in_two

    assert len(played.run(**fields).transcript.turns) == 2


def test_files_stand_before_the_text_and_are_sent_by_value() -> None:
    played = Play()

    played.run(attachments=(PICTURE,), agent_name="other")

    (sent,) = played.api.sent
    assert (sent["session_id"], sent["agent"]) == ("ses_1", "other")
    assert (sent["provider_id"], sent["model_id"]) == ("chutes", "m")
    assert sent["parts"] == [
        {
            "type": "file",
            "mime": "image/png",
            "filename": "a.png",
            "url": "data:image/png;base64,MQ==",
        },
        {"type": "text", "text": "hello"},
    ]


@pytest.mark.parametrize(
    ("price", "cost"),
    [
        pytest.param(Price(input=1.0, output=2.0), 3.0, id="known"),
        pytest.param(None, 0.5, id="what opencode says"),
    ],
)
def test_a_message_costs_what_the_price_makes_of_its_tokens(
    price: Price | None, cost: float
) -> None:
    async def work(api: FakeApi, session_id: str) -> Any:
        api.rows[session_id] = [asked(), said(cost=0.5)]

    messages = Play(work).run(seated={"price": price}).transcript.messages

    assert [message.cost_usd for message in messages] == [0.0, cost]


def test_no_secret_is_read_back() -> None:
    async def work(api: FakeApi, session_id: str) -> Any:
        api.rows[session_id] = [asked(), said(f"my key is {KEY}")]

    assert KEY not in Play(work).run().transcript.text


@pytest.mark.parametrize("relayed", [True, False])
def test_whole_text_is_told_where_no_relay_tells_it(*, relayed: bool) -> None:
    played = Play()

    played.run(relayed=relayed)

    assert [event for event in played.events if isinstance(event, TextDelta)] == (
        [] if relayed else [TextDelta(text="well")]
    )


# --- a failure ------------------------------------------------------------------------------------


def test_a_failure_of_the_model_is_in_the_message() -> None:
    async def work(api: FakeApi, session_id: str) -> Any:
        api.rows[session_id] = [asked(), said("", error=ERROR)]

    evidence = Play(work).run()

    assert evidence.returncode == 1
    assert evidence.transcript.error == ERROR


def test_a_refusal_that_points_at_the_log_is_explained() -> None:
    played = Play(wire=FakeWire())
    body = {"name": "UnknownError", "data": {"message": "Check server logs", "ref": "err_1"}}
    played.api.failing["send"] = ApiError(500, body)
    played.server.explained = {"err_1": "Model not found: chutes/m"}

    evidence = played.run()

    told = {"message": "Model not found: chutes/m", "ref": "err_1"}
    assert evidence.run_error == {"name": "UnknownError", "data": told}


@pytest.mark.parametrize(
    ("status", "body", "fields", "run_error", "stopped"),
    [
        pytest.param(500, ERROR, {}, ERROR, None, id="named"),
        pytest.param(500, {"data": 1}, {}, None, None, id="unnamed"),
        pytest.param(500, None, {"attachments": (PICTURE,)}, None, None, id="not the file's"),
        pytest.param(400, None, {"attachments": (PICTURE,)}, None, "attachment", id="a file"),
        pytest.param(400, ERROR, {}, ERROR, None, id="no file"),
    ],
)
def test_a_refusal_of_the_message_is_told(
    status: int,
    body: dict[str, Any] | None,
    fields: dict[str, Any],
    run_error: object,
    stopped: str | None,
) -> None:
    played = Play(wire=FakeWire())
    played.api.failing["send"] = ApiError(status, body)

    evidence = played.run(**fields)

    assert (evidence.run_error, evidence.stopped) == (run_error, stopped)
    assert evidence.returncode == 1
    assert evidence.transcript.turns == ()


def test_an_answer_without_a_model_request_is_not_believed() -> None:
    assert Play(wire=FakeWire()).run().stopped == "guard"


def test_a_server_that_is_gone_has_crashed() -> None:
    played = Play()
    played.api.failing = {"send": GONE, "messages": GONE}

    evidence = played.run()

    assert (evidence.stopped, evidence.returncode) == ("crash", -1)
    assert evidence.stderr == "its last words"
    assert (evidence.transcript.session_id, evidence.transcript.messages) == ("ses_0", ())
    assert evidence.exchanges == (ANSWERED,)


@pytest.mark.parametrize("trouble", [GONE, ApiError(500, None), None])
def test_messages_that_cannot_be_read_are_none(trouble: Exception | None) -> None:
    played = Play(wire=FakeWire(CALLED, ANSWERED))
    if trouble is None:
        played.api.hanging = {"messages"}
    else:
        played.api.failing = {"messages": trouble}

    evidence = played.run()

    assert (evidence.transcript.messages, evidence.returncode) == ((), 0)
    assert played.ended_at < 60


def test_what_nobody_has_thought_of_is_raised() -> None:
    played = Play()
    played.api.failing["send"] = ZeroDivisionError()

    with pytest.raises(ZeroDivisionError):
        played.run()
