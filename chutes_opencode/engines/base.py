"""What every engine takes and returns."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from chutes_opencode.errors import ConfigurationError, OpenCodeError
from chutes_opencode.events import Event
from chutes_opencode.relay.terms import Terms
from chutes_opencode.request import PromptRequest
from chutes_opencode.results import Exchange, Transcript

OK = 200
# "unread": a stream of which only the native package knew how to read it.
_MAY_CALL_TOOLS = ("tool_calls", "function_call", "unread")

Observe = Callable[[Event], None]


@dataclass(frozen=True, slots=True)
class Evidence:
    """What was seen of one attempt, unjudged.

    Attributes:
        transcript: The session's messages of this attempt, history left out.
        exchanges: Its model requests.
        returncode: opencode's exit code; negative: the signal; -1: there was no process.
        stderr: What it wrote there, log lines left out, secrets masked.
        run_error: The error object of the run's event stream.
        log_errors: Errors that its log tells.
        stopped: Why we ended or refuse it: "timeout", a phase that lasted too long ("start",
            "tool", "finish"), "crash" (opencode died), "unkept" (its session could not be),
            "failing", "agent" (not the one asked for), "guard" (it ran without its guard, or past
            the relay), "attachment" (a file that opencode could not read), "relay" (it has
            stopped); None: it ended by itself.
        work_dir: The agent's folder, where it outlives the attempt.
        duration_s: Seconds from its start to its end.
        queued_s: Seconds of it that were spent waiting for the first permit of the relay.
        relayed: Whether its requests went by the relay.
        ended: What the relay ended it for; None: it did not, or was not there.
        alone: Whether no other prompt shared its process.
    """

    transcript: Transcript = field(default_factory=Transcript)
    exchanges: tuple[Exchange, ...] = ()
    returncode: int = -1
    stderr: str = ""
    run_error: dict[str, object] | None = None
    log_errors: tuple[str, ...] = ()
    stopped: str | None = None
    work_dir: Path | None = None
    duration_s: float = 0.0
    queued_s: float = 0.0
    relayed: bool = False
    ended: OpenCodeError | None = None
    alone: bool = False

    @property
    def failures(self) -> int:
        """Attempts that the last model step has used up in vain."""
        if self.relayed:
            return _attempts_in_vain(self.exchanges)
        sent = [e for e in self.exchanges if e.status is not None or e.error is not None]
        streams = [number for number, e in enumerate(sent) if e.status == OK and e.body is None]
        return len(sent) - (streams[-1] + 1 if streams else 0)

    @property
    def tools_ran(self) -> bool:
        """Whether the agent has done something that may have changed the world.

        opencode tells of a tool when it has ended, so a run that we ended shows its last tool only
        by the request that called it.
        """
        asked = self.stopped is not None and any(
            exchange.finish_reason in _MAY_CALL_TOOLS for exchange in self.exchanges
        )
        return asked or any(
            call.status in ("completed", "running") for call in self.transcript.tool_calls
        )


def _attempts_in_vain(exchanges: tuple[Exchange, ...]) -> int:
    """Read it off the relay's numbers: they leave out refusals that were not the step's fault."""
    sent = [e for e in exchanges if not e.replayed and (e.status is not None or e.error)]
    return sent[-1].attempt if sent and not sent[-1].whole else 0


def not_run(error: OSError) -> ConfigurationError:
    """Return what is raised where the machine lets no opencode run."""
    return ConfigurationError(
        raw_message=f"opencode could not be run: {error}",
        hint="Check that the opencode binary and work_dir can be used and the disk has space.",
    )


class Engine(Protocol):
    """A way to run a prompt."""

    @property
    def name(self) -> str:
        """Name the engine: "run", "serve" or "direct"."""
        ...

    async def run(
        self,
        request: PromptRequest,
        observe: Observe,
        accept: Callable[[Evidence], bool],
        terms: Terms | None = None,
    ) -> Evidence:
        """Run one attempt of a prompt.

        Args:
            request: What to run.
            observe: Is told what the model writes, as it comes.
            accept: Judges the evidence; a session that shall outlive the prompt is changed only
                when it says yes, so that a retry does not send the user's message twice.
            terms: What it may do at the relay; None: opencode talks to the provider itself.

        Returns:
            What was seen; a failure of the model, the provider or opencode is evidence too.

        Raises:
            OpenCodeError: The attempt could not begin (binary, folder, session, configuration).
        """
        ...

    async def forget(self, session_id: str) -> None:
        """Remove a kept session; nothing happens when it is not kept."""
        ...

    async def close(self) -> None:
        """End whatever the engine keeps running."""
        ...
