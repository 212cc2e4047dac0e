"""The management API of a provider that has one: the key, the account, warm-ups.

The key goes to the one URL that is given and nowhere else: no redirect is followed.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from datetime import time as time_of_day
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import quote

from chutes_opencode.addresses import is_loopback
from chutes_opencode.classify import classify_response
from chutes_opencode.errors import (
    AuthenticationError,
    ConfigurationError,
    ModelNotFoundError,
    OpenCodeError,
    ServerError,
)
from chutes_opencode.http_answer import read_moment

if TYPE_CHECKING:
    import httpx

ANSWER_SECONDS = 10.0
HOT = "hot"

_NETWORK_HINT = "Check the network, then try again."
# What the API calls its windows, and what people do.
_WINDOWS = {"four_hour": "4 hours", "monthly": "month"}

KeyVerdict = Literal["accepted", "refused", "unknown"]


@dataclass(frozen=True, slots=True)
class ManagementApi:
    """Where to ask, and with which key.

    Attributes:
        url: The root, https or on this machine.
        key: Sent as a bearer token.
        transport: How to send; None: the network.
    """

    url: str
    key: str = field(repr=False)
    transport: httpx.BaseTransport | None = None

    def __post_init__(self) -> None:
        """Refuse to show the key to the network.

        Raises:
            ConfigurationError: Plain http to another machine.
        """
        if not self.url.startswith("https://") and not is_loopback(self.url):
            raise ConfigurationError(
                raw_message=f"{self.url} would send the key unencrypted",
                hint="Use https://, or http:// to 127.0.0.1 only.",
            )


@dataclass(frozen=True, slots=True)
class KeyCheck:
    """What became of the question whether a key is good.

    Attributes:
        verdict: "unknown" when there is nobody to ask or the answer says nothing.
        detail: One clause that says why.
    """

    verdict: KeyVerdict
    detail: str


@dataclass(frozen=True, slots=True)
class Cap:
    """What may be spent within a window of time, in USD; None where the API does not tell.

    Attributes:
        window: "4 hours", "month", or what the API calls it.
        usage: Spent so far.
        cap: The most that may be spent; None: no cap.
        remaining: What is left.
        reset_at: When the window begins anew (aware).
    """

    window: str
    usage: float | None = None
    cap: float | None = None
    remaining: float | None = None
    reset_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Account:
    """The state of an account; None where the API does not tell.

    Attributes:
        balance_usd: Money that is left.
        quota: Requests a day that the plan includes.
        used: Requests of today.
        quota_reset_at: When the day's quota begins anew: the next UTC midnight.
        caps: Spending caps of a subscription; empty without one.
        problems: What could not be had, a sentence each.
    """

    balance_usd: float | None = None
    quota: float | None = None
    used: float | None = None
    quota_reset_at: datetime | None = None
    caps: tuple[Cap, ...] = ()
    problems: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class WarmUp:
    """How far a chute is.

    Attributes:
        status: "hot" when it answers; else the API's own word.
        log: What the API says beside it.
    """

    status: str
    log: str = ""

    @property
    def is_hot(self) -> bool:
        """Whether prompts are answered now."""
        return self.status == HOT


def check_key(api: ManagementApi) -> KeyCheck:
    """Ask whether the key is good; trouble is told in the answer, not raised."""
    url = f"{api.url}/users/me"
    try:
        answer = _get(api, url)
    except ServerError as error:
        return KeyCheck("unknown", error.raw_message)
    if answer.status_code == 200:
        return KeyCheck("accepted", f"accepted by {api.url}")
    if answer.status_code in (401, 403):
        return KeyCheck("refused", f"refused by {url} (HTTP {answer.status_code})")
    return KeyCheck("unknown", f"{url} answered HTTP {answer.status_code}")


def fetch_account(api: ManagementApi, *, now: datetime | None = None) -> Account:
    """Ask for balance, quota and caps; a part that cannot be had becomes a problem.

    Args:
        api: Whom to ask.
        now: The time (aware); None: now.

    Raises:
        AuthenticationError: The key is refused.
        ServerError: The API cannot be reached, or none of the parts can be had.
    """
    errors: list[OpenCodeError] = []
    user = _part(api, "/users/me", errors)
    quota = _part(api, "/users/me/quota_usage/me", errors)
    caps = _part(api, "/users/me/subscription_usage", errors)
    if user is None and quota is None and caps is None:
        raise ServerError(raw_message=errors[0].raw_message, hint=_NETWORK_HINT) from errors[0]
    at = now or datetime.now(UTC)
    limit = _number((quota or {}).get("quota"))
    return Account(
        balance_usd=_number((user or {}).get("balance")),
        quota=limit,
        used=_number((quota or {}).get("used")),
        quota_reset_at=None if limit is None else _next_midnight(at),
        caps=tuple(_caps(caps or {})),
        problems=tuple(error.raw_message for error in errors),
    )


def warm_up(
    api: ManagementApi,
    chute_id: str,
    *,
    wait_seconds: float = 0.0,
    on_status: Callable[[WarmUp], None] | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> WarmUp:
    """Ask for an instance of a chute.

    Args:
        api: Whom to ask.
        chute_id: The chute's id.
        wait_seconds: How long to follow it until it is hot; 0: the first answer is enough.
        on_status: Told of each status.
        clock: Monotonic seconds.

    Returns:
        The last status that was told.

    Raises:
        ModelNotFoundError: There is no such chute.
        AuthenticationError: The key is refused.
        OpenCodeError: As the answer says; ServerError when the API cannot be reached.
    """
    url = f"{api.url}/chutes/warmup/{quote(chute_id, safe='')}"
    until = clock() + wait_seconds
    last: WarmUp | None = None
    try:
        for last in _statuses(api, url, max(ANSWER_SECONDS, wait_seconds)):
            if on_status is not None:
                on_status(last)
            if last.is_hot or clock() >= until:
                break
    except ServerError:
        if last is None:  # later on, what was told before still holds
            raise
    return last or WarmUp("asked")


def _statuses(api: ManagementApi, url: str, seconds: float) -> Iterator[WarmUp]:
    """Yield each status: of a stream of events as they come, or of the one JSON body."""
    with _asking(api, url, seconds) as client, client.stream("GET", url) as answer:
        if answer.status_code != 200:
            answer.read()
            raise _error(answer, url)
        for line in answer.iter_lines():
            told = _object(line.removeprefix("data:"))
            status = told.get("status")
            if isinstance(status, str) and status:
                yield WarmUp(status, str(told.get("log") or ""))


def _part(api: ManagementApi, path: str, errors: list[OpenCodeError]) -> Mapping[str, Any] | None:
    """Return one of the account's pages; None, and an error more, when it cannot be had."""
    url = f"{api.url}{path}"
    answer = _get(api, url)
    if answer.status_code != 200:
        error = _error(answer, url)
        if isinstance(error, AuthenticationError):
            raise error
        errors.append(error)
        return None
    told = _object(answer.text)
    if not told:
        errors.append(ServerError(raw_message=f"{url} answered something that is no JSON object"))
        return None
    return told


