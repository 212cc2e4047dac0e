"""The error tree: its shape, its constructors, its way through pickle and copy, its silence."""

from __future__ import annotations

import copy
import inspect
import pickle
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import cloudpickle  # type: ignore[import-untyped]
import pytest

from chutes_opencode import errors
from chutes_opencode.base_error import TypedError
from chutes_opencode.errors import (
    AuthenticationError,
    BillingError,
    CapacityError,
    ColdModelError,
    ConfigurationError,
    ContentFilterError,
    ContextOverflowError,
    EmptyResponseError,
    InvalidRequestError,
    LimitExceededError,
    MaxOutputTokensError,
    ModelNotFoundError,
    NoWorkerError,
    OpenCodeError,
    OpenCodeNotFoundError,
    PermanentError,
    PromptTimeoutError,
    RateLimitError,
    RetryOnceError,
    ServerError,
    StructuredOutputError,
    ToolServerError,
    TransientError,
    TruncatedStreamError,
    UnknownOpenCodeError,
    WorkerLostError,
)
from chutes_opencode.masking import MASK, register_secret
from chutes_opencode.results import QueryResult, Usage
from tests.patience import join

NOON = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)

# class: (its one base, its error_type)
TREE: dict[type[OpenCodeError], tuple[type[OpenCodeError], str]] = {
    PermanentError: (OpenCodeError, "permanent"),
    AuthenticationError: (PermanentError, "authentication_failed"),
    BillingError: (PermanentError, "billing_error"),
    InvalidRequestError: (PermanentError, "invalid_request"),
    ModelNotFoundError: (InvalidRequestError, "model_not_found"),
    ContextOverflowError: (InvalidRequestError, "context_overflow"),
    ContentFilterError: (PermanentError, "content_filter"),
    LimitExceededError: (PermanentError, "limit_exceeded"),
    ConfigurationError: (PermanentError, "configuration"),
    OpenCodeNotFoundError: (ConfigurationError, "opencode_not_found"),
    ToolServerError: (ConfigurationError, "tool_server"),
    RetryOnceError: (OpenCodeError, "retry_once"),
    MaxOutputTokensError: (RetryOnceError, "max_output_tokens"),
    StructuredOutputError: (RetryOnceError, "structured_output"),
    TransientError: (OpenCodeError, "transient"),
    RateLimitError: (TransientError, "rate_limit"),
    CapacityError: (RateLimitError, "capacity"),
    ServerError: (TransientError, "server_error"),
    ColdModelError: (ServerError, "cold_model"),
    TruncatedStreamError: (ServerError, "truncated_stream"),
    PromptTimeoutError: (TransientError, "timeout"),
    UnknownOpenCodeError: (TransientError, "unknown"),
    EmptyResponseError: (TransientError, "empty_response"),
    WorkerLostError: (TransientError, "worker_lost"),
    NoWorkerError: (WorkerLostError, "no_worker"),
}

# The fields that a class has beside those of all.
OWN_FIELDS: dict[type[OpenCodeError], dict[str, Any]] = {
    BillingError: {"reset_time": NOON},
    ModelNotFoundError: {"suggestions": ("a/b", "c/d")},
    LimitExceededError: {"limit": "max_requests", "overrun": True},
    MaxOutputTokensError: {"partial_text": "half an ans"},
    StructuredOutputError: {"partial_text": "{}", "validation_errors": ("$: too short",)},
    RateLimitError: {"reset_time": NOON},
    CapacityError: {"reset_time": NOON},
    ServerError: {"retry_after": 2.5},
    ColdModelError: {"retry_after": 2.5},
    TruncatedStreamError: {"retry_after": 2.5},
    UnknownOpenCodeError: {"stderr": "a trace"},
}

COPIES: dict[str, Callable[[Any], Any]] = {
    "pickle": lambda error: pickle.loads(pickle.dumps(error)),
    "pickle protocol 2": lambda error: pickle.loads(pickle.dumps(error, protocol=2)),
    "cloudpickle": lambda error: cloudpickle.loads(cloudpickle.dumps(error)),
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
}

