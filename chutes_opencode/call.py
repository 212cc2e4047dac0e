"""One call: its attempts, their judgement, and the one result that they come to."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

from chutes_opencode.catalog.models import Price
from chutes_opencode.crashes import Crashes
from chutes_opencode.engines.base import Engine, Evidence
from chutes_opencode.engines.booked import Booked
from chutes_opencode.errors import (
    LimitExceededError,
    OpenCodeError,
    PromptTimeoutError,
    StructuredOutputError,
    UnknownOpenCodeError,
)
from chutes_opencode.events import AttemptEnded, Event, PromptCancelled, Retrying, Waiting
from chutes_opencode.opencode.config import tool_prefix
from chutes_opencode.patterns import CHUTES_PATTERNS, ProviderPatterns
from chutes_opencode.relay.terms import Terms
from chutes_opencode.request import PromptRequest
from chutes_opencode.results import Attempt, QueryResult, Usage
from chutes_opencode.retry import RetryPolicy, run_with_retries
from chutes_opencode.spending import check_means
from chutes_opencode.structured import Schema
from chutes_opencode.verdict import Scene, Verdict, failed_requests, judge


@dataclass(frozen=True, slots=True)
class Call:
    """What a call wants.

    Attributes:
        request: Its first turn.
        terms: What it may do at the relay; None: it goes without.
        price: Of the model; None: unknown.
        node_id: This machine, for errors.
        policy: How often and how patiently to try.
        deadline_seconds: Seconds for the whole call, waits included; None: there is no deadline.
        patterns: How the provider words its errors.
        key_hint: How to set the provider's key; "": what the error itself says.
        schema: What the answer must fit; None: any text.
        retry_after_tools: Whether a prompt whose agent has used a tool in a folder that is not
            ours may be started again.
    """

    request: PromptRequest
    terms: Terms | None = None
    price: Price | None = None
    node_id: str = "unknown"
    policy: RetryPolicy = field(default_factory=RetryPolicy)
    deadline_seconds: float | None = None
    patterns: ProviderPatterns = CHUTES_PATTERNS
    key_hint: str = ""
    schema: Schema | None = None
    retry_after_tools: bool = False


class CallRunner:
    """Carries one call out. Used once; all state of the call is here."""

    def __init__(
        self,
        call: Call,
        engine: Engine,
        slots: asyncio.Semaphore,
        observe: Callable[[Event], None],
    ) -> None:
        """Take the call and what carries it out.

        Args:
            call: What is wanted.
            engine: What runs an attempt.
            slots: Places for attempts in this process.
            observe: Is told of everything that happens.
        """
        self._call = call
        self._engine = engine
        self._slots = slots
        self._observe = observe
        self._started = time.monotonic()
        self._queued_s: float | None = None
        self._waited_s = 0.0
        self._attempts: list[Attempt] = []
        self._evidence: list[Evidence] = []
        self._verdict: Verdict | None = None
        self._structured: object = None
        self._may_repeat = True
        self._tries_used = 0
        self._crashes = Crashes()
        self._forgiven = False

    async def run(self) -> QueryResult:
        """Carry the call out.

        Returns:
            The result; a timeout or an unknown error that outlived the attempts is in its `error`
            (the seed's contract).

        Raises:
            OpenCodeError: Every other error; its `result` holds what was done and paid for.
        """
        try:
            await run_with_retries(
                self._attempt,
                self._call.policy,
                deadline=self._deadline,
                on_retry=self._on_retry,
                used_up=lambda _error: not self._may_repeat or self._tries_left() < 1,
            )
        except OpenCodeError as error:
            result = self._complete(error)
            if isinstance(error, PromptTimeoutError) or type(error) is UnknownOpenCodeError:
                return result
            raise
        except asyncio.CancelledError:
            self._observe(PromptCancelled(result=replace(self._result(None), success=False)))
            raise
        return self._result(None)

    @property
    def _deadline(self) -> float | None:
        seconds = self._call.deadline_seconds
        return None if seconds is None else self._started + seconds

    def _remaining_s(self) -> float:
        """Seconds that are left of the call, and at most of an attempt."""
        seconds = self._call.request.timeout_seconds
        if self._deadline is not None:
            seconds = min(seconds, self._deadline - time.monotonic())
        return max(seconds, 0.0)

    def _on_retry(self, event: Retrying) -> None:
        self._waited_s = event.wait_seconds
        self._tell(event)

    async def _attempt(self, number: int) -> None:
        """Try once; a server that died under the prompt and others is no fault of the prompt's."""
        await self._take_slot()
        try:
            while True:
                try:
                    await self._try(number + self._crashes.count)
                    return
                except UnknownOpenCodeError as error:
                    once = self._call.policy.retries == 1  # asked for in so many words
                    if once or not (self._forgiven and self._may_repeat and self._remaining_s()):
                        raise
                    before = number + self._crashes.count - 1
                    self._on_retry(Retrying(attempt=before, error=error, wait_seconds=0.0))
        finally:
            self._slots.release()

    async def _try(self, number: int) -> None:
        """Run the prompt; a structured answer that does not fit gets one turn to be mended."""
        request, schema = self._call.request, self._call.schema
        request = replace(request, alone=self._crashes.alone)
        if schema is None:
            await self._turn(request, number, "prompt")
            return
        # The repair continues the session, so that the agent does not work twice.
        kept = replace(request, hold=True)
        evidence = await self._turn(kept, number, "prompt")
        session_id = evidence.transcript.session_id
        mended = False
        try:
            parsed = schema.parse(evidence.transcript.text)
            if parsed.errors:
                text = schema.repair_prompt(evidence.transcript.text, parsed.errors)
                last = replace(kept, prompt=text, session_id=session_id)
                last = replace(last, history=(), attachments=())
                evidence = await self._turn(last, number, "repair")
                parsed = schema.parse(evidence.transcript.text)
            self._structured = parsed.require(evidence.transcript.text)
            mended = True
        except StructuredOutputError as error:
            self._attempts[-1] = replace(self._attempts[-1], error=error)
            raise
        finally:
            new = request.session_id is None
            if not mended and not new:
                # The session holds this attempt's message: another one would send it twice.
                self._may_repeat = False
            if session_id and (not request.keep_session if mended else new):
                await self._engine.forget(session_id)

    async def _turn(self, request: PromptRequest, number: int, scope: str) -> Evidence:
        """Run one turn through the engine and record it; raise the verdict's error."""
        self._forgiven = False
        bounded = replace(
            request,
            max_requests=self._requests_left(),
            max_failures=min(request.max_failures, max(self._tries_left(), 1)),
            timeout_seconds=self._remaining_s(),
        )
        seconds = bounded.timeout_seconds
        terms, booked = self._terms(bounded), Booked()
        try:
            evidence = await self._engine.run(
                bounded,
                self._tell,
                lambda seen: self._judge(seen, seconds).error is None,
                None if terms is None else replace(terms, opened=booked.opened),
            )
        except (asyncio.CancelledError, OpenCodeError) as cause:
            self._record_cut(number, scope, booked, cause)
            raise
        verdict = self._judge(evidence, seconds)
        self._may_repeat &= self._call.retry_after_tools or not self._touched(evidence)
        self._record(number, scope, evidence, verdict)
        if verdict.error is not None:
            self._forgiven = self._crashes.forgives(evidence)
            self._tries_used += 0 if self._forgiven else max(evidence.failures, 1)
            # What the relay gave up is not worth a new attempt, unless it was the relay that ended.
            self._may_repeat &= evidence.ended is not verdict.error or evidence.stopped == "relay"
            raise verdict.error
        return evidence

    def _terms(self, request: PromptRequest) -> Terms | None:
        """Return what is left of the call's terms for the next turn.

        Raises:
            LimitExceededError: Nothing is.
        """
        terms = self._call.terms
        if terms is None:
            return None
        used = self._used()
        cost = self._cost_usd() or 0.0
        left = replace(
            terms,
            tries_left=max(self._tries_left(), 1),
            max_requests=request.max_requests,
            max_tokens=None if terms.max_tokens is None else terms.max_tokens - used.total,
            max_cost_usd=None if terms.max_cost_usd is None else max(terms.max_cost_usd - cost, 0),
            deadline=self._deadline,
        )
        try:
            check_means(left, request.prompt)
        except LimitExceededError as error:
            error.__cause__ = self._attempts[-1].error if self._attempts else None
            raise
        return left

    def _judge(self, evidence: Evidence, timeout_seconds: float) -> Verdict:
        return judge(
            evidence,
            price=self._call.price,
            timeout_seconds=timeout_seconds,
            scene=self._scene(),
            key_hint=self._call.key_hint,
        )

    def _scene(self) -> Scene:
        return Scene(datetime.now(UTC), self._call.patterns)

    def _requests_left(self) -> int:
        used = self._used().num_requests
        left = self._call.request.max_requests - used
        if left < 1:
            error = LimitExceededError(
                raw_message=f"all {used} model requests are used", limit="max_requests"
            )
            error.__cause__ = self._attempts[-1].error if self._attempts else None
            raise error
        return left

    def _tries_left(self) -> int:
        """How often a failing step may still be tried, opencode's own repetitions counted."""
        return self._call.policy.retries - self._tries_used

    async def _take_slot(self) -> None:
        """Wait for a place in this process."""
        before = time.monotonic()
        if self._slots.locked():
            self._observe(Waiting(reason="all places of this process are taken"))
        try:
            limit = None if self._deadline is None else max(self._deadline - before, 0.0)
            # Not wait_for: cancelled at the wrong moment, Python 3.11's loses the place for good.
            async with asyncio.timeout(limit):
                await self._slots.acquire()
        except TimeoutError:
            seconds = self._call.deadline_seconds
            raise PromptTimeoutError(
                raw_message=f"no place became free within deadline_seconds={seconds:g}"
            ) from None
        self._queued_s = self._queued_s or (time.monotonic() - before)

    def _touched(self, evidence: Evidence) -> bool:
        """Whether the agent may have changed what a new attempt would not find restored."""
        request = self._call.request
        if not evidence.tools_ran:
            return False
        prefixes = tuple(tool_prefix(server.name) for server in request.tools)
        calls = evidence.transcript.tool_calls
        # Of what was ended in its midst the last call is not seen: it may have been any tool.
        remote = evidence.stopped is not None or any(c.tool.startswith(prefixes) for c in calls)
        ours = request.work_dir is None and request.session_id is None
        return not ours or (bool(prefixes) and remote)

    def _record(self, number: int, scope: str, evidence: Evidence, verdict: Verdict) -> None:
        self._evidence.append(evidence)
        self._verdict = verdict
        if not self._attempts:
            self._queued_s = (self._queued_s or 0.0) + evidence.queued_s
        failed = failed_requests(evidence, self._engine.name, self._scene())
        for single in failed:
            if single.error is not None:
                self._place(single.error)
        self._attempts += failed
        attempt = Attempt(
            number=number,
            engine=self._engine.name,
            scope=scope,
            model=self._call.request.model,
            session_id=evidence.transcript.session_id,
            error=verdict.error,
            usage=verdict.usage,
            cost_usd=verdict.cost_usd,
            duration_s=evidence.duration_s,
            waited_s=self._waited_s,
        )
        self._waited_s = 0.0
        self._attempts.append(attempt)
        self._tell(
            AttemptEnded(
                attempt=number,
                error=verdict.error,
                usage=verdict.usage,
                duration_s=evidence.duration_s,
            )
        )

    def _record_cut(self, number: int, scope: str, booked: Booked, cause: BaseException) -> None:
        """Record an attempt whose engine was cancelled, or failed, as far as it was booked."""
        evidence, error = booked.evidence(), cause if isinstance(cause, OpenCodeError) else None
        if error is not None and not evidence.exchanges:
            return
        verdict = replace(self._judge(evidence, 0.0), error=error)
        if self._call.terms is None:  # without the relay nobody knows
            verdict = replace(verdict, usage=Usage(estimated=True), cost_usd=None)
        self._record(number, scope, evidence, verdict)

    def _complete(self, error: OpenCodeError) -> QueryResult:
        """Give an error what only the call knows, and return its partial result."""
        self._place(error)
        error.result = self._result(error)
        return error.result

    def _place(self, error: OpenCodeError) -> None:
        error.place(self._call.node_id, self._call.request.model)

    def _tell(self, event: Event) -> None:
        """Tell of an event, its error placed: the relay does not know on which machine it is."""
        if isinstance(event, Retrying | AttemptEnded) and event.error is not None:
            self._place(event.error)
        self._observe(event)

    def _used(self) -> Usage:
        """Sum the tokens so far; an attempt's hold those of its single requests."""
        whole = [attempt for attempt in self._attempts if attempt.scope != "request"]
        return sum((attempt.usage for attempt in whole), Usage())

    def _cost_usd(self) -> float | None:
        """Sum the dollars so far; None if a price is unknown."""
        costs = [attempt.cost_usd for attempt in self._attempts if attempt.scope != "request"]
        known = [cost for cost in costs if cost is not None]
        return sum(known) if len(known) == len(costs) else None

    def _result(self, error: OpenCodeError | None) -> QueryResult:
        evidence = self._evidence[-1] if self._evidence else Evidence()
        verdict, folder = self._verdict, evidence.work_dir
        return QueryResult(
            result=evidence.transcript.text,
            returncode=evidence.returncode,
            stderr=evidence.stderr,
            stream_result=evidence.transcript.trace,
            success=error is None,
            usage=self._used(),
            cost_usd=self._cost_usd(),
            model=self._call.request.model,
            served_model=verdict.served_model if verdict else None,
            session_id=evidence.transcript.session_id,
            finish_reason=verdict.finish_reason if verdict else None,
            attempts=tuple(self._attempts),
            duration_s=time.monotonic() - self._started,
            queued_s=self._queued_s or 0.0,
            transcript=evidence.transcript,
            exchanges=tuple(e for seen in self._evidence for e in seen.exchanges),
            structured=self._structured,
            work_dir=folder if folder is not None and folder.is_dir() else None,
            error=error,
        )
