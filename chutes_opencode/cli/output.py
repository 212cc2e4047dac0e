"""What every command shares: data on stdout, talk on stderr, errors as exit codes.

Modules that a command needs only when it runs are imported inside functions in this folder, so
that `chutes-opencode --version` and shell completion answer at once.
"""

from __future__ import annotations

import json
import sys
import traceback
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from io import StringIO
from typing import TYPE_CHECKING, Annotated, Any

import typer

from chutes_opencode import errors
from chutes_opencode.masking import mask, mask_value

if TYPE_CHECKING:
    from rich.table import Table

    from chutes_opencode.results import Attempt, Exchange, QueryResult

JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")]
SimulateOption = Annotated[
    bool, typer.Option("--simulate", help="Run against the embedded simulator, not Chutes.")
]

# A pipe's reader cuts columns himself; this is only more than any line has.
PIPE_WIDTH = 100_000

OK = 0
FAILED = 1
INTERRUPTED = 130

# The first class that fits counts.
EXIT_CODES: tuple[tuple[type[BaseException], int], ...] = (
    (errors.ConfigurationError, 2),
    (errors.AuthenticationError, 3),
    (errors.BillingError, 4),
    (errors.RateLimitError, 5),
    (errors.InvalidRequestError, 6),
    (errors.ContentFilterError, 6),
    (errors.ServerError, 7),
    (errors.PromptTimeoutError, 8),
    (errors.LimitExceededError, 8),
    (errors.MaxOutputTokensError, 8),
    (KeyboardInterrupt, INTERRUPTED),
)


def exit_code(error: BaseException | None) -> int:
    """Return the exit code that tells `error`'s kind; 0 for None, 1 for an unknown one."""
    if error is None:
        return OK
    return next((code for kind, code in EXIT_CODES if isinstance(error, kind)), FAILED)


def say(line: str) -> None:
    """Tell people something: stderr, secrets masked."""
    typer.echo(mask(line), err=True)


def counted(number: int, noun: str, plural: str = "") -> str:
    """Return "1 model", "2 models"."""
    return f"{number} {noun}" if number == 1 else f"{number} {plural or noun + 's'}"


def print_json(value: Any) -> None:
    """Print one JSON object on stdout, secrets masked."""
    typer.echo(json.dumps(mask_value(value), ensure_ascii=False, default=str))


def print_table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print a table on stdout: fitted to a terminal, never folded into a pipe.

    Args:
        headings: A name for each column; all empty: no line for them.
        rows: The cells, as many as there are headings.
    """
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold", show_header=any(headings))
    for heading in headings:
        table.add_column(heading, overflow="fold")
    for row in rows:
        table.add_row(*(Text(mask(cell)) for cell in row))
    print_rich(table)


def is_terminal(*, stderr: bool = False) -> bool:
    """Tell whether stdout (or stderr) is a terminal; a process may have been started without."""
    stream = sys.stderr if stderr else sys.stdout
    return stream is not None and stream.isatty()


def print_rich(table: Table, *, stderr: bool = False) -> None:
    """Print on stdout (or stderr): as wide as a terminal is; into a pipe as wide as is needed."""
    from rich.console import Console

    if is_terminal(stderr=stderr):
        Console(file=sys.stderr if stderr else sys.stdout).print(table)
        return
    console = Console(file=StringIO(), width=PIPE_WIDTH)
    with console.capture() as captured:
        console.print(table)
    for line in captured.get().splitlines():
        typer.echo(line.rstrip(), err=stderr)


def error_fields(error: BaseException) -> dict[str, Any]:
    """Return what a program wants to know about an error."""
    if not isinstance(error, errors.OpenCodeError):
        return {"type": type(error).__name__, "message": str(error), "exit_code": exit_code(error)}
    return {
        "type": type(error).__name__,
        "error_type": error.error_type,
        "message": error.raw_message,
        "hint": error.hint,
        "status": error.status,
        "model": error.model,
        "request_id": error.request_id,
        "limit": getattr(error, "limit", None),
        "exit_code": exit_code(error),
    }


def result_fields(result: QueryResult) -> dict[str, Any]:
    """Return what a program wants to know about a result, its error left out."""
    return {
        "result": result.result,
        "structured": result.structured,
        "model": result.model,
        "served_model": result.served_model,
        "finish_reason": result.finish_reason,
        "session_id": result.session_id,
        "work_dir": result.work_dir,
        "usage": asdict(result.usage),
        "cost_usd": result.cost_usd,
        "duration_s": round(result.duration_s, 3),
        "queued_s": round(result.queued_s, 3),
        "replayed": result.replayed,
        "attempts": [_attempt_fields(attempt) for attempt in result.attempts],
        "exchanges": [_exchange_fields(exchange) for exchange in result.exchanges],
    }


def _attempt_fields(attempt: Attempt) -> dict[str, Any]:
    return {
        "number": attempt.number,
        "engine": attempt.engine,
        "scope": attempt.scope,
        "usage": asdict(attempt.usage),
        "cost_usd": attempt.cost_usd,
        "duration_s": round(attempt.duration_s, 3),
        "waited_s": round(attempt.waited_s, 3),
        "error": None if attempt.error is None else error_fields(attempt.error),
    }


def _exchange_fields(exchange: Exchange) -> dict[str, Any]:
    """Return the essentials of a model request."""
    return {
        "status": exchange.status,
        "attempt": exchange.attempt,
        "requested_model": exchange.requested_model,
        "served_model": exchange.served_model,
        "finish_reason": exchange.finish_reason,
        "usage": None if exchange.usage is None else asdict(exchange.usage),
        "cost_usd": exchange.cost_usd,
        "first_byte_s": _rounded(exchange.first_byte_s),
        "duration_s": _rounded(exchange.duration_s),
        "request_id": exchange.request_id,
        "session_id": exchange.session_id,
        "error": exchange.error,
        "refused": exchange.refused,
        "replayed": exchange.replayed,
    }


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 3)


def _named_limit(error: errors.OpenCodeError) -> str:
    """Return the name of the limit that was reached, unless the message has it."""
    limit = error.limit if isinstance(error, errors.LimitExceededError) else ""
    return f"{limit}: " if limit and limit not in error.raw_message else ""


def report(error: BaseException, *, as_json: bool, debug: bool) -> int:
    """Tell how a command failed, and what to do about it.

    Returns:
        The exit code.
    """
    if debug:
        say("".join(traceback.format_exception(error)).rstrip())
    if as_json:
        result = error.result if isinstance(error, errors.OpenCodeError) else None
        fields = {} if result is None else result_fields(result)
        print_json({"ok": False, **fields, "error": error_fields(error)})
    else:
        tell_error(error)
    return exit_code(error)


def tell_error(error: BaseException) -> None:
    """Say on stderr what went wrong, and what to do about it."""
    if isinstance(error, errors.OpenCodeError):
        say(f"error: {_named_limit(error)}{error.raw_message or error.error_type}")
        say(f"fix: {error.hint}")
    elif isinstance(error, OSError):
        say(f"error: {error}")
        say("fix: the machine refused it: look at the file, folder or network that is named.")
    else:
        say(f"error: {type(error).__name__}: {error}")
        say("fix: this is a fault of chutes-opencode; --debug shows where it happened.")
