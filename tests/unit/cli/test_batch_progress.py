"""What a person sees of a running batch."""

from __future__ import annotations

import io
from dataclasses import replace
from typing import Any

import pytest
from rich.console import Console

from chutes_opencode.batch.running.progress import FINISHED, STOPPED, STOPPING, Snapshot
from chutes_opencode.batch.running.stop import StopSwitch
from chutes_opencode.cli.batch_progress import (
    Lines,
    Screen,
    errors,
    line,
    opening,
    share,
    span,
    told_of_stops,
    view,
    watching,
)
from chutes_opencode.masking import register_secret

HALFWAY = Snapshot(
    total=1000,
    done=380,
    failed=12,
    skipped=100,
    in_flight=16,
    prompts_per_s=3.25,
    tokens_per_s=1250.4,
    spent_usd=0.0412,
    projected_usd=0.1,
    eta_s=156.0,
    errors={"ServerError": 4, "RateLimitError": 8},
    started_at=1000.0,
    updated_at=1100.0,
)


def drawn(snapshot: Snapshot, width: int = 80, cap_usd: float | None = None) -> list[str]:
    """The lines that a terminal of some width shows."""
    console = Console(file=io.StringIO(), width=width, force_terminal=False)
    with console.capture() as captured:
        console.print(view(snapshot, 1100.0, cap_usd=cap_usd))
    return captured.get().splitlines()


@pytest.mark.parametrize(
    "shown",
    [
        "492 of 1,000  49 %",
        "380 done · 12 failed · 16 in flight · 100 done before · 492 to come",
        "3.2 prompts/s · 1,250 tokens/s · 1 min 40 s so far · 2 min 36 s left",
        "$0.041 spent · $0.10 projected · cap $5.00",
        "errors: 8 RateLimitError · 4 ServerError",
    ],
)
def test_the_view_says_how_far_it_is(shown: str) -> None:
    assert any(shown in line for line in drawn(HALFWAY, cap_usd=5.0))


@pytest.mark.parametrize("width", [80, 120])
def test_the_view_fits_a_terminal(width: int) -> None:
    lines = drawn(replace(HALFWAY, waiting="rate limit until 12:03:20"), width, cap_usd=5.0)

    assert len(lines) == 6
    assert all(len(line) <= width for line in lines)


def test_what_there_is_nothing_of_is_not_shown() -> None:
    start = Snapshot(total=3, in_flight=3, started_at=1100.0)

    shown = "\n".join(drawn(start))

    for word in ("errors", "waiting", "done before", "projected", "cap", " left"):
        assert word not in shown


def test_a_cluster_shows_its_workers_and_what_a_lost_one_cost() -> None:
    shown = drawn(replace(HALFWAY, workers=3, resent=7))

    assert shown[2].rstrip() == "3 workers · 7 prompts sent again"
    assert not any("worker" in line or "again" in line for line in drawn(HALFWAY))


def test_what_is_waited_for_is_said_without_secrets() -> None:
    register_secret("batch-secret-0001")

    shown = "\n".join(drawn(replace(HALFWAY, waiting="the limit of batch-secret-0001")))

    assert "waiting: the limit of" in shown
    assert "batch-secret" not in shown


def test_a_batch_that_stops_says_why() -> None:
    shown = drawn(replace(HALFWAY, state=STOPPING, stopped_by="budget"))

    assert "stopping (budget): nothing new is begun" in shown[-1]


def test_before_the_first_snapshot_the_items_are_checked() -> None:
    console = Console(file=io.StringIO(), width=80)
    console.print(Screen(console))

    assert console.file.getvalue() == "checking the items…\n"  # type: ignore[attr-defined]


@pytest.fixture
def clock() -> list[float]:
    """Seconds that a test sets."""
    return [0.0]


@pytest.fixture
def lines(clock: list[float]) -> Any:
    """Plain lines, and what they have written."""
    written: list[str] = []
    return Lines(written.append, cap_usd=1.0, clock=lambda: clock[0]), written


def test_the_first_line_says_what_is_to_be_done(lines: Any) -> None:
    display, written = lines

    display.show(Snapshot(total=2000))
    display.show(Snapshot(total=2000, skipped=5, in_flight=16))

    assert written == ["batch: 2,000 prompts, 5 done before, 1,995 left"]


def test_a_resume_says_what_was_done_before() -> None:
    assert opening(Snapshot(total=1000, skipped=700, failed=20)) == (
        "batch: 1,000 prompts, 700 done before, 20 failed before, 280 left"
    )


