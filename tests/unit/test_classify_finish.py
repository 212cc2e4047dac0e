"""How an answer ended: the finish reasons."""

from __future__ import annotations

import pytest

from chutes_opencode.classify import (
    classify_finish,
)
from chutes_opencode.errors import (
    ContentFilterError,
    MaxOutputTokensError,
    OpenCodeError,
    TruncatedStreamError,
)


@pytest.mark.parametrize(
    ("reason", "cls"),
    [
        ("length", MaxOutputTokensError),
        ("max_tokens", MaxOutputTokensError),
        ("content-filter", ContentFilterError),
        ("content_filter", ContentFilterError),
        ("tool-calls", TruncatedStreamError),
        ("tool_calls", TruncatedStreamError),
        ("function_call", TruncatedStreamError),
        ("unknown", TruncatedStreamError),
        ("other", TruncatedStreamError),
        ("error", TruncatedStreamError),
        ("weird", TruncatedStreamError),
        ("", TruncatedStreamError),
        (None, TruncatedStreamError),
    ],
)
def test_an_end_that_is_none(reason: str | None, cls: type[OpenCodeError]) -> None:
    error = classify_finish(reason, text="half", model="m", node_id="n", exit_code=3)

    assert error is not None
    assert type(error) is cls
    assert (error.model, error.node_id, error.exit_code) == ("m", "n", 3)


def test_a_stop_is_a_good_end() -> None:
    assert classify_finish("stop", text="") is None


def test_a_cut_answer_keeps_what_was_written() -> None:
    error = classify_finish("length", text="half an ans")

    assert isinstance(error, MaxOutputTokensError)
    assert error.partial_text == "half an ans"


def test_an_unknown_reason_is_named() -> None:
    weird, none = classify_finish("weird", text=""), classify_finish(None, text="")

    assert "'weird'" in str(weird)
    assert "no finish reason" in str(none)
