"""The small elements that the page's sections are made of."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from urllib.parse import quote

from chutes_opencode.batch.report.embedding import ID_CHARACTERS
from chutes_opencode.batch.report.markup import Html, tag

UNNAMED = "unnamed model"
UNNAMED_CLASS = "unnamed"


def item_link(position: int, identifier: str) -> Html:
    """Return a link that opens an item's pane."""
    return tag(
        "a", identifier, href=f"#item/{position}/{quote(identifier[:ID_CHARACTERS], safe='')}"
    )


def script_safe(text: str) -> str:
    """Return JSON that cannot end the element it stands in."""
    return text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")


def pair(term: str, value: str) -> Html:
    """Return an entry of a list of figures."""
    return tag("div", tag("dt", term), tag("dd", value))


def number(value: str, note: str = "", kind: str = "") -> Html:
    """Return a cell of a number, with a note below it."""
    return tag(
        "td",
        value,
        tag("small", note) if note else "",
        class_=f"number {kind}".strip(),
        role="cell",
    )


def table(headings: Sequence[str], rows: Iterable[Sequence[Html]]) -> Html:
    """Return a table; a heading that begins with `#` is of a column of numbers."""
    cells = [
        tag(
            "th",
            each.lstrip("#"),
            scope="col",
            role="columnheader",
            class_="number" if each[0] == "#" else None,
        )
        for each in headings
    ]
    # Said again: a narrow page shows rows as blocks, and so takes their meaning from them.
    body = [tag("tr", *row, role="row") for row in rows]
    return tag(
        "div",
        tag(
            "table",
            tag("thead", tag("tr", *cells, role="row"), role="rowgroup"),
            tag("tbody", *body, role="rowgroup"),
            role="table",
        ),
        class_="scroll",
        tabindex="0",
        role="region",
        aria_label=" and ".join((headings[0].lstrip("#"), "its figures")),
    )
