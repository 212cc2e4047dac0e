"""What an operator's log says of a prompt."""

from __future__ import annotations

from typing import Any

from chutes_opencode.events import (
    Done,
    Event,
    PromptCancelled,
    PromptFailed,
    PromptStarted,
    Retrying,
    Waiting,
)


def log_event(log: Any, event: Event) -> None:
    """Write what an operator wants to know.

    Args:
        log: A structlog logger.
        event: What happened.
    """
    if isinstance(event, PromptStarted):
        log.info("prompt started", model=event.model, engine=event.engine)
    elif isinstance(event, Retrying):
        log.warning(
            f"{event.scope} failed, trying again",
            attempt=event.attempt,
            error=str(event.error),
            wait_seconds=round(event.wait_seconds, 1),
        )
    elif isinstance(event, Waiting):
        log.info("waiting", reason=event.reason)
    elif isinstance(event, PromptFailed):
        log.info("prompt failed", error=str(event.error), hint=event.error.hint)
    elif isinstance(event, PromptCancelled):
        log.info("prompt cancelled", seconds=round(event.result.duration_s, 2))
    elif isinstance(event, Done):
        log.info("prompt done", seconds=round(event.result.duration_s, 2))
