"""Deterministic replies: what a model of the simulator says to a request. Pure functions."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from chutes_opencode.simulator.arithmetic import solve
from chutes_opencode.simulator.messages import Message, answers_since_user, last_user_text

REPLY_KINDS = ("auto", "echo", "arithmetic", "reasoning", "text", "script", "size")
MAX_SIZE = 50_000_000  # bytes of a `sim/size/<n>` reply
_SIZE_PATTERN = "0123456789abcdef"
_HARMLESS_TOOLS = ("glob", "grep", "list", "read")
_STEP_FIELDS: dict[str, tuple[type, ...]] = {
    "text": (str,),
    "reasoning": (str,),
    "tool": (str,),
    "arguments": (dict, str),
    "tools": (list,),
    "finish_reason": (str,),
    "fault": (str,),
    "times": (int,),
    "delay_s": (int, float),
}
_NO_SCRIPT = 'no script: the last user message holds no JSON object with a "steps" list'
_KIND_BY_MODEL = {
    "sim/echo": "echo",
    "sim/vision": "echo",
    "sim/no-tools": "echo",
    "sim/nulls": "echo",
    "sim/arithmetic": "arithmetic",
    "sim/reasoning": "reasoning",
    "sim/script": "script",
}


class ReplyError(ValueError):
    """The request asks for a reply that cannot be made; the message is the answer's detail."""


@dataclass(frozen=True, slots=True)
class ToolCall:
    """One tool call of a reply; `arguments` is JSON text, malformed if a script says so."""

    name: str
    arguments: str


@dataclass(frozen=True, slots=True)
class Reply:
    """What the model says: reasoning, text, tool calls, and how it ends.

    Attributes:
        finish_reason: "" tells none.
        fault: name of a fault that a script's step asks for.
        times: how often that fault happens; None is always.
        delay_s: seconds before the first byte.
    """

    text: str = ""
    reasoning: str = ""
    tool_calls: tuple[ToolCall, ...] = ()
    finish_reason: str = "stop"
    fault: str | None = None
    times: int | None = None
    delay_s: float = 0.0


def kind_of(model: str) -> str:
    """Kind of reply that a model id gives by itself."""
    if model.startswith("sim/size/"):
        return "size"
    return _KIND_BY_MODEL.get(model, "auto")


def make_reply(
    kind: str,
    model: str,
    messages: Sequence[Message],
    *,
    text: str = "",
    steps: Sequence[Mapping[str, Any]] | None = None,
) -> Reply:
    """Compute the reply.

    Args:
        kind: one of REPLY_KINDS. `auto` solves the arithmetic expression in the last user message
            if there is one, else echoes that message.
        model: id of the model; names the size of a `size` reply.
        messages: the request's messages.
        text: the answer of a `text` reply.
        steps: the steps of a `script` reply; None looks for them in the last user message.

    Raises:
        ReplyError: the script or the size is malformed.
    """
    prompt = last_user_text(messages)
    if kind == "text":
        return Reply(text)
    if kind == "echo":
        return Reply(prompt)
    if kind == "size":
        return Reply(sized_text(model))
    if kind == "script":
        return _scripted(prompt, messages, steps)
    answer = solve(prompt)
    if kind == "arithmetic":
        return Reply(answer or "no arithmetic expression found")
    if kind == "reasoning":
        return Reply(answer or prompt, reasoning=f"The message has {len(prompt)} characters.\n")
    return Reply(answer or prompt)


