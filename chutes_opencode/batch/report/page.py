"""A run's report: one HTML file that needs nothing else, and lets nothing in or out.

Its Content-Security-Policy names the scripts by their hash and forbids the network; what models
and users wrote is escaped, or goes into the page's elements as text. assets/ holds the page, its
style and its scripts: ES modules, joined in the order of their imports.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from importlib import resources
from pathlib import Path
from typing import Any

import orjson

from chutes_opencode.batch.durable import StoreError, adopt_draft, storing, write_draft
from chutes_opencode.batch.record import Record
from chutes_opencode.batch.report import cells, figures, listings, sections
from chutes_opencode.batch.report.embedding import Embedded, embed
from chutes_opencode.batch.report.facts import Facts, facts
from chutes_opencode.batch.report.markup import Html, join, tag, text
from chutes_opencode.batch.report.numbers import moment
from chutes_opencode.batch.report.summary import Summary, summarize
from chutes_opencode.batch.report.timeline import Clock
from chutes_opencode.batch.running.status import read_status
from chutes_opencode.batch.store.folder import RunFolder
from chutes_opencode.errors import ConfigurationError

NAME = "report.html"
MODULES = (
    "format.js",
    "packed.js",
    "theme.js",
    "plots.js",
    "rows.js",
    "table.js",
    "pane.js",
    "main.js",
)
"""The page's scripts; each imports only from those before it."""

ROWS_SHOWN = 25
"""Rows that the table shows at once; table.js has the same number."""

_PAGE_BEGINS = b"<!doctype html"
_PLACE = re.compile(r"\{\{(\w+)\}\}")
_IMPORT = re.compile(r"^import .*? from \".*?\";\n", re.MULTILINE | re.DOTALL)
_EXPORT = re.compile(r"^export ", re.MULTILINE)


def write_report(run_dir: Path | str, out: Path | str | None = None) -> Path:
    """Write the report of a run: one HTML file of at most 20 MB.

    Results are read as they stand; a run that goes on is not disturbed. Only figures are kept in
    memory, and what the page holds.

    Args:
        run_dir: The run's folder or URL.
        out: The file; None: report.html in the folder, or at the URL. A report that is there is
            replaced, anything else is not.

    Returns:
        The file; of one at a URL, the copy on this machine.

    Raises:
        ConfigurationError: plotly is missing, the folder holds no run, another file stands in
            the way, or the file cannot be written (StoreError).
    """
    plotly = figures.plotly_js()
    folder = RunFolder(run_dir)
    path = Path(out) if out is not None else folder.path / NAME
    with storing(path):
        _spare_other_files(path)
    status = read_status(folder.path)
    known = facts(
        folder.manifest,
        status.snapshot if status else None,
        folder=str(run_dir),
        now=time.time(),
        held=folder.holder() is not None,
    )
    model = str(folder.manifest.settings.get("model") or "")
    clock = Clock(known.sessions, known.seen_at)
    summary = summarize(folder.records(), folder.attempts(), clock, model)
    embedded = embed(folder.records, lambda record: _transcript(folder, record), summary)
    pieces = (
        piece.encode("utf-8", "replace") for piece in compose(known, summary, embedded, plotly)
    )
    with storing(path):
        write_draft(path, pieces)
        adopt_draft(path)
    if out is None:
        folder.publish(NAME)
    return path


def _spare_other_files(path: Path) -> None:
    """Refuse to replace what is no page: the items, say, or the run's own results."""
    if not path.is_file() or not path.stat().st_size:
        return
    with path.open("rb") as file:
        begin = file.read(len(_PAGE_BEGINS))
    if begin.lower() != _PAGE_BEGINS:
        raise ConfigurationError(
            raw_message=f"{path} is there already, and it is no report",
            hint="Name another file; only a report is replaced by a report.",
        )


def _transcript(folder: RunFolder, record: Record) -> Mapping[str, Any] | None:
    """Return a transcript; one that was lost is no reason to have no report."""
    try:
        return folder.transcript(record)
    except StoreError:
        return None


