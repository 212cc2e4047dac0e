"""Answers that fit a schema, our own validation, and one turn to mend what does not."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from pydantic import BaseModel, Field

from chutes_opencode import ChutesOpenCodeLLM, Simulator, StructuredOutputError

SCHEMA = {
    "type": "object",
    "properties": {"answer": {"type": "integer"}},
    "required": ["answer"],
    "additionalProperties": False,
}


class Answer(BaseModel):
    answer: int = Field(ge=0)


def saying(text: str) -> str:
    """Return a prompt to which sim/script says a text."""
    return json.dumps({"steps": [{"text": text}]})


def test_an_answer_that_fits_is_one_request(simulator: Simulator) -> None:
    llm = ChutesOpenCodeLLM("sim/script", builtin_tools=False, retries=1)

    result = llm.prompt(saying('Sure:\n```json\n{"answer": 42}\n```'), output_schema=Answer)

    (body,) = (request.body.decode() for request in simulator.requests if request.body)
    assert result.structured == Answer(answer=42)
    assert result.usage.num_requests == 1
    assert "minimum" in body


def test_one_turn_mends_an_answer_that_does_not_fit(
    simulator: Simulator, package_home: Path
) -> None:
    llm = ChutesOpenCodeLLM("sim/script", builtin_tools=False, retries=1)

    # The repair turn quotes the answer, which tells sim/script what to say then.
    result = llm.prompt(saying(saying('{"answer": 7}')), output_schema=SCHEMA)

    total = simulator.bill.total
    assert result.structured == {"answer": 7}
    assert json.loads(result.result) == {"answer": 7}
    assert [attempt.scope for attempt in result.attempts] == ["prompt", "repair"]
    assert result.usage.num_requests == total.requests == 2
    assert result.cost_usd == pytest.approx(total.cost_usd)
    assert not list((package_home / "sessions").glob("ses_*.json"))


def test_what_cannot_be_mended_is_an_error_with_the_answer_and_its_flaws(
    simulator: Simulator, package_home: Path
) -> None:
    llm = ChutesOpenCodeLLM("sim/script", builtin_tools=False, retries=1)

    with pytest.raises(StructuredOutputError) as raised:
        llm.prompt(saying('{"answer": "much"}'), output_schema=SCHEMA)

    error = raised.value
    assert error.validation_errors
    assert error.result is not None
    assert error.partial_text == error.result.result
    assert error.result.usage.num_requests == simulator.bill.total.requests == 2
    assert not [path for path in (package_home / "sessions").glob("*") if path.is_dir()]
