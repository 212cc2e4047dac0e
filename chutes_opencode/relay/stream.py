"""Check an event stream as its bytes pass: what is good goes on unchanged, the rest stays here.

`StreamCheck` is a pure state machine: bytes in, the bytes that may pass out, in whole events. What
would make opencode loop or retry behind our back does not pass: an error event, a bare line of
JSON (Chutes' way of telling an error in the middle of a stream), a chunk that is no JSON or not of
the shape that opencode reads. When the stream has ended, `outcome` says what it was:

==================  ==========================================================================
whole               every choice told a finish reason that we know
unknown_finish      one told a reason that opencode does not know either, and would ask again
truncated           it began, and ended without a finish reason
empty               no chunk at all; at most comments and `[DONE]`
error               the provider told an error in it
malformed           a chunk was no JSON or not what opencode reads, a line had no end, or a tool
                    was to be called and none was named
==================  ==========================================================================

The finish reason makes an answer whole: what comes after it (a broken usage chunk, an error) is
kept back and changes nothing.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, Literal

from chutes_opencode.relay.chunk import CallBook, chunk_flaw
from chutes_opencode.relay.estimate import Kind, count_bytes, told_usage
from chutes_opencode.results import Usage

Outcome = Literal["whole", "truncated", "empty", "error", "malformed", "unknown_finish"]
Delta = tuple[Literal["text", "reasoning"], str]

FINISH_REASONS = frozenset({"stop", "tool_calls", "function_call", "length", "content_filter"})

# opencode takes them for a call that was run, and asks on: thirteen paid requests a second (seen).
_CALLED = ("tool_calls", "function_call")

MAX_EVENT_BYTES = 16 * 1024 * 1024
_MAX_CHOICES = 128
_MAX_TOOL_CALLS = 1000
_MAX_TEXT = 65_536

_LINE_END = re.compile(rb"\r\n|\n|\r")
_BOM = b"\xef\xbb\xbf"
_DONE = b"[DONE]"


class StreamCheck:
    """One event stream on its way through.

    Attributes:
        done: Whether `[DONE]` came.
        error: What the provider said in place of the answer, as it said it.
        malformed: What was wrong with a chunk.
        served_model: Model that the chunks name.
        output_bytes: UTF-8 bytes of output that have come, by kind.
        tool_names: Names of the tools that were called.
        deltas: What the last `feed` added to the first choice, for observers: (kind, text).
    """

    def __init__(self, *, max_event_bytes: int = MAX_EVENT_BYTES) -> None:
        """Wait for the first byte.

        Args:
            max_event_bytes: A longer event is malformed, so that memory stays bounded.
        """
        self.done = False
        self.error: str | None = None
        self.malformed: str | None = None
        self.served_model: str | None = None
        self.output_bytes: dict[Kind, int] = {}
        self.tool_names: list[str] = []
        self.deltas: list[Delta] = []
        self._max_event_bytes = max_event_bytes
        self._line = bytearray()  # the beginning of a line whose end has not come
        self._searched = 0  # how much of it holds no line end
        self._event = bytearray()  # the lines of the event that is coming, as they came
        self._data: list[bytes] = []
        self._named_error = False
        self._first = True
        self._finishes: dict[int, str | None] = {}
        self._usage: Mapping[str, Any] | None = None
        self._calls = CallBook()

    # --- what is known ---------------------------------------------------------------------------

    @property
    def started(self) -> bool:
        """Whether a chunk of an answer has passed: until then nothing needs to go to opencode."""
        return bool(self._finishes)

    @property
    def stopped(self) -> bool:
        """Whether nothing will pass any more: the rest need not be read."""
        return self.error is not None or self.malformed is not None

    @property
    def finish_reason(self) -> str | None:
        """The finish reason, as the provider spelled it; an unknown one before known ones."""
        told = [reason for _, reason in sorted(self._finishes.items()) if reason]
        return next((reason for reason in told if reason not in FINISH_REASONS), None) or (
            told[0] if told else None
        )

    @property
    def usage(self) -> Usage | None:
        """The usage that was told last; None: none was."""
        return None if self._usage is None else told_usage(self._usage)

    @property
    def outcome(self) -> Outcome:
        """What the stream was, if it has ended here."""
        if self._finished:
            return "whole" if self.finish_reason in FINISH_REASONS else "unknown_finish"
        if self.malformed is not None:
            return "malformed"
        if self.error is not None:
            return "error"
        return "truncated" if self.started else "empty"

    @property
    def _finished(self) -> bool:
        return bool(self._finishes) and all(self._finishes.values())

    # --- bytes -----------------------------------------------------------------------------------

    def feed(self, chunk: bytes) -> bytes:
        """Take bytes of the stream, cut anywhere.

        Returns:
            What may pass now: whole events, as they came.
        """
        self.deltas = []
        if self.stopped:
            return b""
        self._line += chunk
        passed = bytearray()
        position = 0
        for end in _LINE_END.finditer(self._line, self._searched):
            if end.group() == b"\r" and end.end() == len(self._line):
                break  # the line feed may be in the next chunk
            self._take(self._line[position : end.start()], end.group(), passed)
            position = end.end()
            if self.stopped:
                break
        del self._line[:position]
        self._searched = len(self._line) - self._line.endswith(b"\r")
        if len(self._line) + len(self._event) > self._max_event_bytes and not self.stopped:
            self._break(f"an event is longer than {self._max_event_bytes} bytes")
        return bytes(passed)

    def finish(self) -> bytes:
        """Take the end of the stream, also when the connection broke (then let nothing pass).

        Returns:
            What may still pass. A last chunk without its empty line is completed: its reader
            would not see it otherwise.
        """
        self.deltas = []
        passed = bytearray()
        if self.stopped:
            return b""
        if self._line:
            line = self._line.removesuffix(b"\r")
            self._take(line, bytes(self._line[len(line) :]), passed)
        if self._event and not self.stopped:
            missing = b"" if self._data == [_DONE] or not self._data else self._missing_end()
            self._end_event(passed)
            if passed:
                passed += missing
        self._line.clear()
        self.malformed = None  # what the end has cut off is not malformed but truncated
        return bytes(passed)

    def _missing_end(self) -> bytes:
        return b"\n" if self._event.endswith((b"\n", b"\r")) else b"\n\n"

    def _take(self, line: bytearray, end: bytes, passed: bytearray) -> None:
        """Take a line; at an empty one the event before it is complete."""
        content = line.removeprefix(_BOM) if self._first else line
        self._first = False
        if content.startswith(b"{"):
            self._tell(content.decode(errors="replace"))  # the server speaks out of turn
            return
        self._event += line
        self._event += end
        if not content:
            self._end_event(passed)
            return
        name, _, value = content.partition(b":")
        value = value.removeprefix(b" ")
        if name == b"data":
            self._data.append(bytes(value))
        elif name == b"event":
            self._named_error = value == b"error"
        elif not name and len(self._event) == len(line) + len(end):
            # A comment keeps the connection alive: it need not wait for an empty line.
            passed += self._event
            self._event.clear()

    def _end_event(self, passed: bytearray) -> None:
        data, named_error = b"\n".join(self._data), self._named_error
        self._named_error = False
        if not self._data or self._judge(data, named_error):
            passed += self._event
        self._data.clear()
        self._event.clear()

    # --- events ----------------------------------------------------------------------------------

    def _judge(self, data: bytes, named_error: bool) -> bool:
        """Tell whether an event may pass, and note what it says."""
        if data == _DONE:
            first, self.done = not self.done, True
            return first
        if self.done:
            return False
        try:
            text = data.decode()
            chunk = _JSON.decode(text)
        except (ValueError, RecursionError) as error:
            if named_error:
                self._tell(data.decode(errors="replace"))
            else:
                self._break(f"a chunk is no JSON: {error}")
            return False
        if named_error or not isinstance(chunk, dict) or not _is_chunk(chunk):
            self._judge_odd(chunk, text, named_error)
            return False
        flaw = chunk_flaw(chunk)
        if flaw is not None:
            self._break(f"a chunk is not as it should be: {flaw}")
            return False
        return self._note(chunk)

    def _judge_odd(self, chunk: Any, text: str, named_error: bool) -> None:
        """Judge what is JSON and no chunk: an error, rubbish, or an event that keeps alive."""
        if named_error or _is_error(chunk):
            self._tell(text)
        elif not isinstance(chunk, dict):
            self._break(f"a chunk is no JSON object: {text[:200]}")
        elif isinstance(chunk.get("usage"), dict):
            self._usage = chunk["usage"]

    def _note(self, chunk: dict[str, Any]) -> bool:
        for choice in chunk["choices"]:
            if not self._note_choice(choice):
                return False
        self.served_model = chunk.get("model") or self.served_model
        usage = chunk.get("usage")
        self._usage = self._usage if usage is None else usage
        return True

    def _note_choice(self, choice: dict[str, Any]) -> bool:
        told = choice.get("index")
        index = told if isinstance(told, int) else 0
        if index not in self._finishes and len(self._finishes) >= _MAX_CHOICES:
            self._break(f"there are more than {_MAX_CHOICES} choices")
            return False
        self._add("text", choice.get("text"), index)  # of /v1/completions
        if not self._note_delta(choice.get("delta") or {}, index):
            return False
        reason = choice.get("finish_reason")
        if reason in _CALLED and not self._calls.knows(index):
            self._break(f"it ends with {reason!r} and calls no tool")
            return False
        # A reason stays: some servers repeat a choice without one in the usage chunk.
        if reason:
            self._finishes[index] = reason
        else:
            self._finishes.setdefault(index, None)
        return True

    def _note_delta(self, delta: dict[str, Any], index: int) -> bool:
        self._add("text", delta.get("content"), index)
        self._add("reasoning", delta.get("reasoning_content") or delta.get("reasoning"), index)
        for call in delta.get("tool_calls") or ():
            flaw = self._calls.flaw(call, index)
            if flaw is not None:
                self._break(f"a chunk is not as it should be: {flaw}")
                return False
            name = call["function"].get("name")
            self._count("tool", name)
            self._count("tool", call["function"].get("arguments"))
            if name and len(self.tool_names) < _MAX_TOOL_CALLS:
                self.tool_names.append(name)
        return True

    def _add(self, kind: Literal["text", "reasoning"], text: Any, index: int) -> None:
        self._count(kind, text)
        if index == 0 and isinstance(text, str) and text:
            self.deltas.append((kind, text))

    def _count(self, kind: Kind, text: Any) -> None:
        if isinstance(text, str) and text:
            self.output_bytes[kind] = self.output_bytes.get(kind, 0) + count_bytes(text)

    # --- what does not pass ----------------------------------------------------------------------

    def _tell(self, text: str) -> None:
        self.error = text[:_MAX_TEXT]

    def _break(self, why: str) -> None:
        self.malformed = why


def _is_chunk(chunk: dict[str, Any]) -> bool:
    return isinstance(chunk.get("choices"), list) and not chunk.get("error")


def _is_error(chunk: Any) -> bool:
    if not isinstance(chunk, dict):
        return False
    if chunk.get("error") or chunk.get("object") == "error":
        return True
    return any(chunk.get(name) for name in ("detail", "message"))


def _no_number(name: str) -> float:
    raise ValueError(f"{name} is no JSON")


_JSON = json.JSONDecoder(parse_constant=_no_number)  # `loads` would make one for each chunk
