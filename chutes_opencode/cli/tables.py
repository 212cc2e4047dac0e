"""Tables on stdout: fitted to a terminal, never folded or cut into a pipe; or as Markdown."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import typer

from chutes_opencode.cli.output import PIPE_WIDTH, is_terminal, print_rich, say
from chutes_opencode.masking import mask

GAP = 2
NEVER_FOLDED = 16  # what is narrower is not worth a second line


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a table.

    Attributes:
        heading: Its name.
        cells: One for each row.
        right: Whether it is aligned to the right, as numbers are.
        rank: 0: it is always there; the others are, 1 first, as long as there is room.
    """

    heading: str
    cells: Sequence[str]
    right: bool = False
    rank: int = 0

    @property
    def width(self) -> int:
        """Terminal cells that it takes."""
        from rich.cells import cell_len

        return max(map(cell_len, (self.heading, *self.cells)))


def fitting(columns: Sequence[Column], width: int) -> list[Column]:
    """Return, in their order, the columns for which a line of `width` cells has room."""
    room = width + GAP
    shown = []
    for column in sorted(columns, key=lambda column: column.rank):
        if column.rank == 0 or column.width + GAP <= room:
            room -= column.width + GAP
            shown.append(column)
    return [column for column in columns if column in shown]


def print_columns(columns: Sequence[Column], *, stderr: bool = False) -> None:
    """Print a table; on a terminal without room for all of it, say which columns are left out.

    Args:
        columns: All that there are.
        stderr: Whether it goes there, not to stdout.
    """
    from rich.table import Table
    from rich.text import Text

    shown = fitting(columns, terminal_width(stderr=stderr))
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, GAP, 0, 0))
    for column in shown:
        table.add_column(
            column.heading,
            justify="right" if column.right else "left",
            overflow="fold",
            no_wrap=column.rank > 0 or column.width <= NEVER_FOLDED,
        )
    for cells in _rows(shown):
        table.add_row(*(Text(mask(cell)) for cell in cells))
    print_rich(table, stderr=stderr)
    hidden = [column.heading for column in columns if column not in shown]
    if hidden:
        say(f"no room for: {', '.join(hidden)} (a wider terminal, a pipe or --json has them)")


def terminal_width(*, stderr: bool = False) -> int:
    """Return how many cells a line of stdout (or stderr) has; a pipe's have no end."""
    from rich.console import Console

    if not is_terminal(stderr=stderr):
        return PIPE_WIDTH
    return Console(file=sys.stderr if stderr else sys.stdout).width


def print_markdown(columns: Sequence[Column]) -> None:
    """Print a table as GitHub's Markdown has it."""
    rules = ["---:" if column.right else "---" for column in columns]
    rows = [[column.heading for column in columns], rules]
    rows += [[_escaped(cell) for cell in cells] for cells in _rows(columns)]
    for row in rows:
        typer.echo(f"| {' | '.join(row)} |")


def _rows(columns: Sequence[Column]) -> Iterable[tuple[str, ...]]:
    return zip(*(column.cells for column in columns), strict=True)


def _escaped(cell: str) -> str:
    return mask(cell).replace("\\", "\\\\").replace("|", "\\|").replace("\n", " ")
