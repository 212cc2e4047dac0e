"""Options of `batch run`: those that may stand without a value, and those of a cluster."""

from __future__ import annotations

import pytest

from chutes_opencode.cli.batch_options import (
    On,
    error_classes,
    read_cluster,
    read_retry,
    with_values,
)
from chutes_opencode.errors import ConfigurationError


@pytest.mark.parametrize(
    ("line", "meant"),
    [
        ("a.jsonl -o out", "a.jsonl -o out"),
        ("--shuffle a.jsonl", "--shuffle=0 a.jsonl"),
        ("a.jsonl --shuffle", "a.jsonl --shuffle=0"),
        ("a.jsonl --shuffle 7 -o out", "a.jsonl --shuffle=7 -o out"),
        ("a.jsonl --shuffle=7", "a.jsonl --shuffle=7"),
        ("--retry-failed a.jsonl", "--retry-failed=all a.jsonl"),
        ("--retry-failed ServerError a.jsonl", "--retry-failed=ServerError a.jsonl"),
        (
            "--retry-failed ServerError ColdModelError,RateLimitError -o x",
            "--retry-failed=ServerError --retry-failed=ColdModelError,RateLimitError -o x",
        ),
    ],
)
def test_a_word_is_a_value_only_if_it_can_be_nothing_else(line: str, meant: str) -> None:
    assert list(with_values(line.split())) == meant.split()


@pytest.mark.parametrize(
    ("values", "retried"),
    [
        ([], False),
        (["all"], True),
        (["ServerError"], ("ServerError",)),
        (["ServerError, RateLimitError", "ServerError"], ("ServerError", "RateLimitError")),
    ],
)
def test_failures_to_try_again_are_none_all_or_some(
    values: list[str], retried: bool | tuple[str, ...]
) -> None:
    assert read_retry(values) == retried


def test_an_error_class_that_there_is_not_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="no error class 'ServersError'") as raised:
        read_retry(["ServersError"])

    assert "Did you mean ServerError?" in raised.value.hint


def test_every_class_of_the_tree_may_be_named() -> None:
    assert {"OpenCodeError", "ColdModelError", "LimitExceededError"} <= error_classes()


def test_a_batch_runs_here_unless_a_cluster_is_asked_for() -> None:
    assert read_cluster(On.LOCAL, None, None) is None
    assert read_cluster(On.RAY, None, None) == {"address": None, "workers": None}
    assert read_cluster(On.RAY, "auto", 3) == {"address": "auto", "workers": 3}


@pytest.mark.parametrize(
    ("address", "workers", "named"), [("auto", None, "--address"), (None, 3, "--workers")]
)
def test_what_is_said_of_a_cluster_needs_one(
    address: str | None, workers: int | None, named: str
) -> None:
    with pytest.raises(ConfigurationError, match=named) as raised:
        read_cluster(On.LOCAL, address, workers)

    assert raised.value.hint.startswith("Add --on ray")
