"""The simulator as a server on 127.0.0.1: start it, ask it what it saw, stop it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

from chutes_opencode.loopback import LoopbackServer, serve
from chutes_opencode.simulator.app import SimulatorApp
from chutes_opencode.simulator.billing import Bill
from chutes_opencode.simulator.recording import RecordedRequest
from chutes_opencode.simulator.script import Scenario, load_scenario
from chutes_opencode.simulator.state import SimulatorState

DEFAULT_API_TOKEN = "cpk_simulator_0123456789abcdef"
_GRACE_SECONDS = 1

ScenarioSource = Scenario | str | Path | Mapping[str, Any] | None


class Simulator:
    """A Chutes API on 127.0.0.1, deterministic and free.

        with Simulator() as simulator:
            llm = ChutesOpenCodeLLM("sim/echo", settings=…simulator.base_url…)

    A context manager; `start` and `stop` do the same by hand. All properties may be read from any
    thread, before and after the run too.
    """

    def __init__(
        self,
        scenario: ScenarioSource = None,
        *,
        api_token: str = DEFAULT_API_TOKEN,
        port: int = 0,
    ) -> None:
        """Prepare; nothing listens before `start`.

        Args:
            scenario: what fails and how; a Scenario, a TOML or JSON file, a dict, or None.
            api_token: the key that is accepted.
            port: 0 takes a free one.

        Raises:
            ScenarioError: the scenario is malformed.
        """
        self.api_token = api_token
        self._port = port
        self._state = SimulatorState(load_scenario(scenario), api_token)
        self._server: LoopbackServer | None = None

    def __repr__(self) -> str:
        """Where it listens; the key is left out."""
        return f"Simulator({self._server.url if self._server else 'stopped'!r})"

    def __enter__(self) -> Self:
        """Start."""
        self.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        """Stop."""
        self.stop()

    def start(self) -> None:
        """Listen. Does nothing when it does already.

        Raises:
            OSError: the port cannot be bound.
        """
        if self._server is None:
            app = SimulatorApp(self._state)
            self._server = serve(app, port=self._port, grace_seconds=_GRACE_SECONDS)

    def stop(self) -> None:
        """Stop listening and end every stream, within two seconds; the records stay."""
        server, self._server = self._server, None
        if server is not None:
            server.stop()

    def reset(self) -> None:
        """Forget requests, bill, fault counts and limits, as if it had just started."""
        self._state.reset()

    @contextmanager
    def held(self) -> Iterator[None]:
        """Keep back, within a `with`, every answer that has not begun.

        So what happens while prompts are in flight can be arranged without a race against them.
        """
        self._state.gate.shut()
        try:
            yield
        finally:
            self._state.gate.open()

    @property
    def scenario(self) -> Scenario:
        """What it plays."""
        return self._state.scenario

    @property
    def management_url(self) -> str:
        """`http://127.0.0.1:PORT`, the counterpart of `https://api.chutes.ai`.

        Raises:
            RuntimeError: it is not running.
        """
        if self._server is None:
            raise RuntimeError("the simulator is not running: use `with Simulator() as simulator`")
        return self._server.url

    @property
    def base_url(self) -> str:
        """`http://127.0.0.1:PORT/v1`, the counterpart of `https://llm.chutes.ai/v1`."""
        return f"{self.management_url}/v1"

    @property
    def requests(self) -> tuple[RecordedRequest, ...]:
        """The latest requests (10,000, or 128 MiB of bodies), oldest first."""
        return self._state.recorder.all()

    @property
    def bill(self) -> Bill:
        """What was used and what it costs."""
        return self._state.ledger.bill()


def run_forever(
    scenario: ScenarioSource = None,
    *,
    port: int = 0,
    api_token: str = DEFAULT_API_TOKEN,
    on_ready: Callable[[Simulator], None] | None = None,
    until: threading.Event | None = None,
) -> None:
    """Run a simulator until `until` is set or Ctrl-C raises KeyboardInterrupt in this thread.

    Args:
        scenario: as for Simulator.
        port: as for Simulator.
        api_token: as for Simulator.
        on_ready: called once with the running simulator, to tell its URLs.
        until: None waits for ever.

    Raises:
        ScenarioError: the scenario is malformed.
        OSError: the port cannot be bound.
    """
    with Simulator(scenario, api_token=api_token, port=port) as simulator:
        if on_ready is not None:
            on_ready(simulator)
        (until or threading.Event()).wait()
