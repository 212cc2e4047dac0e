"""RunEngine: a process pair per prompt, `opencode run` and then `opencode export`."""

from __future__ import annotations

import asyncio
import shutil
import time
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path

from chutes_opencode.engines.base import Evidence, Observe, not_run
from chutes_opencode.engines.clock import AttemptClock
from chutes_opencode.engines.commands import Commands, read_text, without_plugins
from chutes_opencode.engines.seat import Seat, settle, take_seat
from chutes_opencode.engines.watch import InOrder, Watch
from chutes_opencode.engines.watchdog import Patience
from chutes_opencode.engines.wire import GuardWire, Wire, relayed
from chutes_opencode.errors import ConfigurationError
from chutes_opencode.masking import mask
from chutes_opencode.opencode.binary import Binary
from chutes_opencode.opencode.config import (
    Target,
    build_config,
    key_placeholder,
    output_ceiling,
    render_config,
)
from chutes_opencode.opencode.history import import_document
from chutes_opencode.opencode.sessions import SessionCard, SessionStore
from chutes_opencode.opencode.transcript import (
    parse_run_error,
    transcript_from_events,
    transcript_from_export,
    without_log_lines,
)
from chutes_opencode.opencode.workspace import (
    Workspace,
    attachment_paths,
    build_environment,
    temporary_workspace,
)
from chutes_opencode.process import Command, Supervised
from chutes_opencode.relay.server import Relay, shared_relay
from chutes_opencode.relay.terms import Terms
from chutes_opencode.request import PromptRequest
from chutes_opencode.results import Exchange, Transcript

LOOK_SECONDS = 0.04


