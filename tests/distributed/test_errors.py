"""Results and errors on their way through Ray: nothing is lost, nothing becomes something else."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any

import pytest
import ray

from chutes_opencode import errors
from chutes_opencode.distributed.failures import original
from chutes_opencode.errors import CapacityError, OpenCodeError, ServerError
from chutes_opencode.results import (
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
from tests.distributed.nodes import Nodes
from tests.unit.test_errors import build

CLASSES = [getattr(errors, name) for name in errors.__all__]
USAGE = Usage(input=100, output=7, reasoning=3, cache_read=50, num_turns=2, num_requests=3)


def full_result(error: OpenCodeError | None = None) -> QueryResult:
    """A result with something in every field."""
    parts = (
        ReasoningPart("hm"),
        ToolPart("bash", "call-1", input={"command": "ls"}, output="a\n"),
        TextPart("half an ans"),
    )
    return QueryResult(
        result="half an ans",
        returncode=1,
        stderr="a line",
        stream_result="[Response]\nhalf an ans",
        success=error is None,
        usage=USAGE,
        cost_usd=0.0125,
        model="org/Model-TEE",
        served_model="org/Model-TEE-8bit",
        session_id="ses_1",
        finish_reason="length",
        attempts=(Attempt(1, "serve", error=CapacityError(raw_message="full")),),
        duration_s=1.5,
        queued_s=0.5,
        transcript=Transcript("ses_1", (Message("assistant", parts, USAGE, 0.01),)),
        exchanges=(Exchange(status=503, headers={"retry-after": "2"}, usage=USAGE),),
        structured={"answer": [1, None]},
        work_dir=Path("/srv/work"),
        error=error,
        index=4,
    )


def failure(name: str) -> OpenCodeError:
    """An error with every field, what was paid for, and a cause with a cause."""
    error: OpenCodeError = build(getattr(errors, name))
    error.result = full_result(error)
    error.__cause__ = ServerError(raw_message="what the provider said")
    error.__cause__.__cause__ = ValueError("the root")
    return error


@ray.remote(num_cpus=0, max_retries=0)
def answer() -> QueryResult:
    return full_result()


@ray.remote(num_cpus=0, max_retries=0)
def fail(name: str) -> QueryResult:
    raise failure(name)


@ray.remote(num_cpus=0, max_retries=0)
def ask_another(name: str) -> Any:
    return ray.get(fail.remote(name))


class Actor:
    async def fail(self, name: str) -> QueryResult:
        raise failure(name)


def raised_by(ref: ray.ObjectRef[Any]) -> OpenCodeError:
    with pytest.raises(OpenCodeError) as caught:
        ray.get(ref)
    return caught.value


def facts(value: Any) -> Any:
    """What is to be equal; errors are compared by what they hold."""
    if isinstance(value, QueryResult):
        fields = {name: getattr(value, name) for name in value.__slots__}
        return fields | {"error": type(value.error), "attempts": facts(value.attempts)}
    if isinstance(value, tuple) and value and isinstance(value[0], Attempt):
        return [(each.number, each.engine, facts(each.error)) for each in value]
    if isinstance(value, OpenCodeError):
        fields = {name: facts(each) for name, each in value.__dict__.items()}
        return type(value), str(value), fields, facts(value.__cause__)
    if isinstance(value, BaseException):
        return repr(value)
    return value


all_names = pytest.mark.parametrize("name", errors.__all__)


def test_a_result_comes_back_whole(nodes: Nodes) -> None:
    result = ray.get(answer.remote())

    assert facts(result) == facts(full_result())


@all_names
def test_an_error_can_be_caught_by_its_class_and_read(nodes: Nodes, name: str) -> None:
    error = raised_by(fail.remote(name))

    assert isinstance(error, getattr(errors, name))
    sent = failure(name)
    assert {field: facts(getattr(error, field)) for field in sent.__dict__} == {
        field: facts(each) for field, each in sent.__dict__.items()
    }
    assert facts(error.__cause__) == facts(sent.__cause__)


@all_names
def test_the_very_error_is_to_be_had(nodes: Nodes, name: str) -> None:
    error = original(raised_by(fail.remote(name)))

    assert facts(error) == facts(failure(name))
    assert isinstance(error, OpenCodeError)
    assert error.result is not None
    assert error.result.error is error


@all_names
@pytest.mark.parametrize("duplicate", [lambda error: pickle.loads(pickle.dumps(error)), copy.copy])
def test_what_ray_raises_travels_on_as_the_error_itself(
    nodes: Nodes, name: str, duplicate: Any
) -> None:
    error = duplicate(raised_by(fail.remote(name)))

    assert facts(error) == facts(failure(name))


@all_names
def test_an_error_goes_through_two_tasks(nodes: Nodes, name: str) -> None:
    error = original(raised_by(ask_another.remote(name)))

    assert facts(error) == facts(failure(name))


def test_an_error_of_an_actor_is_the_same(nodes: Nodes) -> None:
    actor: Any = ray.remote(num_cpus=0)(Actor).remote()

    error = original(raised_by(actor.fail.remote("CapacityError")))

    assert facts(error) == facts(failure("CapacityError"))


def test_an_error_can_be_sent_as_an_argument(nodes: Nodes) -> None:
    @ray.remote(num_cpus=0)
    def seen(error: OpenCodeError) -> Any:
        return facts(error)

    error = raised_by(fail.remote("BillingError"))

    assert ray.get(seen.remote(error)) == facts(failure("BillingError"))


def test_what_is_rays_own_stays_as_it_is(nodes: Nodes) -> None:
    error = ray.exceptions.WorkerCrashedError()

    assert original(error) is error
