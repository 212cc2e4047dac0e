"""Following a run while it runs: what is told, and when it must be ended."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chutes_opencode.engines.watch import TOLERATED_ERRORS, InOrder, Tail, Watch
from chutes_opencode.events import Event, RequestStarted, StepEnd, TextDelta, ToolCall, ToolResult
from chutes_opencode.results import Usage

CAPTURES = Path(__file__).parents[2] / "captures" / "opencode-1.18.33"
STREAM_ERROR = 'timestamp=1 level=ERROR message="stream error" error.error="AI_APICallError: No"\n'


class Run:
    """A run that writes when it is told to."""

    def __init__(self, folder: Path) -> None:
        self.stdout, self.stderr = folder / "run.out", folder / "run.err"
        self.seen: list[Event] = []
        self.watch = Watch(self.stdout, self.stderr, self.seen.append)

    def by_relay(self) -> Run:
        self.watch = Watch(self.stdout, self.stderr, self.seen.append, relayed=True)
        return self

    def writes(self, stdout: str = "", stderr: str = "") -> Run:
        for path, text in ((self.stdout, stdout), (self.stderr, stderr)):
            with path.open("a", encoding="utf-8", newline="") as file:
                file.write(text)
        self.watch.look()
        return self


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(tmp_path)


def captured(name: str) -> str:
    return (CAPTURES / name).read_text("utf-8")


# --- the tail ---------------------------------------------------------------------------------


def test_a_file_that_is_not_there_yet_has_no_lines(tmp_path: Path) -> None:
    assert Tail(tmp_path / "none").lines() == []


def test_each_line_is_returned_once_and_only_when_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "file"
    tail = Tail(path)

    path.write_bytes(b"one\ntw")
    assert tail.lines() == ["one"]
    assert tail.lines() == []

    path.write_bytes(b"one\ntwo\nthree\n")
    assert tail.lines() == ["two", "three"]


@given(st.text(), st.lists(st.integers(min_value=0, max_value=40), max_size=4))
def test_it_does_not_matter_where_the_writer_pauses(text: str, cuts: list[int]) -> None:
    """Also in the middle of a character."""
    import tempfile

    content = (text + "\n").encode()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "file")
        tail = Tail(path)
        lines: list[str] = []
        for end in (*sorted(cuts), len(content)):
            path.write_bytes(content[:end])
            lines += tail.lines()
        path.write_bytes(content)
        lines += tail.lines()

    assert lines == text.split("\n")


# --- what is told -----------------------------------------------------------------------------


def test_events_are_told_as_they_come(run: Run) -> None:
    first, second, third, *rest = captured("run_tool.jsonl").splitlines(keepends=True)

    run.writes(first)
    assert run.seen == []
    run.writes(second[:100])
    assert run.seen == []
    run.writes(second[100:])
    assert [type(event) for event in run.seen] == [ToolCall, ToolResult]
    run.writes(third + "".join(rest))

    assert [type(event) for event in run.seen[2:]] == [StepEnd, TextDelta, StepEnd]
    assert run.watch.stop is None


def test_words_between_the_events_are_passed_over(run: Run) -> None:
    run.writes("Performing one time database migration\n[1]\n")

    assert run.seen == []


# --- when it must be ended --------------------------------------------------------------------


def test_a_healthy_run_goes_on(run: Run) -> None:
    run.writes(captured("run_ok.jsonl"), "timestamp=1 level=INFO message=created\nwords\n")

    assert run.watch.stop is None
    assert run.watch.log_errors == []


def test_opencodes_default_agent_is_not_let_loose(run: Run) -> None:
    run.writes(stderr=captured("run_unknown_agent.txt").partition("--stderr--\n")[2])

    assert run.watch.stop == "agent"


def test_the_words_inside_a_log_line_are_no_warning(run: Run) -> None:
    run.writes(stderr='timestamp=1 level=INFO message="Falling back to default agent"\n')

    assert run.watch.stop is None


def test_a_retry_without_end_is_ended(run: Run) -> None:
    run.writes(stderr=captured("run_429_print-logs_ERROR.stderr.txt"))

    assert run.watch.stop == "failing"
    assert set(run.watch.log_errors) == {"AI_APICallError: Too Many Requests"}


@pytest.mark.parametrize(
    ("errors", "stop"), [(TOLERATED_ERRORS, None), (TOLERATED_ERRORS + 1, "failing")]
)
def test_some_errors_are_the_guards_to_handle(run: Run, errors: int, stop: str | None) -> None:
    run.writes(stderr=STREAM_ERROR * errors)

    assert run.watch.stop == stop
    assert run.watch.log_errors == ["AI_APICallError: No"] * errors


def test_a_step_that_ends_well_forgives_the_errors_before_it(run: Run) -> None:
    step = json.dumps({"type": "step_finish", "part": {"reason": "stop"}}) + "\n"

    for _ in range(4):
        run.writes(stderr=STREAM_ERROR * TOLERATED_ERRORS).writes(step)

    assert run.watch.stop is None
    assert len(run.watch.log_errors) == 4 * TOLERATED_ERRORS


@pytest.mark.parametrize(
    "line",
    [
        STREAM_ERROR.replace("ERROR", "INFO"),
        STREAM_ERROR.replace("stream error", "share subscriber failed"),
        "level=ERROR message=stream error\n",
    ],
)
def test_other_lines_of_the_log_are_no_failed_attempt(run: Run, line: str) -> None:
    run.writes(stderr=line * 10)

    assert run.watch.stop is None


def test_an_error_without_words_is_counted_too(run: Run) -> None:
    run.writes(stderr='timestamp=1 level=ERROR message="stream error"\n')

    assert run.watch.log_errors == [""]


def test_the_first_reason_to_end_stays(run: Run) -> None:
    run.writes(stderr='! agent "x" not found. Falling back to default agent\n')
    run.writes(stderr=STREAM_ERROR * 9)

    assert run.watch.stop == "agent"


def test_by_the_relay_errors_are_counted_there(run: Run) -> None:
    run.by_relay().writes(stderr=STREAM_ERROR * (TOLERATED_ERRORS + 5))

    assert run.watch.stop is None
    assert len(run.watch.log_errors) == TOLERATED_ERRORS + 5


def test_the_first_reason_to_end_it_stays(run: Run) -> None:
    run.watch.end("relay")
    run.watch.end("agent")

    assert run.watch.stop == "relay"


def test_what_the_relay_hears_is_told_after_what_opencode_wrote_before(run: Run) -> None:
    heard = InOrder(run.seen.append, clock=iter((0.0, 1.0)).__next__)
    heard.look = run.by_relay().watch.look
    heard(TextDelta(text="first"))
    with run.stdout.open("a", encoding="utf-8") as file:
        file.write(captured("run_tool.jsonl"))

    heard(TextDelta(text="last"))

    kinds = [type(event) for event in run.seen]
    assert run.seen[0] == TextDelta(text="first")
    assert run.seen[-1] == TextDelta(text="last")
    assert kinds.index(ToolCall) < kinds.index(ToolResult) < len(kinds) - 1


def test_in_a_dense_stream_of_deltas_nobody_looks_at_the_files() -> None:
    looks: list[None] = []
    heard = InOrder(lambda _event: None, clock=iter((0.0, 0.001, 0.002, 0.5)).__next__)
    heard.look = lambda: looks.append(None)

    for _ in range(4):
        heard(TextDelta(text="x"))

    assert len(looks) == 2


def test_what_the_relay_hears_of_a_step_waits_for_the_end_of_the_one_before() -> None:
    seen: list[Event] = []
    heard = InOrder(seen.append)
    second, text, end = RequestStarted(model="m", step=2), TextDelta(text="b"), step_end()

    heard(RequestStarted(model="m", step=1))
    heard(second)
    heard(text)
    assert seen == [RequestStarted(model="m", step=1)]
    heard.written(end)
    heard(TextDelta(text="c"))

    assert seen[1:] == [end, second, text, TextDelta(text="c")]


def test_what_still_waits_at_the_end_is_told() -> None:
    seen: list[Event] = []
    heard = InOrder(seen.append)
    late = [RequestStarted(model="m", step=3), TextDelta(text="b")]

    for event in late:
        heard(event)
    heard.written(step_end())
    assert seen == [step_end()]
    heard.end()
    heard(TextDelta(text="c"))

    assert seen == [step_end(), *late, TextDelta(text="c")]


def step_end() -> StepEnd:
    return StepEnd(usage=Usage(), finish_reason="tool-calls")
