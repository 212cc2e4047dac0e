"""What a person sees of a running batch: a live view at a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from queue import SimpleQueue
from typing import TYPE_CHECKING, Protocol

import typer

from chutes_opencode.batch.report.numbers import counted, dollars
from chutes_opencode.batch.running.progress import FINISHED, STOPPED, STOPPING, Snapshot
from chutes_opencode.batch.running.stop import FINISH, NOW, StopSwitch
from chutes_opencode.cli.output import say
from chutes_opencode.masking import mask

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

# A plain line comes after so long, or after so much of the batch.
LINE_SECONDS = 10.0
LINE_SHARE = 0.1

REFRESHES_PER_SECOND = 4
SHOWN_ERRORS = 4


class Display(Protocol):
    """Shows how far a batch is.

    Attributes:
        in_flight: How many prompts ran when it was told last.
    """

    in_flight: int

    def show(self, snapshot: Snapshot) -> None:
        """Take how far it is now; from any thread."""

    def note(self, line: str) -> None:
        """Say something that stays on the screen."""


class Silence:
    """Shows nothing."""

    in_flight = 0

    def show(self, snapshot: Snapshot) -> None:
        """Show nothing."""
        self.in_flight = snapshot.in_flight

    def note(self, line: str) -> None:
        """Say it: whoever interrupts wants an answer."""
        say(line)


class Lines:
    """Writes a line at the beginning, now and then, and at the end."""

    def __init__(
        self,
        write: Callable[[str], None],
        *,
        cap_usd: float | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Write nothing yet.

        Args:
            write: Takes a line.
            cap_usd: The batch's budget; None: it has none.
            clock: Seconds that only go forward.
        """
        self.in_flight = 0
        self._write = write
        self._cap_usd = cap_usd
        self._clock = clock
        self._last: tuple[float, int] | None = None
        self._waiting = ""
        self._ended = False

    def show(self, snapshot: Snapshot) -> None:
        """Write a line if it is time for one."""
        self.in_flight = snapshot.in_flight
        now, ended = self._clock(), snapshot.total - snapshot.left
        over = snapshot.state in (FINISHED, STOPPED)
        if self._last is None:
            if not (over or snapshot.in_flight or snapshot.waiting):
                return  # what was done before is still being looked for
            self._write(opening(snapshot))
        elif not self._due(snapshot, now, ended) and (not over or self._ended):
            return
        if self._last is not None or over:
            self._write(line(snapshot, cap_usd=self._cap_usd))
        self._last, self._waiting, self._ended = (now, ended), snapshot.waiting, over

    def note(self, line: str) -> None:
        """Write a line of its own."""
        self._write(line)

    def _due(self, snapshot: Snapshot, now: float, ended: int) -> bool:
        then, before = self._last or (now, ended)
        if snapshot.waiting and not self._waiting:
            return True
        return now - then >= LINE_SECONDS or ended - before >= max(snapshot.total * LINE_SHARE, 1)


class Screen:
    """Draws the last snapshot at a terminal; Rich asks for it some times a second."""

    def __init__(self, console: Console, *, cap_usd: float | None = None) -> None:
        """Draw nothing yet.

        Args:
            console: The terminal.
            cap_usd: The batch's budget; None: it has none.
        """
        self.in_flight = 0
        self._console = console
        self._cap_usd = cap_usd
        self._snapshot: Snapshot | None = None

    def show(self, snapshot: Snapshot) -> None:
        """Keep it for the next drawing."""
        self.in_flight = snapshot.in_flight
        self._snapshot = snapshot

    def note(self, line: str) -> None:
        """Print a line above the view."""
        self._console.print(mask(line), style="yellow", markup=False, highlight=False)

    def __rich__(self) -> RenderableType:
        """Return what is drawn now."""
        from rich.text import Text

        if self._snapshot is None:
            return Text("checking the items…", style="dim")
        return view(self._snapshot, time.time(), cap_usd=self._cap_usd)


