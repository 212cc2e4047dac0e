"""One running `opencode serve`, from its start to its end. Loop-bound."""

from __future__ import annotations

import asyncio
import re
import secrets
import socket
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Self

from chutes_opencode.engines.base import not_run
from chutes_opencode.engines.commands import read_text
from chutes_opencode.engines.entrance import Entrance
from chutes_opencode.engines.folder_pool import delete_path
from chutes_opencode.engines.folders import Folders
from chutes_opencode.engines.leftovers import PASSWORD_VARIABLE
from chutes_opencode.engines.off_loop import off_loop
from chutes_opencode.engines.outputs import data_mib, outputs_folder
from chutes_opencode.engines.server_log import error_behind, last_words
from chutes_opencode.engines.server_plan import Launch, ServerPlan, prepare
from chutes_opencode.errors import ConfigurationError, UnknownOpenCodeError
from chutes_opencode.masking import MASK, mask
from chutes_opencode.memory import resident_mib
from chutes_opencode.opencode.api import ApiError, ServeApi, ServerGoneError
from chutes_opencode.opencode.binary import Binary
from chutes_opencode.opencode.workspace import Workspace, temporary_workspace
from chutes_opencode.process import Command, Supervised
from chutes_opencode.relay.lease import Lease

HOST = "127.0.0.1"
PORT_TRIES = 5
LOOK_SECONDS = 0.02  # while it starts
# SIGTERM ends it in a tenth of a second, unless a tool runs: then it sits it out (seen).
GRACE_SECONDS = 2.0

_LISTENING = re.compile(r"listening on (http://\S+)")
_PORT_TAKEN = "ServeError"  # all that opencode says of it (seen)
_DENY = ({"permission": "*", "pattern": "*", "action": "deny"},)


class Server:
    """A running `opencode serve`; made by `start`, ended by `stop`.

    Attributes:
        plan: What it was started for.
        api: Its client.
        folders: The agents' folders on it.
        entrance: The way in, for a prompt.
        lease: Its way by the relay, whose key is its API key; None: it has none.
        marker: The agent's prompt in its config, which the relay replaces; None: it is not to be.
        workspace: Where it lives.
        died: Set when the process has ended, for whatever reason.
        prompts: Prompts in flight; counted by the pool.
        served: Prompts that have ended; counted by the pool.
        draining: Whether it takes no new prompts; anybody may set it.
    """

    def __init__(
        self,
        plan: ServerPlan,
        launch: Launch,
        workspace: Workspace,
        lease: Lease | None,
        process: Supervised,
        api: ServeApi,
    ) -> None:
        """Take over what `start` has made.

        Raises:
            OSError: The workspace cannot be written.
        """
        self.plan = plan
        self.api = api
        self.folders = Folders(workspace.root, api)
        self.entrance = Entrance()
        self.lease = lease
        self.marker = launch.marker
        self.workspace = workspace
        self.died = asyncio.Event()
        self.prompts = 0
        self.served = 0
        self.draining = False
        self._process = process
        self._returncode: int | None = None
        self._last_words: str | None = None
        self._resources = AsyncExitStack()
        self._stopping: asyncio.Task[None] | None = None
        self._purging: set[asyncio.Task[None]] = set()
        self._waiting = asyncio.create_task(self._wait())

    @classmethod
    async def start(cls, plan: ServerPlan, *, seconds: float) -> Self:
        """Start a server, and try it with a real session.

        Args:
            plan: What it is for.
            seconds: How long it may take.

        Raises:
            ConfigurationError: opencode cannot be run, or refuses its config.
            UnknownOpenCodeError: It ended, or was not ready in time; with what it said.
        """
        try:
            async with AsyncExitStack() as stack:
                workspace = stack.enter_context(temporary_workspace(plan.temp_root))
                lease = None if plan.relay is None else plan.relay.lease()
                if lease is not None:
                    stack.push_async_callback(_close_lease, lease)
                launch = prepare(plan, workspace, lease)
                workspace.config.write_text(launch.config)
                async with _in_time(workspace, seconds):
                    process, api = await _come_up(plan, launch, workspace, stack)
                    server = cls(plan, launch, workspace, lease, process, api)
                    stack.push_async_callback(server._ended)
                    await server._try_session()
                server._resources = stack.pop_all()
                return server
        except OSError as error:
            raise not_run(error) from error

    def __repr__(self) -> str:
        """Its process and what it does."""
        state = "draining" if self.draining else "alive" if self.alive else "gone"
        return f"Server(pid={self.pid}, {state}, {self.prompts} in flight, {self.served} served)"

    @property
    def pid(self) -> int:
        """Its process."""
        return self._process.pid

    @property
    def returncode(self) -> int | None:
        """How the process has ended; negative: the signal. None: it runs."""
        return self._returncode

    @property
    def alive(self) -> bool:
        """Whether its process runs, and no call has found it gone."""
        return not (self.died.is_set() or self.api.gone or self._stopping is not None)

    def rss_mib(self) -> float | None:
        """Tell how much memory the process holds, in MiB; None: nobody can tell."""
        return None if self.died.is_set() else resident_mib(self.pid)

    def stderr_tail(self) -> str:
        """Return the end of what opencode has written, log left out and secrets masked.

        Works after its end as well.
        """
        if self._last_words is not None:
            return self._last_words
        return self._masked(last_words(_stderr(self.workspace)))

    def explain(self, ref: str) -> str | None:
        """Return the error behind a "see server logs" of opencode's, secrets masked.

        Args:
            ref: The answer's, `data.ref`.

        Returns:
            The error with its stack; None: it is not, or no longer, in the log.
        """
        error = error_behind(_stderr(self.workspace), ref)
        return None if error is None else self._masked(error)

    def data_mib(self) -> float:
        """Tell how much room its data takes on the disk, in MiB."""
        return data_mib(self.workspace)

    def purge_outputs(self) -> None:
        """Delete the tool outputs that opencode has cut and kept; when no prompt is in flight.

        What is there now goes; what comes later stays, though it takes a while to delete much.
        """
        ended = self.workspace.file(f"outputs-{secrets.token_hex(8)}")
        with suppress(OSError):  # mostly there are none
            outputs_folder(self.workspace).rename(ended)  # opencode makes it when it needs it
            task = asyncio.create_task(_delete(ended))
            self._purging.add(task)
            task.add_done_callback(self._purging.discard)

    async def kill(self) -> None:
        """End the process now, with all that its tools have started; `stop` does the rest."""
        await self._process.end()

    async def stop(self) -> None:
        """End the server and remove all that it had; what is in flight is lost.

        Bounded, idempotent, and not cut short by cancellation, which is raised afterwards.
        """
        self.draining = True
        if self._stopping is None:
            self._stopping = asyncio.create_task(self._resources.aclose())
        cancelled: asyncio.CancelledError | None = None
        while not self._stopping.done():
            try:
                await asyncio.wait([self._stopping])
            except asyncio.CancelledError as error:
                cancelled = error
        if cancelled is not None:
            raise cancelled
        self._stopping.result()

    async def _try_session(self) -> None:
        """Make a session and delete it: then opencode has read its config and its database."""
        try:
            session_id = await self.api.create(self.folders.neutral, _DENY)
            await self.api.delete(session_id)
        except ApiError as error:
            raise ConfigurationError(
                raw_message=f"opencode refuses its config: {self._masked(str(error.body))}"
            ) from error
        except ServerGoneError as error:
            raise _failed_start("ended before it was ready", self.workspace) from error

    async def _wait(self) -> None:
        self._returncode = (await self._process.wait()).returncode
        self.died.set()

    async def _ended(self) -> None:
        """End the process, and keep its last words: the workspace goes next."""
        try:
            await self._process.end(GRACE_SECONDS)
        finally:
            self._last_words = self._masked(last_words(_stderr(self.workspace)))
            await asyncio.wait([self._waiting, *self._purging])
            self.died.set()
        await self.folders.close()

    def _masked(self, text: str) -> str:
        """Hide the server's own secrets too; they are too many to register them all."""
        for secret in (self.api.password, self.lease.key if self.lease else None):
            text = text.replace(secret, MASK) if secret else text
        return mask(text)


