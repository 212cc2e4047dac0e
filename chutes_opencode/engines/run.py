"""RunEngine: a process pair per prompt, `opencode run` and then `opencode export`."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from chutes_opencode.engines.base import Evidence, Observe
from chutes_opencode.engines.watch import Watch
from chutes_opencode.errors import ConfigurationError, PromptTimeoutError, UnknownOpenCodeError
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
from chutes_opencode.opencode.guard import guard_spec
from chutes_opencode.opencode.history import import_document
from chutes_opencode.opencode.sessions import SessionCard, SessionStore
from chutes_opencode.opencode.transcript import (
    exchanges_from_guard,
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
    write_guard,
)
from chutes_opencode.process import Command, ProcessTimeout, Supervised, run_to_end
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
        key: Returns the provider key, asked anew for each attempt, so that it can rotate.
        inherited: What of the caller's environment opencode gets.
        temp_root: Where workspaces are made.
        sessions: Where sessions are kept.
        name: "run".
    """

    binary: Binary
    target: Callable[[], Target]
    key: Callable[[], str]
    inherited: Mapping[str, str]
    temp_root: Path
    sessions: SessionStore
    name: str = "run"

    async def run(
        self, request: PromptRequest, observe: Observe, accept: Callable[[Evidence], bool]
    ) -> Evidence:
        """Run one attempt; see `Engine.run`."""
        try:
            async with AsyncExitStack() as stack:
                workspace = stack.enter_context(temporary_workspace(self.temp_root))
                seat = await stack.enter_async_context(self._seat(request, workspace))
                evidence = await self._attempt(request, workspace, seat, observe)
                if seat.card is not None:
                    # Not in a thread: a cancelled one would go on in a removed workspace.
                    self._settle(request, workspace, seat.card, evidence, accept(evidence))
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

    @asynccontextmanager
    async def _seat(self, request: PromptRequest, workspace: Workspace) -> AsyncIterator[_Seat]:
        """Find or make the session's place and the agent's folder."""
        version = self.binary.version
        if request.session_id is not None:
            # Before the wait as well: of a session that is not there, not even a lock shall be.
            self.sessions.find(request.session_id, engine=self.name, version=version)
            async with AsyncExitStack() as stack:
                await self._take_turn(stack, request.session_id, request.timeout_seconds)
                card = self.sessions.find(request.session_id, engine=self.name, version=version)
                card.refuse_move(request.keep_session)
                await asyncio.to_thread(_copy_data, card, workspace)
                yield _Seat(_work_dir(request, Path(card.work_dir)), request.session_id, card)
        elif request.keep_session:
            keep = request.keep_session if isinstance(request.keep_session, Path) else None
            card = self.sessions.place(keep, engine=self.name, version=version)
            try:
                yield _Seat(_work_dir(request, Path(card.work_dir)), None, card)
            except BaseException:
                self.sessions.discard(card)
                raise
        else:
            yield _Seat(_work_dir(request, workspace.work), None, None)

    async def _take_turn(self, stack: AsyncExitStack, session_id: str, seconds: float) -> None:
        """Wait for the session; others may be using it."""
        try:
            async with asyncio.timeout(seconds):
                await stack.enter_async_context(self.sessions.turn(session_id))
        except TimeoutError as error:
            raise PromptTimeoutError(
                raw_message=f"session {session_id} was in use for {seconds:g} s"
            ) from error

    def _settle(
        self,
        request: PromptRequest,
        workspace: Workspace,
        card: SessionCard,
        evidence: Evidence,
        accepted: bool,
    ) -> None:
        """Keep the session, forget it, or leave it as it was before the attempt."""
        session_id = evidence.transcript.session_id
        if accepted and session_id and request.keep_session:
            self.sessions.keep(session_id, card, workspace.data)
        elif accepted and request.session_id:
            self.sessions.forget(request.session_id)
        elif request.session_id is None:
            self.sessions.discard(card)

    async def _attempt(
        self, request: PromptRequest, workspace: Workspace, seat: _Seat, observe: Observe
    ) -> Evidence:
        started = time.monotonic()
        since_ms = int(time.time() * 1000)
        environment = self._write_inputs(request, workspace)
        watch = Watch(workspace.file("run.out"), workspace.file("run.err"), observe)
        returncode, export = -1, None
        try:
            async with asyncio.timeout(request.timeout_seconds):
                session_id = seat.session_id
                if request.history and session_id is None:
                    session_id = await self._import(request, workspace, seat, environment)
                    since_ms = int(time.time() * 1000)  # the history is dated before its import
                returncode = await self._watched(
                    self._run_command(request, workspace, seat, session_id, environment), watch
                )
                if watch.stop is None:
                    export = await self._export(workspace, environment, seat)
        except TimeoutError:
            watch.stop = "timeout"
        watch.look()
        return self._evidence(
            request, workspace, seat, watch, returncode, export, since_ms, started
        )

    def _write_inputs(self, request: PromptRequest, workspace: Workspace) -> dict[str, str]:
        """Write config, guard, prompt and attachments; return the environment."""
        placeholder, target = key_placeholder(), self.target()
        config = build_config(request, target, plugin=workspace.guard, key=placeholder)
        workspace.config.write_text(render_config(config, key=placeholder))
        write_guard(workspace, guard_spec(request, target, workspace.attachments))
        # opencode drops a byte order mark at the beginning of its input; of two one arrives (seen).
        mark = "\ufeff" if request.prompt.startswith("\ufeff") else ""
        workspace.file("prompt").write_bytes((mark + request.prompt).encode())
        for path, part in zip(
            attachment_paths(workspace, request.attachments), request.attachments, strict=True
        ):
            path.parent.mkdir(parents=True)
            path.write_bytes(part.content)
        return build_environment(
            workspace,
            self.inherited,
            request.env,
            key=self.key(),
            output_ceiling=output_ceiling(request, target),
        )

    def _run_command(
        self,
        request: PromptRequest,
        workspace: Workspace,
        seat: _Seat,
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
        seat: _Seat,
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

    async def _watched(self, command: Command, watch: Watch) -> int:
        """Run the command under the watch's eyes."""
        async with await Supervised.start(command) as process:
            waiting = asyncio.ensure_future(process.wait())
            try:
                while not waiting.done() and watch.stop is None:
                    await asyncio.wait([waiting], timeout=LOOK_SECONDS)
                    watch.look()
                if watch.stop is not None:
                    await process.end()
                return (await waiting).returncode
            finally:
                waiting.cancel()

    async def _import(
        self,
        request: PromptRequest,
        workspace: Workspace,
        seat: _Seat,
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
        self, workspace: Workspace, environment: Mapping[str, str], seat: _Seat
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
        seat: _Seat,
        watch: Watch,
        returncode: int,
        export: object | None,
        since_ms: int,
        started: float,
    ) -> Evidence:
        stdout = mask(_read(workspace.file("run.out")))
        transcript = transcript_from_export(export, since_ms=since_ms)
        if not transcript.turns:
            transcript = transcript_from_events(stdout)
        exchanges = exchanges_from_guard(_read(workspace.guard.with_name("guard.jsonl")))
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
        )


@dataclass(frozen=True, slots=True)
class _Seat:
    """Where the agent works, and the kept session that it works on."""

    work_dir: Path
    session_id: str | None
    card: SessionCard | None


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


def _work_dir(request: PromptRequest, default: Path) -> Path:
    folder = request.work_dir or default
    if not folder.is_dir():
        raise ConfigurationError(
            raw_message=f"work_dir {folder} is no folder", hint="Make the folder, or name another."
        )
    return folder.resolve()


def _copy_data(card: SessionCard, workspace: Workspace) -> None:
    import shutil

    shutil.copytree(card.data, workspace.data)


def _pure(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the environment of a call that needs neither plugin, config nor key."""
    dropped = ("OPENCODE_CONFIG", KEY_VARIABLE)
    return {k: v for k, v in environment.items() if k not in dropped} | {"OPENCODE_PURE": "1"}


def _read(path: Path) -> str:
    try:
        return path.read_text("utf-8", errors="replace")
    except FileNotFoundError:
        return ""