@contextmanager
def watching(
    *, quiet: bool, cap_usd: float | None = None, stdout: bool = False
) -> Iterator[Display]:
    """Show a batch as long as the block runs.

    Args:
        quiet: Whether nothing is shown of its progress.
        cap_usd: Its budget; None: it has none.
        stdout: Whether it is shown there, not on stderr.
    """
    from rich.console import Console
    from rich.live import Live

    console = Console(file=sys.stdout) if stdout else Console(stderr=True)
    if quiet:
        yield Silence()
    elif not console.is_terminal:
        yield Lines(typer.echo if stdout else say, cap_usd=cap_usd)
    else:
        screen = Screen(console, cap_usd=cap_usd)
        # What is written to the other stream goes there as it is.
        with Live(
            get_renderable=screen.__rich__,
            console=console,
            refresh_per_second=REFRESHES_PER_SECOND,
            redirect_stdout=stdout,
            redirect_stderr=not stdout,
            transient=True,
        ):
            yield screen


@contextmanager
def told_of_stops(switch: StopSwitch, display: Display) -> Iterator[None]:
    """Say what an interrupt does, as soon as it comes.

    Args:
        switch: What the interrupt presses.
        display: Where it is said.
    """
    # A signal may come in the middle of a write to the terminal: who writes is another thread.
    levels: SimpleQueue[int | None] = SimpleQueue()

    def tell() -> None:
        while (level := levels.get()) is not None:
            if level == FINISH:
                running = counted(display.in_flight, "prompt")
                display.note(f"finishing the {running} in flight; Ctrl-C again to stop now")
            elif level == NOW:
                display.note("stopping now; what is in flight runs again with the next resume")

    teller = threading.Thread(target=tell, name="chutes-opencode-stops", daemon=True)
    teller.start()
    remove = switch.add_listener(lambda: levels.put(switch.level))
    try:
        yield
    finally:
        remove()
        levels.put(None)
        teller.join()


def opening(snapshot: Snapshot) -> str:
    """Return the line at the beginning: what is to be done."""
    failed = snapshot.failed - sum(snapshot.errors.values())
    before = snapshot.skipped + failed
    if not before:
        return f"batch: {counted(snapshot.total, 'prompt')}"
    shown = f"{snapshot.skipped:,} done before" + (f", {failed:,} failed before" if failed else "")
    return f"batch: {counted(snapshot.total, 'prompt')}, {shown}, {snapshot.total - before:,} left"


def line(snapshot: Snapshot, *, cap_usd: float | None = None) -> str:
    """Return how far a batch is, in one line."""
    ended = snapshot.total - snapshot.left
    parts = [
        f"batch: {ended:,} of {snapshot.total:,} ({share(ended, snapshot.total)})",
        f"{snapshot.failed:,} failed" if snapshot.failed else "",
        f"{snapshot.in_flight:,} in flight" if snapshot.in_flight else "",
        *cluster(snapshot),
        f"{snapshot.prompts_per_s:.1f} prompts/s" if snapshot.prompts_per_s else "",
        money_line(snapshot, cap_usd=cap_usd),
        "" if snapshot.eta_s is None or not snapshot.left else f"{span(snapshot.eta_s)} left",
        f"waiting: {snapshot.waiting}" if snapshot.waiting else "",
        "" if not snapshot.stopped_by else f"{snapshot.state}: {snapshot.stopped_by}",
    ]
    return ", ".join(part for part in parts if part)


