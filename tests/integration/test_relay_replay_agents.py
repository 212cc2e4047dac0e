"""Agents that name absolute paths, piece by piece as models do: their runs are replayed too."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from chutes_opencode import ChutesOpenCodeLLM, QueryResult, Usage
from chutes_opencode.loopback import Message, Receive, Scope, Send, serve
from chutes_opencode.simulator.app import SimulatorApp
from chutes_opencode.simulator.script import Scenario
from chutes_opencode.simulator.server import DEFAULT_API_TOKEN
from chutes_opencode.simulator.state import SimulatorState

# Stands in a script for the agent's folder, which only the request tells.
WORK = "@WORK@"
FOLDER = re.compile(rb"Working directory: (.*?)\\n")
# Of a file in which opencode keeps a tool's output that is too long for the model.
TOOL_ID = re.compile(r"tool_\w{26}")
SCHEMA = {
    "type": "object",
    "properties": {"answer": {"type": "integer"}},
    "required": ["answer"],
}


class Provider:
    """The simulator, whose model knows the agent's folder as models do: from the system message."""

    def __init__(self) -> None:
        self.state = SimulatorState(Scenario(), DEFAULT_API_TOKEN)
        self._app = SimulatorApp(self.state)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        body, more = b"", True
        while more:
            message = await receive()
            body, more = body + message.get("body", b""), message.get("more_body", False)
        found = FOLDER.search(body)
        told = body if found is None else body.replace(WORK.encode(), found[1])
        parts: list[Message] = [{"type": "http.request", "body": told, "more_body": False}]

        async def rest() -> Message:
            return parts.pop() if parts else await receive()

        await self._app(scope, rest, send)

    @property
    def asked(self) -> list[Any]:
        """Bodies of the model requests so far."""
        return [json.loads(row.body) for row in self.state.recorder.all() if row.method == "POST"]

    @property
    def cost_usd(self) -> float:
        return self.state.ledger.bill().total.cost_usd


@pytest.fixture
def provider(temp_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Provider]:
    provider = Provider()
    with serve(provider) as server:
        monkeypatch.setenv("CHUTES_BASE_URL", f"{server.url}/v1")
        monkeypatch.setenv("CHUTES_API_TOKEN", DEFAULT_API_TOKEN)
        yield provider


def tool(name: str, **arguments: Any) -> dict[str, Any]:
    return {"tool": name, "arguments": arguments}


def script(*steps: dict[str, Any]) -> str:
    return json.dumps({"steps": steps})


def outputs(result: QueryResult) -> list[tuple[str, str]]:
    """What each tool call came to, without what is another in each run."""
    root = str(Path(folder_of(result)).parent)
    return [
        (call.status, TOOL_ID.sub("", (call.output or str(call.error)).replace(root, "")))
        for call in result.transcript.tool_calls
    ]


def folder_of(result: QueryResult) -> str:
    """The agent's folder, from its first tool call."""
    return str(Path(result.transcript.tool_calls[0].input["filePath"]).parent)


def assert_replayed(result: QueryResult, first: QueryResult) -> None:
    assert (first.success, first.replayed) == (True, False)
    assert (result.success, result.replayed, result.cost_usd) == (True, True, 0.0)
    assert replace(result.usage, num_turns=0) == Usage()
    assert result.session_id != first.session_id


def test_an_agent_and_its_sub_agent_work_again_in_todays_folder(
    provider: Provider, tmp_path: Path
) -> None:
    sub = script(
        {**tool("write", filePath=f"{WORK}/sub.txt", content=f'{{"in": "{WORK}"}}')},
        {"text": f"wrote {WORK}/sub.txt"},
    )
    prompt = script(
        {"reasoning": f"I am in {WORK}.", **tool("write", filePath=f"{WORK}/a", content="4\n2")},
        {
            "text": "Reading.",
            "tools": [
                tool("read", filePath=f"{WORK}/a"),
                tool("bash", command=f"cat '{WORK}/a'; seq 3000", description="d"),
            ],
        },
        tool("task", description="d", prompt=sub, subagent_type="general"),
        tool("read", filePath=f"{WORK}/sub.txt"),
        {"reasoning": "Done.", "text": f"It is in {WORK}/a."},
    )
    llm = ChutesOpenCodeLLM("sim/script", cache=tmp_path / "cache", retries=1)

    first = llm.prompt(prompt)
    asked, cost_usd = len(provider.asked), provider.cost_usd
    again = llm.prompt(prompt)

    assert_replayed(again, first)
    assert asked == len(provider.asked) == first.usage.num_requests == 7
    assert first.cost_usd == pytest.approx(cost_usd)
    assert [call.tool for call in again.transcript.tool_calls] == [
        "write", "read", "bash", "task", "read",
    ]  # fmt: skip
    assert {status for status, _ in outputs(again)} == {"completed"}
    assert folder_of(again) != folder_of(first)
    assert outputs(again)[:3] == outputs(first)[:3]
    assert TOOL_ID.search(again.transcript.tool_calls[2].output), "it was too long"
    assert folder_of(again) in again.transcript.tool_calls[4].output, "what the sub-agent wrote"
    assert again.result == f"It is in {folder_of(again)}/a."
    assert f"I am in {folder_of(again)}." in again.stream_result
    assert len([row for row in again.exchanges if row.parent_session_id]) == 2
    assert not llm.prompt(prompt, sample_index=1).replayed
    for path in (tmp_path / "cache").rglob("*.exchange"):
        assert b"/chutes-opencode-" not in path.read_bytes()


def test_an_agent_s_answer_that_had_to_be_mended_is_replayed_with_its_repair_turn(
    provider: Provider, tmp_path: Path
) -> None:
    # The repair turn quotes the answer, which tells the model what to say then.
    prompt = script(
        tool("write", filePath=f"{WORK}/a", content="x"),
        {"text": script(tool("read", filePath=f"{WORK}/a"), {"text": '{"answer": 7}'})},
    )
    llm = ChutesOpenCodeLLM("sim/script", cache=tmp_path / "cache", retries=1)

    first = llm.prompt(prompt, output_schema=SCHEMA)
    again = llm.prompt(prompt, output_schema=SCHEMA)

    assert_replayed(again, first)
    assert len(provider.asked) == first.usage.num_requests == 4
    assert again.structured == first.structured == {"answer": 7}
    assert [attempt.scope for attempt in again.attempts] == ["prompt", "repair"]


def test_a_history_is_part_of_what_is_asked(provider: Provider, tmp_path: Path) -> None:
    said = [
        {"role": "user", "content": "What is 6 * 7?"},
        {"role": "assistant", "content": "It is 42."},
        {"role": "user", "content": script({"text": "As I said."})},
    ]
    other = [said[0], {"role": "assistant", "content": "It is 43."}, said[2]]
    llm = ChutesOpenCodeLLM("sim/script", cache=tmp_path / "cache", retries=1)

    first, again = llm.prompt(messages=said), llm.prompt(messages=said)

    assert_replayed(again, first)
    assert again.result == "As I said."
    assert len(provider.asked) == 1
    assert not llm.prompt(messages=other).replayed
