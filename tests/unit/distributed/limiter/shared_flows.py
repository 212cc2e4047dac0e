"""A shared flow without chance, and what may happen to it in one word."""

from __future__ import annotations

from chutes_opencode.distributed.limiter.protocol import Ended, News, Report
from chutes_opencode.distributed.limiter.shared_flow import SharedFlow
from chutes_opencode.relay.flow import Pace

WIDE = Pace(start=10_000, max_in_flight=10_000, jitter=0.0)


def shared(pace: Pace = WIDE, *, is_successor: bool = False) -> SharedFlow:
    return SharedFlow(pace, lambda: 0.5, now=0.0, is_successor=is_successor)


def report(
    member: str,
    *,
    node: str | None = None,
    news: News | None = None,
    urgent: int = 0,
    ordinary: int = 0,
    received: int = 0,
) -> Report:
    return Report(
        member,
        node or member,
        "",
        news or News(),
        urgent,
        ordinary,
        holds=0,
        received=received,
        refusals=0,
    )


def ask(
    made: SharedFlow,
    member: str,
    ordinary: int = 0,
    *,
    urgent: int = 0,
    node: str | None = None,
    received: int = 0,
    now: float = 0.0,
) -> None:
    told = report(member, node=node, urgent=urgent, ordinary=ordinary, received=received)
    if not made.knows(member):
        made.join(told, now)
    made.hear(told, now)


def given(made: SharedFlow, *members: str, now: float = 0.0) -> dict[str, list[int]]:
    """Give permits; tell how many each member got, by block."""
    grants = made.allot(members, now)
    return {member: [grant.count for grant in each] for member, each in grants.items()}


def end(
    made: SharedFlow,
    member: str,
    *ended: Ended,
    now: float = 0.0,
    taken: int = 0,
    received: int = 1000,
) -> tuple[bool, ...]:
    news = News(taken=((ended[0].number, taken),) if taken else (), ended=ended)
    return made.hear(report(member, news=news, received=received), now)