def view(snapshot: Snapshot, now: float, *, cap_usd: float | None = None) -> RenderableType:
    """Return what is drawn of a snapshot.

    Args:
        snapshot: How far the batch is.
        now: Seconds since the epoch.
        cap_usd: Its budget; None: it has none.
    """
    from rich.console import Group
    from rich.progress_bar import ProgressBar
    from rich.table import Table
    from rich.text import Text

    ended = snapshot.total - snapshot.left
    bar = Table.grid(expand=True, padding=(0, 2, 0, 0))
    bar.add_column(ratio=1)
    bar.add_column(justify="right", no_wrap=True)
    far = f"{ended:,} of {snapshot.total:,}  {share(ended, snapshot.total)}"
    bar.add_row(ProgressBar(total=max(snapshot.total, 1), completed=ended), Text(far))
    lines = [Text(counts(snapshot)), Text(pace(snapshot, now)), Text(_money(snapshot, cap_usd))]
    if workers := cluster(snapshot):
        lines.insert(1, Text(" · ".join(workers)))
    if snapshot.waiting:
        lines.append(Text(f"waiting: {mask(snapshot.waiting)}", style="yellow"))
    if snapshot.errors:
        lines.append(Text(f"errors: {errors(snapshot)}", style="red"))
    if snapshot.state == STOPPING:
        why = f" ({snapshot.stopped_by})" if snapshot.stopped_by else ""
        lines.append(Text(f"stopping{why}: nothing new is begun", style="yellow"))
    return Group(bar, *lines)


def counts(snapshot: Snapshot) -> str:
    """Return how many prompts are in which state."""
    parts = [f"{snapshot.done:,} done", f"{snapshot.failed:,} failed"]
    parts.append(f"{snapshot.in_flight:,} in flight")
    if snapshot.skipped:
        parts.append(f"{snapshot.skipped:,} done before")
    waiting = max(snapshot.left - snapshot.in_flight, 0)
    return " · ".join([*parts, f"{waiting:,} to come"])


def cluster(snapshot: Snapshot) -> list[str]:
    """Return how many workers there are, and how often a lost one cost a prompt twice."""
    shown = [counted(snapshot.workers, "worker")] if snapshot.workers else []
    if snapshot.resent:
        shown.append(f"{counted(snapshot.resent, 'prompt')} sent again")
    return shown


def pace(snapshot: Snapshot, now: float) -> str:
    """Return how fast it goes, and how long it takes yet."""
    elapsed = span(max(now - snapshot.started_at, 0.0))
    left = "" if snapshot.eta_s is None else f" · {span(snapshot.eta_s)} left"
    return (
        f"{snapshot.prompts_per_s:.1f} prompts/s · {snapshot.tokens_per_s:,.0f} tokens/s"
        f" · {elapsed} so far{left}"
    )


def money_line(snapshot: Snapshot, *, cap_usd: float | None = None) -> str:
    """Return what is spent, in a few words."""
    cap = "" if cap_usd is None else f" of {dollars(cap_usd)}"
    return f"{dollars(snapshot.spent_usd)}{cap}"


def _money(snapshot: Snapshot, cap_usd: float | None) -> str:
    parts = [f"{dollars(snapshot.spent_usd)} spent"]
    if snapshot.projected_usd is not None:
        parts.append(f"{dollars(snapshot.projected_usd)} projected")
    if cap_usd is not None:
        parts.append(f"cap {dollars(cap_usd)}")
    return " · ".join(parts)


def errors(snapshot: Snapshot) -> str:
    """Return the classes of the failures, the commonest first."""
    ordered = sorted(snapshot.errors.items(), key=lambda item: (-item[1], item[0]))
    shown = [f"{number:,} {name}" for name, number in ordered[:SHOWN_ERRORS]]
    more = sum(number for _, number in ordered[SHOWN_ERRORS:])
    before = snapshot.failed - sum(snapshot.errors.values())
    if more:
        shown.append(f"{more:,} others")
    if before > 0:
        shown.append(f"{before:,} in earlier sessions")
    return " · ".join(shown)


def share(part: int, whole: int) -> str:
    """Return a percentage; 100 % only when it is all."""
    return f"{100 * part // whole if whole else 100} %"


def span(seconds: float) -> str:
    """Return a span of time as people do: "40 s", "3 min 20 s", "2 h 05 min", "3 d 4 h"."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02} s"
    if whole < 86400:
        return f"{whole // 3600} h {whole % 3600 // 60:02} min"
    return f"{whole // 86400} d {whole % 86400 // 3600} h"