def _get(api: ManagementApi, url: str) -> httpx.Response:
    with _asking(api, url, ANSWER_SECONDS) as client:
        return client.get(url)


@contextmanager
def _asking(api: ManagementApi, url: str, seconds: float) -> Iterator[httpx.Client]:
    """Give a client that holds the key; trouble on the way becomes a ServerError."""
    import httpx

    # No redirects: they could carry the key elsewhere. No proxy between us and this machine.
    client = httpx.Client(
        headers={"Authorization": f"Bearer {api.key}"},
        timeout=httpx.Timeout(ANSWER_SECONDS, read=seconds),
        trust_env=not is_loopback(api.url),
        follow_redirects=False,
        transport=api.transport,
    )
    try:
        with client:
            yield client
    except httpx.HTTPError as error:
        reason = f"{url} cannot be asked: {type(error).__name__} {error}".rstrip()
        raise ServerError(raw_message=reason, hint=_NETWORK_HINT) from error


def _error(answer: httpx.Response, url: str) -> OpenCodeError:
    """Return the error that an answer means, with the address in its message."""
    error = classify_response(
        answer.status_code, answer.text, answer.headers, now=datetime.now(UTC)
    )
    missing = isinstance(error, ModelNotFoundError)
    return type(error)(
        raw_message=f"{url} answered HTTP {answer.status_code}: {error.raw_message}",
        status=answer.status_code,
        hint="See `chutes-opencode models list` for what exists." if missing else error.hint,
    )


def _caps(told: Mapping[str, Any]) -> Iterator[Cap]:
    for name, window in told.items():
        if not isinstance(window, Mapping) or not {"usage", "cap"} & window.keys():
            continue
        yield Cap(
            _WINDOWS.get(name, name.replace("_", " ")),
            _number(window.get("usage")),
            _number(window.get("cap")),
            _number(window.get("remaining")),
            read_moment(window.get("reset_at")),
        )


def _object(text: str) -> Mapping[str, Any]:
    """Return the JSON object that a text is; empty when it is something else."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, Mapping) else {}


def _number(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def _next_midnight(now: datetime) -> datetime:
    tomorrow = now.astimezone(UTC).date() + timedelta(days=1)
    return datetime.combine(tomorrow, time_of_day.min, UTC)
