"""What callers may pass, turned into the values that engines take. Pure."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import NoneType
from typing import Any, TypedDict

from chutes_opencode.attachments import FileArgument
from chutes_opencode.errors import ConfigurationError, InvalidRequestError
from chutes_opencode.limits import Budget
from chutes_opencode.request import ChatMessage, McpServer, Params, Shape

DEFAULT_SYSTEM_MESSAGE = "You are a helpful assistant."
DEFAULT_TOOL_PORT = 8000

PROMPT_SHAPES: Mapping[str, Shape] = {
    "prompt": ((str,), "a string"),
    "model": ((str, NoneType), "a string"),
    "system_message": ((str, NoneType), "a string or None"),
    "messages": ((list, tuple, NoneType), "a list of messages"),
    "tools": ((Iterable, NoneType), "a list of tool servers"),
    "files": ((list, tuple, NoneType), "a list of files"),
    "params": ((Params, NoneType), "a Params(…)"),
    "work_dir": ((str, Path, NoneType), "a path"),
    "session_id": ((str, NoneType), "a session id"),
    "keep_session": ((bool, str, Path), "True, False or a folder"),
    "sample_index": ((int,), "a whole number"),
    "budget": ((Budget, NoneType), "a Budget(…)"),
}

# What opencode (JavaScript's trim) takes away at both ends to see whether there is a message.
_BLANK = re.compile("[\t\n\v\f\r \xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000\ufeff]*")


class PromptArguments(TypedDict, total=False):
    """What a prompt may be given besides its text; all optional.

    Attributes:
        model: Model instead of the instance's, None: the instance's; `fallback_models` stand in
            for it, too.
        system_message: Instead of the instance's, with the same meaning: "" is "You are a helpful
            assistant.", None is opencode's own. Left out: the instance's.
        messages: A chat before the prompt, in OpenAI's form; with prompt="" its last user message
            is the prompt. A system message at its beginning replaces any other.
        tools: MCP servers instead of the instance's.
        files: Paths, or `(name, bytes, media type)`: text is framed into the prompt, images and
            PDF files are attached.
        output_schema: JSON Schema or pydantic class that the answer must fit; the value is in
            `QueryResult.structured`.
        params: Sampling parameters instead of the instance's.
        work_dir: The agent's folder instead of the instance's.
        session_id: A kept session to continue. It keeps what was said, but neither model nor system
            message: each turn has those of its own call.
        keep_session: True, or a folder: the session can be continued; False: it is gone
            afterwards, also one that was continued.
        sample_index: With `cache=`: equal prompts with different numbers are different samples.
        budget: Dollars that it shares with all other prompts that are given the same one, beside
            the instance's limits (needs the relay, and a model with a price).
    """

    model: str | None
    system_message: str | None
    messages: Sequence[Mapping[str, Any]] | None
    tools: Iterable[Any] | None
    files: Sequence[FileArgument] | None
    output_schema: Any
    params: Params | None
    work_dir: str | Path | None
    session_id: str | None
    keep_session: bool | str | Path
    sample_index: int
    budget: Budget | None


def check_names(
    arguments: Iterable[object],
    known: Sequence[str] = ("prompt", *PromptArguments.__annotations__),
    *,
    whose: str = "a prompt",
) -> None:
    """Refuse a misspelt argument.

    Args:
        arguments: The names that were given.
        known: Those that there are.
        whose: What has them, for the message.

    Raises:
        ConfigurationError: Names it, and the one that may be meant.
    """
    unknown = sorted(set(arguments).difference(known), key=str)
    if unknown:
        near = difflib.get_close_matches(str(unknown[0]), known, n=1)
        raise ConfigurationError(
            raw_message=f"{whose} has no argument {unknown[0]!r}",
            hint=f"Did you mean {near[0]!r}?" if near else f"There are: {', '.join(sorted(known))}",
        )


def tool_servers(tools: Iterable[Any]) -> tuple[McpServer, ...]:
    """Return the tool servers: as they are, or made of objects with name, hostname and port.

    Raises:
        ConfigurationError: Something that is neither.
    """
    return tuple(_tool_server(tool) for tool in tools)


def _tool_server(tool: Any) -> McpServer:
    if isinstance(tool, McpServer):
        return tool
    name, hostname = getattr(tool, "name", None), getattr(tool, "hostname", None)
    if not isinstance(name, str) or not isinstance(hostname, str):
        raise ConfigurationError(
            raw_message=f"{tool!r} is no tool server: use McpServer(name, url=…), or an object "
            "with name, hostname and port"
        )
    port = getattr(tool, "port", DEFAULT_TOOL_PORT)
    return McpServer(name, url=f"http://{hostname}:{port}/{name}/mcp")


def as_folder(path: str | Path, name: str = "work_dir") -> Path:
    """Return the path of a folder that is given as an argument of this name.

    Raises:
        ConfigurationError: It is empty: an unset variable must not mean the current folder.
    """
    if not str(path).strip():
        none = "an empty one of its own for each prompt" if name == "work_dir" else "none"
        raise ConfigurationError(
            raw_message=f"{name} is empty", hint=f"Name a folder; None means {none}."
        )
    return Path(path)


def effective_system(system_message: str | None) -> str | None:
    """Return the system message that is sent: "" means the seed's own, None opencode's."""
    return DEFAULT_SYSTEM_MESSAGE if system_message == "" else system_message


def split_messages(
    prompt: str, messages: Sequence[Mapping[str, Any]] | None
) -> tuple[str, str | None, tuple[ChatMessage, ...]]:
    """Read a chat in OpenAI's form.

    Args:
        prompt: The last user message; "": the last of `messages` is it.
        messages: `{"role": "system" | "user" | "assistant", "content": str | [text parts]}`; a
            system message may only be the first.

    Returns:
        The prompt, the chat's own system message (None: it has none), and the history before the
        prompt.

    Raises:
        InvalidRequestError: A role, order or content that cannot be sent.
    """
    rows = [_message(number, row) for number, row in enumerate(messages or ())]
    system = rows.pop(0)[1] if rows and rows[0][0] == "system" else None
    if not prompt and rows and rows[-1][0] == "user":
        prompt = rows.pop()[1]
    history: list[ChatMessage] = []
    for role, text in rows:
        if role == "system":
            raise InvalidRequestError(raw_message="a system message may only be the first message")
        history.append(ChatMessage("user" if role == "user" else "assistant", text))
    if history and history[0].role == "assistant":
        raise InvalidRequestError(raw_message="a chat cannot begin with an assistant message")
    return prompt, system, tuple(history)


def _message(number: int, row: Any) -> tuple[str, str]:
    if not isinstance(row, Mapping):
        raise InvalidRequestError(
            raw_message=f"messages[{number}] is no mapping with role and content"
        )
    role, content = row.get("role"), row.get("content")
    if role == "developer":
        role = "system"
    if role not in ("system", "user", "assistant"):
        raise InvalidRequestError(
            raw_message=f"messages[{number}] has role {role!r}; system, user and assistant can be "
            "sent"
        )
    if isinstance(content, str):
        return role, content
    return role, _text_parts(number, content)


def _text_parts(number: int, content: Any) -> str:
    parts = content if isinstance(content, list) else [None]
    found = [part.get("text") for part in parts if isinstance(part, Mapping)]
    texts = [text for text in found if isinstance(text, str)]
    if len(texts) != len(parts):
        raise InvalidRequestError(
            raw_message=f"messages[{number}] holds something else than text",
            hint="Pass images and documents with files=.",
        )
    return "".join(texts)


def check_text(name: str, text: str) -> None:
    """Refuse what JSON, a database or a command line would change or cut.

    Raises:
        InvalidRequestError: A NUL character or a lone surrogate.
    """
    if "\0" in text:
        raise InvalidRequestError(
            raw_message=f"{name} holds a NUL character", hint="Remove it: it cannot be sent."
        )
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise InvalidRequestError(
            raw_message=f"{name} holds a lone surrogate at character {error.start}",
            hint="Decode the text with errors='replace' where it comes from.",
        ) from error


def check_prompt(prompt: str) -> None:
    """Refuse a prompt that cannot be sent exactly.

    Raises:
        InvalidRequestError: It is blank (opencode sends no such message), or see `check_text`.
    """
    if _BLANK.fullmatch(prompt):
        raise InvalidRequestError(raw_message="the prompt is empty")
    check_text("the prompt", prompt)
