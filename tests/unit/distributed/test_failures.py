"""What Ray raises, and what of it is ours."""

from __future__ import annotations

import pickle
from typing import Any

import pytest
from ray.exceptions import RayTaskError, WorkerCrashedError

from chutes_opencode import errors
from chutes_opencode.distributed.failures import LINE_CHARACTERS, one_line, original
from tests.unit.test_errors import build


def as_ray_raises(error: BaseException) -> Any:
    """What `ray.get` makes of a task's error."""
    make: Any = RayTaskError
    told = make("task", "Traceback (…)", error, proctitle="ray::task", pid=1, ip="::1")
    return told.as_instanceof_cause()


all_names = pytest.mark.parametrize("name", errors.__all__)


@all_names
def test_rays_error_is_ours_and_shows_the_cause(name: str) -> None:
    sent = build(getattr(errors, name))
    sent.__cause__ = ValueError("why")

    raised = as_ray_raises(sent)

    assert isinstance(raised, getattr(errors, name))
    assert raised.raw_message == sent.raw_message
    assert raised.__cause__ is sent.__cause__


@all_names
def test_rays_error_pickles_as_the_one_that_it_stands_for(name: str) -> None:
    sent = build(getattr(errors, name))
    sent.__cause__ = ValueError("why")

    copy = pickle.loads(pickle.dumps(as_ray_raises(sent)))

    assert type(copy) is type(sent)
    assert copy.__dict__ == sent.__dict__
    assert str(copy) == str(sent)
    assert repr(copy.__cause__) == repr(sent.__cause__)


def test_the_original_is_found_behind_two_tasks() -> None:
    sent = build(errors.CapacityError)

    assert original(as_ray_raises(as_ray_raises(sent))) is sent


@pytest.mark.parametrize("error", [WorkerCrashedError(), ValueError("no"), KeyboardInterrupt()])
def test_what_no_task_raised_is_returned_as_it_is(error: BaseException) -> None:
    assert original(error) is error


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ValueError("one\n  two\n"), "one two"),
        (ValueError(), "ValueError"),
        (ValueError("key cpk_0123456789abcdef"), "key [masked]"),
    ],
)
def test_an_error_is_told_in_one_line(error: Exception, line: str) -> None:
    assert one_line(error) == line


def test_a_long_error_is_cut() -> None:
    assert len(one_line(ValueError("x" * 1000))) == LINE_CHARACTERS
