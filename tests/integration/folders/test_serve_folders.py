"""The folders of a warm server: what one prompt leaves there, the next does not meet."""

from __future__ import annotations

import asyncio
import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest

from chutes_opencode import McpServer
from chutes_opencode.engines.leftovers import end_leftovers
from tests.integration.folders.stage import Prompted, Stage, bash, call, on_loop, tool_server
from tests.patience import wait_until

pytestmark = pytest.mark.timeout(900)


def without_chance(requests: list[dict[str, Any]]) -> str:
    """Return what two prompts must have in common: all but the date and the ids of tool calls."""
    return re.sub(r"Today's date: [\w ]+|call_\w+", "", json.dumps(requests))


DIRT = """
git init -q . && git -c user.email=a@b -c user.name=x commit -q --allow-empty -m x
echo '{"permission":{"bash":"deny"},"agent":{"chutes":{"prompt":"EVIL"}},"instructions":["A.md"]}' \
    > opencode.json
mkdir -p .opencode/plugin .opencode/command sub
echo 'export const E = async () => { throw new Error("EVIL") }' > .opencode/plugin/evil.js
cp opencode.json .opencode/opencode.json
for name in A.md AGENTS.md CLAUDE.md CONTEXT.md; do echo EVIL > $name; done
chmod 500 sub .git
ls -a | wc -l
"""


def test_a_used_folder_is_to_opencode_like_a_new_one(stage: Stage) -> None:
    async def scene() -> None:
        async def look(folder: Path) -> Prompted:
            file = str(folder / "a.txt")
            return await stage.prompt(
                folder,
                bash("pwd; ls -A; git status 2>/dev/null || echo no repository"),
                call("read", filePath=file),
                call("write", filePath=file, content="one\n"),
                call("edit", filePath=file, oldString="one", newString="two"),
                call("read", filePath=file),
                bash("cat a.txt; cat opencode.json 2>/dev/null || echo no config"),
            )

        async with stage.place() as folder:
            new = await look(folder)
        async with stage.place() as again:
            assert again == folder
            dirty = await stage.prompt(folder, bash(DIRT), bash("cd sub; pwd"), bash("pwd"))
            # Even the next prompt in the dirty folder is not led by what is written there.
            inside = await stage.prompt(folder, bash("git log --oneline | wc -l"))
        async with stage.place() as again:
            assert again == folder
            used = await look(folder)

        assert [status for _, status, _ in dirty.calls] == ["completed"] * 3
        assert dirty.calls[2][2] == f"{folder}\n"
        assert inside.calls == [("bash", "completed", "1\n")]
        assert "EVIL" not in json.dumps(inside.requests)
        assert [status for _, status, _ in new.calls][1:5] == ["error", *["completed"] * 3]
        (first,), (second,) = new.requests.values(), used.requests.values()
        assert len(first) == 7
        assert without_chance(first) == without_chance(second)

    on_loop(scene())


def test_prompts_at_once_have_folders_of_their_own_which_others_use_after_them(
    stage: Stage,
) -> None:
    async def scene() -> None:
        async def one(number: int) -> None:
            async with stage.place() as folder:
                prompted = await stage.prompt(folder, bash(f"echo {number} >> n; cat n; pwd"))
                assert prompted.calls == [("bash", "completed", f"{number}\n{folder}\n")]

        await asyncio.gather(*(one(number) for number in range(4)))
        seen = stage.server.folders.count
        await asyncio.gather(*(one(number) for number in range(4, 8)))
        assert stage.server.folders.count == seen

    on_loop(scene())


def test_a_tool_server_is_there_for_one_prompt_and_gone_with_all_that_it_started(
    stage: Stage,
) -> None:
    fields: dict[str, Any] = {"tools": (tool_server(),), "builtin_tools": False}

    async def scene() -> None:
        async with stage.place(**fields) as folder:
            prompted = await stage.prompt(folder, call("my_tools_look"), **fields)
            await stage.sleep_only("7001")
        assert stage.asleep() == set()
        assert prompted.calls == [("my_tools_look", "completed", f"{{env:HOME}}['', '']{folder}")]
        assert prompted.tools() == ["my_tools_look", "my_tools_other"]
        async with stage.place() as again:
            assert again == folder
            after = await stage.prompt(folder)
        assert not [name for name in after.tools() if "my_tools" in name]

    on_loop(scene())


