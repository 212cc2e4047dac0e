"""The values that go in and come out: sums, what a transcript says, the seed's trace."""

from __future__ import annotations

import pickle
from dataclasses import FrozenInstanceError, fields

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chutes_opencode.errors import ServerError
from chutes_opencode.request import PromptRequest
from chutes_opencode.results import (
    WHOLE_FINISH,
    Attempt,
    Exchange,
    Message,
    QueryResult,
    ReasoningPart,
    TextPart,
    ToolPart,
    Transcript,
    Usage,
)

counts = st.integers(min_value=0, max_value=10**9)
usages = st.builds(
    Usage,
    input=counts,
    output=counts,
    reasoning=counts,
    cache_read=counts,
    cache_write=counts,
    num_turns=counts,
    num_requests=counts,
    estimated=st.booleans(),
)

AGENT = Transcript(
    "ses_1",
    (
        Message("user", (TextPart("List the files."),)),
        Message(
            "assistant",
            (
                ReasoningPart("I look."),
                TextPart("Looking. "),
                ToolPart("bash", "call_1", input={"command": "ls"}, output="a.txt\n"),
                ToolPart("read", "call_2", status="error", error="denied"),
            ),
            usage=Usage(input=10, output=3, num_turns=1, num_requests=1),
            cost_usd=0.25,
            finish_reason="tool-calls",
        ),
        Message(
            "assistant",
            (TextPart("There is "), TextPart("a.txt.")),
            usage=Usage(input=20, output=4, num_turns=1, num_requests=1, estimated=True),
            cost_usd=0.5,
            finish_reason="stop",
        ),
    ),
)


@given(usages, usages)
def test_usage_adds_field_by_field(one: Usage, other: Usage) -> None:
    total = one + other

    names = {f.name for f in fields(Usage)} - {"estimated"}
    assert all(getattr(total, n) == getattr(one, n) + getattr(other, n) for n in names)
    assert total.estimated is (one.estimated or other.estimated)


@given(usages, usages, usages)
def test_the_order_of_a_sum_does_not_matter(one: Usage, two: Usage, three: Usage) -> None:
    assert (one + two) + three == three + (two + one)
    assert one + Usage() == one


@given(usages, usages)
def test_totals_add_too(one: Usage, other: Usage) -> None:
    assert (one + other).total == one.total + other.total


def test_the_total_counts_cached_and_reasoning_tokens() -> None:
    assert Usage(1, 2, 4, 8, 16, num_turns=100, num_requests=100).total == 31


def test_the_answer_is_the_text_of_the_last_turn() -> None:
    assert AGENT.text == "There is a.txt."


def test_the_answer_is_of_the_last_turn_that_says_anything() -> None:
    silent = Message("assistant", (ToolPart("bash"),), finish_reason="tool-calls")

    transcript = Transcript("ses_1", (*AGENT.messages, silent))

    assert transcript.text == "There is a.txt."
    assert transcript.finish_reason == "tool-calls"


def test_a_transcript_sums_its_turns() -> None:
    assert AGENT.usage == Usage(input=30, output=7, num_turns=2, num_requests=2, estimated=True)
    assert AGENT.cost_usd == 0.75


def test_turns_are_the_assistants_messages() -> None:
    assert [turn.role for turn in AGENT.turns] == ["assistant", "assistant"]


def test_tool_calls_come_in_order() -> None:
    assert [call.tool for call in AGENT.tool_calls] == ["bash", "read"]


def test_the_first_error_of_a_turn_counts() -> None:
    first, second = {"name": "APIError"}, {"name": "UnknownError"}
    turns = tuple(Message("assistant", error=error) for error in (None, first, second))

    assert Transcript("ses_1", turns).error == first
    assert AGENT.error is None


def test_an_empty_transcript_says_nothing() -> None:
    empty = Transcript()

    assert (empty.text, empty.trace, empty.finish_reason, empty.error) == ("", "", None, None)
    assert (empty.usage, empty.cost_usd, empty.tool_calls, empty.turns) == (Usage(), 0, (), ())


def test_a_users_text_is_no_answer() -> None:
    only_asked = Transcript("ses_1", (Message("user", (TextPart("Hello?"),)),))

    assert only_asked.text == ""
    assert only_asked.trace == ""


