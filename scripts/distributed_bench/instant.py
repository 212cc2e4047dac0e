"""An instance whose prompts are answered at once: what is left is what a batch itself costs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from chutes_opencode import ChutesOpenCodeLLM
from chutes_opencode.events import Event
from chutes_opencode.results import QueryResult
from scripts.bench_batch import answer


class InstantLLM(ChutesOpenCodeLLM):
    """Asks nobody."""

    async def _ask(
        self,
        arguments: Mapping[str, Any],
        observe: Callable[[Event], None] | None = None,
        *,
        single: bool = True,
    ) -> QueryResult:
        """Answer."""
        return answer(str(arguments["prompt"]))
