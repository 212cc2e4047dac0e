"""Judge the evidence of an attempt: a whole answer, or a typed error. Pure.

Who is believed, in this order:

1. our own hand: what the relay or we ended, and why (deadline, limit, failing provider, missing
   tool server, wrong agent);
2. the exchanges: what the provider really answered, where opencode was told something else;
3. opencode's structured errors: of the session, then of the run's event stream;
4. the finish reason of the last turn: only "stop" is a whole answer;
5. silence: no answer is never a success, whatever the exit code.

stderr is evidence of last resort: it is attached, not interpreted.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from chutes_opencode.catalog.models import Price
from chutes_opencode.classify import (
    classify_error,
    classify_finish,
    classify_reason,
    classify_response,
)
from chutes_opencode.engines.base import Evidence
from chutes_opencode.errors import (
    AuthenticationError,
    ConfigurationError,
    EmptyResponseError,
    InvalidRequestError,
    LimitExceededError,
    OpenCodeError,
    PromptTimeoutError,
    ServerError,
    ToolServerError,
    TransientError,
    TruncatedStreamError,
    UnknownOpenCodeError,
)
from chutes_opencode.limits import cost_usd
from chutes_opencode.patterns import CHUTES_PATTERNS, ProviderPatterns
from chutes_opencode.results import Attempt, Exchange, Usage

FIRST_FAILING_STATUS = 400
TOOL_SERVER = "tool server "
# The phases of an attempt, as the watchdog names them, and the setting that bounds each.
_PHASES = {
    "start": "opencode sent no model request for too long (start_seconds)",
    "tool": "a tool of the agent ran for too long (tool_seconds)",
    "finish": "opencode did not end after the model's last answer (finish_seconds)",
}
USAGE_TEXT = "opencode run [message"


@dataclass(frozen=True, slots=True)
class Verdict:
    """What an attempt came to.

    Attributes:
        error: Why it is no success; None: it is one.
        usage: Tokens of the attempt.
        cost_usd: US dollars; None if the price is unknown.
        finish_reason: Of the last turn.
        served_model: Model that answered last, where the provider names it.
    """

    error: OpenCodeError | None
    usage: Usage
    cost_usd: float | None
    finish_reason: str | None
    served_model: str | None


@dataclass(frozen=True, slots=True)
class Scene:
    """What an error is read by.

    Attributes:
        now: For reset times that the provider gives in seconds.
        patterns: How the provider words its errors.
    """

    now: datetime
    patterns: ProviderPatterns = CHUTES_PATTERNS


def judge(
    evidence: Evidence,
    *,
    price: Price | None,
    scene: Scene,
    timeout_seconds: float,
    key_hint: str = "",
) -> Verdict:
    """Judge an attempt.

    Args:
        evidence: What the engine saw.
        price: Of the model, for the cost.
        scene: What errors are read by.
        timeout_seconds: The attempt's deadline, for its message.
        key_hint: How to set the provider's key, if that is what is wrong; "": the error's own.
    """
    error = _find_error(evidence, scene, timeout_seconds)
    if key_hint and isinstance(error, AuthenticationError):
        error.hint = key_hint
    usage = total_usage(evidence)
    served = [e.served_model for e in evidence.exchanges if e.served_model]
    return Verdict(
        error=error,
        usage=usage,
        cost_usd=_total_cost(evidence, usage, price),
        finish_reason=evidence.transcript.finish_reason,
        served_model=served[-1] if served else None,
    )


def failed_requests(evidence: Evidence, engine: str, scene: Scene) -> list[Attempt]:
    """Return the single requests that failed and that the relay made up for, as attempts."""
    sent = [e for e in evidence.exchanges if _was_sent(e)] if evidence.relayed else []
    return [
        Attempt(
            number=exchange.attempt,
            engine=engine,
            scope="request",
            model=exchange.requested_model or "",
            session_id=exchange.session_id,
            error=_exchange_error(exchange, evidence, scene),
            usage=replace(exchange.usage or Usage(), num_requests=1),
            cost_usd=exchange.cost_usd,
            duration_s=exchange.duration_s or 0.0,
        )
        for exchange in sent[:-1]
        if not exchange.whole
    ]


def total_usage(evidence: Evidence) -> Usage:
    """Sum the attempt's tokens: from its exchanges, else from its transcript."""
    sent = [exchange for exchange in evidence.exchanges if _was_sent(exchange)]
    seen = evidence.transcript.usage
    if not sent:
        return Usage(num_turns=seen.num_turns) if evidence.exchanges else seen
    native = [exchange for exchange in sent if _read_by_opencode(exchange)]
    told = seen if native else sum((e.usage for e in sent if e.usage), Usage())
    # A sub-agent's turns stand in no transcript of ours.
    unknown = [e for e in sent if _unknown_usage(e, relayed=evidence.relayed)]
    missing = bool(unknown) or len(native) > seen.num_turns
    return Usage(
        told.input,
        told.output,
        told.reasoning,
        told.cache_read,
        told.cache_write,
        num_turns=seen.num_turns,
        num_requests=len(sent),
        estimated=told.estimated or missing,
    )


