"""Scenarios: which model replies what, fails how, and how fast; as data, from TOML, JSON or a dict.

requests_per_minute = 60            # whole simulator, each key: then the edge's HTML 429
[[rules]]
model = "Qwen/*"                    # first rule whose wildcards fit the served model id wins
fault = "429-capacity"
times = 2                           # two failures, then success
"""

from __future__ import annotations

import json
import math
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, TypeVar

from chutes_opencode.simulator.faults import FAULTS
from chutes_opencode.simulator.replies import REPLY_KINDS, ReplyError, read_step

USAGE_MODES = ("end", "every", "never")


class ScenarioError(ValueError):
    """A scenario is malformed; the message names the file (if any) and the field."""


@dataclass(frozen=True, slots=True)
class Rule:
    """What the models whose id fits `model` do differently.

    Attributes:
        model: model id, with the wildcards `*`, `?` and `[…]`; matched with the served id.
        reply: one of REPLY_KINDS; None leaves it to the model id.
        text: answer of a `text` reply.
        steps: steps of a `script` reply; None takes them from the last user message.
        fault: name of a fault; a `sim/fault/…` model has one by itself.
        times: how many requests meet the fault, counted for each rule and model over all keys and
            sessions; None is every request.
        skip: how many requests succeed before the fault begins, counted likewise.
        retry_after: value of a Retry-After header added to the fault's answer.
        first_byte_delay_s: seconds before the status line; None takes the scenario's.
        token_delay_s: seconds before each chunk; None takes the scenario's.
        chunk_size: characters in a chunk; None takes the scenario's.
        honour_max_tokens: cut the reply at the request's max_tokens with finish reason `length`;
            None does so for all models but `sim/…`.
    """

    model: str = "*"
    reply: str | None = None
    text: str = ""
    steps: tuple[Mapping[str, Any], ...] | None = None
    fault: str | None = None
    times: int | None = None
    skip: int = 0
    retry_after: str | None = None
    first_byte_delay_s: float | None = None
    token_delay_s: float | None = None
    chunk_size: int | None = None
    honour_max_tokens: bool | None = None


@dataclass(frozen=True, slots=True)
class Scenario:
    """How the whole simulator behaves.

    Attributes:
        rules: the first that fits a model holds for it.
        models: rows added to `GET /v1/models` as they are; a row with a known id replaces it.
        extra_api_tokens: keys accepted beside the simulator's own.
        requests_per_minute: chat requests of one key in any 60 s; more get the edge's HTML 429.
        max_concurrency: chat requests of one key at once; more get the 429 of full instances.
        first_byte_delay_s: seconds before the status line of a completion.
        token_delay_s: seconds before each chunk of a stream.
        chunk_size: characters in a chunk; None makes about 20 chunks of a text.
        usage: `end` sends usage as the request asks, `every` in each chunk, `never` not at all.
    """

    rules: tuple[Rule, ...] = ()
    models: tuple[Mapping[str, Any], ...] = ()
    extra_api_tokens: tuple[str, ...] = ()
    requests_per_minute: int | None = None
    max_concurrency: int | None = None
    first_byte_delay_s: float = 0.0
    token_delay_s: float = 0.0
    chunk_size: int | None = None
    usage: str = "end"

    def rule_for(self, model: str) -> Rule:
        """The first rule that fits `model`; an empty rule when none does."""
        return next((rule for rule in self.rules if fnmatchcase(model, rule.model)), Rule())


def load_scenario(source: Scenario | str | Path | Mapping[str, Any] | None) -> Scenario:
    """Make a Scenario of a TOML or JSON file, a dict, or None (no rules at all).

    Raises:
        ScenarioError: unreadable or malformed; names the file and the field.
    """
    if isinstance(source, Scenario):
        return source
    if source is None or isinstance(source, Mapping):
        return _build(Scenario, source or {}, "")
    path = Path(source)
    try:
        return _build(Scenario, _read(path), "")
    except ScenarioError as error:
        raise ScenarioError(f"{path}: {error}") from None


def _read(path: Path) -> Mapping[str, Any]:
    try:
        text = path.read_text(encoding="utf-8")
        value = json.loads(text) if path.suffix == ".json" else tomllib.loads(text)
    except OSError as error:
        raise ScenarioError(f"cannot be read: {error.strerror or error}") from None
    except ValueError as error:
        raise ScenarioError(f"is malformed: {error}") from None
    if not isinstance(value, Mapping):
        raise ScenarioError("expected an object")
    return value


_Built = TypeVar("_Built", Scenario, Rule)


def _build(cls: type[_Built], values: Mapping[str, Any], where: str) -> _Built:
    names = {field.name for field in fields(cls)}
    arguments = {}
    for name, value in values.items():
        place = f"{where}{name}"
        if name not in names:
            raise ScenarioError(f"{place}: unknown field (known: {', '.join(sorted(names))})")
        if value is not None:
            arguments[name] = _FIELDS[name](value, place)
    return cls(**arguments)


def _expect(condition: bool, place: str, wanted: str, value: object) -> None:
    if not condition:
        raise ScenarioError(f"{place}: expected {wanted}, got {value!r}")


def _text(value: object, place: str) -> str:
    _expect(isinstance(value, str), place, "a text", value)
    return str(value)


def _flag(value: object, place: str) -> bool:
    _expect(isinstance(value, bool), place, "true or false", value)
    return bool(value)


def _seconds(value: Any, place: str) -> float:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    _expect(number and 0 <= value < math.inf, place, "a number of seconds from 0", value)
    return float(value)


def _count(lowest: int) -> Callable[[Any, str], int]:
    def check(value: Any, place: str) -> int:
        whole = isinstance(value, int) and not isinstance(value, bool)
        _expect(whole and value >= lowest, place, f"a whole number from {lowest}", value)
        return int(value)

    return check


def _one_of(names: tuple[str, ...]) -> Callable[[Any, str], str]:
    def check(value: Any, place: str) -> str:
        _expect(value in names, place, f"one of {', '.join(names)}", value)
        return str(value)

    return check


def _list_of(item: Callable[[Any, str], Any]) -> Callable[[Any, str], tuple[Any, ...]]:
    def check(value: Any, place: str) -> tuple[Any, ...]:
        _expect(isinstance(value, list | tuple), place, "a list", value)
        return tuple(item(entry, f"{place}[{index}]") for index, entry in enumerate(value))

    return check


def _object(value: Any, place: str) -> Mapping[str, Any]:
    _expect(isinstance(value, Mapping), place, "an object", value)
    return dict(value)


def _rule(value: Any, place: str) -> Rule:
    return value if isinstance(value, Rule) else _build(Rule, _object(value, place), f"{place}.")


def _step(value: Any, place: str) -> Mapping[str, Any]:
    try:
        read_step(value, place)
    except ReplyError as error:
        raise ScenarioError(str(error)) from None
    return dict(value)


_FIELDS: dict[str, Callable[[Any, str], Any]] = {
    "rules": _list_of(_rule),
    "models": _list_of(_object),
    "extra_api_tokens": _list_of(_text),
    "requests_per_minute": _count(0),
    "max_concurrency": _count(0),
    "first_byte_delay_s": _seconds,
    "token_delay_s": _seconds,
    "chunk_size": _count(1),
    "usage": _one_of(USAGE_MODES),
    "model": _text,
    "reply": _one_of(REPLY_KINDS),
    "text": _text,
    "steps": _list_of(_step),
    "fault": _one_of(tuple(FAULTS)),
    "times": _count(0),
    "skip": _count(0),
    "retry_after": _text,
    "honour_max_tokens": _flag,
}
