"""What a person at a terminal sees of a running prompt: text on stdout, the rest on stderr."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, TextIO

from chutes_opencode.cli.output import counted
from chutes_opencode.events import (
    Event,
    ReasoningDelta,
    Retrying,
    StepRestarted,
    TextDelta,
    ToolCall,
    ToolResult,
    Waiting,
)
from chutes_opencode.masking import mask

if TYPE_CHECKING:
    from rich.console import Console

    from chutes_opencode.results import QueryResult

QUIET_SECONDS = 2.0  # what is faster needs no sign of life
SHOWN_CHARACTERS = 100


class Spinner:
    """A moving line on a terminal's stderr, once nothing has been seen for two seconds."""

    def __init__(self, console: Console, *, quiet_seconds: float = QUIET_SECONDS) -> None:
        """Show nothing yet; on something else than a terminal, never."""
        self._console = console
        self._quiet_seconds = quiet_seconds
        self._lock = threading.Lock()
        self._timer: threading.Timer | None = None
        self._status = console.status("working…")

    def wait(self) -> None:
        """Begin to count: from now on nothing is seen."""
        with self._lock:
            if self._console.is_terminal and self._timer is None:
                self._timer = threading.Timer(self._quiet_seconds, self._appear)
                self._timer.daemon = True
                self._timer.start()

    def hide(self) -> None:
        """Leave the terminal to what is written next."""
        with self._lock:
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None
                self._status.stop()

    def _appear(self) -> None:
        with self._lock:
            if self._timer is threading.current_thread():
                self._status.start()


@contextmanager
def working(console: Console) -> Iterator[None]:
    """Show the spinner as long as the block runs."""
    spinner = Spinner(console)
    spinner.wait()
    try:
        yield
    finally:
        spinner.hide()


class LivePrinter:
    """Writes a prompt's events as they come."""

    def __init__(self, out: TextIO, console: Console, *, thinking: bool = False) -> None:
        """Take where to write.

        Args:
            out: Gets the answer's text, and nothing else but the line ends that keep it apart.
            console: Gets tool calls, waits and retries, dim.
            thinking: Whether the console gets the model's reasoning too.
        """
        self._out = out
        self._console = console
        self._thinking = thinking
        self._spinner = Spinner(console)
        self._in_line = False

    @contextmanager
    def watching(self) -> Iterator[Callable[[Event], None]]:
        """Yield what takes the events; leave a whole line and no spinner behind."""
        self._spinner.wait()
        try:
            yield self.show
        finally:
            self._spinner.hide()
            self._end_line()

    def show(self, event: Event) -> None:
        """Write one event."""
        if isinstance(event, TextDelta):
            self._spinner.hide()
            self._out.write(event.text)
            self._out.flush()
            self._in_line = not event.text.endswith("\n")
        elif line := self._aside(event):
            self._spinner.hide()
            self._end_line()
            self._dim(line)
        if not self._in_line:  # it would wipe the line that the text has begun
            self._spinner.wait()

    def _aside(self, event: Event) -> str:
        """Return what stderr gets for an event; empty: nothing."""
        if isinstance(event, ReasoningDelta):
            return event.text.strip() if self._thinking else ""
        if isinstance(event, ToolCall):
            return f"→ {event.tool} {_short(dict(event.input))}"
        if isinstance(event, ToolResult):
            return f"  {event.tool} failed: {_short(event.error)}" if event.error else ""
        if isinstance(event, Waiting):
            return f"waiting: {event.reason}"
        if isinstance(event, StepRestarted):
            return f"asked again, the text above is void: {event.reason}"
        if isinstance(event, Retrying):
            why = event.error.raw_message or event.error.error_type
            void = "" if event.scope == "request" else ", its text is void"
            return (
                f"{event.scope}, attempt {event.attempt} failed{void}: {why}; "
                f"next in {event.wait_seconds:.1f} s"
            )
        return ""

    def _end_line(self) -> None:
        if self._in_line:
            self._out.write("\n")
            self._out.flush()
            self._in_line = False

    def _dim(self, line: str) -> None:
        self._console.print(mask(line), style="dim", markup=False, highlight=False)


def summary(result: QueryResult) -> str:
    """Return one line that says what a prompt took."""
    cost = "unknown cost" if result.cost_usd is None else f"{result.cost_usd:.6f} USD"
    return (
        f"{result.model}, {result.duration_s:.1f} s, {result.usage.total} tokens in "
        f"{counted(result.usage.num_requests, 'request')}, {cost}"
    )


def _short(value: object) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    text = " ".join(text.split())
    return text if len(text) <= SHOWN_CHARACTERS else text[:SHOWN_CHARACTERS] + "…"
