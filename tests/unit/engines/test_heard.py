"""What the model has written so far."""

from __future__ import annotations

import pytest

from chutes_opencode.engines.heard import Heard
from chutes_opencode.events import (
    Event,
    ReasoningDelta,
    RequestStarted,
    StepRestarted,
    TextDelta,
    Waiting,
)
from chutes_opencode.results import Part, ReasoningPart, TextPart


@pytest.mark.parametrize(
    ("events", "parts"),
    [
        ([], ()),
        ([TextDelta(text="a"), TextDelta(text="b")], (TextPart("ab"),)),
        (
            [ReasoningDelta(text="r"), TextDelta(text="a"), ReasoningDelta(text="s")],
            (ReasoningPart("r"), TextPart("a"), ReasoningPart("s")),
        ),
        (
            [TextDelta(text="a"), StepRestarted(reason="cut"), TextDelta(text="b")],
            (TextPart("b"),),
        ),
        (
            [TextDelta(text="a"), RequestStarted(model="m", step=2), TextDelta(text="b")],
            (TextPart("b"),),
        ),
        ([TextDelta(text="a"), Waiting(reason="w"), TextDelta(text="b")], (TextPart("ab"),)),
    ],
)
def test_deltas_become_parts_and_a_step_that_begins_voids_them(
    events: list[Event], parts: tuple[Part, ...]
) -> None:
    heard = Heard()

    for event in events:
        heard.take(event)

    assert heard.parts() == parts