def test_the_trace_has_the_form_of_the_seed() -> None:
    assert AGENT.trace == (
        "[Thinking]\nI look.\n\n"
        "[Response]\nLooking. \n\n"
        '[Tool Call: bash]\nArgs: {"command": "ls"}\n\n'
        "[Tool Result]\na.txt\n\n\n"
        "[Tool Call: read]\nArgs: {}\n\n"
        "[Tool Result]\ndenied\n\n"
        "[Response]\nThere is \n\n"
        "[Response]\na.txt.\n\n"
    )


def test_a_tool_without_output_has_no_result_in_the_trace() -> None:
    silent = Transcript("s", (Message("assistant", (ToolPart("touch"),)),))

    assert silent.trace == "[Tool Call: touch]\nArgs: {}\n\n"


@pytest.mark.parametrize(
    ("length", "shown"), [(2000, "x" * 2000), (2001, "x" * 2000 + "\n... [truncated]")]
)
def test_the_trace_cuts_results_and_arguments_as_the_seed_does(length: int, shown: str) -> None:
    call = ToolPart("bash", input={"c": "y" * 3000}, output="x" * length)

    trace = Transcript("s", (Message("assistant", (call,)),)).trace

    arguments = ('{"c": "' + "y" * 3000)[:2000] + "\n... [truncated]"
    assert trace == f"[Tool Call: bash]\nArgs: {arguments}\n\n[Tool Result]\n{shown}\n\n"


def test_raise_for_error_returns_a_success() -> None:
    result = QueryResult("4", 0, "", "", success=True)

    assert result.raise_for_error() is result


def test_raise_for_error_raises_the_error_itself() -> None:
    error = ServerError(raw_message="down")
    result = QueryResult("", 1, "", "", error=error)

    with pytest.raises(ServerError) as caught:
        result.raise_for_error()

    assert caught.value is error


def test_the_first_five_fields_are_those_of_the_seed() -> None:
    result = QueryResult("text", 0, "err", "trace", True)

    assert (result.result, result.returncode, result.stderr) == ("text", 0, "err")
    assert (result.stream_result, result.success) == ("trace", True)


@pytest.mark.parametrize(
    "value",
    [
        Usage(1),
        AGENT,
        Exchange(status=200, headers={"retry-after": "1"}),
        Attempt(1, "run"),
        PromptRequest("hi", "m"),
        QueryResult("4", 0, "", "", transcript=AGENT, attempts=(Attempt(1, "run"),)),
    ],
    ids=lambda value: type(value).__name__,
)
def test_values_survive_pickle_and_cannot_be_changed(value: object) -> None:
    assert pickle.loads(pickle.dumps(value)) == value
    with pytest.raises(FrozenInstanceError):
        setattr(value, fields(value)[0].name, "other")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("finish", "whole"),
    [*((finish, True) for finish in sorted(WHOLE_FINISH)), ("error", False), (None, False)],
)
def test_an_exchange_is_whole_when_the_model_came_to_an_end(
    finish: str | None, whole: bool
) -> None:
    assert Exchange(200, finish_reason=finish).whole is whole


@pytest.mark.parametrize(
    ("exchanges", "replayed"),
    [
        ((), False),
        ((Exchange(200, replayed=True),), True),
        ((Exchange(200, replayed=True), Exchange(200)), False),
        ((Exchange(200, replayed=True), Exchange(refused="max_requests")), True),
        ((Exchange(refused="max_requests"),), False),
    ],
)
def test_a_result_is_replayed_when_nothing_was_asked(
    exchanges: tuple[Exchange, ...], replayed: bool
) -> None:
    assert QueryResult("", 0, "", "", exchanges=exchanges).replayed is replayed


def test_what_was_asked_in_vain_is_told() -> None:
    def attempt(tokens: int, *, failed: bool, scope: str = "prompt") -> Attempt:
        error = ServerError(raw_message="down") if failed else None
        return Attempt(1, "serve", scope, error=error, usage=Usage(input=tokens, num_requests=1))

    attempts = (
        attempt(1, failed=True, scope="request"),  # a part of the next one
        attempt(10, failed=True),
        attempt(100, failed=True, scope="request"),
        attempt(1000, failed=False),
        attempt(10000, failed=False, scope="repair"),
    )

    result = QueryResult("", 0, "", "", attempts=attempts)

    assert result.failed_usage == Usage(input=110, num_requests=2)
