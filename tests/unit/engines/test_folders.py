"""Which folder a prompt works in."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from chutes_opencode.engines.folders import Folders, real_folder
from chutes_opencode.errors import ConfigurationError
from chutes_opencode.opencode.api import ApiError, ServerGoneError
from chutes_opencode.request import McpServer, PromptRequest
from tests.unit.engines.tool_servers import OTHER, REMOTE, FakeServer, settle


class Stage:
    """The folders of a server that is none."""

    def __init__(self, root: Path) -> None:
        root.mkdir()
        self.root = root
        self.server = FakeServer()
        self.folders = Folders(root, self.server)

    def place(self, **fields: Any) -> Any:
        return self.folders.place(PromptRequest(**{"prompt": "", "model": "m"} | fields))

    async def used(self, **fields: Any) -> Path:
        """Run a prompt that leaves a file; return its folder."""
        async with self.place(**fields) as folder:
            (folder / "left").write_text("x")
        return Path(folder)


@pytest.fixture
def play(tmp_path: Path) -> Callable[[Callable[[Stage], Awaitable[None]]], Stage]:
    """Play a scene; afterwards nothing runs on."""

    def run(scene: Callable[[Stage], Awaitable[None]]) -> Stage:
        async def main() -> Stage:
            stage = Stage(tmp_path / "workspace")
            await scene(stage)
            await asyncio.wait_for(stage.folders.close(), 60)
            assert asyncio.all_tasks() == {asyncio.current_task()}
            return stage

        return asyncio.run(main())

    return run


Play = Callable[[Callable[[Stage], Awaitable[None]]], Stage]


def test_prompts_that_cannot_write_share_one_folder(play: Play) -> None:
    async def scene(stage: Stage) -> None:
        chat = {"builtin_tools": False}
        async with stage.place(**chat) as one, stage.place(**chat) as other:
            assert one == other == stage.folders.neutral
            assert list(one.iterdir()) == []

    stage = play(scene)

    assert stage.folders.count == 1
    assert stage.server.calls == []


@pytest.mark.parametrize(
    "fields",
    [{}, {"tools": (REMOTE,)}, {"builtin_tools": False, "tools": (REMOTE,)}],
    ids=["builtin tools", "both", "tool servers"],
)
def test_a_prompt_that_can_write_has_a_folder_of_its_own(
    play: Play, fields: dict[str, Any]
) -> None:
    async def scene(stage: Stage) -> None:
        async with stage.place(**fields) as one, stage.place(**fields) as other:
            assert len({one, other, stage.folders.neutral}) == 3
            assert stage.root in one.parents
            assert (list(one.iterdir()), list(other.iterdir())) == ([], [])

    assert play(scene).folders.count == 2


def test_a_folder_is_used_again_and_counted_once(play: Play) -> None:
    async def scene(stage: Stage) -> None:
        folders = {await stage.used() for _ in range(5)}
        assert len(folders) == 1
        assert list(folders.pop().iterdir()) == []

    assert play(scene).folders.count == 1


def test_of_many_prompts_at_once_each_has_a_folder_of_its_own_which_others_use_later(
    play: Play,
) -> None:
    async def scene(stage: Stage) -> None:
        gate = asyncio.Barrier(50)

        async def prompt() -> Path:
            async with stage.place() as folder:
                (folder / "left").write_text("x")
                await gate.wait()
                assert [path.name for path in folder.iterdir()] == ["left"]
            return Path(folder)

        first = await asyncio.gather(*(prompt() for _ in range(50)))
        second = await asyncio.gather(*(prompt() for _ in range(50)))
        assert len({*first}) == 50
        assert {*first} == {*second}

    assert play(scene).folders.count == 50


def test_tool_servers_come_and_go_with_the_prompt(play: Play) -> None:
    async def scene(stage: Stage) -> None:
        async with stage.place(tools=(REMOTE, OTHER)) as folder:
            assert stage.server.tools(folder) == {"remote", "other"}
        assert stage.server.tools(folder) == set()
        async with stage.place() as again:
            assert (again, stage.server.tools(again)) == (folder, set())

    play(scene)


def test_a_folder_with_a_tool_server_that_will_not_go_is_not_used_again(play: Play) -> None:
    async def scene(stage: Stage) -> None:
        stage.server.remove_errors = [ApiError(500, {})]
        folder = await stage.used(tools=(REMOTE,))
        assert not folder.exists()
        assert await stage.used() != folder

    assert play(scene).folders.count == 2


def test_a_refused_tool_server_is_an_error_and_the_folder_is_free_again(play: Play) -> None:
    async def scene(stage: Stage) -> None:
        stage.server.add_error = ApiError(400, {})
        with pytest.raises(ApiError):
            await stage.used(tools=(REMOTE,))
        await settle()
        await stage.folders.close()
        async with stage.place() as folder:
            assert stage.server.tools(folder) == set()

    assert play(scene).folders.count == 1


def test_a_tool_server_that_cannot_be_written_takes_no_folder(play: Play) -> None:
    async def scene(stage: Stage) -> None:
        with pytest.raises(ConfigurationError, match="needs either url= or command="):
            await stage.used(tools=(McpServer("nothing"),))

    assert play(scene).folders.count == 0


def test_a_callers_folder_is_used_as_it_is(play: Play, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "file").write_text("x")

    async def scene(stage: Stage) -> None:
        assert await stage.used(work_dir=tmp_path / "mine") == tmp_path / "mine"
        assert (
            await stage.used(work_dir=tmp_path / "mine", builtin_tools=False) == tmp_path / "mine"
        )

    assert play(scene).folders.count == 1
    assert sorted(path.name for path in (tmp_path / "mine").iterdir()) == ["file", "left"]


def test_a_callers_folder_has_one_name_however_it_is_called(
    play: Play, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "mine")
    monkeypatch.chdir(tmp_path)
    names = (Path("mine"), Path("link"), tmp_path / "mine" / ".." / "mine", Path("./link/"))

    async def scene(stage: Stage) -> None:
        assert {await stage.used(work_dir=name) for name in names} == {tmp_path / "mine"}

    assert play(scene).folders.count == 1


@pytest.mark.parametrize("make", [lambda path: None, Path.touch], ids=["nothing", "a file"])
def test_what_is_no_folder_is_refused(tmp_path: Path, make: Callable[[Path], object]) -> None:
    make(tmp_path / "mine")

    with pytest.raises(ConfigurationError, match=r"work_dir .*mine is no folder") as caught:
        real_folder(tmp_path / "mine")

    assert caught.value.hint == "Make the folder, or name another."


def test_a_link_that_goes_in_circles_is_refused(tmp_path: Path) -> None:
    (tmp_path / "mine").symlink_to(tmp_path / "mine")

    with pytest.raises(ConfigurationError, match="is no folder"):
        real_folder(tmp_path / "mine")


def test_prompts_in_one_folder_share_tool_servers_or_wait(play: Play, tmp_path: Path) -> None:
    order: list[str] = []

    async def scene(stage: Stage) -> None:
        async def prompt(name: str, *tools: McpServer) -> None:
            async with stage.place(work_dir=tmp_path, tools=tools) as folder:
                order.append(f"{name} {sorted(stage.server.tools(folder))}")
                await settle()

        async with stage.place(work_dir=tmp_path, tools=(REMOTE,)):
            names = (("a", REMOTE), ("b", OTHER), ("c", REMOTE))
            tasks = [asyncio.create_task(prompt(name, tool)) for name, tool in names]
            tasks.append(asyncio.create_task(prompt("d")))
            await settle()
            assert order == ["a ['remote']"]
        await asyncio.gather(*tasks)

    play(scene)

    assert order == ["a ['remote']", "b ['other']", "c ['remote']", "d []"]


def test_prompts_in_different_folders_do_not_wait_for_each_other(
    play: Play, tmp_path: Path
) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()

    async def scene(stage: Stage) -> None:
        async with AsyncExitStack() as stack:
            for name, tool in (("one", REMOTE), ("two", OTHER)):
                place = stage.place(work_dir=tmp_path / name, tools=(tool,))
                folder = await stack.enter_async_context(place)
                assert stage.server.tools(folder) == {tool.name}

    play(scene)


@pytest.mark.parametrize("tools", [(), (REMOTE,)], ids=["no tool servers", "tool servers"])
@pytest.mark.parametrize("turns", range(25))
def test_a_prompt_cancelled_at_any_moment_leaves_a_folder_for_the_next(
    play: Play, turns: int, tools: tuple[McpServer, ...]
) -> None:
    async def scene(stage: Stage) -> None:
        task = asyncio.create_task(stage.used(tools=tools))
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
        await stage.folders.close()
        async with stage.place() as folder:
            assert list(folder.iterdir()) == []
            assert stage.server.tools(folder) == set()
            assert list(folder.parent.parent.iterdir()) == [folder.parent]

    assert play(scene).folders.count == 1


def test_a_cancelled_prompt_does_not_wait_for_its_tool_server(play: Play) -> None:
    async def scene(stage: Stage) -> None:
        stage.server.hold.clear()
        task = asyncio.create_task(stage.used(tools=(REMOTE,)))
        await settle()
        task.cancel()
        await settle()
        assert task.cancelled()
        async with stage.place() as other:  # the first is not free yet
            assert stage.server.tools(other) == set()
        stage.server.hold.set()

    assert play(scene).folders.count == 2


def test_a_prompt_that_fails_leaves_a_folder_for_the_next(play: Play) -> None:
    async def scene(stage: Stage) -> None:
        place = stage.place()
        folder = await place.__aenter__()
        (folder / "left").write_text("x")
        failure = ServerGoneError()
        assert not await place.__aexit__(ServerGoneError, failure, None)
        await stage.folders.close()
        async with stage.place() as again:
            assert (again, list(again.iterdir())) == (folder, [])

    play(scene)