@dataclass(frozen=True, slots=True)
class RunEngine:
    """Runs each prompt in an opencode process of its own.

    Attributes:
        binary: opencode.
        target: Returns where model requests go, with the models of now.
        key: Returns the provider key, asked anew for each attempt without the relay.
        inherited: What of the caller's environment opencode gets.
        temp_root: Where workspaces are made.
        sessions: Where sessions are kept.
        relay: Returns this process's relay.
        patience: How long each phase of an attempt may last.
        name: "run".
    """

    binary: Binary
    target: Callable[[], Target]
    key: Callable[[], str]
    inherited: Mapping[str, str]
    temp_root: Path
    sessions: SessionStore
    relay: Callable[[], Relay] = shared_relay
    patience: Patience = field(default_factory=Patience)
    name: str = "run"

    async def run(
        self,
        request: PromptRequest,
        observe: Observe,
        accept: Callable[[Evidence], bool],
        terms: Terms | None = None,
    ) -> Evidence:
        """Run one attempt; see `Engine.run`."""
        if request.hold and not request.keep_session:
            request = replace(request, keep_session=True)
        try:
            async with AsyncExitStack() as stack:
                workspace = stack.enter_context(temporary_workspace(self.temp_root))
                seat = await stack.enter_async_context(
                    take_seat(
                        request,
                        workspace.work,
                        self.sessions,
                        engine=self.name,
                        version=self.binary.version,
                    )
                )
                if seat.card is not None and seat.session_id is not None:
                    _refuse_other_folder(seat, seat.card)
                    await asyncio.to_thread(shutil.copytree, seat.card.data, workspace.data)
                heard = InOrder(observe)
                wire = await self._wire(stack, request, terms, workspace, seat, heard)
                evidence = await self._attempt(request, workspace, seat, wire, heard)
                if seat.card is not None:
                    # Not in a thread: a cancelled one would go on in a removed workspace.
                    accepted = accept(evidence)
                    try:
                        settle(
                            *(request, workspace, self.sessions, seat.card, evidence),
                            accepted=accepted,
                        )
                    except OSError as error:  # what was paid for is not lost with its session
                        return replace(evidence, stopped="unkept", stderr=str(error))
                return evidence
        except OSError as error:
            raise not_run(error) from error

    async def forget(self, session_id: str) -> None:
        """Remove a kept session; see `Engine.forget`."""
        await asyncio.to_thread(self.sessions.forget, session_id)

    async def close(self) -> None:
        """Do nothing: no process outlives its prompt."""

    async def _wire(
        self,
        stack: AsyncExitStack,
        request: PromptRequest,
        terms: Terms | None,
        workspace: Workspace,
        seat: Seat,
        observe: Observe,
    ) -> Wire:
        """Make the attempt's way to the provider."""
        if terms is None:
            return GuardWire(request, self.target(), workspace, self.key())
        relay = await asyncio.to_thread(self.relay)
        return await stack.enter_async_context(
            relayed(relay, request, terms, workspace, seat, observe, self.patience)
        )

    async def _attempt(
        self,
        request: PromptRequest,
        workspace: Workspace,
        seat: Seat,
        wire: Wire,
        heard: InOrder,
    ) -> Evidence:
        started = time.monotonic()
        since_ms = int(time.time() * 1000)
        environment = self._write_inputs(request, workspace, wire)
        watch = Watch(
            workspace.file("run.out"),
            workspace.file("run.err"),
            wire.told(heard.written),
            relayed=wire.relayed,
        )
        heard.look = watch.look
        commands = Commands(self.binary, workspace, seat.work_dir, environment)
        provider = self.target().provider
        returncode, export = -1, None
        try:
            async with asyncio.timeout(request.timeout_seconds) as timeout:
                session_id = seat.session_id
                if request.history and session_id is None:
                    history = import_document(request, provider, seat.work_dir)
                    session_id = await commands.import_session(history)
                    since_ms = int(time.time() * 1000)  # the history is dated before its import
                if session_id is not None:
                    wire.bind(session_id)
                command = commands.run(request, provider.id, session_id)
                clock = AttemptClock(timeout, request.timeout_seconds)
                returncode = await self._watched(command, watch, wire, clock)
                if watch.stop is None:
                    export = await commands.export_session()
        except TimeoutError:
            watch.end("timeout")
        watch.look()
        heard.end()
        # The books are whole when the way is closed: what was under way is cut and priced.
        await wire.close()
        return self._evidence(
            request, workspace, seat, watch, wire, returncode, export, since_ms, started
        )

    def _write_inputs(
        self, request: PromptRequest, workspace: Workspace, wire: Wire
    ) -> dict[str, str]:
        """Write config, prompt and attachments; return the environment."""
        placeholder = key_placeholder()
        target = replace(self.target(), base_url=wire.base_url)
        told = replace(request, system_message=wire.agent_prompt)
        config = build_config(
            told, target, plugin=wire.plugin, key=placeholder, patient=wire.relayed
        )
        workspace.config.write_text(render_config(config, key=placeholder))
        # opencode drops a byte order mark at the beginning of its input; of two one arrives (seen).
        mark = "\ufeff" if request.prompt.startswith("\ufeff") else ""
        workspace.file("prompt").write_bytes((mark + request.prompt).encode())
        for path, part in zip(
            attachment_paths(workspace, request.attachments), request.attachments, strict=True
        ):
            path.parent.mkdir(parents=True)
            path.write_bytes(part.content)
        environment = build_environment(
            workspace,
            self.inherited,
            request.env,
            key=wire.key,
            output_ceiling=output_ceiling(request, target),
        )
        return environment if wire.plugin else without_plugins(environment)

    async def _watched(
        self, command: Command, watch: Watch, wire: Wire, clock: AttemptClock
    ) -> int:
        """Run the command under the watch's eyes."""
        async with await Supervised.start(command) as process:
            waiting = asyncio.ensure_future(process.wait())
            try:
                while not waiting.done() and watch.stop is None:
                    await asyncio.wait([waiting], timeout=LOOK_SECONDS)
                    watch.look()
                    clock.wait_with(wire.queued_s())
                    if phase := wire.overdue():
                        watch.end(phase)
                    if wire.stopped():
                        watch.end("relay")
                if watch.stop is not None:
                    await process.end()
                return (await waiting).returncode
            finally:
                waiting.cancel()

    def _evidence(
        self,
        request: PromptRequest,
        workspace: Workspace,
        seat: Seat,
        watch: Watch,
        wire: Wire,
        returncode: int,
        export: object | None,
        since_ms: int,
        started: float,
    ) -> Evidence:
        stdout = mask(read_text(workspace.file("run.out")))
        transcript = transcript_from_export(export, since_ms=since_ms)
        if not transcript.turns:
            transcript = transcript_from_events(stdout)
        exchanges = wire.exchanges()
        kept = request.work_dir or (seat.work_dir if request.keep_session else None)
        return Evidence(
            transcript=transcript,
            exchanges=exchanges,
            returncode=returncode,
            stderr=mask(without_log_lines(read_text(workspace.file("run.err")))),
            run_error=parse_run_error(stdout),
            log_errors=tuple(mask(error) for error in watch.log_errors),
            stopped=watch.stop or _unseen(request, transcript, exchanges, stdout),
            work_dir=kept,
            duration_s=time.monotonic() - started,
            queued_s=wire.queued_s() or 0.0,
            relayed=wire.relayed,
            ended=wire.error(),
        )


def _refuse_other_folder(seat: Seat, card: SessionCard) -> None:
    """Refuse to continue a session in another folder: opencode would wait for its end for ever.

    Raises:
        ConfigurationError: Names the session's folder.
    """
    if seat.work_dir != Path(card.work_dir).resolve():
        raise ConfigurationError(
            raw_message=f"session {seat.session_id} works in {card.work_dir}, not {seat.work_dir}",
            hint="Leave work_dir= (--work-dir, --here) out: it goes on where it was. One that "
            'engine="serve" keeps may move.',
        )


def _unseen(
    request: PromptRequest, transcript: Transcript, exchanges: tuple[Exchange, ...], stdout: str
) -> str | None:
    """Say why a run without a single model request is none to believe."""
    if exchanges:
        return None
    if transcript.turns:
        return "guard"
    # Of an image that it cannot decode opencode says nothing at all.
    return "attachment" if request.attachments and parse_run_error(stdout) is None else None
