"""A prompt as one chat completion: what is refused, what is asked, what is read off the answer."""

from __future__ import annotations

import json
from typing import Any

import pytest

from chutes_opencode.catalog.models import Model
from chutes_opencode.catalog.providers import find_provider
from chutes_opencode.engines.chat import (
    answer_message,
    answered_message,
    asked_messages,
    chat_body,
    refuse_arguments,
)
from chutes_opencode.errors import ConfigurationError
from chutes_opencode.opencode.config import Target
from chutes_opencode.request import ChatMessage, FilePart, Params, PromptRequest
from chutes_opencode.results import Exchange, Message, Part, ReasoningPart, TextPart, Usage

MODEL = "org/model"
PNG = FilePart("a.png", b"\x89PNG", "image/png")
PDF = FilePart("p.pdf", b"%PDF-", "application/pdf")


def request(**fields: Any) -> PromptRequest:
    return PromptRequest(**{"prompt": "Say hi", "model": MODEL} | fields)


def body(**fields: Any) -> Any:
    target = Target(find_provider("chutes"), "u", (Model(MODEL, max_output_length=700),))
    asked = request(**fields)
    return json.loads(chat_body(asked, target, asked_messages(asked)))


# --- refusals -------------------------------------------------------------------------------------

PLAIN: dict[str, object] = {
    "tools": (),
    "work_dir": None,
    "permission": None,
    "env": {},
    "project_rules": False,
    "keep_session": False,
    "extra_cli_args": (),
    "system_message": "",
    "context": None,
    "relay": True,
}


@pytest.mark.parametrize("arguments", [{}, PLAIN, {"context": False, "builtin_tools": True}])
def test_a_plain_chat_is_not_refused(arguments: dict[str, object]) -> None:
    refuse_arguments(arguments)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("tools", ["a server"]),
        ("work_dir", "."),
        ("permission", "deny"),
        ("permission", {"bash": "deny"}),
        ("env", {"A": "1"}),
        ("project_rules", True),
        ("keep_session", True),
        ("keep_session", "folder"),
        ("extra_cli_args", ["--variant"]),
        ("system_message", None),
        ("context", True),
        ("relay", False),
    ],
)
def test_what_a_plain_chat_cannot_do_is_refused_by_name_and_with_a_way_out(
    name: str, value: object
) -> None:
    with pytest.raises(ConfigurationError, match=f"direct.*{name}=") as raised:
        refuse_arguments(PLAIN | {name: value})

    assert name in raised.value.hint


# --- what is asked --------------------------------------------------------------------------------


def test_the_body_holds_what_the_caller_said_and_nothing_else() -> None:
    assert body() == {
        "model": MODEL,
        "max_tokens": 700,
        "messages": [
            {"role": "system", "content": "You are a helpful assistant."},
            {"role": "user", "content": "Say hi"},
        ],
        "stream": True,
        "stream_options": {"include_usage": True},
    }


def test_an_empty_system_message_is_none() -> None:
    assert [row["role"] for row in body(system_message="")["messages"]] == ["user"]


def test_parameters_have_their_names_in_the_api() -> None:
    extra = {"top_k": 4, "textVerbosity": "low"}
    params = Params(0.1, 0.2, 30, ("a", "b"), 5, reasoning_effort="low", extra_body=extra)

    told = body(params=params)

    assert {name: told[name] for name in told if name not in body() or name == "max_tokens"} == {
        "temperature": 0.1,
        "top_p": 0.2,
        "max_tokens": 30,
        "stop": ["a", "b"],
        "seed": 5,
        "reasoning_effort": "low",
        "top_k": 4,
        "verbosity": "low",
    }


def test_what_opencode_sets_cannot_be_set_by_extra_body() -> None:
    with pytest.raises(ConfigurationError, match="messages"):
        body(params=Params(extra_body={"messages": []}))


def test_the_output_limit_of_an_unknown_model_is_a_cautious_one() -> None:
    assert body(model="org/unknown")["max_tokens"] == 4096


def test_history_stands_before_the_prompt_and_held_messages_before_both() -> None:
    history = (ChatMessage("user", "a"), ChatMessage("assistant", "b"))
    held = [{"role": "user", "content": "z"}]

    messages = asked_messages(request(history=history), held)

    assert [row["content"] for row in messages] == ["z", "a", "b", "Say hi"]
    assert [row["role"] for row in messages] == ["user", "user", "assistant", "user"]


def test_files_stand_before_the_text_as_opencode_sends_them() -> None:
    (message,) = asked_messages(request(attachments=(PNG, PDF)))

    assert message["content"] == [
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw=="}},
        {
            "type": "file",
            "file": {"filename": "p.pdf", "file_data": "data:application/pdf;base64,JVBERi0="},
        },
        {"type": "text", "text": "Say hi"},
    ]


@pytest.mark.parametrize(
    ("parts", "row"),
    [
        ((TextPart("a"),), {"role": "assistant", "content": "a"}),
        (
            (ReasoningPart("t"), TextPart("a")),
            {"role": "assistant", "content": "a", "reasoning_content": "t"},
        ),
    ],
)
def test_an_answer_is_told_to_the_model_with_its_reasoning(
    parts: tuple[Part, ...], row: dict[str, str]
) -> None:
    assert answered_message(Message("assistant", parts)) == row


# --- what was answered ----------------------------------------------------------------------------


USED = Usage(1, 2, 3, 4, 5, num_requests=1)
SAID = (TextPart("a"),)


@pytest.mark.parametrize(
    ("told", "spelled"),
    [
        ("stop", "stop"),
        ("length", "length"),
        ("content_filter", "content-filter"),
        ("tool_calls", "tool-calls"),
        ("function_call", "tool-calls"),
    ],
)
def test_a_whole_answer_has_opencodes_finish_reason_usage_and_cost(told: str, spelled: str) -> None:
    exchange = Exchange(finish_reason=told, usage=USED, cost_usd=0.5)

    message = answer_message(MODEL, SAID, [Exchange(), exchange])

    usage = Usage(1, 2, 3, 4, 5, num_turns=1)
    assert message == Message("assistant", SAID, usage, 0.5, spelled, MODEL)


def test_an_answer_without_words_is_a_message_without_parts() -> None:
    message = answer_message(MODEL, (), [Exchange(finish_reason="stop")])

    assert message == Message(
        "assistant", (), Usage(num_turns=1), finish_reason="stop", model=MODEL
    )


@pytest.mark.parametrize(
    "exchanges", [[], [Exchange(finish_reason="weird")], [Exchange(usage=USED)]]
)
def test_of_an_answer_that_is_not_whole_only_its_words_are_told(exchanges: list[Exchange]) -> None:
    assert answer_message(MODEL, (), exchanges) is None
    assert answer_message(MODEL, SAID, exchanges) == Message(
        "assistant", SAID, Usage(num_turns=1), model=MODEL
    )
