"""A reply in OpenAI's wire form: stream chunks, or one JSON completion. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from chutes_opencode.simulator.billing import Tokens
from chutes_opencode.simulator.replies import Reply
from chutes_opencode.simulator.tokens import count_bytes, tokens_of_bytes

DONE = b"data: [DONE]\n\n"
_CHUNKS_OF_A_TEXT = 20
_SMALLEST_CHUNK = 4
_LARGEST_CHUNK = 65_536

Kind = Literal["text", "reasoning", "tool"]


@dataclass(frozen=True, slots=True)
class Delta:
    """One delta of a stream; `counted` is the text in it that costs output tokens."""

    payload: Mapping[str, Any]
    kind: Kind
    counted: str


@dataclass(slots=True)
class Meter:
    """Counts output as it is sent."""

    _bytes: dict[Kind, int] = field(default_factory=dict)

    def add(self, delta: Delta) -> None:
        """Count one delta."""
        self._bytes[delta.kind] = self._bytes.get(delta.kind, 0) + count_bytes(delta.counted)

    @property
    def reasoning(self) -> int:
        """Reasoning tokens so far."""
        return tokens_of_bytes(self._bytes.get("reasoning", 0))

    @property
    def output(self) -> int:
        """Output tokens so far, reasoning included."""
        return sum(tokens_of_bytes(size) for size in self._bytes.values())


@dataclass(frozen=True, slots=True)
class Envelope:
    """The fields that every chunk of a completion repeats."""

    id: str
    model: str
    created: int

    def chunk(self, delta: Mapping[str, Any], finish_reason: str | None = None) -> dict[str, Any]:
        """A stream chunk with one choice."""
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
        return self._body("chat.completion.chunk", [choice])

    def usage_chunk(self, usage: Mapping[str, Any]) -> dict[str, Any]:
        """The chunk without choices that tells the usage at the end."""
        return {**self._body("chat.completion.chunk", []), "usage": usage}

    def completion(self, reply: Reply, usage: Mapping[str, Any]) -> dict[str, Any]:
        """The whole answer to a request that did not ask for a stream."""
        content = (reply.text or None) if reply.tool_calls else reply.text
        message: dict[str, Any] = {"role": "assistant", "content": content}
        if reply.reasoning:
            message["reasoning_content"] = reply.reasoning
        if reply.tool_calls:
            message["tool_calls"] = [
                _call(call_id, name, arguments)
                for call_id, name, arguments in _identified(reply, self.id)
            ]
        finish = reply.finish_reason or None
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": finish}
        return {**self._body("chat.completion", [choice]), "usage": usage}

    def _body(self, kind: str, choices: list[dict[str, Any]]) -> dict[str, Any]:
        return {
            "id": self.id,
            "object": kind,
            "created": self.created,
            "model": self.model,
            "choices": choices,
        }


def deltas(reply: Reply, completion_id: str, chunk_size: int | None = None) -> Iterator[Delta]:
    """Cut a reply into deltas: reasoning, then text, then tool calls.

    Args:
        reply: what to say.
        completion_id: makes the ids of the tool calls unique.
        chunk_size: characters in a delta; None makes about 20 of a text.
    """
    for piece in _pieces(reply.reasoning, chunk_size):
        yield Delta({"reasoning_content": piece}, "reasoning", piece)
    for piece in _pieces(reply.text, chunk_size):
        yield Delta({"content": piece}, "text", piece)
    for index, (call_id, name, arguments) in enumerate(_identified(reply, completion_id)):
        first = {"index": index, **_call(call_id, name, "")}
        yield Delta({"tool_calls": [first]}, "tool", name)
        for piece in _pieces(arguments, chunk_size):
            more = {"index": index, "function": {"arguments": piece}}
            yield Delta({"tool_calls": [more]}, "tool", piece)


def usage_of(tokens: Tokens) -> dict[str, Any]:
    """Token counts in OpenAI's form."""
    return {
        "prompt_tokens": tokens.input,
        "completion_tokens": tokens.output,
        "total_tokens": tokens.input + tokens.output,
        "prompt_tokens_details": {"cached_tokens": tokens.cached},
        "completion_tokens_details": {"reasoning_tokens": tokens.reasoning},
    }


def event(payload: Mapping[str, Any]) -> bytes:
    """One server-sent event."""
    return b"data: " + encode(payload) + b"\n\n"


def encode(payload: Mapping[str, Any]) -> bytes:
    """Compact JSON in UTF-8; escaped to ASCII where a lone surrogate leaves no other way."""
    try:
        return json.dumps(payload, ensure_ascii=False, separators=(",", ":")).encode()
    except UnicodeEncodeError:
        return json.dumps(payload, separators=(",", ":")).encode()


def shorten(text: str, tokens: int) -> str:
    """The longest beginning of `text`, in whole characters, that has at most `tokens` tokens."""
    data = text.encode("utf-8", "surrogatepass")[: tokens * 4]
    try:
        return data.decode("utf-8", "surrogatepass")
    except UnicodeDecodeError as error:  # the cut went through a character
        return data[: error.start].decode("utf-8", "surrogatepass")


def _pieces(text: str, chunk_size: int | None) -> Iterator[str]:
    size = chunk_size or min(
        max(-(-len(text) // _CHUNKS_OF_A_TEXT), _SMALLEST_CHUNK), _LARGEST_CHUNK
    )
    for start in range(0, len(text), size):
        yield text[start : start + size]


def _identified(reply: Reply, completion_id: str) -> Iterator[tuple[str, str, str]]:
    for index, call in enumerate(reply.tool_calls):
        yield f"call_{completion_id.removeprefix('chatcmpl-')}_{index}", call.name, call.arguments


def _call(call_id: str, name: str, arguments: str) -> dict[str, Any]:
    return {
        "id": call_id,
        "type": "function",
        "function": {"name": name, "arguments": arguments},
    }
