"""Put the pieces of a chat stream together: a few chunks that say the same. Pure.

What stands in a merged chunk stands there in one piece: a run of text, a run of reasoning, a tool
call with its whole arguments. Their order is kept, so a reader comes to the same message.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

Chunk = dict[str, Any]

_REASONING = "reasoning"
# Some providers tell their reasoning twice; this second form holds pieces in lists of objects.
_TOLD_TWICE = "reasoning_details"


class _UnmergeableError(Exception):
    """A chunk holds something of which nobody knows how its pieces go together."""


def merge(chunks: Sequence[Any]) -> list[Chunk] | None:
    """Merge the chunks of a stream of chat completions.

    Args:
        chunks: Of a whole stream, without its end mark.

    Returns:
        For each choice its role, what it said in its order and its end with the finish reason;
        the usage at last. None: a chunk is none, or holds what cannot be put together (logprobs).
    """
    merger = _Merger()
    try:
        for chunk in chunks:
            merger.take(_mapping(chunk))
    except _UnmergeableError:
        return None
    return merger.chunks()


@dataclass(slots=True)
class _Choice:
    """A choice as far as it has been told.

    Attributes:
        role: Of the message.
        end: What is told beside the message: the finish reason and the like; the last one counts.
        fields: Names of the texts that the run has which may go on; empty: none may.
        run: That run: the texts by name, each with its pieces.
        calls: Tool calls by their index.
    """

    role: str | None = None
    end: Chunk = field(default_factory=dict)
    fields: tuple[str, ...] = ()
    run: dict[str, list[str]] = field(default_factory=dict)
    calls: dict[int, _Call] = field(default_factory=dict)


@dataclass(slots=True)
class _Call:
    """A tool call: what is told once, and the pieces of its arguments."""

    told: Chunk = field(default_factory=dict)
    function: Chunk = field(default_factory=dict)
    arguments: list[str] = field(default_factory=list)


class _Merger:
    def __init__(self) -> None:
        self._envelope: Chunk = {}
        self._usage: Any = None
        self._choices: dict[int, _Choice] = {}
        # In the order in which each began: a choice's run of text, or one of its tool calls.
        self._said: list[tuple[int, dict[str, list[str]] | int]] = []

    def take(self, chunk: Mapping[str, Any]) -> None:
        for name, value in chunk.items():
            if name == "usage":
                self._usage = self._usage if value is None else value
            elif name != "choices" and (value is not None or name not in self._envelope):
                self._envelope[name] = value
        for choice in _rows(chunk.get("choices")):
            self._take_choice(_mapping(choice))

    def chunks(self) -> list[Chunk]:
        merged = [
            self._chunk(index, delta={"role": choice.role})
            for index, choice in self._choices.items()
            if choice.role
        ]
        for index, said in self._said:
            delta = self._call(index, said) if isinstance(said, int) else _joined(said)
            merged.append(self._chunk(index, delta=delta))
        merged += [
            self._chunk(index, delta={}, **choice.end) for index, choice in self._choices.items()
        ]
        if self._usage is not None:
            merged.append({**self._envelope, "choices": [], "usage": self._usage})
        return merged

    def _chunk(self, index: int, **choice: Any) -> Chunk:
        return {**self._envelope, "choices": [{"index": index, "finish_reason": None, **choice}]}

    def _call(self, index: int, number: int) -> Chunk:
        call = self._choices[index].calls[number]
        function = {**call.function, "arguments": "".join(call.arguments)}
        return {"tool_calls": [{"index": number, **call.told, "function": function}]}

    def _take_choice(self, row: Mapping[str, Any]) -> None:
        told = row.get("index")
        index = told if isinstance(told, int) else 0
        choice = self._choices.setdefault(index, _Choice())
        for name, value in row.items():
            if name in ("logprobs", "text") and value:
                raise _UnmergeableError(name)  # of tokens, or of another kind of stream
            if name not in ("index", "delta") and value not in (None, ""):
                choice.end[name] = value
        delta = row.get("delta")
        if delta is not None:
            self._take_delta(index, choice, _mapping(delta))

    def _take_delta(self, index: int, choice: _Choice, delta: Mapping[str, Any]) -> None:
        reasoning, text = {}, {}
        for name, value in delta.items():
            if not value or name in ("tool_calls", _TOLD_TWICE):
                continue
            if not isinstance(value, str):
                raise _UnmergeableError(name)
            if name == "role":
                choice.role = choice.role or value
            elif name.startswith(_REASONING):
                reasoning[name] = value
            else:
                text[name] = value
        # A reader takes a chunk's reasoning first, its tool calls at last.
        for pieces in (reasoning, text):
            if pieces:
                self._take_pieces(index, choice, pieces)
        for call in _rows(delta.get("tool_calls")):
            self._take_call(index, choice, _mapping(call))

    def _take_pieces(self, index: int, choice: _Choice, pieces: Mapping[str, str]) -> None:
        fields = tuple(sorted(pieces))
        if fields != choice.fields:
            choice.fields, choice.run = fields, {name: [] for name in pieces}
            self._said.append((index, choice.run))
        for name, piece in pieces.items():
            choice.run[name].append(piece)

    def _take_call(self, index: int, choice: _Choice, row: Mapping[str, Any]) -> None:
        number = row.get("index")
        if not isinstance(number, int):
            raise _UnmergeableError("a tool call without its index")
        choice.fields = ()
        if number not in choice.calls:
            choice.calls[number] = _Call()
            self._said.append((index, number))
        call = choice.calls[number]
        for name, value in row.items():
            if name not in ("index", "function"):
                _tell_once(call.told, name, value)
        for name, value in _mapping(row.get("function") or {}).items():
            if name != "arguments":
                _tell_once(call.function, name, value)
            elif isinstance(value, str):
                call.arguments.append(value)
            elif value is not None:
                raise _UnmergeableError(name)


def _tell_once(told: Chunk, name: str, value: Any) -> None:
    if value in (None, ""):
        return
    if told.setdefault(name, value) != value:
        raise _UnmergeableError(name)


def _joined(run: Mapping[str, list[str]]) -> Chunk:
    return {name: "".join(pieces) for name, pieces in run.items()}


def _mapping(value: Any) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise _UnmergeableError(f"no object: {value!r}")
    return value


def _rows(value: Any) -> list[Any]:
    if value is None:
        return []
    if not isinstance(value, list):
        raise _UnmergeableError(f"no list: {value!r}")
    return value
