"""RunEngine: a process pair per prompt, `opencode run` and then `opencode export`."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from pathlib import Path

from chutes_opencode.engines.base import Evidence, Observe
from chutes_opencode.engines.seat import Seat, settle, take_seat
from chutes_opencode.engines.watch import InOrder, Watch
from chutes_opencode.engines.wire import GuardWire, Wire, relayed
from chutes_opencode.errors import ConfigurationError, UnknownOpenCodeError
from chutes_opencode.masking import mask
from chutes_opencode.opencode.binary import Binary
from chutes_opencode.opencode.config import (
    KEY_VARIABLE,
    Target,
    build_config,
    key_placeholder,
    output_ceiling,
    render_config,
)
from chutes_opencode.opencode.history import import_document
from chutes_opencode.opencode.sessions import SessionStore
from chutes_opencode.opencode.transcript import (
    parse_run_error,
    parse_session_id,
    transcript_from_events,
    transcript_from_export,
    without_log_lines,
)
from chutes_opencode.opencode.workspace import (
    Workspace,
    attachment_paths,
    build_environment,
    clear_locks,
    temporary_workspace,
)
from chutes_opencode.process import Command, ProcessTimeout, Supervised, run_to_end
from chutes_opencode.relay.server import Relay, shared_relay
from chutes_opencode.relay.terms import Terms
from chutes_opencode.request import PromptRequest
from chutes_opencode.results import Exchange, Transcript

LOOK_SECONDS = 0.04
EXPORT_SECONDS = 60.0


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
        name: "run".
    """

    binary: Binary
    target: Callable[[], Target]
    key: Callable[[], str]
    inherited: Mapping[str, str]
    temp_root: Path
    sessions: SessionStore
    relay: Callable[[], Relay] = shared_relay
    name: str = "run"

    async def run(
        self,
        request: PromptRequest,
        observe: Observe,
        accept: Callable[[Evidence], bool],
        terms: Terms | None = None,
    ) -> Evidence:
        """Run one attempt; see `Engine.run`."""
        try:
            async with AsyncExitStack() as stack:
                workspace = stack.enter_context(temporary_workspace(self.temp_root))
                seat = await stack.enter_async_context(
                    take_seat(
                        request,
                        workspace,
                        self.sessions,
                        engine=self.name,
                        version=self.binary.version,
                    )
                )
                heard = InOrder(observe)
                wire = await self._wire(stack, request, terms, workspace, seat, heard)
                evidence = await self._attempt(request, workspace, seat, wire, heard)
                if seat.card is not None:
                    # Not in a thread: a cancelled one would go on in a removed workspace.
                    accepted = accept(evidence)
                    settle(
                        request, workspace, self.sessions, seat.card, evidence, accepted=accepted
                    )
                return evidence
        except OSError as error:
            raise ConfigurationError(
                raw_message=f"opencode could not be run: {error}",
                hint="Check that the opencode binary and work_dir can be used and the disk has "
                "space.",
            ) from error

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
            relayed(relay, request, terms, workspace, seat, observe)
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
            wire.told(heard.observe),
            relayed=wire.relayed,
        )
        heard.look = watch.look
        returncode, export = -1, None
        try:
            async with asyncio.timeout(request.timeout_seconds) as timeout:
                session_id = seat.session_id
                if request.history and session_id is None:
                    session_id = await self._import(request, workspace, seat, environment)
                    since_ms = int(time.time() * 1000)  # the history is dated before its import
                if session_id is not None:
                    wire.bind(session_id)
                command = self._run_command(request, workspace, seat, session_id, environment)
                clock = _Clock(timeout, request.timeout_seconds)
                returncode = await self._watched(command, watch, wire, clock)
                if watch.stop is None:
                    export = await self._export(workspace, environment, seat)
        except TimeoutError:
            watch.end("timeout")
        watch.look()
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
        return environment if wire.plugin else _without_plugins(environment)

    def _run_command(
        self,
        request: PromptRequest,
        workspace: Workspace,
        seat: Seat,
        session_id: str | None,
        environment: Mapping[str, str],
    ) -> Command:
        # A title, so that opencode does not ask the model for one; the prompt comes on stdin: as
        # an argument it would be quoted, cut at 128 KiB and seen by everybody.
        arguments = ["run", "--format", "json", "--title", "prompt", "--thinking"]
        arguments += ["--model", f"{self.target().provider.id}/{request.model}"]
        arguments += ["--agent", request.agent_name, "--print-logs", "--log-level", "INFO"]
        arguments += ["--session", session_id] if session_id else []
        for path in attachment_paths(workspace, request.attachments):
            arguments += ["--file", str(path)]
        return self._command(
            [*arguments, *request.extra_cli_args],
            workspace,
            seat,
            environment,
            name="run",
            stdin=workspace.file("prompt"),
        )

    def _command(
        self,
        arguments: list[str],
        workspace: Workspace,
        seat: Seat,
        environment: Mapping[str, str],
        *,
        name: str,
        stdin: Path | None = None,
    ) -> Command:
        # Output goes to files: into a pipe, opencode's is cut at 64 KiB with exit code 0.
        return Command(
            argv=(str(self.binary.path), *arguments),
            env=environment,
            cwd=seat.work_dir,
            stdin=stdin,
            stdout=workspace.file(f"{name}.out"),
            stderr=workspace.file(f"{name}.err"),
            workspace=workspace.root,
        )

    async def _watched(self, command: Command, watch: Watch, wire: Wire, clock: _Clock) -> int:
        """Run the command under the watch's eyes."""
        async with await Supervised.start(command) as process:
            waiting = asyncio.ensure_future(process.wait())
            try:
                while not waiting.done() and watch.stop is None:
                    await asyncio.wait([waiting], timeout=LOOK_SECONDS)
                    watch.look()
                    clock.wait_with(wire.queued_s())
                    if wire.stopped():
                        watch.end("relay")
                if watch.stop is not None:
                    await process.end()
                return (await waiting).returncode
            finally:
                waiting.cancel()

    async def _import(
        self,
        request: PromptRequest,
        workspace: Workspace,
        seat: Seat,
        environment: Mapping[str, str],
    ) -> str:
        """Give opencode the history as a session."""
        document = import_document(request, self.target().provider, seat.work_dir)
        source = workspace.file("history.json")
        source.write_text(json.dumps(document))
        arguments = ["import", str(source)]
        command = self._command(arguments, workspace, seat, _pure(environment), name="import")
        try:
            done = await run_to_end(command, timeout_seconds=EXPORT_SECONDS)
        except ProcessTimeout as error:
            raise UnknownOpenCodeError(raw_message=f"import of the history: {error}") from error
        clear_locks(workspace)
        if done.returncode != 0:
            raise ConfigurationError(
                exit_code=done.returncode,
                raw_message=f"opencode refused the history: {_read(command.stderr)[-500:]}",
            )
        return str(document["info"]["id"])

    async def _export(
        self, workspace: Workspace, environment: Mapping[str, str], seat: Seat
    ) -> object | None:
        """Read the session back; None when there is none or it cannot be read."""
        written = _read(workspace.file("run.out"))
        session_id = parse_session_id(written)
        if session_id is None or not transcript_from_events(written).messages:
            return None  # it failed before the model said anything; a second to learn no more
        command = self._command(
            ["export", session_id], workspace, seat, _pure(environment), name="export"
        )
        try:
            await run_to_end(command, timeout_seconds=EXPORT_SECONDS)
            exported: object = json.loads(mask(_read(command.stdout)))
        except (ProcessTimeout, ValueError):
            return None  # the event stream tells most of it
        return exported

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
        stdout = mask(_read(workspace.file("run.out")))
        transcript = transcript_from_export(export, since_ms=since_ms)
        if not transcript.turns:
            transcript = transcript_from_events(stdout)
        exchanges = wire.exchanges()
        kept = request.work_dir or (seat.work_dir if request.keep_session else None)
        return Evidence(
            transcript=transcript,
            exchanges=exchanges,
            returncode=returncode,
            stderr=mask(without_log_lines(_read(workspace.file("run.err")))),
            run_error=parse_run_error(stdout),
            log_errors=tuple(mask(error) for error in watch.log_errors),
            stopped=watch.stop or _unseen(request, transcript, exchanges, stdout),
            work_dir=kept,
            duration_s=time.monotonic() - started,
            queued_s=wire.queued_s() or 0.0,
            relayed=wire.relayed,
            ended=wire.error(),
        )


