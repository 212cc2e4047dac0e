"""A prompt as one chat completion: what is asked, and what was answered. Pure."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from chutes_opencode.attachments import PDF_TYPE
from chutes_opencode.errors import ConfigurationError
from chutes_opencode.opencode.config import Target, body_values, output_limit
from chutes_opencode.request import FilePart, PromptRequest
from chutes_opencode.results import Exchange, Message, Part, ReasoningPart, Usage

ChatRow = Mapping[str, Any]
"""A message as it stands in a request's body."""

# opencode's spelling of the finish reasons that it spells in its own way.
_FINISH = {
    "tool_calls": "tool-calls",
    "function_call": "tool-calls",
    "content_filter": "content-filter",
}

_FIXES: Mapping[str, str] = {
    "tools": "Leave tools= out, or use engine='serve' or 'run', whose agent can call them.",
    "work_dir": "Leave work_dir= out and pass files=, or use engine='serve' or 'run'.",
    "permission": "Leave permission= out: a plain chat has no tools to be allowed anything.",
    "env": "Leave env= out: no process runs that could see it.",
    "project_rules": "Leave project_rules= out and say it in system_message=.",
    "keep_session": "Leave keep_session= out and pass messages=, or use engine='serve' or 'run'.",
    "extra_cli_args": "Leave extra_cli_args= out: no opencode runs that could take them.",
    "system_message": "Pass system_message=: opencode's own prompt is for its agent.",
    "context": "Leave context=True out: there is no folder that it could tell of.",
    "relay": "Leave relay=False out: the relay is what sends the request.",
}
# Those that are asked for by another value than one that says something.
_ASKING = {"system_message": None, "context": True, "relay": False}


def refuse_arguments(arguments: Mapping[str, object]) -> None:
    """Refuse what a plain chat completion cannot do, rather than ignore it.

    Args:
        arguments: Some of tools, work_dir, permission, env, project_rules, keep_session,
            extra_cli_args, system_message, context and relay, by name and as the caller gave them.
            Others are not looked at.

    Raises:
        ConfigurationError: Names the first one that is asked for, and what to do instead.
    """
    for name, fix in _FIXES.items():
        if name in arguments and _is_asked(name, arguments[name]):
            raise ConfigurationError(
                raw_message=f"engine='direct' is a plain chat, which knows no {_shown(name)}",
                hint=fix,
            )


def _is_asked(name: str, value: object) -> bool:
    if name in _ASKING:
        return value is _ASKING[name]
    return value is not None and value is not False and value not in ((), [], {})


def _shown(name: str) -> str:
    return f"{name}={_ASKING[name]}" if name in _ASKING else f"{name}="


# --- what is asked --------------------------------------------------------------------------------


def chat_body(request: PromptRequest, target: Target, messages: Sequence[ChatRow]) -> bytes:
    """Return the body of the request as opencode would send it, with nothing of its own added.

    Args:
        request: What to ask.
        target: The provider and its models.
        messages: Those after the system message.

    Raises:
        OpenCodeError: A parameter that cannot be sent.
    """
    system = request.system_message
    body = {
        "model": request.model,
        "max_tokens": output_limit(request, target),
        **body_values(request.params),
        "messages": [*([{"role": "system", "content": system}] if system else []), *messages],
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    return json.dumps(body).encode()


def asked_messages(request: PromptRequest, held: Sequence[ChatRow] = ()) -> tuple[ChatRow, ...]:
    """Return the messages of a request, without the system message.

    Args:
        request: Its history and its prompt.
        held: Those of the session that it continues.
    """
    history = [{"role": message.role, "content": message.text} for message in request.history]
    files = [_file_part(file) for file in request.attachments]
    text: Any = request.prompt
    content = [*files, {"type": "text", "text": text}] if files else text
    return (*held, *history, {"role": "user", "content": content})


def answered_message(answer: Message) -> ChatRow:
    """Return an answer as the next turn's request tells it to the model."""
    thought = "".join(part.text for part in answer.parts if isinstance(part, ReasoningPart))
    said = {"role": "assistant", "content": answer.text}
    return said | ({"reasoning_content": thought} if thought else {})


def _file_part(file: FilePart) -> dict[str, Any]:
    data = f"data:{file.media_type};base64,{base64.b64encode(file.content).decode()}"
    if file.media_type == PDF_TYPE:
        return {"type": "file", "file": {"filename": file.name, "file_data": data}}
    return {"type": "image_url", "image_url": {"url": data}}


# --- what was answered ----------------------------------------------------------------------------


def answer_message(
    model: str, parts: Iterable[Part], exchanges: Sequence[Exchange]
) -> Message | None:
    """Return the assistant's message; None: nothing came.

    Args:
        model: The model asked.
        parts: What was heard.
        exchanges: The prompt's requests: the last one is the answer's, if it is whole.
    """
    said = tuple(parts)
    last = exchanges[-1] if exchanges else None
    if last is None or not last.whole:
        return Message("assistant", said, Usage(num_turns=1), model=model) if said else None
    used = last.usage or Usage()
    usage = Usage(
        used.input, used.output, used.reasoning, used.cache_read, used.cache_write, num_turns=1
    )
    reason = last.finish_reason or ""
    return Message(
        "assistant",
        said,
        usage,
        cost_usd=last.cost_usd or 0.0,
        finish_reason=_FINISH.get(reason, reason),
        model=model,
    )
