"""The simulator in a process of its own, with a list of models that grows."""

from __future__ import annotations

from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

from chutes_opencode.loopback import serve
from chutes_opencode.simulator import DEFAULT_API_TOKEN, load_scenario
from chutes_opencode.simulator.app import SimulatorApp
from chutes_opencode.simulator.models import ModelTable
from chutes_opencode.simulator.state import SimulatorState
from scripts.engine_bench.worker import receive

FAST = "Qwen/Qwen3-32B-TEE"
SLOW = "sim/arithmetic"  # answers like FAST, but for the rule: it echoes in 6 s
SCENARIO = {
    "rules": [
        {"model": SLOW, "reply": "echo", "first_byte_delay_s": 1.0, "token_delay_s": 0.245},
    ]
}


@dataclass(frozen=True, slots=True)
class Upstream:
    """Where a provider's API is.

    Attributes:
        base_url: Its root, with `/v1`.
        api_token: The key that it takes.
    """

    base_url: str
    api_token: str


class GrowingTable(ModelTable):
    """Models of which there is a new one each time that somebody asks for the list."""

    def listing(self) -> dict[str, Any]:
        """Return the list, after adding a model."""
        row = {**self.rows[0], "id": f"sim/new-{len(self.rows)}"}
        self.rows = (*self.rows, row)
        return super().listing()


def run_simulator(connection: Connection) -> None:
    """Be the simulator: tell the address, go on until the pipe ends."""
    state = SimulatorState(load_scenario(SCENARIO), DEFAULT_API_TOKEN)
    state.table = GrowingTable()
    with serve(SimulatorApp(state), port=0, grace_seconds=1) as server:
        connection.send(Upstream(f"{server.url}/v1", DEFAULT_API_TOKEN))
        receive(connection)
