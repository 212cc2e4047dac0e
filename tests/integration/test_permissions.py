"""What the agent may do, and what of the machine reaches the model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from chutes_opencode import ChutesOpenCodeLLM, ConfigurationError, Simulator


def bash(command: str) -> dict[str, Any]:
    return {"tool": "bash", "arguments": {"command": command, "description": "d"}}


def script(*steps: dict[str, Any]) -> str:
    return json.dumps({"steps": [*steps, {"text": "end"}]})


@pytest.mark.parametrize("allowed", [True, False])
def test_a_sub_agent_has_the_permissions_of_its_agent(
    simulator: Simulator, tmp_path: Path, *, allowed: bool
) -> None:
    work = tmp_path / "home"
    task = {
        "description": "d",
        "prompt": script(bash("touch made-by-the-sub-agent")),
        "subagent_type": "general",
    }
    permission = None if allowed else {"bash": "deny"}
    llm = ChutesOpenCodeLLM("sim/script", work_dir=work, permission=permission, retries=1)

    result = llm.prompt(script({"tool": "task", "arguments": task}))

    bodies = [json.loads(request.body) for request in simulator.requests if request.body]
    subs = [exchange for exchange in result.exchanges if exchange.parent_session_id]
    assert result.result == "end"
    assert [call.tool for call in result.transcript.tool_calls] == ["task"]
    assert len(subs) == 2
    assert {exchange.parent_session_id for exchange in subs} == {result.session_id}
    assert (work / "made-by-the-sub-agent").exists() == allowed
    for body in bodies:
        assert ("bash" in [tool["function"]["name"] for tool in body["tools"]]) == allowed
    assert result.usage.num_requests == len(bodies) == 4
    assert result.cost_usd == pytest.approx(simulator.bill.total.cost_usd)


@pytest.mark.parametrize("project_rules", [True, False])
def test_the_callers_folder_is_used_as_it_is_and_nothing_outside_of_it(
    simulator: Simulator, tmp_path: Path, *, project_rules: bool
) -> None:
    home = tmp_path / "home"
    work, outside = home / "project" / "work", home / "secret.txt"
    for name in ("project/work/AGENTS.md", "project/AGENTS.md", "AGENTS.md", ".claude/CLAUDE.md"):
        (home / name).parent.mkdir(parents=True, exist_ok=True)
        (home / name).write_text(f"rules-of-{name}")
    outside.write_text("a secret")
    steps = [
        bash("pwd > here; ls -A"),
        {"tool": "read", "arguments": {"filePath": str(outside)}},
        {"tool": "write", "arguments": {"filePath": str(home / "new"), "content": "x"}},
        bash(f"cat {outside}"),
        {"tool": "write", "arguments": {"filePath": str(work / "inside"), "content": "x"}},
    ]
    llm = ChutesOpenCodeLLM(
        "sim/script", work_dir=work, project_rules=project_rules, retries=1, env={"CI": "1"}
    )

    result = llm.prompt(script(*steps))

    first, *forbidden, last = result.transcript.tool_calls
    assert (work / "here").read_text().strip() == str(work)
    assert first.output.split() == ["AGENTS.md", "here"]
    assert result.work_dir == work
    assert (last.status, (work / "inside").read_text()) == ("completed", "x")
    assert [call.status for call in forbidden] == ["error"] * 3
    for call in forbidden:
        assert call.error is not None
        assert "permission" in call.error or "rule" in call.error
        assert call.error[:40] in result.stream_result
    assert not (home / "new").exists()
    requests = b"".join(request.body for request in simulator.requests).decode()
    assert "a secret" not in requests
    assert ("rules-of-project/work/AGENTS.md" in requests) == project_rules
    for name in ("rules-of-project/AGENTS.md", "rules-of-AGENTS.md", "rules-of-.claude"):
        assert name not in requests


def test_without_a_folder_the_agent_gets_an_empty_one_that_is_gone_afterwards(
    simulator: Simulator, tmp_path: Path
) -> None:
    llm = ChutesOpenCodeLLM("sim/script", None, retries=1)

    result = llm.prompt(script(bash("pwd; ls -A | wc -l")))

    folder, count = result.transcript.tool_calls[0].output.split()
    assert (count, result.work_dir) == ("0", None)
    assert folder.startswith(str(tmp_path / "temp"))
    assert not Path(folder).exists()
    first = next(request for request in simulator.requests if request.body)
    assert "opencode" in json.loads(first.body)["messages"][0]["content"], "its own system message"


def test_an_unknown_agent_is_an_error_before_anything_is_spent(simulator: Simulator) -> None:
    with pytest.raises(ConfigurationError, match="agent"):
        ChutesOpenCodeLLM("sim/echo", extra_cli_args=("--agent", "nobody")).prompt("hello")
    assert simulator.bill.total.requests == 0
