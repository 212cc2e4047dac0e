"""From a chat request to a plan: which model answers, what it says, and how it fails."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

from chutes_opencode.simulator.answers import Answer, Fault, detail, engine_detail
from chutes_opencode.simulator.chunks import shorten
from chutes_opencode.simulator.faults import FAULTS, overflow_text
from chutes_opencode.simulator.messages import Message, answers_since_user, last_user_text
from chutes_opencode.simulator.models import FAULT_PREFIX, Row, context_length
from chutes_opencode.simulator.replies import (
    Reply,
    ReplyError,
    endless_call,
    halved,
    kind_of,
    make_reply,
)
from chutes_opencode.simulator.script import Rule
from chutes_opencode.simulator.state import SimulatorState
from chutes_opencode.simulator.tokens import input_tokens

_NO_FAULT = Fault("none", "Nothing fails.")
_FAULT_MODELS = frozenset(FAULT_PREFIX + name for name in FAULTS)
_FAILOVER_STATUSES = (429, 503)  # on these a comma list goes on to its next model
_DATE_HINT = timedelta(seconds=2)


@dataclass(frozen=True, slots=True)
class ChatRequest:
    """What matters of a chat completion request, checked."""

    model: str
    messages: list[Message]
    tools: list[object]
    stream: bool
    include_usage: bool
    max_tokens: int | None
    key: str
    session_id: str | None
    parent_session_id: str | None


@dataclass(frozen=True, slots=True)
class Plan:
    """How a request is answered."""

    row: Row
    rule: Rule
    reply: Reply
    fault: Fault
    input_tokens: int
    cached_tokens: int = 0
    first_byte_delay_s: float = 0.0
    token_delay_s: float = 0.0
    chunk_size: int | None = None


class RefusedError(Exception):
    """The request gets this answer at once."""

    def __init__(self, answer: Answer) -> None:
        """Hold the answer."""
        super().__init__(answer)
        self.answer = answer


def read_chat_request(payload: Any, headers: Mapping[str, str], key: str) -> ChatRequest:
    """Check a parsed body.

    Raises:
        RefusedError: 400 for what is not JSON, 422 for a missing or malformed field.
    """
    if not isinstance(payload, dict):
        raise RefusedError(Answer(400, detail("Invalid JSON in request body.")))
    model, messages, tools = (payload.get(name) for name in ("model", "messages", "tools"))
    if not isinstance(model, str) or not model:
        raise _unprocessable("model", "Field required")
    if not isinstance(messages, list) or not messages:
        raise _unprocessable("messages", "Field required")
    if not all(isinstance(message, dict) for message in messages):
        raise _unprocessable("messages", "Input should be a valid list of objects")
    limit = payload.get("max_completion_tokens") or payload.get("max_tokens")
    options = payload.get("stream_options")
    return ChatRequest(
        model=model,
        messages=messages,
        tools=tools if isinstance(tools, list) else [],
        stream=payload.get("stream") is True,
        include_usage=isinstance(options, dict) and options.get("include_usage") is True,
        max_tokens=limit if isinstance(limit, int) else None,
        key=key,
        session_id=headers.get("x-session-id"),
        parent_session_id=headers.get("x-parent-session-id"),
    )


def make_plan(state: SimulatorState, request: ChatRequest) -> Plan:
    """Choose the model of the request and plan its answer.

    The first model that the request names answers; a comma list goes on to its next one where the
    fault that is due is a 429 or 503.

    Raises:
        RefusedError: unknown model, too long an input, or a malformed script.
    """
    rows = state.table.candidates(request.model)
    if not rows:
        raise RefusedError(Answer(404, detail(f"model not found: {request.model}")))
    plan = _first_that_answers(state, request, rows)
    if plan.fault.answer is not None:
        return plan
    _check_length(plan, request)
    session = (request.key, str(plan.row["id"]), request.session_id)
    cached = state.cached_tokens(session, request.messages, request.tools)
    return replace(plan, cached_tokens=cached)


def fill(answer: Answer, plan: Plan, request: ChatRequest) -> Answer:
    """Replace the placeholders of an answer; see `answers`."""
    now = datetime.now(UTC)
    midnight = datetime(now.year, now.month, now.day, tzinfo=UTC) + timedelta(days=1)
    limit = context_length(plan.row)
    asked = request.max_tokens or 0
    tokens = plan.input_tokens
    if "context length" in answer.body:  # the fault's numbers must show an overflow
        tokens = max(tokens, limit + 1)
    values = {
        "{model}": json.dumps(request.model)[1:-1],
        "{chute_id}": str(plan.row.get("chute_id")),
        "{tokens}": str(tokens),
        "{limit}": str(limit),
        "{max_tokens}": str(asked),
        "{total}": str(tokens + asked),
        "{midnight}": midnight.isoformat(),
        "{http_date}": format_datetime(now + _DATE_HINT, usegmt=True),
    }
    headers = [(name, _replace(value, values)) for name, value in answer.headers]
    if plan.rule.retry_after is not None:
        headers = [(name, value) for name, value in headers if name != "retry-after"]
        headers.append(("retry-after", plan.rule.retry_after))
    return replace(answer, body=_replace(answer.body, values), headers=tuple(headers))


def _first_that_answers(state: SimulatorState, request: ChatRequest, rows: Sequence[Row]) -> Plan:
    for row in rows[:-1]:
        plan = _plan_for(state, request, row)
        if plan.fault.answer is None or plan.fault.answer.status not in _FAILOVER_STATUSES:
            return plan
    return _plan_for(state, request, rows[-1])


def _plan_for(state: SimulatorState, request: ChatRequest, row: Row) -> Plan:
    model = str(row["id"])
    scenario, rule = state.scenario, state.scenario.rule_for(model)
    try:
        reply = make_reply(
            rule.reply or kind_of(model), model, request.messages, text=rule.text, steps=rule.steps
        )
        fault = _due_fault(state, request, row, rule, reply)
    except ReplyError as error:
        raise RefusedError(Answer(400, engine_detail(str(error)))) from None
    delay, pause = rule.first_byte_delay_s, rule.token_delay_s
    delay = scenario.first_byte_delay_s if delay is None else delay
    pause = scenario.token_delay_s if pause is None else pause
    return Plan(
        row=row,
        rule=rule,
        reply=_spoil(_limited(reply, request, rule, model), fault, request),
        fault=fault,
        input_tokens=input_tokens(request.messages, request.tools),
        first_byte_delay_s=delay + fault.first_byte_delay_s + reply.delay_s,
        token_delay_s=pause + fault.token_delay_s,
        chunk_size=rule.chunk_size or scenario.chunk_size,
    )


def _due_fault(
    state: SimulatorState, request: ChatRequest, row: Row, rule: Rule, reply: Reply
) -> Fault:
    """The fault that this request meets: its script step's, else the rule's, else its model's."""
    model = str(row["id"])
    name = rule.fault or (model.removeprefix(FAULT_PREFIX) if model in _FAULT_MODELS else None)
    counter: tuple[object, ...] = (state.scenario.rules.index(rule) if rule.fault else -1, model)
    skip, times = rule.skip, rule.times
    if reply.fault is not None:
        if reply.fault not in FAULTS:
            raise ReplyError(f"unknown fault {reply.fault!r}")
        name, skip, times = reply.fault, 0, reply.times
        prompt = hashlib.sha256(last_user_text(request.messages).encode("utf-8", "surrogatepass"))
        step = answers_since_user(request.messages)
        counter = (request.key, request.session_id, prompt.digest(), step)
    if name is None or not state.fault_is_due(counter, skip, times):
        return _NO_FAULT
    fault = FAULTS[name]
    return _NO_FAULT if state.is_over(fault, row) else fault


