"""What to look at before a batch is started: its models, its items, the account, the budget."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from chutes_opencode.batch.estimate.quote import ModelEstimate, Range
from chutes_opencode.catalog.account import Account, ManagementApi, fetch_account
from chutes_opencode.errors import OpenCodeError

if TYPE_CHECKING:
    from chutes_opencode.settings import Settings


def account_left(settings: Settings) -> tuple[Account | None, tuple[str, ...]]:
    """Ask what is left of the account, where somebody knows.

    Returns:
        The account, None if nobody could be asked; and what could not be had, a sentence each.
    """
    if settings.management_url is None or not (settings.is_chutes or settings.is_loopback):
        return None, ()
    try:
        api = ManagementApi(settings.management_url, settings.require_token())
        account = fetch_account(api)
    except OpenCodeError as error:
        return None, (f"Balance and quota are unknown: {error.raw_message}",)
    return account, account.problems


def warnings_of(
    models: Sequence[ModelEstimate],
    cost: Range | None,
    pending: int,
    account: Account | None,
    max_cost_usd: float | None,
) -> tuple[str, ...]:
    """Return what to look at before the start, a sentence each, the worst first."""
    found = [sentence for model in models for sentence in _of_model(model)]
    found += _of_cost(cost, max_cost_usd)
    if account is not None:
        found += _of_account(account, cost, pending)
    return tuple(found)


def _of_model(part: ModelEstimate) -> Iterator[str]:
    asked = part.asked
    if asked.missing:
        yield f"{_tasks(part.tasks)} would fail: {asked.missing}."
        return
    if part.refused_count:
        shown = "; ".join(part.refused)
        yield f"{_tasks(part.refused_count)} of {asked.name} cannot be sent: {shown}."
    if part.too_long_count:
        assert asked.model is not None
        shown = ", ".join(part.too_long)
        more = ", …" if part.too_long_count > len(part.too_long) else ""
        yield (
            f"{_tasks(part.too_long_count)} do not fit the {asked.model.context_length:,} tokens "
            f"of {asked.name}: {shown}{more}."
        )
    if asked.lacks_tools:
        yield f"{asked.name} takes no tools: switch them off, or ask another model."
    if asked.renamed_to:
        yield f"{asked.name} is now {asked.renamed_to}: the old name is understood for a while."
    if part.cost_usd is None:
        yield f"The price of {asked.name} is unknown."


def _of_cost(cost: Range | None, most: float | None) -> Iterator[str]:
    if most is None:
        return
    if cost is None:
        yield f"Whether {most:g} USD are enough is unknown."
    elif cost.low > most:
        yield f"{most:g} USD are not enough: it costs {cost.low:.6g} USD at least."
    elif cost.expected > most:
        yield f"{most:g} USD are probably not enough: {cost.expected:.6g} USD are expected."
    elif cost.high > most:
        yield f"{most:g} USD may not be enough: it may cost {cost.high:.6g} USD."


def _of_account(account: Account, cost: Range | None, pending: int) -> Iterator[str]:
    if account.quota is not None and account.used is not None:
        left = max(0.0, account.quota - account.used)
        if left < pending:
            yield (
                f"The plan has {left:,.0f} requests left today, the batch sends {pending:,} at "
                "least; further ones are paid for from the balance, or refused."
            )
    if cost is None:
        return
    if account.balance_usd is not None and account.balance_usd < cost.expected:
        yield f"The balance is {account.balance_usd:.6g} USD, {cost.expected:.6g} are expected."
    for cap in account.caps:
        if cap.remaining is not None and cap.remaining < cost.expected:
            yield (
                f"The cap of {cap.window} has {cap.remaining:.6g} USD left, "
                f"{cost.expected:.6g} are expected."
            )


def _tasks(count: int) -> str:
    return "1 task" if count == 1 else f"{count:,} tasks"