@pytest.mark.parametrize(
    ("seconds", "done", "said"),
    [(1.0, 99, False), (1.0, 100, True), (9.9, 1, False), (10.0, 1, True)],
)
def test_a_line_comes_every_ten_seconds_or_ten_percent(
    lines: Any, clock: list[float], seconds: float, done: int, said: bool
) -> None:
    display, written = lines
    display.show(Snapshot(total=1000, in_flight=1))

    clock[0] = seconds
    display.show(Snapshot(total=1000, done=done))

    assert len(written) == 1 + said


def test_a_limit_that_begins_to_hold_is_told_at_once(lines: Any) -> None:
    display, written = lines
    held = Snapshot(total=1000, done=1, waiting="rate limit until 12:03:20")
    display.show(Snapshot(total=1000, in_flight=1))

    display.show(held)
    display.show(held)

    assert len(written) == 2
    assert written[1].endswith("waiting: rate limit until 12:03:20")


def test_failures_of_this_session_were_not_before() -> None:
    assert opening(Snapshot(total=3, failed=2, errors={"ServerError": 2})) == "batch: 3 prompts"


def test_failures_of_earlier_sessions_are_told_apart() -> None:
    snapshot = Snapshot(total=9, failed=5, errors={"ServerError": 2})

    assert errors(snapshot) == "2 ServerError · 3 in earlier sessions"


def test_a_batch_that_is_over_at_once_has_both_lines(lines: Any) -> None:
    display, written = lines

    display.show(Snapshot(total=3, skipped=3, state=FINISHED))

    assert written == [
        "batch: 3 prompts, 3 done before, 0 left",
        "batch: 3 of 3 (100 %), $0 of $1.00",
    ]


@pytest.mark.parametrize("state", [FINISHED, STOPPED])
def test_the_end_has_one_line(lines: Any, state: str) -> None:
    display, written = lines
    display.show(Snapshot(total=1000, in_flight=1))
    over = Snapshot(total=1000, done=5, spent_usd=0.5, state=state)

    display.show(over)
    display.show(over)

    assert written[1:] == ["batch: 5 of 1,000 (0 %), $0.50 of $1.00"]


def test_a_line_has_all_that_a_log_needs() -> None:
    assert line(HALFWAY) == (
        "batch: 492 of 1,000 (49 %), 12 failed, 16 in flight, 3.2 prompts/s, $0.041, "
        "2 min 36 s left"
    )


def test_a_line_counts_workers_and_what_was_sent_again() -> None:
    shown = line(Snapshot(total=10, in_flight=4, workers=1, resent=1))

    assert shown == "batch: 0 of 10 (0 %), 4 in flight, 1 worker, 1 prompt sent again, $0"


def test_something_else_than_a_terminal_gets_lines(capsys: pytest.CaptureFixture[str]) -> None:
    with watching(quiet=False) as display:
        display.show(Snapshot(total=2, in_flight=1))

    assert capsys.readouterr().err == "batch: 2 prompts\n"


def test_quiet_says_nothing_but_what_was_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    with watching(quiet=True) as display:
        display.show(HALFWAY)
        display.note("stopping now")

    assert capsys.readouterr().err == "stopping now\n"


def test_an_interrupt_is_answered_at_once(lines: Any) -> None:
    display, written = lines
    switch = StopSwitch()
    display.show(HALFWAY)

    with told_of_stops(switch, display):
        switch.press()
        switch.press()
    switch.press()  # nobody listens any more

    assert written[1:] == [
        "finishing the 16 prompts in flight; Ctrl-C again to stop now",
        "stopping now; what is in flight runs again with the next resume",
    ]


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (0.4, "0 s"),
        (59.4, "59 s"),
        (59.6, "1 min 00 s"),
        (200, "3 min 20 s"),
        (7500, "2 h 05 min"),
        (100_000, "1 d 3 h"),
    ],
)
def test_a_span_is_said_as_people_do(seconds: float, shown: str) -> None:
    assert span(seconds) == shown


@pytest.mark.parametrize(
    ("part", "whole", "shown"),
    [(0, 10, "0 %"), (999, 1000, "99 %"), (1000, 1000, "100 %"), (0, 0, "100 %")],
)
def test_a_hundred_percent_is_all(part: int, whole: int, shown: str) -> None:
    assert share(part, whole) == shown