class _Clock:
    """The attempt's timeout, which begins with the first permit: a queue is nobody's fault."""

    def __init__(self, timeout: asyncio.Timeout, seconds: float) -> None:
        self._timeout = timeout
        self._seconds = seconds
        self._begun = asyncio.get_running_loop().time()
        self._queued_s: float | None = 0.0

    def wait_with(self, queued_s: float | None) -> None:
        """Move the end by the wait so far; None: it goes on.

        Args:
            queued_s: As `Wire.queued_s` tells it.
        """
        settled = queued_s is not None and queued_s == self._queued_s
        if settled or self._timeout.expired():
            return
        self._queued_s = queued_s
        waits = queued_s is None
        begin = asyncio.get_running_loop().time() if waits else self._begun + (queued_s or 0.0)
        self._timeout.reschedule(begin + self._seconds)


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


def _pure(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the environment of a call that needs neither plugin, config nor key."""
    dropped = ("OPENCODE_CONFIG", KEY_VARIABLE)
    return _without_plugins({k: v for k, v in environment.items() if k not in dropped})


def _without_plugins(environment: Mapping[str, str]) -> dict[str, str]:
    return {**environment, "OPENCODE_PURE": "1"}


def _read(path: Path) -> str:
    try:
        return path.read_text("utf-8", errors="replace")
    except FileNotFoundError:
        return ""