def compose(known: Facts, summary: Summary, embedded: Embedded, plotly: str) -> Iterator[str]:
    """Yield the page, piece by piece.

    Args:
        known: What the run's folder says.
        summary: Its results in figures.
        embedded: Its items.
        plotly: Source of plotly.js.
    """
    script = joined_script()
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    values: dict[str, str | Callable[[], Iterable[str]]] = {
        "policy": _policy(digest),
        "title": Html(tag("title", f"Batch report · {known.run_id}")),
        "style": _asset("report.css"),
        "script": script,
        "head": sections.head(known, summary),
        "totals": sections.totals(known, summary),
        "errors": join([sections.errors(known, summary), _plot(figures.failures(summary))]),
        "models": sections.models(summary),
        "spreads": _spreads(summary),
        "courses": _courses(summary),
        "extremes": listings.extremes(summary),
        "left_out": listings.left_out(known, summary, embedded),
        "none": "" if embedded.num_rows else " hidden",
        "one_page": "" if embedded.num_rows > ROWS_SHOWN else " hidden",
        "room": f"--rows: {min(embedded.num_rows, ROWS_SHOWN)}",
        "settings": listings.settings(known),
        "made": text(f"Made {moment(known.made_at)} from {known.folder}"),
        "data": cells.script_safe(_data(known, summary, embedded)),
        "plotly": lambda: [base64.b64encode(gzip.compress(plotly.encode(), 9, mtime=0)).decode()],
        "rows": lambda: _packed("rows", embedded.rows.parts),
        "texts": lambda: _packed("texts", embedded.texts.parts),
    }
    for number, piece in enumerate(_PLACE.split(_asset("report.html"))):
        if number % 2 == 0:
            yield piece
            continue
        value = values[piece]
        if isinstance(value, str):
            yield value
        else:
            yield from value()


def joined_script() -> str:
    """Return the page's modules as one, in the order of their imports."""
    parts = (_EXPORT.sub("", _IMPORT.sub("", _asset(name))) for name in MODULES)
    return "\n".join(parts)


def _asset(name: str) -> str:
    file = resources.files("chutes_opencode.batch.report").joinpath("assets", name)
    return file.read_text(encoding="utf-8")


def _policy(digest: str) -> str:
    """Return what the page may do; plotly.js comes out of it as a blob, and styles as it draws."""
    return (
        f"default-src 'none'; script-src 'sha256-{digest}' blob:; style-src 'unsafe-inline'; "
        "img-src data:; base-uri 'none'; form-action 'none'"
    )


def _plot(drawn: figures.Figure | None) -> str:
    return sections.figure(drawn) if drawn else ""


def _spreads(summary: Summary) -> Html:
    tables = {"latency": summary.latency, "first-token": summary.first_token}
    drawn = [
        sections.figure(each, sections.spread_table(tables[each.name]))
        for each in figures.spreads(summary)
    ]
    return join(drawn) if drawn else tag("p", "Nothing was measured yet.", class_="calm")


def _courses(summary: Summary) -> Html:
    drawn = [sections.figure(each) for each in figures.courses(summary)]
    return join(drawn) if drawn else tag("p", "Nothing has ended yet.", class_="calm")


def _packed(name: str, parts: Iterable[str]) -> Iterator[str]:
    for number, part in enumerate(parts):
        yield f'<script type="text/plain" id="{name}-{number}">{part}</script>\n'


def _data(known: Facts, summary: Summary, embedded: Embedded) -> str:
    data = {
        "folder": known.folder,
        "models": [each.model or cells.UNNAMED for each in summary.models],
        "errors": [each.type or cells.UNNAMED_CLASS for each in summary.errors],
        "rowParts": len(embedded.rows.parts),
        "textParts": len(embedded.texts.parts),
        "numRows": embedded.num_rows,
    }
    return orjson.dumps(data).decode()
