"""What the model has written so far, put together of its deltas."""

from __future__ import annotations

from itertools import groupby

from chutes_opencode.events import Event, ReasoningDelta, RequestStarted, StepRestarted, TextDelta
from chutes_opencode.results import Part, ReasoningPart, TextPart


class Heard:
    """What the model has written in the present try of the present step."""

    def __init__(self) -> None:
        """Hear nothing yet."""
        self._deltas: list[TextDelta | ReasoningDelta] = []

    def take(self, event: Event) -> None:
        """Note an event of the relay's; a step that begins, or begins anew, forgets the last."""
        if isinstance(event, TextDelta | ReasoningDelta):
            self._deltas.append(event)
        elif isinstance(event, RequestStarted | StepRestarted):
            self._deltas.clear()

    def parts(self) -> tuple[Part, ...]:
        """Return the text and the reasoning, in the order in which they were written."""
        runs = groupby(self._deltas, key=type)
        return tuple(_part(kind, "".join(delta.text for delta in run)) for kind, run in runs)


def _part(kind: type, text: str) -> Part:
    return TextPart(text) if kind is TextDelta else ReasoningPart(text)
