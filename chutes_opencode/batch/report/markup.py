"""HTML in which all text is escaped, unless it was made here."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape

_VOID = frozenset({"wbr"})


class Html(str):
    """Text that is HTML already."""

    __slots__ = ()


def text(value: str) -> Html:
    """Return `value` escaped; HTML stays as it is."""
    return value if isinstance(value, Html) else Html(escape(value))


def join(parts: Iterable[str], between: str = "") -> Html:
    """Return the parts one after the other, each escaped."""
    return Html(text(between).join(text(part) for part in parts))


def tag(name: str, *children: str, **attributes: str | bool | None) -> Html:
    """Return an element.

    Args:
        name: Of the element.
        children: What is in it; plain strings are escaped.
        attributes: A `_` at the end is left out, others become `-`: `class_`, `aria_label`. None
            and False: no such attribute; True: one without a value.
    """
    written = "".join(_attribute(key, value) for key, value in attributes.items())
    if name in _VOID:
        return Html(f"<{name}{written}>")
    return Html(f"<{name}{written}>{join(children)}</{name}>")


def _attribute(key: str, value: str | bool | None) -> str:
    if value is None or value is False:
        return ""
    name = key.rstrip("_").replace("_", "-")
    return f" {name}" if value is True else f' {name}="{escape(value)}"'
