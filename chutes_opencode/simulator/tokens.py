"""Count tokens by one documented rule, so that anyone can compute a bill by hand.

* A text has `ceil(UTF-8 bytes / 4)` tokens.
* A message has the tokens of one text: the bytes of its text content (a string, or every text
  part), its `reasoning_content`, and the name and arguments of each of its tool calls, added up
  before the division. Roles, ids and JSON punctuation are free. Each image part adds 256 tokens,
  each other part (file, PDF, audio, video) 1,024.
* The tools on offer have the tokens of one text: the compact JSON of the `tools` list.
* Input tokens = tools + all messages.
* Output tokens = text + reasoning + tool calls, each `ceil(bytes / 4)` of what was sent of its
  kind; reasoning tokens are part of output tokens.
* Cached tokens: those of the longest prefix of messages that equals a prefix of an earlier
  accepted request of the same key, model and session with the same tools, plus the tools' tokens
  when at least one message matches. A request without a session id has none.
"""

from __future__ import annotations

import hashlib
import json
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any

from chutes_opencode.simulator.messages import Message, content_text, is_text_part

IMAGE_TOKENS = 256
FILE_TOKENS = 1024
_MAX_SESSIONS = 10_000


def count_tokens(text: str) -> int:
    """Tokens of a text: `ceil(UTF-8 bytes / 4)`."""
    return tokens_of_bytes(count_bytes(text))


def count_bytes(text: str) -> int:
    """UTF-8 bytes of a text; a lone surrogate, legal in JSON, counts three."""
    return len(text.encode("utf-8", "surrogatepass"))


def tokens_of_bytes(size: int) -> int:
    """Tokens of `size` bytes of text, rounded up."""
    return -(-size // 4)


def message_tokens(message: Message) -> int:
    """Tokens of one message, its images and files included."""
    content = message.get("content")
    size = count_bytes(content_text(content)) + count_bytes(_text(message.get("reasoning_content")))
    for call in message.get("tool_calls") or ():
        function = call.get("function") or {}
        size += count_bytes(_text(function.get("name")))
        size += count_bytes(_text(function.get("arguments")))
    return tokens_of_bytes(size) + _attachment_tokens(content)


def tools_tokens(tools: Sequence[Any]) -> int:
    """Tokens of the tools that a request offers."""
    return count_tokens(_compact(tools)) if tools else 0


def input_tokens(messages: Sequence[Message], tools: Sequence[Any] = ()) -> int:
    """Input tokens of a request."""
    return tools_tokens(tools) + sum(message_tokens(message) for message in messages)


class PrefixCache:
    """Which prefixes of messages a session has sent before; holds the latest 10,000 sessions."""

    def __init__(self) -> None:
        """Start empty."""
        self._sessions: OrderedDict[tuple[str, str, str], frozenset[bytes]] = OrderedDict()

    def clear(self) -> None:
        """Forget every session."""
        self._sessions.clear()

    def admit(
        self,
        session: tuple[str, str, str],
        messages: Sequence[Message],
        tools: Sequence[Any] = (),
    ) -> int:
        """Count the cached tokens of a request of `session` (key, model, id), and remember it."""
        known = self._sessions.pop(session, frozenset())
        digests = _prefix_digests(messages, tools)
        matched = next((n for n, digest in enumerate(digests) if digest not in known), len(digests))
        self._sessions[session] = known | frozenset(digests)
        if len(self._sessions) > _MAX_SESSIONS:
            self._sessions.popitem(last=False)
        return input_tokens(messages[:matched], tools) if matched else 0


def _prefix_digests(messages: Sequence[Message], tools: Sequence[Any]) -> list[bytes]:
    """One digest for each prefix of `messages`: each covers the tools and all before it."""
    digest = hashlib.sha256(_compact(tools).encode("utf-8", "surrogatepass")).digest()
    digests = []
    for message in messages:
        text = json.dumps(message, sort_keys=True)
        digest = hashlib.sha256(digest + text.encode()).digest()
        digests.append(digest)
    return digests


def _attachment_tokens(content: object) -> int:
    if not isinstance(content, list):
        return 0
    parts = [part for part in content if isinstance(part, Mapping) and not is_text_part(part)]
    return sum(IMAGE_TOKENS if part.get("type") == "image_url" else FILE_TOKENS for part in parts)


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def _compact(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
