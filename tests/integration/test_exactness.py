"""The model receives exactly what the caller gave, byte for byte."""

from __future__ import annotations

import hashlib
import json
import random
from pathlib import Path
from typing import Any

import pytest

from chutes_opencode import ChutesOpenCodeLLM, InvalidRequestError, Simulator

NASTY = (
    "'single' \"double\" `back` \\ \\n \\u0041 $HOME $(id) %s {} {env:HOME} {{env:PATH}} "
    "{file:/etc/hostname} @/etc/hostname !`id` <b>&amp;</b> \r\n crlf \r cr \t \x01\x07\x08 "
    "\x1b[31m\x7f\x85 \u2028\u2029\u200b\u202e \N{GRINNING FACE}\U0001f468\u200d\U0001f469 "
    "e\u0301 \ufffd \uffff"
)
BIG = "".join(random.Random(7).choices(NASTY, k=5_000_000))
TEXTS = (
    "x",
    f"--help\n-m {NASTY}",
    f"\ufeff \t\r\n {NASTY} \t\r\n\n",
    f"-{BIG}.",
    "/help",
    "-",
)


def short(text: str) -> str:
    """Return what tells two texts apart; pytest would compare 5 MB for minutes."""
    if len(text) <= 1000:
        return text
    return f"{len(text)} characters, {hashlib.sha256(text.encode()).hexdigest()}"


def sent(simulator: Simulator) -> list[tuple[str, str]]:
    """Return system and user message of each model request."""
    chats = [json.loads(request.body) for request in simulator.requests if request.body]
    return [(text(chat["messages"][0]), text(chat["messages"][-1])) for chat in chats]


def text(message: dict[str, Any]) -> str:
    content = message["content"]
    return content if isinstance(content, str) else "".join(part["text"] for part in content)


@pytest.mark.parametrize("builtin_tools", [True, False])
def test_prompt_and_system_message_arrive_byte_for_byte(
    simulator: Simulator, *, builtin_tools: bool
) -> None:
    pairs = list(zip(TEXTS[::-1], TEXTS, strict=True))[builtin_tools::2]
    llm = ChutesOpenCodeLLM("sim/echo", builtin_tools=builtin_tools, retries=1)

    results = llm.batch(
        {"messages": [{"role": "system", "content": system}], "prompt": prompt}
        for system, prompt in pairs
    )

    assert [result.error for result in results] == [None] * len(pairs)
    assert [short(result.result) for result in results] == [short(asked) for _, asked in pairs]
    received = {short(prompt): system for system, prompt in sent(simulator)}
    for system, prompt in pairs:
        seen = received.pop(short(prompt))
        assert short(seen[: len(system)] if builtin_tools else seen) == short(system)
    assert received == {}


@pytest.mark.parametrize("builtin_tools", [True, False])
@pytest.mark.parametrize("context", [True, False, None])
def test_the_environment_block_follows_where_it_is_wanted(
    simulator: Simulator, tmp_path: Path, *, builtin_tools: bool, context: bool | None
) -> None:
    system = "Only this. {env:HOME} \N{GRINNING FACE}\n"
    llm = ChutesOpenCodeLLM(
        "sim/echo", system, builtin_tools=builtin_tools, context=context, work_dir=tmp_path / "home"
    )

    llm.prompt("hello")

    ((told, asked),) = sent(simulator)
    block = told.removeprefix(system)
    assert asked == "hello"
    assert told.startswith(system)
    if builtin_tools if context is None else context:
        assert block.startswith("\nYou are powered by the model")
        assert f"Working directory: {tmp_path / 'home'}" in block
        assert "Today's date" in block
    else:
        assert block == ""


@pytest.mark.parametrize("text", ["a\0b", "a\ud800b"])
@pytest.mark.parametrize("place", ["prompt", "system", "history"])
def test_what_cannot_be_sent_exactly_is_refused(
    simulator: Simulator, text: str, place: str
) -> None:
    llm = ChutesOpenCodeLLM("sim/echo", text if place == "system" else "")
    history = [{"role": "user", "content": text}] if place == "history" else []

    with pytest.raises(InvalidRequestError, match=r"NUL|surrogate"):
        llm.prompt(text if place == "prompt" else "hello", messages=history)
    assert sent(simulator) == []