def _limited(reply: Reply, request: ChatRequest, rule: Rule, model: str) -> Reply:
    """Cut a text at max_tokens, where the rule says so (default: all but `sim/…` models)."""
    honour = rule.honour_max_tokens
    if honour is None:
        honour = not model.startswith("sim/")
    if not honour or request.max_tokens is None:
        return reply
    text = shorten(reply.text, request.max_tokens)
    return reply if text == reply.text else replace(reply, text=text, finish_reason="length")


def _spoil(reply: Reply, fault: Fault, request: ChatRequest) -> Reply:
    """Apply the parts of a fault that change what is said."""
    if fault.endless_tools:
        return endless_call(request.tools)
    if fault.empty:
        return Reply()
    if fault.halved:
        reply = halved(reply)
    if fault.finish_reason is not None:
        reply = replace(reply, finish_reason=fault.finish_reason)
    return reply


def _check_length(plan: Plan, request: ChatRequest) -> None:
    if plan.input_tokens <= context_length(plan.row):
        return
    answer = Answer(400, overflow_text(str(plan.row.get("owned_by"))))
    raise RefusedError(fill(answer, plan, request))


def _unprocessable(field: str, message: str) -> RefusedError:
    error = {"type": "missing", "loc": ["body", field], "msg": message, "input": None}
    return RefusedError(Answer(422, detail([error])))


def _replace(text: str, values: Mapping[str, str]) -> str:
    for name, value in values.items():
        text = text.replace(name, value)
    return text
