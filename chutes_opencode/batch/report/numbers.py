"""Numbers as people read them: 12,345 · 1.2 s · $0.0012. assets/format.js does the same."""

from __future__ import annotations

import math
from datetime import UTC, datetime

UNKNOWN = "–"

_MINUTE, _HOUR, _DAY = 60, 3600, 86400


def count(number: int) -> str:
    """Return 12345 as "12,345"."""
    return f"{number:,}"


def counted(number: int, noun: str) -> str:
    """Return "1 item", "2 items"."""
    return f"{count(number)} {noun}" if number == 1 else f"{count(number)} {noun}s"


def seconds(value: float | None) -> str:
    """Return a time: "350 ms", "1.2 s", "3 min 20 s", "2 h 05 min", "1 d 3 h"."""
    if value is None:
        return UNKNOWN
    if value < 1:
        milliseconds = math.floor(value * 1000 + 0.5)
        if milliseconds < 1000:
            return f"{milliseconds} ms"
    tenths = math.floor(value * 10 + 0.5)
    if tenths < _MINUTE * 10:
        return f"{tenths // 10}.{tenths % 10} s"
    whole = math.floor(value + 0.5)
    if whole < _HOUR:
        return f"{whole // _MINUTE} min {whole % _MINUTE:02} s"
    if whole < _DAY:
        return f"{whole // _HOUR} h {whole % _HOUR // _MINUTE:02} min"
    return f"{whole // _DAY} d {whole % _DAY // _HOUR} h"


def dollars(value: float | None) -> str:
    """Return US dollars: cents from one dollar on, two digits that count below; "–": unknown."""
    if value is None:
        return UNKNOWN
    if value == 0:
        return "$0"
    if value >= 0.995:
        return f"${value:,.2f}"
    if value < 0.000001:
        return "<$0.000001"
    places = 1 - math.floor(math.log10(value))
    return f"${value:.{max(places, 2)}f}"


def percent(part: float, whole: float) -> str:
    """Return a share: "94.8 %"; never "0 %" of something or "100 %" of less than all."""
    if not whole:
        return UNKNOWN
    share = 100 * part / whole
    if 0 < share < 0.1:
        return "<0.1 %"
    if 99.9 < share < 100:
        return ">99.9 %"
    return f"{share:.1f} %".replace(".0 %", " %")


def rate(value: float | None) -> str:
    """Return something per second: "1,234", "12.3", "0.45"."""
    if value is None:
        return UNKNOWN
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 1 else f"{value:.2g}"


def moment(epoch: float | None) -> str:
    """Return a time as "2025-11-21 14:05 UTC"."""
    if not epoch:
        return UNKNOWN
    return datetime.fromtimestamp(epoch, UTC).strftime("%Y-%m-%d %H:%M UTC")
