"""A flow without chance, and what may happen to it in one word."""

from __future__ import annotations

from chutes_opencode.relay.flow import Flow, Outcome, Pace, Sent

PACE = Pace(jitter=0.0)


def flow(pace: Pace = PACE) -> Flow:
    return Flow(pace, lambda: 0.5)


def fill(made: Flow, now: float = 0.0, most: int = 10_000) -> list[Sent]:
    """Send as much as it lets through."""
    sent: list[Sent] = []
    while made.opens_at(now) <= now and len(sent) < most:
        sent.append(made.let_in(now))
    return sent


def end(
    made: Flow,
    sent: Sent,
    outcome: Outcome,
    now: float,
    *,
    hint: float | None = None,
    is_wanted: bool = True,
) -> bool:
    if outcome is Outcome.OK:
        made.taken(sent, now)
    return made.ended(sent, outcome, now, hint=hint, is_wanted=is_wanted)


def refuse(made: Flow, now: float, *, hint: float | None = None) -> bool:
    """Send one request that is refused for the rate; tell whether that was collateral."""
    return end(made, made.let_in(now), Outcome.RATE_LIMITED, now, hint=hint)


def use_up(made: Flow, number: int, now: float) -> None:
    """Send so many requests, one after the other, that all succeed."""
    for _ in range(number):
        end(made, made.let_in(now), Outcome.OK, now, is_wanted=False)
