"""Who may be in a folder at once, and that nobody sees the tool servers of somebody else."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path

import pytest

from chutes_opencode.engines import tool_room
from chutes_opencode.engines.leftovers import PASSWORD_VARIABLE
from chutes_opencode.engines.tool_room import TOOLS_MARKER, ToolRoom
from chutes_opencode.opencode.api import ApiError, ServerGoneError
from chutes_opencode.opencode.config import KEY_VARIABLE
from chutes_opencode.request import McpServer
from tests.unit.engines.tool_servers import LOCAL, OTHER, REMOTE, FakeServer, entries, settle

FOLDER = Path("/folder")


@pytest.fixture(autouse=True)
def ended(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, ...]]:
    """The marked processes that would have been ended."""
    asked: list[tuple[str, ...]] = []

    async def end(name: str, values: Iterable[str]) -> int:
        asked.append((name, *values))
        return 0

    monkeypatch.setattr(tool_room, "end_all_marked", end)
    return asked


class Stage:
    """A room, and visitors that stay until they are told to go."""

    def __init__(self) -> None:
        self.server = FakeServer()
        self.room = ToolRoom(self.server, FOLDER)
        self.inside: list[str] = []
        self.seen: dict[str, set[str]] = {}
        self.tasks: dict[str, asyncio.Task[None]] = {}
        self._go: dict[str, asyncio.Event] = {}

    async def comes(self, name: str, *tools: McpServer) -> None:
        """Let somebody come and wait or work."""
        self._go[name] = asyncio.Event()
        self.tasks[name] = asyncio.create_task(self._visit(name, tools))
        await settle()

    async def goes(self, name: str) -> None:
        """Let somebody end on the normal way, and all that follows happen."""
        self._go[name].set()
        await self.tasks[name]
        await settle()

    async def is_cancelled(self, name: str) -> None:
        """Cancel somebody; return when it has ended."""
        self.tasks[name].cancel()
        with pytest.raises(asyncio.CancelledError):
            await self.tasks[name]

    async def _visit(self, name: str, tools: tuple[McpServer, ...]) -> None:
        async with self.room.visit(entries(*tools)):
            self.inside.append(name)
            self.seen[name] = self.server.tools(FOLDER)
            try:
                await self._go[name].wait()
            finally:
                self.inside.remove(name)


def play(scene: Callable[[Stage], Awaitable[None]]) -> Stage:
    """Play a scene to its end, whereupon the room is as it was and nothing runs on."""

    async def main() -> Stage:
        stage = Stage()
        await scene(stage)
        await asyncio.wait_for(stage.room.closed(), 60)
        assert asyncio.all_tasks() == {asyncio.current_task()}
        assert stage.room.unused
        assert stage.server.tools(FOLDER) == set()
        return stage

    return asyncio.run(main())


def test_tool_servers_are_there_during_the_visit_and_gone_after_it() -> None:
    async def scene(stage: Stage) -> None:
        await stage.comes("a", REMOTE, OTHER)
        assert stage.seen == {"a": {"remote", "other"}}
        await stage.goes("a")

    stage = play(scene)

    assert sorted(stage.server.calls) == ["+other", "+remote", "-other", "-remote"]


def test_tool_servers_come_up_side_by_side() -> None:
    async def scene(stage: Stage) -> None:
        await stage.comes("a", REMOTE, OTHER, LOCAL)
        await stage.goes("a")

    assert play(scene).server.most == 3


def test_without_tool_servers_nothing_is_asked_of_the_server() -> None:
    async def scene(stage: Stage) -> None:
        await stage.comes("a")
        await stage.comes("b")
        assert stage.inside == ["a", "b"]
        await stage.goes("a")
        await stage.goes("b")

    assert play(scene).server.calls == []


def test_prompts_with_the_same_tool_servers_share_them() -> None:
    async def scene(stage: Stage) -> None:
        await stage.comes("a", REMOTE, OTHER)
        await stage.comes("b", OTHER, REMOTE)
        assert stage.inside == ["a", "b"]
        await stage.goes("a")
        assert stage.server.tools(FOLDER) == {"remote", "other"}
        await stage.goes("b")

    assert len(play(scene).server.calls) == 4


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ((REMOTE,), (OTHER,)),
        ((REMOTE,), ()),
        ((), (REMOTE,)),
        ((REMOTE,), (REMOTE, OTHER)),
        ((REMOTE,), (McpServer("remote", url="http://127.0.0.1:10/mcp"),)),
        ((LOCAL,), (McpServer("local", command=("server",)),)),
    ],
)
def test_prompts_with_other_tool_servers_wait_for_their_turn(
    first: tuple[McpServer, ...], second: tuple[McpServer, ...]
) -> None:
    async def scene(stage: Stage) -> None:
        await stage.comes("a", *first)
        await stage.comes("b", *second)
        assert stage.inside == ["a"]
        await stage.goes("a")
        assert stage.inside == ["b"]
        assert stage.seen["b"] == {server.name for server in second}
        await stage.goes("b")

    play(scene)


def test_who_comes_later_does_not_overtake_those_who_wait() -> None:
    async def scene(stage: Stage) -> None:
        await stage.comes("a", REMOTE)
        await stage.comes("b", OTHER)
        await stage.comes("c", REMOTE)
        await stage.comes("d", REMOTE)
        for name, inside in (("a", ["b"]), ("b", ["c", "d"]), ("c", ["d"]), ("d", [])):
            await stage.goes(name)
            assert stage.inside == inside

    play(scene)


def test_nobody_enters_while_tool_servers_come_up() -> None:
    async def scene(stage: Stage) -> None:
        stage.server.hold.clear()
        await stage.comes("a", REMOTE)
        await stage.comes("b", REMOTE)
        assert stage.inside == []
        stage.server.hold.set()
        await settle()
        assert stage.seen == {"a": {"remote"}, "b": {"remote"}}
        await stage.goes("a")
        await stage.goes("b")

    assert play(scene).server.calls == ["+remote", "-remote"]


def test_one_cancelled_while_it_waits_holds_nobody_up() -> None:
    async def scene(stage: Stage) -> None:
        await stage.comes("a", REMOTE)
        await stage.comes("b", OTHER)
        await stage.comes("c", REMOTE)
        await stage.is_cancelled("b")
        await settle()
        assert stage.inside == ["a", "c"]
        await stage.goes("a")
        await stage.goes("c")

    play(scene)


def test_one_cancelled_at_the_moment_of_its_turn_holds_nobody_up() -> None:
    async def scene(stage: Stage) -> None:
        await stage.comes("a")
        await stage.comes("b", OTHER)
        await stage.comes("c", REMOTE)
        stage.tasks["b"].add_done_callback(lambda task: None)
        stage._go["a"].set()
        while not stage.tasks["a"].done():
            await asyncio.sleep(0)
        stage.tasks["b"].cancel()  # let in, but it does not know yet
        await settle()
        assert stage.tasks["b"].cancelled()
        assert stage.inside == ["c"]
        await stage.goes("c")

    assert play(scene).seen["c"] == {"remote"}


def test_one_cancelled_while_it_works_goes_at_once_and_its_tool_servers_follow() -> None:
    async def scene(stage: Stage) -> None:
        await stage.comes("a", REMOTE)
        await stage.comes("b")
        await stage.is_cancelled("a")
        assert stage.server.tools(FOLDER) == {"remote"}
        await settle()
        assert (stage.inside, stage.seen["b"]) == (["b"], set())
        await stage.goes("b")

    play(scene)


def test_a_tool_server_still_coming_up_when_its_prompt_is_cancelled_is_removed_when_it_is_there(
    ended: list[tuple[str, ...]],
) -> None:
    async def scene(stage: Stage) -> None:
        stage.server.hold.clear()
        await stage.comes("a", LOCAL)
        await stage.comes("b")
        await stage.is_cancelled("a")
        await settle()
        assert (stage.inside, stage.server.calls) == ([], ["+local"])
        assert len(ended) == 1  # so that it comes up no more
        stage.server.hold.set()
        await settle()
        assert (stage.inside, stage.seen["b"]) == (["b"], set())
        await stage.goes("b")

    play(scene)


def test_the_tool_servers_stay_for_others_when_the_one_who_brought_them_is_cancelled() -> None:
    async def scene(stage: Stage) -> None:
        stage.server.hold.clear()
        await stage.comes("a", REMOTE)
        await stage.comes("b", REMOTE)
        await stage.is_cancelled("a")
        stage.server.hold.set()
        await settle()
        assert (stage.inside, stage.seen["b"]) == (["b"], {"remote"})
        await stage.goes("b")

    assert play(scene).server.calls == ["+remote", "-remote"]


def test_one_cancelled_on_its_way_out_leaves_nothing() -> None:
    async def scene(stage: Stage) -> None:
        await stage.comes("a", REMOTE)
        stage._go["a"].set()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        await stage.is_cancelled("a")

    assert play(scene).server.calls == ["+remote", "-remote"]


@pytest.mark.parametrize("turns", range(30))
def test_cancelled_at_any_moment_one_leaves_nothing_and_holds_nobody_up(turns: int) -> None:
    async def scene(stage: Stage) -> None:
        stage._go["a"] = asyncio.Event()
        stage._go["a"].set()
        stage.tasks["a"] = asyncio.create_task(stage._visit("a", (LOCAL, REMOTE)))
        for _ in range(turns):
            await asyncio.sleep(0)
        stage.tasks["a"].cancel()
        await stage.comes("b", OTHER)
        assert stage.tasks["a"].done()
        assert stage.seen["b"] == {"other"}
        await stage.goes("b")

    play(scene)


def test_a_refused_tool_server_is_told_to_all_who_share_it_and_to_nobody_else() -> None:
    async def scene(stage: Stage) -> None:
        stage.server.add_error = ApiError(400, {})
        stage.server.hold.clear()
        for name, tools in (("a", (REMOTE, OTHER)), ("b", (REMOTE, OTHER)), ("c", ())):
            await stage.comes(name, *tools)
        stage.server.hold.set()
        await settle()
        for name in ("a", "b"):
            assert isinstance(stage.tasks[name].exception(), ApiError)
        assert stage.inside == ["c"]
        await stage.goes("c")

    play(scene)


def test_a_tool_server_that_could_not_be_removed_is_removed_before_the_next_prompt_works() -> None:
    async def scene(stage: Stage) -> None:
        stage.server.remove_errors = [ApiError(500, {})]
        await stage.comes("a", REMOTE)
        await stage.goes("a")
        assert stage.server.tools(FOLDER) == {"remote"}
        assert not stage.room.unused
        await stage.comes("b", OTHER)
        assert stage.seen["b"] == {"other"}
        await stage.goes("b")

    play(scene)


def test_where_a_tool_server_cannot_be_removed_nobody_with_others_works() -> None:
    async def scene(stage: Stage) -> None:
        stage.server.remove_errors = [ApiError(500, {}) for _ in range(3)]
        await stage.comes("a", REMOTE)
        await stage.goes("a")
        await stage.comes("b")
        assert isinstance(stage.tasks["b"].exception(), ApiError)
        await stage.comes("c")
        await stage.goes("c")

    assert play(scene).seen == {"a": {"remote"}, "c": set()}


def test_a_dead_server_ends_everybodys_wait() -> None:
    async def main() -> list[BaseException | None]:
        stage = Stage()
        await stage.comes("a", REMOTE)
        await stage.comes("b", OTHER)
        stage.server.add_error = ServerGoneError()
        stage.server.remove_errors = [ServerGoneError() for _ in range(9)]
        await stage.goes("a")
        await stage.room.closed()
        return [task.exception() for task in stage.tasks.values()]

    first, second = asyncio.run(main())

    assert first is None
    assert isinstance(second, ServerGoneError)


def test_a_tool_server_that_will_not_go_does_not_hold_the_folder_for_ever(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(tool_room, "REMOVE_SECONDS", 0.01)

    async def scene(stage: Stage) -> None:
        async def hang(directory: Path, name: str) -> None:
            await asyncio.Event().wait()

        with monkeypatch.context() as patch:
            patch.setattr(stage.server, "remove_tool_server", hang)
            await stage.comes("a", REMOTE)
            await stage.goes("a")
        await stage.comes("b")
        assert stage.seen["b"] == set()
        await stage.goes("b")

    play(scene)


def test_a_local_tool_server_is_marked_and_does_not_see_the_servers_secrets(
    ended: list[tuple[str, ...]],
) -> None:
    async def scene(stage: Stage) -> None:
        for name in ("a", "b"):
            await stage.comes(name, LOCAL)
            await stage.goes(name)

    first, second = (config["environment"] for config in play(scene).server.configs)

    assert (first["A"], first[PASSWORD_VARIABLE], first[KEY_VARIABLE]) == ("b", "", "")
    assert first[TOOLS_MARKER] != second[TOOLS_MARKER]
    assert ended == [(TOOLS_MARKER, first[TOOLS_MARKER]), (TOOLS_MARKER, second[TOOLS_MARKER])]


def test_of_a_remote_tool_server_there_is_no_process_to_end(ended: list[tuple[str, ...]]) -> None:
    async def scene(stage: Stage) -> None:
        await stage.comes("a", REMOTE)
        await stage.goes("a")

    assert play(scene).server.configs == [entries(REMOTE)["remote"]]
    assert ended == []