def test_a_tool_server_whose_prompt_is_cancelled_does_not_come_up_for_the_next(
    stage: Stage, tmp_path: Path
) -> None:
    script = f"touch started; sleep 7002; exec {sys.executable} -c x"
    slow = tool_server("slow", command=("sh", "-c", script))
    fields: dict[str, Any] = {"work_dir": tmp_path, "tools": (slow,)}

    async def scene() -> None:
        async def enter() -> None:
            async with stage.place(**fields):
                raise AssertionError("it cannot come up")

        task = asyncio.create_task(enter())
        await asyncio.to_thread(wait_until, (tmp_path / "started").exists)
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled()
        async with stage.place(work_dir=tmp_path) as folder:
            assert stage.asleep() == set()
            assert not [name for name in (await stage.prompt(folder)).tools() if "slow" in name]

    on_loop(scene())


def test_prompts_in_one_folder_see_their_own_tool_servers_only(
    stage: Stage, tmp_path: Path
) -> None:
    async def scene() -> None:
        async def one(server: McpServer) -> None:
            fields: dict[str, Any] = {
                "work_dir": tmp_path, "tools": (server,), "builtin_tools": False
            }  # fmt: skip
            async with stage.place(**fields) as folder:
                prompted = await stage.prompt(folder, permission="allow")
            names = [name for name in prompted.tools() if name.endswith(("_look", "_other"))]
            assert names == [f"{server.name}_look", f"{server.name}_other"]

        await asyncio.gather(*(one(tool_server(name)) for name in ("one", "two", "one")))

    on_loop(scene())