def _was_sent(exchange: Exchange) -> bool:
    """Tell whether a request left for the provider; one may be sent, fail, and then be refused."""
    answered = exchange.status is not None or exchange.error is not None
    return not exchange.replayed and (exchange.refused is None or answered)


def _read_by_opencode(exchange: Exchange) -> bool:
    """Tell whether it is a whole native stream, whose tokens opencode alone has counted."""
    return exchange.usage is None and exchange.finish_reason is not None


def _unknown_usage(exchange: Exchange, *, relayed: bool) -> bool:
    """Tell whether a request may have been billed without our knowing how much.

    The relay has estimated every answer that was begun; what it left out was no answer.
    """
    if exchange.usage is not None or _read_by_opencode(exchange):
        return False
    if exchange.status is None:
        return True
    return exchange.status < FIRST_FAILING_STATUS and not relayed


def _total_cost(evidence: Evidence, usage: Usage, price: Price | None) -> float | None:
    """Sum what the relay has booked, each request at its model's price; else price the usage."""
    if not evidence.relayed:
        return None if price is None else cost_usd(usage, price)
    costs = [exchange.cost_usd for exchange in evidence.exchanges]
    known = [cost for cost in costs if cost is not None]
    return sum(known) if len(known) == len(costs) else None


def _find_error(evidence: Evidence, scene: Scene, timeout_seconds: float) -> OpenCodeError | None:
    upstream = _last_failure(evidence, scene)
    # A sub-agent that was refused is its parent's affair: the parent may still have answered.
    own = [e.refused for e in evidence.exchanges if e.refused and e.parent_session_id is None]
    # The relay says itself what it ended; it also refuses what is no part of the prompt.
    refused = own[-1] if own and not evidence.relayed else None
    if evidence.ended is not None and evidence.stopped not in (
        "timeout",
        "agent",
        "crash",
        *_PHASES,
    ):
        evidence.ended.exit_code = evidence.returncode
        return evidence.ended
    if evidence.stopped is not None:
        return _stopped(evidence, upstream, timeout_seconds)
    if refused is not None:
        return _refused(evidence, refused, upstream)
    structured = evidence.transcript.error or evidence.run_error
    if structured is not None:
        return upstream or _structured(evidence, structured, scene)
    error = _unfinished(evidence)
    # A broken exchange says more than the turn that it left behind.
    return upstream or error if isinstance(error, TransientError) else error


def _stopped(
    evidence: Evidence, upstream: OpenCodeError | None, timeout_seconds: float
) -> OpenCodeError:
    if evidence.stopped == "timeout" or evidence.stopped in _PHASES:
        late = f"the prompt did not end within {round(timeout_seconds, 2):g} s"
        error: OpenCodeError = PromptTimeoutError(
            exit_code=evidence.returncode,
            raw_message=_PHASES.get(evidence.stopped, late),
            hint=f"Raise the setting {evidence.stopped}_seconds, if that is to be expected."
            if evidence.stopped in _PHASES
            else PromptTimeoutError.default_hint,
        )
        error.__cause__ = evidence.ended or upstream
        return error
    if evidence.stopped == "attachment":
        return InvalidRequestError(
            exit_code=evidence.returncode,
            raw_message="opencode could not read an attached file",
            hint="Check that the images and PDF files are whole.",
        )
    if evidence.stopped == "unkept":
        return ConfigurationError(
            exit_code=evidence.returncode,
            raw_message=f"the session could not be kept: {evidence.stderr}",
            hint="The answer is in the error's `result`; make room or the folder writable.",
        )
    if evidence.stopped == "crash":
        return UnknownOpenCodeError(
            exit_code=evidence.returncode,
            raw_message="opencode ended while the prompt ran",
            stderr=evidence.stderr,
        )
    if evidence.stopped == "guard":
        missed = "a request to the relay" if evidence.relayed else "its guard plugin"
        return ConfigurationError(
            exit_code=evidence.returncode,
            raw_message=f"opencode ran without {missed}: nothing bounded this prompt",
            hint="Use the tested opencode (`chutes-opencode setup`) and report this.",
        )
    if evidence.stopped == "agent":
        return ConfigurationError(
            exit_code=evidence.returncode,
            raw_message=f"opencode did not find the agent: {evidence.stderr[-300:]}",
            hint="Leave --agent out of extra_cli_args; agent_name= names the agent.",
        )
    return upstream or classify_reason(evidence.log_errors[-1] if evidence.log_errors else "")