def sized_text(model: str) -> str:
    """Text of exactly n ASCII bytes for the model id `sim/size/<n>`.

    Raises:
        ReplyError: n is no number or above 50,000,000.
    """
    size = model.rpartition("/")[2]
    if not (size.isascii() and size.isdigit() and len(size) <= 8 and int(size) <= MAX_SIZE):
        raise ReplyError(f"sim/size/<n> takes a number of bytes up to {MAX_SIZE}, got {size!r}")
    count = int(size)
    return (_SIZE_PATTERN * (count // len(_SIZE_PATTERN) + 1))[:count]


def halved(reply: Reply) -> Reply:
    """The first half of a reply's text, as a model leaves it that was stopped."""
    return replace(reply, text=reply.text[: (len(reply.text) + 1) // 2], tool_calls=())


def endless_call(tools: Sequence[Any]) -> Reply:
    """Call a tool that the request offers (a harmless one if it can), else an unknown tool."""
    offered = {function["name"]: function for function in _functions(tools)}
    name = next((tool for tool in (*_HARMLESS_TOOLS, *offered) if tool in offered), "unknown_tool")
    schema = offered.get(name, {}).get("parameters") or {}
    arguments = json.dumps(_smallest(schema) if isinstance(schema, Mapping) else {})
    return Reply(tool_calls=(ToolCall(name, arguments),), finish_reason="tool_calls")


def find_script(text: str) -> list[Any] | None:
    """The `steps` of the first JSON object in `text` that has a list of that name."""
    decoder = json.JSONDecoder()
    last = text.rfind('"steps"')
    at = text.find("{")
    while 0 <= at < last:
        try:
            value, _ = decoder.raw_decode(text, at)
        except ValueError:
            value = None
        except RecursionError:  # nested beyond reading; what is inside is no script either
            return None
        if isinstance(value, dict) and isinstance(value.get("steps"), list):
            steps: list[Any] = value["steps"]
            return steps
        at = text.find("{", at + 1)
    return None


def read_step(step: object, where: str = "step") -> Reply:
    """Read one step of a script.

    A step is an object of `text`, `reasoning`, `tool` with `arguments` (an object, or a string
    that is sent as it is), `tools` (a list of such pairs), `finish_reason`, `fault` with `times`,
    `delay_s`.

    Raises:
        ReplyError: something else; the message begins with `where`.
    """
    if not isinstance(step, Mapping):
        raise ReplyError(f"{where}: expected an object, got {step!r}")
    if unknown := set(step) - set(_STEP_FIELDS):
        raise ReplyError(f"{where}: unknown field {sorted(unknown)[0]!r}")
    for name, kinds in _STEP_FIELDS.items():
        if name in step and (not isinstance(step[name], kinds) or isinstance(step[name], bool)):
            raise ReplyError(f"{where}.{name}: unexpected {step[name]!r}")
    calls = tuple(_read_calls(step, where))
    return Reply(
        text=step.get("text", ""),
        reasoning=step.get("reasoning", ""),
        tool_calls=calls,
        finish_reason=step.get("finish_reason", "tool_calls" if calls else "stop"),
        fault=step.get("fault"),
        times=step.get("times"),
        delay_s=float(step.get("delay_s", 0.0)),
    )


def _scripted(
    prompt: str, messages: Sequence[Message], steps: Sequence[Mapping[str, Any]] | None
) -> Reply:
    found = find_script(prompt) if steps is None else steps
    if found is None:
        return Reply(_NO_SCRIPT)
    index = answers_since_user(messages)
    if index >= len(found):
        return Reply("done")
    return read_step(found[index], f"steps[{index}]")


def _read_calls(step: Mapping[str, Any], where: str) -> Iterator[ToolCall]:
    calls = [step] if "tool" in step else []
    for call in (*calls, *step.get("tools", ())):
        arguments = call.get("arguments", {}) if isinstance(call, Mapping) else None
        if not isinstance(arguments, Mapping | str) or not isinstance(call.get("tool"), str):
            raise ReplyError(f"{where}.tools: expected objects of tool and arguments")
        yield ToolCall(
            call["tool"], arguments if isinstance(arguments, str) else json.dumps(arguments)
        )


def _functions(tools: Sequence[Any]) -> Iterator[Mapping[str, Any]]:
    for tool in tools:
        function = tool.get("function") if isinstance(tool, Mapping) else None
        if isinstance(function, Mapping) and isinstance(function.get("name"), str):
            yield function


def _smallest(schema: Mapping[str, Any]) -> object:
    """A small value that fits a JSON schema of the kind that tools have."""
    if schema.get("enum"):
        return schema["enum"][0]
    kind = schema.get("type")
    if kind in ("object", None):
        properties = schema.get("properties") or {}
        return {name: _smallest(properties.get(name) or {}) for name in schema.get("required", ())}
    return {"string": "x", "integer": 1, "number": 1, "boolean": False, "array": []}.get(str(kind))
