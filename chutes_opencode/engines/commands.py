"""The three commands of a run: `opencode import`, `opencode run`, `opencode export`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from chutes_opencode.errors import ConfigurationError, UnknownOpenCodeError
from chutes_opencode.masking import mask
from chutes_opencode.opencode.binary import Binary
from chutes_opencode.opencode.config import KEY_VARIABLE
from chutes_opencode.opencode.transcript import parse_session_id, transcript_from_events
from chutes_opencode.opencode.workspace import Workspace, attachment_paths, clear_locks
from chutes_opencode.process import Command, ProcessTimeout, run_to_end
from chutes_opencode.request import PromptRequest

EXPORT_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Commands:
    """opencode's commands in one workspace.

    Attributes:
        binary: opencode.
        workspace: Where it lives.
        work_dir: The agent's folder.
        environment: The whole environment.
    """

    binary: Binary
    workspace: Workspace
    work_dir: Path
    environment: Mapping[str, str]

    def run(self, request: PromptRequest, provider_id: str, session_id: str | None) -> Command:
        """Return the command that runs a prompt, whose text is in the workspace already."""
        # A title, so that opencode does not ask the model for one; the prompt comes on stdin: as
        # an argument it would be quoted, cut at 128 KiB and seen by everybody.
        arguments = ["run", "--format", "json", "--title", "prompt", "--thinking"]
        arguments += ["--model", f"{provider_id}/{request.model}"]
        arguments += ["--agent", request.agent_name, "--print-logs", "--log-level", "INFO"]
        arguments += ["--session", session_id] if session_id else []
        for path in attachment_paths(self.workspace, request.attachments):
            arguments += ["--file", str(path)]
        return self._command(
            [*arguments, *request.extra_cli_args],
            self.environment,
            name="run",
            stdin=self.workspace.file("prompt"),
        )

    async def import_session(self, document: Mapping[str, Any]) -> str:
        """Give opencode a session.

        Args:
            document: In the shape of an export.

        Returns:
            The session's id.

        Raises:
            ConfigurationError: opencode refuses it.
            UnknownOpenCodeError: It took too long.
        """
        source = self.workspace.file("history.json")
        source.write_text(json.dumps(document))
        command = self._command(["import", str(source)], pure(self.environment), name="import")
        try:
            done = await run_to_end(command, timeout_seconds=EXPORT_SECONDS)
        except ProcessTimeout as error:
            raise UnknownOpenCodeError(raw_message=f"import of the history: {error}") from error
        clear_locks(self.workspace)
        if done.returncode != 0:
            raise ConfigurationError(
                exit_code=done.returncode,
                raw_message=f"opencode refused the history: {read_text(command.stderr)[-500:]}",
            )
        return str(document["info"]["id"])

    async def export_session(self) -> object | None:
        """Read the run's session back; None when there is none or it cannot be read."""
        written = read_text(self.workspace.file("run.out"))
        session_id = parse_session_id(written)
        if session_id is None or not transcript_from_events(written).messages:
            return None  # it failed before the model said anything; a second to learn no more
        command = self._command(["export", session_id], pure(self.environment), name="export")
        try:
            await run_to_end(command, timeout_seconds=EXPORT_SECONDS)
            exported: object = json.loads(mask(read_text(command.stdout)))
        except (ProcessTimeout, ValueError):
            return None  # the event stream tells most of it
        return exported

    def _command(
        self,
        arguments: list[str],
        environment: Mapping[str, str],
        *,
        name: str,
        stdin: Path | None = None,
    ) -> Command:
        # Output goes to files: into a pipe, opencode's is cut at 64 KiB with exit code 0.
        return Command(
            argv=(str(self.binary.path), *arguments),
            env=environment,
            cwd=self.work_dir,
            stdin=stdin,
            stdout=self.workspace.file(f"{name}.out"),
            stderr=self.workspace.file(f"{name}.err"),
            workspace=self.workspace.root,
        )


def pure(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the environment of a call that needs neither plugin, config nor key."""
    dropped = ("OPENCODE_CONFIG", KEY_VARIABLE)
    return without_plugins({k: v for k, v in environment.items() if k not in dropped})


def without_plugins(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the environment of an opencode that loads no plugin."""
    return {**environment, "OPENCODE_PURE": "1"}


def read_text(path: Path) -> str:
    """Return what a process has written; nothing if it never began."""
    try:
        return path.read_text("utf-8", errors="replace")
    except FileNotFoundError:
        return ""
