"""What opencode keeps of cut tool outputs: for the agent while it works, and no longer."""

from __future__ import annotations

import json
from typing import Any

from chutes_opencode import ChutesOpenCodeLLM, Simulator
from chutes_opencode.engines.outputs import outputs_folder
from chutes_opencode.engines.pool import shared_pool

BIG = {"tool": "bash", "arguments": {"command": "seq 1 20000", "description": "d"}}
LOOK = {
    "tool": "bash",
    "arguments": {"command": "sleep 1; ls ~/.local/share/opencode/tool-output", "description": "d"},
}


def script(*steps: dict[str, Any]) -> str:
    return json.dumps({"steps": steps})


def test_a_cut_output_lasts_as_long_as_its_prompt(simulator: Simulator) -> None:
    sub = {"description": "d", "subagent_type": "general", "prompt": f"sub {script(BIG)}"}
    with ChutesOpenCodeLLM("sim/script", engine="serve") as llm:
        result = llm.prompt(script(BIG, LOOK, {"tool": "task", "arguments": sub}, LOOK))

        assert result.success
        seen = [said.split() for said in result.stream_result.split("[Tool Result]\n")[1:]]
        assert seen[0][:2] == ["...output", "truncated..."]
        assert seen[1][0].startswith("tool_"), "the agent may look at it"
        assert len(set(seen[3]) & set(seen[1])) >= 1, "as long as it works"
        (held,) = shared_pool()._held
        folder = outputs_folder(held.server.workspace)
        assert not folder.exists() or list(folder.iterdir()) == []
