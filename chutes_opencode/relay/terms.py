"""What one prompt may do, and where its requests go: plain values, made by the engine's caller."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from chutes_opencode.patterns import CHUTES_PATTERNS, ProviderPatterns
from chutes_opencode.request import ChatMessage
from chutes_opencode.retry import RetryPolicy

if TYPE_CHECKING:
    from chutes_opencode.catalog.models import Price
    from chutes_opencode.limits import Budget
    from chutes_opencode.relay.booking import Booking

IDLE_SECONDS = 120.0
HEADERS_SECONDS = 300.0  # some providers queue a request for minutes before they answer
MAX_REQUESTS = 100


@dataclass(frozen=True, slots=True)
class Upstream:
    """Where the requests and the money go.

    Attributes:
        provider_id: Name of the provider, for messages.
        base_url: Of its API, `/v1` included, without a slash at the end.
        key: Returns the key in use now, None where the provider wants none. Called for each
            request, so that a key may be rotated while a prompt runs.
        auth: How the key is sent: "bearer", or the name of a header that holds it.
        patterns: How the provider words its errors.
        ca_files: Files of certificates that are trusted beside the usual ones (what the caller's
            REQUESTS_CA_BUNDLE and NODE_EXTRA_CA_CERTS name; httpx reads SSL_CERT_* itself).
        headers_seconds: How long an answer may take to begin.
    """

    provider_id: str
    base_url: str
    key: Callable[[], str | None] = field(repr=False)
    auth: str = "bearer"
    patterns: ProviderPatterns = field(default=CHUTES_PATTERNS, repr=False)
    ca_files: tuple[str, ...] = ()
    headers_seconds: float = HEADERS_SECONDS


@dataclass(frozen=True, slots=True)
class SystemRule:
    """What becomes of the system message that holds our marker.

    Attributes:
        marker: Random text that the agent's prompt in opencode's config consists of.
        message: What the model is to be told instead.
        keep_context: Whether what opencode adds after the marker is kept, byte for byte; else the
            system message is `message` and nothing else, and there is no second one.
    """

    marker: str
    message: str
    keep_context: bool = False


@dataclass(frozen=True, slots=True)
class ReplayKey:
    """Where exchanges are kept, and what tells this prompt's from others'.

    Attributes:
        folder: Folder of the stored exchanges.
        sample: Index of the sample: equal prompts with different indices are different.
        volatile: Strings that change from run to run by themselves (paths of the workspace); they
            count as equal and are put back at replay.
    """

    folder: Path
    sample: int = 0
    volatile: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Terms:
    """What one prompt may do.

    Attributes:
        upstream: Where its requests go.
        prices: The allowed model strings (the one asked for and the fallbacks), each with its
            price in the catalogue's snapshot; None: unknown.
        model: The model string asked for.
        fallback_models: Tried in this order where a model is full, cold or gone.
        policy: How often and how patiently a request is tried.
        tries_left: Attempts in all for each model step; `prompt()` may have used some.
        max_requests: Requests that may be sent, retries and sub-agents included.
        max_tokens: Tokens in all; None: no limit.
        max_cost_usd: US dollars of this prompt; None: no limit.
        budgets: Budgets that other prompts share (process, instance, batch).
        deadline: On the clock of `time.monotonic`; None: there is none.
        idle_seconds: A stream that is silent for so long has stalled.
        system: What becomes of the system message; None: it is left as it is.
        body_keys: What a chat request's body may hold; opencode adds to it what nobody asked for.
            None: it is left as it is.
        body_values: What every chat request's body is given: the caller's sampling parameters,
            where opencode does not know them.
        history: Messages that stand before those of the session, after its system message.
        tool_prefixes: Prefixes that must be among the tools' names of the first request (a
            server's name and "_").
        hidden_paths: Folders of attachments: opencode's own text about files in them is dropped.
        replay: Whether exchanges are stored and replayed; None: not.
        opened: Told of the prompt's place at the relay, as soon as it has one; so its books can be
            read even where the engine that opened them was cancelled.
    """

    upstream: Upstream
    prices: Mapping[str, Price | None]
    model: str
    fallback_models: tuple[str, ...] = ()
    policy: RetryPolicy = field(default_factory=RetryPolicy)
    tries_left: int = 3
    max_requests: int = MAX_REQUESTS
    max_tokens: int | None = None
    max_cost_usd: float | None = None
    budgets: tuple[Budget, ...] = ()
    deadline: float | None = None
    idle_seconds: float = IDLE_SECONDS
    system: SystemRule | None = None
    body_keys: frozenset[str] | None = None
    body_values: Mapping[str, Any] = field(default_factory=dict)
    history: tuple[ChatMessage, ...] = ()
    tool_prefixes: tuple[str, ...] = ()
    hidden_paths: tuple[str, ...] = ()
    replay: ReplayKey | None = None
    opened: Callable[[Booking], object] | None = field(default=None, repr=False, compare=False)
