"""A run's state as Prometheus reads it."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from chutes_opencode.batch.prometheus import text
from chutes_opencode.batch.running.progress import FINISHED, Snapshot

RUNNING = Snapshot(
    total=100,
    done=40,
    failed=3,
    skipped=20,
    in_flight=8,
    prompts_per_s=2.5,
    tokens_per_s=310.0,
    spent_usd=0.0123,
    projected_usd=0.05,
    eta_s=12.0,
    errors={"RateLimitError": 2, "ServerError": 1},
    started_at=1_800_000_000.25,
    updated_at=1_800_000_016.0,
    workers=3,
    resent=4,
)

LINE = re.compile(r'(# (HELP|TYPE) [a-z_]+ .+|[a-z_]+\{run="[^"]*"(,[a-z]+="[^"]*")*\} \S+)')


def values(exposition: str) -> dict[str, float]:
    """The samples of an exposition, by all that stands before the value."""
    samples = [line for line in exposition.splitlines() if not line.startswith("#")]
    return {name: float(value) for name, _, value in (line.rpartition(" ") for line in samples)}


def test_each_state_of_a_prompt_is_counted_once() -> None:
    found = values(text(RUNNING, "today"))

    states = {
        state: found[f'chutes_opencode_batch_prompts{{run="today",state="{state}"}}']
        for state in ("done", "failed", "skipped", "in_flight", "pending")
    }
    assert states == {"done": 40, "failed": 3, "skipped": 20, "in_flight": 8, "pending": 29}
    assert sum(states.values()) == RUNNING.total


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("running", 1),
        ("waiting", 0),
        ("prompts_per_second", 2.5),
        ("tokens_per_second", 310),
        ("spent_usd", 0.0123),
        ("projected_usd", 0.05),
        ("eta_seconds", 12),
        ("workers", 3),
        ("resent", 4),
        ("started_timestamp_seconds", 1_800_000_000.25),
        ("updated_timestamp_seconds", 1_800_000_016),
    ],
)
def test_what_a_person_sees_is_there(name: str, value: float) -> None:
    assert values(text(RUNNING, "r"))[f'chutes_opencode_batch_{name}{{run="r"}}'] == value


def test_failures_have_their_class() -> None:
    found = values(text(RUNNING, "r"))

    assert found['chutes_opencode_batch_errors{run="r",class="RateLimitError"}'] == 2
    assert "chutes_opencode_batch_errors" not in text(replace(RUNNING, errors={}), "r")


def test_what_is_not_known_has_no_line() -> None:
    shown = text(replace(RUNNING, eta_s=None, projected_usd=None), "r")

    assert "eta_seconds" not in shown
    assert "projected_usd" not in shown


def test_a_run_that_has_ended_does_not_run() -> None:
    ended = replace(RUNNING, state=FINISHED, waiting="rate limit until 12:03:20")

    found = values(text(ended, "r"))

    assert found['chutes_opencode_batch_running{run="r"}'] == 0
    assert found['chutes_opencode_batch_waiting{run="r"}'] == 1


def test_every_line_is_of_the_exposition_format() -> None:
    shown = text(RUNNING, "r")

    assert shown.endswith("\n")
    assert [line for line in shown.splitlines() if not LINE.fullmatch(line)] == []
    named = re.findall(r"# TYPE (\S+) gauge", shown)
    assert len(named) == len(set(named))


def test_a_run_may_have_any_name() -> None:
    assert 'run="a\\"b\\\\c\\nd"' in text(RUNNING, 'a"b\\c\nd')