all_classes = pytest.mark.parametrize("cls", TREE, ids=lambda cls: cls.__name__)
all_copies = pytest.mark.parametrize("duplicate", COPIES.values(), ids=COPIES)


def build(cls: type[OpenCodeError], **more: Any) -> Any:
    """An error with every field filled in."""
    make: Callable[..., OpenCodeError] = cls
    common = {
        "node_id": "node-1",
        "exit_code": 3,
        "raw_message": "it broke",
        "status": 503,
        "response_body": '{"detail": "broken"}',
        "request_id": "req-7",
        "model": "org/Model-TEE",
        "hint": "Mend it.",
    }
    return make(**{**common, **OWN_FIELDS.get(cls, {}), **more})


def test_the_tree_holds_exactly_the_documented_classes() -> None:
    public = {
        cls
        for _, cls in inspect.getmembers(errors, inspect.isclass)
        if issubclass(cls, OpenCodeError) and cls is not TypedError
    }

    assert public == {*TREE, OpenCodeError}


@all_classes
def test_a_class_stands_under_its_documented_base(cls: type[OpenCodeError]) -> None:
    base, error_type = TREE[cls]

    nearest = next(parent for parent in cls.__mro__[1:] if parent is not TypedError)

    assert nearest is base
    assert cls().error_type == error_type


def test_each_class_is_drawn_in_the_docstring() -> None:
    drawing = errors.__doc__ or ""

    assert [cls.__name__ for cls in TREE if f"── {cls.__name__} " not in drawing] == []


def test_error_types_are_unique() -> None:
    kinds = [error_type for _, error_type in TREE.values()]

    assert len(set(kinds)) == len(kinds)


@all_classes
def test_every_class_has_a_hint_and_a_docstring(cls: type[OpenCodeError]) -> None:
    error = cls()

    assert error.hint.endswith(".")
    assert cls.__doc__


@all_classes
def test_nothing_has_to_be_given(cls: type[OpenCodeError]) -> None:
    error = cls()

    assert (error.node_id, error.exit_code, error.raw_message) == ("unknown", -1, "")
    assert (error.status, error.response_body, error.request_id) == (None, None, None)
    assert (error.model, error.result) == (None, None)


def test_the_message_names_kind_machine_and_the_first_200_characters() -> None:
    error = ServerError("node-1", raw_message="x" * 300)

    assert str(error) == f"server_error on node-1: {'x' * 200}"
    assert error.raw_message == "x" * 300


@pytest.mark.parametrize(
    ("error", "fields"),
    [
        (
            OpenCodeError("n", "kind", 2, "m"),
            {"node_id": "n", "error_type": "kind", "exit_code": 2, "raw_message": "m"},
        ),
        (
            RateLimitError("n", NOON, "m", 2),
            {"node_id": "n", "reset_time": NOON, "raw_message": "m", "exit_code": 2},
        ),
        (AuthenticationError("n", 2, "m"), {"node_id": "n", "exit_code": 2, "raw_message": "m"}),
        (BillingError("n", 2, "m"), {"node_id": "n", "exit_code": 2, "raw_message": "m"}),
        (InvalidRequestError("n", 2, "m"), {"node_id": "n", "exit_code": 2, "raw_message": "m"}),
        (
            ServerError("n", 2, "m", 9),
            {"node_id": "n", "exit_code": 2, "raw_message": "m", "retry_after": 9},
        ),
        (
            MaxOutputTokensError("n", 2, "m", "part"),
            {"node_id": "n", "exit_code": 2, "raw_message": "m", "partial_text": "part"},
        ),
        (
            UnknownOpenCodeError("n", 2, "m", "err"),
            {"node_id": "n", "exit_code": 2, "raw_message": "m", "stderr": "err"},
        ),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, OpenCodeError) else "",
)
def test_the_positional_signatures_of_the_seed_work(
    error: OpenCodeError, fields: dict[str, Any]
) -> None:
    assert {name: getattr(error, name) for name in fields} == fields


def test_suggestions_become_the_hint_unless_another_is_given() -> None:
    suggested = ModelNotFoundError(suggestions=("a/b", "c/d", "e/f", "g/h"))
    hinted = ModelNotFoundError(suggestions=("a/b",), hint="Ask Anna.")

    assert suggested.hint == "Did you mean a/b or c/d or e/f?"
    assert hinted.hint == "Ask Anna."


