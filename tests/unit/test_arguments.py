"""What callers may pass: tool servers, chats, texts."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chutes_opencode.arguments import (
    DEFAULT_SYSTEM_MESSAGE,
    as_folder,
    check_names,
    check_prompt,
    check_text,
    effective_system,
    split_messages,
    tool_servers,
)
from chutes_opencode.errors import ConfigurationError, InvalidRequestError
from chutes_opencode.request import ChatMessage, McpServer


@dataclass
class Tool:
    """A tool as the seed's callers have it."""

    name: Any
    hostname: Any
    port: Any = 9000


# --- tool servers --------------------------------------------------------------------------------


def test_a_tool_server_is_taken_as_it_is() -> None:
    server = McpServer("web", url="http://host/mcp")

    assert tool_servers([server]) == (server,)


def test_an_object_with_name_hostname_and_port_is_a_remote_server() -> None:
    assert tool_servers([Tool("web", "host", 1234)]) == (
        McpServer("web", url="http://host:1234/web/mcp"),
    )


def test_without_a_port_it_is_the_seeds() -> None:
    class Portless:
        name, hostname = "web", "host"

    assert tool_servers([Portless()])[0].url == "http://host:8000/web/mcp"


@pytest.mark.parametrize("tool", ["web", None, 5, {"name": "web"}, Tool(None, "h"), Tool("w", 1)])
def test_anything_else_is_no_tool_server(tool: object) -> None:
    with pytest.raises(ConfigurationError, match="is no tool server"):
        tool_servers([tool])


# --- names ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["modle", "engine", 5])
def test_a_prompt_has_no_other_arguments(name: object) -> None:
    with pytest.raises(ConfigurationError, match=f"a prompt has no argument {name!r}"):
        check_names([name])


def test_the_argument_that_may_be_meant_is_named() -> None:
    with pytest.raises(ConfigurationError, match="a batch has no argument 'max_cost'") as caught:
        check_names(["max_cost"], ("limit", "max_cost_usd"), whose="a batch")

    assert caught.value.hint == "Did you mean 'max_cost_usd'?"


def test_the_arguments_that_there_are_are_no_mistake() -> None:
    check_names(["prompt", "model", "budget"])


# --- the system message ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given_message", "sent"), [("", DEFAULT_SYSTEM_MESSAGE), (None, None), (" ", " "), ("a", "a")]
)
def test_an_empty_system_message_is_the_seeds_own(
    given_message: str | None, sent: str | None
) -> None:
    assert effective_system(given_message) == sent


# --- chats ----------------------------------------------------------------------------------------


def row(role: str, content: Any) -> dict[str, Any]:
    return {"role": role, "content": content}


USER, ASSISTANT = row("user", "u"), row("assistant", "a")
SYSTEM = row("system", "s")
ONE_ROUND = (ChatMessage("user", "u"), ChatMessage("assistant", "a"))


@pytest.mark.parametrize(
    ("prompt", "messages", "split"),
    [
        pytest.param("p", None, ("p", None, ()), id="no chat"),
        pytest.param("p", [], ("p", None, ()), id="an empty chat"),
        pytest.param("", [USER], ("u", None, ()), id="its last user message is the prompt"),
        pytest.param("p", [USER, ASSISTANT], ("p", None, ONE_ROUND), id="a history"),
        pytest.param("", [USER, ASSISTANT, USER], ("u", None, ONE_ROUND), id="both"),
        pytest.param("p", [SYSTEM], ("p", "s", ()), id="a system message"),
        pytest.param("p", [row("developer", "s")], ("p", "s", ()), id="under its new name"),
        pytest.param("p", [row("system", "")], ("p", "", ()), id="an empty one"),
        pytest.param("", [SYSTEM, USER, ASSISTANT, USER], ("u", "s", ONE_ROUND), id="everything"),
        pytest.param("", [USER, ASSISTANT], ("", None, ONE_ROUND), id="nothing to answer"),
        pytest.param(
            "p", [USER, USER], ("p", None, (ChatMessage("user", "u"),) * 2), id="two in a row"
        ),
        pytest.param(
            "",
            [row("user", [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}])],
            ("ab", None, ()),
            id="text parts",
        ),
        pytest.param("p", [row("user", [])], ("p", None, (ChatMessage("user", ""),)), id="none"),
    ],
)
def test_a_chat_is_split(prompt: str, messages: Any, split: tuple[Any, ...]) -> None:
    assert split_messages(prompt, messages) == split


@pytest.mark.parametrize(
    ("messages", "message"),
    [
        ([row("tool", "x")], r"messages\[0\] has role 'tool'"),
        ([{"content": "x"}], r"messages\[0\] has role None"),
        ([USER, SYSTEM], "a system message may only be the first"),
        ([SYSTEM, SYSTEM], "a system message may only be the first"),
        ([ASSISTANT], "cannot begin with an assistant message"),
        ([SYSTEM, ASSISTANT, USER], "cannot begin with an assistant message"),
        ([row("user", None)], r"messages\[0\] holds something else than text"),
        ([USER, row("assistant", 5)], r"messages\[1\] holds something else than text"),
        ([row("user", [{"type": "image_url"}])], "something else than text"),
        ([row("user", [{"text": None}])], "something else than text"),
        ([row("user", ["text"])], "something else than text"),
        ([row("user", {"text": "x"})], "something else than text"),
        (["x"], r"messages\[0\] is no mapping"),
    ],
)
def test_a_chat_that_cannot_be_sent_is_refused(messages: Any, message: str) -> None:
    with pytest.raises(InvalidRequestError, match=message):
        split_messages("p", messages)


# --- texts ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("prompt", ["", " ", "\n\t\r\n", "\u2003", "\ufeff"])
def test_a_blank_prompt_is_refused(prompt: str) -> None:
    with pytest.raises(InvalidRequestError, match="the prompt is empty"):
        check_prompt(prompt)


@pytest.mark.parametrize("prompt", ["\x1c", "\x85", "\u200b"])
def test_what_opencode_does_not_take_for_white_space_is_a_prompt(prompt: str) -> None:
    check_prompt(prompt)


@pytest.mark.parametrize("work_dir", ["", " "])
def test_an_empty_work_dir_is_not_the_current_folder(work_dir: str) -> None:
    with pytest.raises(ConfigurationError, match="work_dir is empty"):
        as_folder(work_dir)


def test_a_folder_is_named_as_the_callers_argument() -> None:
    assert as_folder("here", "cache") == Path("here")

    with pytest.raises(ConfigurationError, match="cache is empty") as caught:
        as_folder(" ", "cache")
    assert caught.value.hint == "Name a folder; None means none."


@pytest.mark.parametrize(
    ("text", "flaw"),
    [
        ("a\0b", "the prompt holds a NUL character"),
        ("ab\ud800", "the prompt holds a lone surrogate at character 2"),
        ("\udc00", "the prompt holds a lone surrogate at character 0"),
    ],
)
def test_what_cannot_be_sent_exactly_is_refused(text: str, flaw: str) -> None:
    with pytest.raises(InvalidRequestError, match=flaw) as caught:
        check_prompt(text)

    assert caught.value.hint != InvalidRequestError.default_hint


@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1))
def test_every_other_text_passes(text: str) -> None:
    check_text("the text", text)
    check_prompt(f"x{text}")
