"""Send one small prompt to a model: does it answer, and how fast.

The verdict tells apart what a person must do something different about.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal

from chutes_opencode.addresses import is_loopback
from chutes_opencode.classify import classify_response
from chutes_opencode.errors import (
    AuthenticationError,
    OpenCodeError,
    RateLimitError,
    ServerError,
    TransientError,
)
from chutes_opencode.patterns import CHUTES_PATTERNS, ProviderPatterns

if TYPE_CHECKING:
    import httpx

PROBE_SECONDS = 30.0
CONNECT_SECONDS = 10.0
MAX_TOKENS = 64
PROMPT = "Count from one to twenty in words."
# Beyond these a person at a terminal begins to wonder.
SLOW_FIRST_TOKEN_SECONDS = 5.0
SLOW_TOKENS_PER_SECOND = 5.0

HINT_START = "Start the server, or check the base URL and the network."

Verdict = Literal[
    "ok",
    "slow",
    "no_key",  # it needs one and there is none: nothing was sent
    "key_refused",
    "refused",  # it understood and said no: balance, rate, request, model
    "failing",  # it broke, or said nothing
    "unreachable",  # nobody listens
    "no_models",  # it is there, and offers nothing
]


@dataclass(frozen=True, slots=True)
class Probe:
    """What became of the prompt.

    Attributes:
        verdict: What it comes to.
        model: The model that was asked; empty: none was.
        detail: What was seen, a sentence.
        first_token_s: Seconds from the request to the first token; None: there was none.
        tokens_per_s: Output tokens a second after the first; None: too few to tell.
        models: How many models the provider lists; None: it was not asked, or tells none.
        problems: What went wrong with the list, a sentence each.
        error: The typed error of a verdict other than "ok" and "slow".
    """

    verdict: Verdict
    model: str = ""
    detail: str = ""
    first_token_s: float | None = None
    tokens_per_s: float | None = None
    models: int | None = None
    problems: tuple[str, ...] = ()
    error: OpenCodeError | None = None


@dataclass(frozen=True, slots=True)
class ChatEndpoint:
    """Where a model answers chat completions.

    Attributes:
        base_url: The OpenAI-compatible root.
        headers: What carries the key; empty without one.
        patterns: How the provider words its errors.
        transport: How to send; None: the network.
    """

    base_url: str
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    patterns: ProviderPatterns = CHUTES_PATTERNS
    transport: httpx.AsyncBaseTransport | None = None


async def probe_model(
    endpoint: ChatEndpoint,
    model: str,
    *,
    seconds: float = PROBE_SECONDS,
    clock: Callable[[], float] = time.monotonic,
) -> Probe:
    """Send one prompt of few tokens; trouble is told in the answer, not raised.

    Args:
        endpoint: Whom to ask.
        model: The model's id, as it is sent.
        seconds: What it may take in all.
        clock: Monotonic seconds.
    """
    watch = _Stopwatch(clock)
    try:
        async with asyncio.timeout(seconds):
            await _ask(endpoint, model, watch)
    except TimeoutError:
        return _late(watch, model, seconds)
    except OpenCodeError as error:
        return replace(_failed(error, model), first_token_s=watch.first_token_s)
    return _judge(watch, model)


@dataclass(slots=True)
class _Stopwatch:
    """Notes when tokens came."""

    clock: Callable[[], float]
    begun: float = 0.0
    first: float | None = None
    last: float = 0.0
    seen: int = 0
    told: int | None = None

    def __post_init__(self) -> None:
        self.begun = self.clock()

    def token(self) -> None:
        self.last = self.clock()
        self.first = self.last if self.first is None else self.first
        self.seen += 1

    @property
    def first_token_s(self) -> float | None:
        return None if self.first is None else self.first - self.begun

    @property
    def tokens_per_s(self) -> float | None:
        took = 0.0 if self.first is None else self.last - self.first
        tokens = (self.told or self.seen) - 1
        return tokens / took if took > 0 and tokens > 0 else None


async def _ask(endpoint: ChatEndpoint, model: str, watch: _Stopwatch) -> None:
    """Read the answer's events into the stopwatch.

    Raises:
        OpenCodeError: What went wrong.
    """
    body: dict[str, Any] = {
        "model": model,
        "messages": [{"role": "user", "content": PROMPT}],
        "stream": True,
        "max_tokens": MAX_TOKENS,
        "stream_options": {"include_usage": True},
    }
    try:
        await _stream(endpoint, body, watch)
    except OpenCodeError as error:
        said = error.raw_message
        unknown = [name for name in ("max_tokens", "stream_options") if name in said]
        if error.status not in (400, 422) or not unknown:
            raise
        # Some servers refuse fields that most want; without them we stop reading instead.
        await _stream(endpoint, {k: v for k, v in body.items() if k not in unknown}, watch)


async def _stream(endpoint: ChatEndpoint, body: Mapping[str, Any], watch: _Stopwatch) -> None:
    import httpx

    url = f"{endpoint.base_url}/chat/completions"
    # No redirects: they could carry the key elsewhere. No proxy between us and this machine.
    client = httpx.AsyncClient(
        headers=dict(endpoint.headers),
        timeout=httpx.Timeout(None, connect=CONNECT_SECONDS),  # the whole has a bound
        trust_env=not is_loopback(endpoint.base_url),
        follow_redirects=False,
        transport=endpoint.transport,
    )
    try:
        async with client, client.stream("POST", url, json=body) as answer:
            if answer.status_code != 200:
                text = (await answer.aread()).decode("utf-8", "replace")
                raise _refusal(endpoint, answer, text)
            async for event in _events(answer):
                _take(event, endpoint, answer, watch)
                if watch.seen >= MAX_TOKENS:
                    return
    except (httpx.ConnectError, httpx.ConnectTimeout) as error:
        reason = f"nothing answers at {endpoint.base_url}: {error}"
        raise ServerError(raw_message=reason, hint=HINT_START) from error
    except httpx.HTTPError as error:
        reason = f"{url} broke off: {type(error).__name__} {error}".rstrip()
        raise ServerError(raw_message=reason) from error


async def _events(answer: httpx.Response) -> AsyncIterator[Mapping[str, Any]]:
    """Yield the JSON objects of a stream, errors without a `data:` prefix too."""
    async for line in answer.aiter_lines():
        try:
            value = json.loads(line.removeprefix("data:"))
        except (ValueError, RecursionError):
            continue
        if isinstance(value, Mapping):
            yield value


def _take(
    event: Mapping[str, Any], endpoint: ChatEndpoint, answer: httpx.Response, watch: _Stopwatch
) -> None:
    """Count the token that an event brings; raise the error that it tells."""
    if event.get("error") and not event.get("choices"):
        raise _refusal(endpoint, answer, json.dumps(event))
    usage = event.get("usage")
    if isinstance(usage, Mapping) and isinstance(usage.get("completion_tokens"), int):
        watch.told = usage["completion_tokens"]
    choices = event.get("choices")
    choice = choices[0] if isinstance(choices, list) and choices else None
    if not isinstance(choice, Mapping):
        return
    delta = choice.get("delta") or choice.get("message")  # a server that does not stream
    if isinstance(delta, Mapping) and any(
        delta.get(name) for name in ("content", "reasoning_content", "reasoning", "tool_calls")
    ):
        watch.token()


def _refusal(endpoint: ChatEndpoint, answer: httpx.Response, text: str) -> OpenCodeError:
    return classify_response(
        answer.status_code,
        text,
        answer.headers,
        now=datetime.now(UTC),
        patterns=endpoint.patterns,
    )


def _failed(error: OpenCodeError, model: str) -> Probe:
    """Return the verdict of an error."""
    if isinstance(error, AuthenticationError):
        verdict: Verdict = "key_refused"
    elif not isinstance(error, TransientError) or isinstance(error, RateLimitError):
        verdict = "refused"
    elif error.hint == HINT_START:
        verdict = "unreachable"
    else:
        verdict = "failing"
    said = error.raw_message
    told = error.status is None or said.startswith("HTTP")
    detail = said if told else f"HTTP {error.status}: {said}"
    return Probe(verdict, model, detail, error=error)


def _late(watch: _Stopwatch, model: str, seconds: float) -> Probe:
    detail = "no token" if watch.first is None else "not done"
    return Probe(
        "slow", model, f"{detail} within {seconds:g} s", watch.first_token_s, watch.tokens_per_s
    )


def _judge(watch: _Stopwatch, model: str) -> Probe:
    first, rate = watch.first_token_s, watch.tokens_per_s
    if first is None:
        error = ServerError(raw_message="the answer holds no token", model=model)
        return Probe("failing", model, error.raw_message, error=error)
    slow = first > SLOW_FIRST_TOKEN_SECONDS or (rate or SLOW_TOKENS_PER_SECOND) < (
        SLOW_TOKENS_PER_SECOND
    )
    detail = f"first token after {first:.2f} s"
    if rate is not None:
        detail += f", then {rate:.0f} tokens/s"
    return Probe("slow" if slow else "ok", model, detail, first, rate)