@all_copies
@all_classes
def test_a_copy_has_every_field(cls: type[OpenCodeError], duplicate: Callable[[Any], Any]) -> None:
    error = build(cls)

    twin = duplicate(error)

    assert type(twin) is cls
    assert twin is not error
    assert twin.__dict__ == error.__dict__
    assert (twin.args, str(twin)) == (error.args, str(error))


@all_copies
@all_classes
def test_a_copy_keeps_the_cause_with_its_own_fields(
    cls: type[OpenCodeError], duplicate: Callable[[Any], Any]
) -> None:
    error = build(cls)
    error.__cause__ = RateLimitError("node-2", NOON, "slow down", status=429)

    cause = duplicate(error).__cause__

    assert isinstance(cause, RateLimitError)
    assert (cause.node_id, cause.reset_time, cause.status) == ("node-2", NOON, 429)


@all_copies
def test_a_copy_without_a_cause_has_none(duplicate: Callable[[Any], Any]) -> None:
    assert duplicate(ServerError()).__cause__ is None


@pytest.mark.parametrize("name", ["pickle", "cloudpickle", "deepcopy"])
@all_classes
def test_a_result_that_holds_the_error_itself_travels(cls: type[OpenCodeError], name: str) -> None:
    error = build(cls)
    error.result = QueryResult("part", 1, "", "", usage=Usage(input=7), error=error)

    twin = COPIES[name](error)

    assert twin.result.error is twin
    assert twin.result.usage == Usage(input=7)


@all_copies
def test_a_cause_that_cannot_be_pickled_becomes_its_description(
    duplicate: Callable[[Any], Any],
) -> None:
    class Unpicklable(Exception):  # noqa: N818 - a name as foreign code has it
        def __reduce__(self) -> str:
            raise TypeError("no")

    error = ServerError()
    error.__cause__ = Unpicklable("the socket of cpk_0123456789abcdef died")

    cause = duplicate(error).__cause__

    assert type(cause) is RuntimeError
    assert str(cause) == f"Unpicklable: the socket of {MASK} died"


def test_a_subclass_with_new_fields_needs_no_code_to_travel() -> None:
    error = ServerError(raw_message="x")
    vars(error)["extra"] = {"rows": (1, 2)}

    twin = pickle.loads(pickle.dumps(error))

    assert vars(twin)["extra"] == {"rows": (1, 2)}


def test_an_error_without_state_is_still_an_error() -> None:
    make, arguments, _ = ServerError("n").__reduce__()

    blank = make(*arguments)
    blank.__setstate__(None)

    assert isinstance(blank, ServerError)
    assert blank.args == ("server_error on n: ",)


def test_notes_travel_too() -> None:
    error = ServerError()
    error.add_note("seen by the relay")

    assert pickle.loads(pickle.dumps(error)).__notes__ == ["seen by the relay"]


@pytest.mark.parametrize("secret", ["cpk_0123456789abcdef.fedc", "Bearer abcdefgh12345678"])
def test_secrets_are_masked_in_every_text(secret: str) -> None:
    error = UnknownOpenCodeError(
        raw_message=f"sent {secret} there",
        response_body=f'{{"key": "{secret}"}}',
        stderr=f"key={secret}",
    )

    told = f"{error} {error!r} {vars(error)} {pickle.dumps(error)!r}"

    assert secret not in told
    assert MASK in error.raw_message


def test_a_registered_secret_is_masked_whatever_it_looks_like() -> None:
    register_secret("an ordinary word as a key")

    error = ServerError(raw_message="I am an ordinary word as a key!")

    assert error.raw_message == f"I am {MASK}!"


def test_an_error_can_be_raised_in_another_thread_after_travelling() -> None:
    payload = pickle.dumps(build(BillingError))
    caught: list[BaseException] = []

    def target() -> None:
        try:
            raise pickle.loads(payload)
        except BillingError as error:
            caught.append(error)

    thread = threading.Thread(target=target)
    thread.start()
    join(thread)

    assert [type(error) for error in caught] == [BillingError]
