"""What a person at a terminal sees of a running prompt."""

from __future__ import annotations

import io
from collections.abc import Callable

import pytest
from rich.console import Console

from chutes_opencode.cli.live import LivePrinter, Spinner, summary
from chutes_opencode.errors import ServerError
from chutes_opencode.events import (
    Event,
    ReasoningDelta,
    Retrying,
    StepEnd,
    StepRestarted,
    TextDelta,
    ToolCall,
    ToolResult,
    Waiting,
)
from chutes_opencode.masking import register_secret
from chutes_opencode.results import QueryResult, Usage
from tests.patience import join


@pytest.fixture
def printed() -> Callable[..., tuple[str, str]]:
    """Show events; return what stdout and stderr got."""

    def show(*events: Event, thinking: bool = False) -> tuple[str, str]:
        out, err = io.StringIO(), io.StringIO()
        with LivePrinter(out, Console(file=err, width=200), thinking=thinking).watching() as take:
            for event in events:
                take(event)
        return out.getvalue(), err.getvalue()

    return show


@pytest.mark.parametrize(
    ("event", "line"),
    [
        (ToolCall(tool="bash", call_id="1", input={"command": "ls"}), '→ bash {"command": "ls"}'),
        (ToolResult(tool="bash", call_id="1", output="ok"), ""),
        (ToolResult(tool="bash", call_id="1", error="denied"), "  bash failed: denied"),
        (Waiting(reason="all places are taken"), "waiting: all places are taken"),
        (StepRestarted(reason="cut"), "asked again, the text above is void: cut"),
        (
            Retrying(attempt=1, error=ServerError(raw_message="502"), wait_seconds=5.2),
            "prompt, attempt 1 failed, its text is void: 502; next in 5.2 s",
        ),
        (
            Retrying(
                attempt=2, error=ServerError(raw_message="502"), wait_seconds=0.5, scope="request"
            ),
            "request, attempt 2 failed: 502; next in 0.5 s",
        ),
        (ReasoningDelta(text="Hm."), ""),
        (StepEnd(usage=Usage(), finish_reason="stop"), ""),
    ],
)
def test_what_is_not_text_goes_to_stderr(
    printed: Callable[..., tuple[str, str]], event: Event, line: str
) -> None:
    out, err = printed(event)

    assert (out, err) == ("", f"{line}\n" if line else "")


def test_a_line_of_text_ends_before_something_else_is_said(
    printed: Callable[..., tuple[str, str]],
) -> None:
    out, err = printed(
        TextDelta(text="I look."),
        ToolCall(tool="read", call_id="1"),
        TextDelta(text="Done.\n"),
        ToolCall(tool="read", call_id="2"),
    )

    assert out == "I look.\nDone.\n"
    assert err == "→ read {}\n→ read {}\n"


def test_thoughts_are_shown_live_when_asked_for(printed: Callable[..., tuple[str, str]]) -> None:
    assert printed(ReasoningDelta(text="Hm.\n"), thinking=True) == ("", "Hm.\n")


def test_long_arguments_are_cut_and_secrets_masked(
    printed: Callable[..., tuple[str, str]],
) -> None:
    register_secret("a-secret-of-ours")
    long = ToolCall(tool="write", call_id="1", input={"text": "x" * 500})
    secret = ToolCall(tool="bash", call_id="1", input={"command": "echo a-secret-of-ours"})

    assert len(printed(long)[1]) < 120
    assert "a-secret-of-ours" not in printed(secret)[1]


def test_an_unknown_cost_is_said() -> None:
    result = QueryResult("", 0, "", "", model="m", usage=Usage(num_requests=2))

    assert summary(result) == "m, 0.0 s, 0 tokens in 2 requests, unknown cost"


def test_the_spinner_shows_itself_only_after_a_while_and_leaves_nothing() -> None:
    out = io.StringIO()
    console = Console(file=out, force_terminal=True)
    slow, quick = (Spinner(console, quiet_seconds=seconds) for seconds in (3600.0, 0.0))

    slow.wait()
    slow.hide()
    nothing = out.getvalue()
    quick.wait()
    timer = quick._timer
    assert timer is not None
    join(timer)
    quick.hide()
    quick.hide()

    assert nothing == ""
    assert "working…" in out.getvalue()
    assert out.getvalue().endswith("\x1b[2K")


def test_the_spinner_is_for_terminals_only() -> None:
    spinner = Spinner(Console(file=io.StringIO()), quiet_seconds=0.0)

    spinner.wait()

    assert spinner._timer is None
