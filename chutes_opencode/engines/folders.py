"""The agents' folders on one running server (DESIGN rule 4).

A folder that is new to a running opencode costs most of a second and memory that never comes back;
a known one costs nothing. So prompts that cannot write share one neutral folder, prompts that can
write take one from a pool, and a caller's folder is used as it is.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from chutes_opencode.engines.folder_pool import FolderPool
from chutes_opencode.engines.tool_room import ToolRoom, Tools, ToolServers
from chutes_opencode.errors import ConfigurationError
from chutes_opencode.opencode.config import checked_tools, tool_server_entry
from chutes_opencode.request import PromptRequest


class Folders:
    """Gives each prompt of a server its folder, with its tool servers and no others.

    Belongs to one event loop.

    Attributes:
        neutral: The folder of all prompts that cannot write; nothing is ever in it.
    """

    def __init__(self, root: Path, api: ToolServers) -> None:
        """Make the neutral folder.

        Args:
            root: The server's workspace; removed by its owner, after `close`.
            api: The server.

        Raises:
            OSError: It cannot be made.
        """
        self.neutral = root / "neutral"
        self.neutral.mkdir(mode=0o700)
        self._api = api
        self._pool = FolderPool(root)
        self._rooms: dict[Path, ToolRoom] = {}
        self._seen: set[Path] = set()
        self._endings: set[asyncio.Task[None]] = set()

    @property
    def count(self) -> int:
        """How many folders the server has seen: it remembers each as long as it lives."""
        return len(self._seen)

    @asynccontextmanager
    async def place(self, request: PromptRequest) -> AsyncIterator[Path]:
        """Lend a folder to a prompt.

        On the normal way out its tool servers are gone and a folder of ours is empty again; after
        an error or a cancellation that happens while the caller goes on. Processes of its tools
        must have ended before: see `leftovers`.

        Args:
            request: Of which `work_dir`, `tools` and `builtin_tools` matter. Waits while others
                use its `work_dir` with other tool servers.

        Raises:
            ConfigurationError: `work_dir` is no folder, or a tool server cannot be written.
            OSError: No folder can be made.
            ServerGoneError: The server has ended.
            ApiError: The server has refused a tool server; one that only does not come up is no
                error here.
        """
        tools = {server.name: tool_server_entry(server) for server in checked_tools(request.tools)}
        if request.work_dir is not None:
            work_dir = real_folder(request.work_dir)
            async with self._shared(work_dir, tools):
                yield work_dir
        elif request.builtin_tools or tools:
            async with self._exclusive(tools) as folder:
                yield folder
        else:
            self._seen.add(self.neutral)
            yield self.neutral

    async def close(self) -> None:
        """Wait for what is still being tidied up; call it when the server has ended.

        Its calls fail at once then, and nobody makes anything in the workspace any more.
        """
        for room in tuple(self._rooms.values()):
            await room.closed()
        await asyncio.gather(*self._endings)

    @asynccontextmanager
    async def _shared(self, folder: Path, tools: Tools) -> AsyncIterator[None]:
        self._rooms = {path: room for path, room in self._rooms.items() if not room.unused}
        room = self._rooms.setdefault(folder, ToolRoom(self._api, folder))
        self._seen.add(folder)
        async with room.visit(tools):
            yield

    @asynccontextmanager
    async def _exclusive(self, tools: Tools) -> AsyncIterator[Path]:
        folder = self._pool.take()
        self._seen.add(folder)
        room = ToolRoom(self._api, folder)
        try:
            async with room.visit(tools):
                yield folder
        except BaseException:
            self._end(folder, room)
            raise
        await asyncio.wait([self._end(folder, room)])

    def _end(self, folder: Path, room: ToolRoom) -> asyncio.Task[None]:
        """Begin to tidy a folder of ours; goes on whatever becomes of the prompt."""
        ending = asyncio.create_task(self._tidy(folder, room))
        self._endings.add(ending)
        ending.add_done_callback(self._endings.discard)
        return ending

    async def _tidy(self, folder: Path, room: ToolRoom) -> None:
        await room.closed()
        await self._pool.give_back(folder, again=room.unused)


def real_folder(work_dir: Path) -> Path:
    """Return a caller's folder without links and dots: one folder has one name.

    Raises:
        ConfigurationError: It is no folder.
    """
    try:
        return _checked(work_dir.resolve(strict=True))
    except (OSError, RuntimeError) as error:
        raise ConfigurationError(
            raw_message=f"work_dir {work_dir} is no folder: {error}",
            hint="Make the folder, or name another.",
        ) from error


def _checked(folder: Path) -> Path:
    if not folder.is_dir():
        raise NotADirectoryError("it is a file")
    return folder