@asynccontextmanager
async def _in_time(workspace: Workspace, seconds: float) -> AsyncIterator[None]:
    try:
        async with asyncio.timeout(seconds) as timeout:
            yield
    except TimeoutError as error:
        if not timeout.expired():
            raise
        raise _failed_start(f"was not ready within {seconds:g} s", workspace) from error


async def _come_up(
    plan: ServerPlan, launch: Launch, workspace: Workspace, stack: AsyncExitStack
) -> tuple[Supervised, ServeApi]:
    """Start the process on a free port; return it once it listens, with its client."""
    password = secrets.token_urlsafe(24)
    environment = {**launch.environment, PASSWORD_VARIABLE: password}
    for _ in range(PORT_TRIES):
        command = _command(plan.binary, workspace, environment, free_port())
        process = await Supervised.start(command)
        stack.push_async_callback(process.end)
        url = await _listening(process, command.stdout)
        if url is not None:
            api = ServeApi(url, password)
            stack.push_async_callback(api.close)
            return process, api
        if _PORT_TAKEN not in read_text(command.stderr):
            break  # else somebody was faster than we
    raise _failed_start("ended before it was ready", workspace)


def _command(
    binary: Binary, workspace: Workspace, environment: Mapping[str, str], port: int
) -> Command:
    arguments = ["serve", "--hostname", HOST, "--port", str(port)]
    return Command(
        # At INFO the log would grow with each prompt; it is written twice.
        argv=(str(binary.path), *arguments, "--print-logs", "--log-level", "ERROR"),
        env=environment,
        cwd=workspace.work,
        stdout=workspace.file("serve.out"),
        stderr=_stderr(workspace),
        workspace=workspace.root,
    )


def free_port() -> int:
    """Return a port that is free now; `--port 0` would be 4096, which others want as well."""
    with socket.socket() as listener:
        listener.bind((HOST, 0))
        port: int = listener.getsockname()[1]
        return port


async def _listening(process: Supervised, stdout: Path) -> str | None:
    """Wait until the server says where it listens; None: it has ended.

    Before that nothing is sent to the port: somebody else might be there.
    """
    ended = asyncio.ensure_future(process.wait())
    try:
        while not ended.done():
            found = _LISTENING.search(read_text(stdout))
            if found:
                return found[1]
            await asyncio.wait([ended], timeout=LOOK_SECONDS)
    finally:
        ended.cancel()
    return None


def _failed_start(what: str, workspace: Workspace) -> UnknownOpenCodeError:
    said = mask(last_words(_stderr(workspace))) or "it said nothing"
    return UnknownOpenCodeError(raw_message=f"opencode serve {what}: {said}")


def _stderr(workspace: Workspace) -> Path:
    return workspace.file("serve.err")


async def _close_lease(lease: Lease) -> None:
    """Close it off the loop: it waits for its prompts' last requests."""
    await off_loop(lease.close)


async def _delete(path: Path) -> None:
    """Delete it off the loop; what cannot be deleted goes with the workspace."""
    with suppress(OSError):
        await off_loop(delete_path, path)
