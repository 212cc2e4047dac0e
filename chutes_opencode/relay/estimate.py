"""Estimate the tokens of a request whose usage was never told. Pure.

Our rule, in full:

* A text has `ceil(UTF-8 bytes / 4)` tokens.
* A message has the tokens of one text: its text content (all text parts), its
  `reasoning_content`, and the names and arguments of its tool calls, added up in bytes. Each image
  in it adds 256 tokens, each other part that is no text 1,024.
* The tools that are offered have the tokens of one text: the `tools` list as compact JSON.
* Input is the tools plus all messages; of a request without messages (`prompt`, `input`) the
  tokens of those texts.
* Output is counted by kind (text, reasoning, tool calls), each the tokens of one text; reasoning
  is told apart from the rest.
* Cached input, only where the price knows cached input: the messages at the beginning that an
  earlier request of the same session and model, which was accepted, began with too, offering the
  same tools; and the tools, if that is at least one message.

A request whose answer had not begun (no status line came) is taken to have used nothing.
"""

from __future__ import annotations

import hashlib
import json
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from typing import Any, Literal

from chutes_opencode.results import Usage

Kind = Literal["text", "reasoning", "tool"]

BYTES_PER_TOKEN = 4
IMAGE_TOKENS = 256
OTHER_PART_TOKENS = 1024
_MAX_SESSIONS = 1000


def count_bytes(text: str) -> int:
    """Count the UTF-8 bytes of a text; a lone surrogate has three."""
    return len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))


def tokens_of(size: int) -> int:
    """Return the tokens of a text of `size` bytes."""
    return -(-size // BYTES_PER_TOKEN)


def output_tokens(output_bytes: Mapping[Kind, int]) -> int:
    """Return the tokens of an answer, reasoning included.

    Args:
        output_bytes: Its bytes by kind, as `StreamCheck` counts them.
    """
    return sum(tokens_of(size) for size in output_bytes.values())


def input_tokens(body: Mapping[str, Any]) -> int:
    """Return the tokens of a request."""
    messages = body.get("messages")
    if isinstance(messages, list):
        return _tools_tokens(body) + sum(_message_tokens(message) for message in messages)
    return sum(tokens_of(count_bytes(text)) for text in _prompts(body))


def estimate_usage(
    body: Mapping[str, Any], output_bytes: Mapping[Kind, int], *, cached: int = 0
) -> Usage:
    """Estimate what an accepted request used whose provider told nothing.

    Args:
        body: The request, as it went to the provider.
        output_bytes: The answer's bytes by kind, as far as it came.
        cached: Cached input tokens, from `PrefixMemory`; 0 where the price knows none.

    Returns:
        The usage, marked `estimated`.
    """
    reasoning = tokens_of(output_bytes.get("reasoning", 0))
    everything = input_tokens(body)
    cached = min(cached, everything)
    return Usage(
        input=everything - cached,
        output=output_tokens(output_bytes) - reasoning,
        reasoning=reasoning,
        cache_read=cached,
        num_requests=1,
        estimated=True,
    )


def told_usage(told: Mapping[str, Any]) -> Usage:
    """Read the `usage` object of an answer; cached and reasoning tokens are split off.

    Parts never exceed their whole, whatever a server tells.
    """
    prompt, completion = _count(told.get("prompt_tokens")), _count(told.get("completion_tokens"))
    cached = _count(_mapping(told.get("prompt_tokens_details")).get("cached_tokens"))
    details = _mapping(told.get("completion_tokens_details"))
    # SGLang tells it beside the details.
    reasoning = _count(details.get("reasoning_tokens")) or _count(told.get("reasoning_tokens"))
    cached, reasoning = min(cached, prompt), min(reasoning, completion)
    return Usage(
        input=prompt - cached,
        output=completion - reasoning,
        reasoning=reasoning,
        cache_read=cached,
        num_requests=1,
    )


class PrefixMemory:
    """What sessions have sent before, as digests; of the last thousand sessions."""

    def __init__(self) -> None:
        """Remember nothing."""
        self._known: OrderedDict[tuple[str, str], set[bytes]] = OrderedDict()

    def accept(self, session_id: str, body: Mapping[str, Any]) -> int:
        """Remember an accepted request, and count its cached tokens by those before it.

        Args:
            session_id: Its session.
            body: As it went to the provider.
        """
        messages = body.get("messages")
        messages = messages if isinstance(messages, list) else []
        key = (session_id, str(body.get("model")))
        known = self._known.setdefault(key, set())
        self._known.move_to_end(key)
        digests = _prefixes(messages, body.get("tools"))
        matched = next((n for n, digest in enumerate(digests) if digest not in known), len(digests))
        known.update(digests)
        if len(self._known) > _MAX_SESSIONS:
            self._known.popitem(last=False)
        return input_tokens({**body, "messages": messages[:matched]}) if matched else 0


def _prefixes(messages: Iterable[Any], tools: Any) -> list[bytes]:
    """Return a digest for each beginning of the messages; the tools are part of all."""
    running = hashlib.sha256(_compact(tools))
    digests = []
    for message in messages:
        running.update(b"\n" + _compact(message))
        digests.append(running.digest())
    return digests


def _message_tokens(message: Any) -> int:
    fields = _mapping(message)
    content = fields.get("content")
    texts = [fields.get("reasoning_content"), content]
    for call in _list(fields.get("tool_calls")):
        function = _mapping(_mapping(call).get("function"))
        texts += [function.get("name"), function.get("arguments")]
    others = 0
    for part in _list(content):
        text = _mapping(part).get("text")
        texts.append(text)
        if not isinstance(text, str):
            image = _mapping(part).get("type") == "image_url"
            others += IMAGE_TOKENS if image else OTHER_PART_TOKENS
    return tokens_of(sum(count_bytes(text) for text in texts if isinstance(text, str))) + others


def _tools_tokens(body: Mapping[str, Any]) -> int:
    tools = body.get("tools")
    return tokens_of(len(_compact(tools))) if tools else 0


def _prompts(body: Mapping[str, Any]) -> list[str]:
    """Return the texts of a request for a completion or an embedding."""
    texts: list[str] = []
    for told in (body.get("prompt"), body.get("input")):
        texts += [text for text in (told, *_list(told)) if isinstance(text, str)]
    return texts


def _compact(value: Any) -> bytes:
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), sort_keys=True)
    return text.encode("utf-8", "surrogatepass")


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _count(value: Any) -> int:
    """Return a number of tokens; anything else is none."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return 0
    return max(0, int(value)) if abs(value) < 2**53 else 0