def _refused(evidence: Evidence, reason: str, upstream: OpenCodeError | None) -> OpenCodeError:
    """Say what the guard's refusal stands for."""
    code = evidence.returncode
    if reason.startswith(TOOL_SERVER):
        name = reason.removeprefix(TOOL_SERVER).removesuffix("_")
        return ToolServerError(
            exit_code=code, raw_message=f"no tool of the server {name!r} reached the model"
        )
    if reason == "max_requests":
        limit = LimitExceededError(
            exit_code=code,
            raw_message="the prompt reached its limit of model requests",
            limit="max_requests",
        )
        limit.__cause__ = upstream
        return limit
    return upstream or UnknownOpenCodeError(exit_code=code, raw_message=reason)


def _last_failure(evidence: Evidence, scene: Scene) -> OpenCodeError | None:
    """Return what the last request that was sent died of; None if it ended well."""
    sent = [exchange for exchange in evidence.exchanges if _was_sent(exchange)]
    return _exchange_error(sent[-1], evidence, scene) if sent else None


def _exchange_error(exchange: Exchange, evidence: Evidence, scene: Scene) -> OpenCodeError | None:
    code = evidence.returncode
    if exchange.status is None:
        return ServerError(
            exit_code=code,
            raw_message=exchange.error or "no answer",
            model=exchange.requested_model,
        )
    if exchange.status >= FIRST_FAILING_STATUS or exchange.body is not None:
        return classify_response(
            exchange.status,
            exchange.body or "",
            exchange.headers,
            now=scene.now,
            model=exchange.requested_model,
            exit_code=code,
            patterns=scene.patterns,
        )
    if exchange.whole:
        return None
    return _broken_stream(exchange, code, scene)


def _broken_stream(exchange: Exchange, exit_code: int, scene: Scene) -> OpenCodeError:
    """Say what a stream without a finish reason is: cut, unless its error event tells more."""
    told = exchange.error or "the stream ended without a finish reason"
    event = {"name": "UnknownError", "data": {"message": told}}
    named = classify_error(
        event,
        returncode=exit_code,
        model=exchange.requested_model,
        patterns=scene.patterns,
    )
    if type(named) not in (UnknownOpenCodeError, ServerError):
        return named
    return TruncatedStreamError(
        exit_code=exit_code,
        raw_message=told,
        status=exchange.status,
        model=exchange.requested_model,
        request_id=exchange.request_id,
    )


def _structured(evidence: Evidence, error: Mapping[str, Any], scene: Scene) -> OpenCodeError:
    return classify_error(
        dict(error),
        returncode=evidence.returncode,
        stderr=evidence.stderr,
        partial_text=evidence.transcript.text,
        patterns=scene.patterns,
    )


def _unfinished(evidence: Evidence) -> OpenCodeError | None:
    transcript = evidence.transcript
    if not transcript.turns and evidence.stderr.lstrip().startswith(USAGE_TEXT):
        return ConfigurationError(
            exit_code=evidence.returncode,
            raw_message="opencode does not know a flag of extra_cli_args",
            hint="See `opencode run --help` of this version.",
        )
    if not transcript.turns:
        return UnknownOpenCodeError(
            exit_code=evidence.returncode,
            raw_message=evidence.stderr[:300] or "opencode ended without an answer",
            stderr=evidence.stderr,
        )
    finish = classify_finish(transcript.finish_reason, text=transcript.text)
    if finish is None and not transcript.turns[-1].text:
        return EmptyResponseError(
            exit_code=evidence.returncode, raw_message="the model ended its turn and said nothing"
        )
    return finish