@pytest.mark.parametrize(
    ("server", "said"),
    [
        (McpServer("gone", command=("/no/such/program",)), []),
        (McpServer("ends", command=("false",)), []),
        (McpServer("refuses", url="http://127.0.0.1:9/mcp"), []),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
def test_a_tool_server_that_does_not_come_up_is_no_error_but_missing(
    stage: Stage, server: McpServer, said: list[str]
) -> None:
    async def scene() -> list[str]:
        fields: dict[str, Any] = {"tools": (server,), "builtin_tools": False}
        async with stage.place(**fields) as folder:
            return (await stage.prompt(folder, **fields)).tools()

    assert on_loop(scene()) == said


BUILTIN = ["edit", "glob", "grep", "read", "skill", "task", "todowrite", "webfetch", "write"]


@pytest.mark.parametrize(
    ("fields", "offered", "handed_on"),
    [
        ({}, ["bash", *BUILTIN], ["bash", *(name for name in BUILTIN if name != "task")]),
        (
            {"permission": {"bash": "deny", "web*": "deny", "edit": {"*.md": "deny"}}},
            [name for name in BUILTIN if name != "webfetch"],
            [name for name in BUILTIN if name not in ("task", "webfetch")],
        ),
        (
            {"permission": {"edit": {"*": "deny", "*.txt": "allow"}}},
            ["bash", *BUILTIN],
            # Here a sub-agent may less than with `run`: see `holds_for_sub_agents`.
            [name for name in ["bash", *BUILTIN] if name not in ("edit", "task", "write")],
        ),
        ({"permission": {"*": "deny", "read": "allow"}}, ["read"], None),
        ({"permission": "deny"}, [], None),
    ],
    ids=["default", "denials", "an exception to a denial", "one tool", "nothing"],
)
def test_a_sessions_rules_hide_tools_from_it_and_from_its_sub_agents(
    stage: Stage, fields: dict[str, Any], offered: list[str], handed_on: list[str] | None
) -> None:
    task = call("task", description="d", prompt='{"steps": []}', subagent_type="general")

    async def scene() -> None:
        async with stage.place(**fields) as folder:
            prompted = await stage.prompt(folder, task, **fields)
        _, *subs = prompted.requests
        assert prompted.tools() == offered
        assert [prompted.tools(sub) for sub in subs] == ([] if handed_on is None else [handed_on])

    on_loop(scene())


def test_outside_of_its_folder_an_agent_reads_only_what_was_cut_from_its_own_outputs(
    stage: Stage, tmp_path: Path
) -> None:
    (tmp_path / "secret").write_text("theirs")

    async def scene() -> None:
        async with stage.place() as folder:
            long = await stage.prompt(folder, bash("seq 100000"))
            found = re.search(r"saved to: (\S+)", long.calls[0][2])
            assert found is not None
            # On a busy machine opencode may keep less than the command has written (seen).
            lines = Path(found[1]).read_text().splitlines()
            cut = call("read", filePath=found[1], offset=len(lines))
            secret = call("read", filePath=str(tmp_path / "secret"))
            ((_, *inside), (_, *outside)) = (await stage.prompt(folder, cut, secret)).calls
        assert (inside[0], f"{len(lines)}: {lines[-1]}" in inside[1]) == ("completed", True)
        assert (outside[0], "theirs" in outside[1]) == ("error", False)

    on_loop(scene())


def test_a_shell_does_not_see_the_servers_password_nor_the_key(stage: Stage) -> None:
    async def scene() -> str:
        async with stage.place() as folder:
            prompted = await stage.prompt(folder, bash("env"))
        return prompted.calls[0][2]

    variables = dict(line.split("=", 1) for line in on_loop(scene()).splitlines())
    assert variables["OPENCODE_SERVER_PASSWORD"] == variables["CHUTES_OPENCODE_LEASE"] == ""
    assert variables["CHUTES_OPENCODE_SESSION"].startswith("ses_")


def test_what_a_prompts_shells_leave_running_ends_with_it_and_nothing_of_its_neighbour(
    stage: Stage,
) -> None:
    leave = "sleep {0}1 >/dev/null 2>&1 & setsid -f sleep {0}2 >/dev/null 2>&1"

    async def scene() -> None:
        async with stage.place() as one, stage.place() as other:
            mine = await stage.prompt(one, bash(leave.format(71)))
            theirs = await stage.prompt(other, bash(leave.format(72)))
            await stage.sleep_only("711", "712", "721", "722")
            assert await end_leftovers([mine.session_id]) == 2
            assert stage.asleep() == {"721", "722"}
            assert await end_leftovers([theirs.session_id]) == 2

    on_loop(scene())


def test_a_sub_agents_shells_carry_its_own_session(stage: Stage) -> None:
    script = json.dumps({"steps": [bash("sleep 731 >/dev/null 2>&1 & echo"), {"text": "end"}]})
    task = call("task", description="d", prompt=script, subagent_type="general")

    async def scene() -> None:
        async with stage.place() as folder:
            prompted = await stage.prompt(folder, task)
            own, sub = prompted.requests
            await stage.sleep_only("731")
            assert await end_leftovers([own]) == 0
            assert await end_leftovers([own, sub]) == 1

    on_loop(scene())


def test_an_aborted_shell_is_ended_with_all_that_it_started(stage: Stage) -> None:
    stubborn = "setsid sleep 741 & (trap '' TERM; sleep 742 & sleep 743) & trap '' TERM; sleep 744"

    async def scene() -> None:
        async with stage.place() as folder:
            session_id = await stage.session(folder)
            task = asyncio.create_task(stage.send(session_id, bash(stubborn)))
            await stage.sleep_only("741", "742", "743", "744")
            await stage.server.api.abort(session_id)
            await task
            # Those in a session of their own opencode leaves, the stubborn for some seconds.
            assert "741" in stage.asleep()
            await end_leftovers([session_id])
            assert stage.asleep() == set()
            assert await stage.calls(session_id) == [("bash", "error", "Tool execution aborted")]

    on_loop(scene())
