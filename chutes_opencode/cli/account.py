"""`chutes-opencode account`: balance, quota and caps. The key goes to the management API only."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from chutes_opencode.catalog.account import Account, Cap, KeyCheck, ManagementApi
from chutes_opencode.cli.model_views import count, money
from chutes_opencode.cli.output import JsonOption, SimulateOption, print_json, print_table, say
from chutes_opencode.cli.session import ProviderOption, provider_settings, waiting
from chutes_opencode.errors import ConfigurationError

if TYPE_CHECKING:
    from chutes_opencode.settings import Settings


def account(
    provider: ProviderOption = "chutes",
    simulate: SimulateOption = False,
    as_json: JsonOption = False,
) -> None:
    """Print the account's balance, today's quota and the caps, with the times of their reset."""
    from chutes_opencode.catalog.account import fetch_account

    with provider_settings(provider, simulate=simulate) as (entry, settings), waiting():
        told = fetch_account(management_api(settings, entry.name))
    if as_json:
        print_json({"ok": True, "provider": entry.id, **account_fields(told)})
        return
    for problem in told.problems:
        say(f"warning: {problem}")
    print_table(("", ""), account_lines(told, now=datetime.now(UTC)))


def management_api(settings: Settings, name: str) -> ManagementApi:
    """Return the API that knows the account.

    Args:
        settings: For the provider.
        name: The provider's name, for the error.

    Raises:
        ConfigurationError: There is none that the key may be shown to.
        AuthenticationError: There is no key, or it cannot be one.
    """
    if not _may_be_asked(settings):
        raise ConfigurationError(
            raw_message=f"{name} at {settings.base_url} has no management API",
            hint="Only Chutes tells of accounts and warm-ups.",
        )
    return ManagementApi(str(settings.management_url), settings.require_token())


def _may_be_asked(settings: Settings) -> bool:
    """Tell whether there is a management API, at Chutes itself or on this machine."""
    known = settings.is_chutes or settings.is_loopback
    return settings.management_url is not None and known


def check_key(settings: Settings) -> KeyCheck:
    """Ask whether the key is good; only Chutes itself and this machine are asked.

    Raises:
        AuthenticationError: There is no key, or it is malformed: nothing was sent.
    """
    from chutes_opencode.catalog import account as management

    token = settings.require_token()
    if not _may_be_asked(settings):
        return KeyCheck("unknown", f"not asked: {settings.base_url} is not Chutes")
    return management.check_key(ManagementApi(str(settings.management_url), token))


def account_lines(told: Account, *, now: datetime) -> list[tuple[str, str]]:
    """Return what is known of an account, a line each."""
    balance = "unknown" if told.balance_usd is None else f"{money(told.balance_usd)} USD"
    lines = [("balance", balance)]
    if told.quota is None:
        lines.append(("requests today", count(told.used)))
    else:
        used = f"{count(told.used)} of {count(told.quota)}"
        lines.append(("requests today", used + _reset(told.quota_reset_at, now)))
    lines += [(f"spent, {cap.window}", _cap(cap) + _reset(cap.reset_at, now)) for cap in told.caps]
    if not told.caps:
        lines.append(("caps", "none"))
    return lines


def _cap(cap: Cap) -> str:
    spent = money(cap.usage)
    return f"{spent} USD, no cap" if cap.cap is None else f"{spent} of {money(cap.cap)} USD"


def _reset(at: datetime | None, now: datetime) -> str:
    if at is None:
        return ""
    from chutes_opencode.catalog.listing import describe_age

    left = (at - now).total_seconds()
    when = f"{at.astimezone(UTC):%Y-%m-%d %H:%M} UTC"
    return f", resets in {describe_age(left)} ({when})" if left > 0 else f", reset at {when}"


def account_fields(told: Account) -> dict[str, Any]:
    """Return an account as JSON has it."""
    return {
        "balance_usd": told.balance_usd,
        "quota": {"limit": told.quota, "used": told.used, "reset_at": _iso(told.quota_reset_at)},
        "caps": [
            {
                "window": cap.window,
                "usage_usd": cap.usage,
                "cap_usd": cap.cap,
                "remaining_usd": cap.remaining,
                "reset_at": _iso(cap.reset_at),
            }
            for cap in told.caps
        ],
        "problems": list(told.problems),
    }


def _iso(moment: datetime | None) -> str | None:
    return None if moment is None else moment.isoformat()
