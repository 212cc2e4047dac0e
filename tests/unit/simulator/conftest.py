"""A running simulator, and a way to ask it."""

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import httpx
import pytest

from chutes_opencode.simulator import Simulator
from tests import patience
from tests.patience import WAIT_SECONDS

Ask = Callable[..., httpx.Response]
Post = Callable[[str], httpx.Response]


@pytest.fixture(scope="package")
def running() -> Iterator[Simulator]:
    with Simulator() as simulator:
        yield simulator


@pytest.fixture
def simulator(running: Simulator) -> Simulator:
    """A simulator without a scenario that has seen nothing yet."""
    running.reset()
    return running


@pytest.fixture
def asking() -> Iterator[Callable[[Simulator], Ask]]:
    """Make of a simulator a function that sends it a chat completion request."""
    with ExitStack() as stack:

        def make(simulator: Simulator) -> Ask:
            client = stack.enter_context(
                httpx.Client(trust_env=False, verify=False, timeout=WAIT_SECONDS)
            )

            def ask(model: str, text: str = "hello", **body: Any) -> httpx.Response:
                headers = {"authorization": f"Bearer {simulator.api_token}"}
                headers |= body.pop("headers", {})
                payload = {"model": model, "messages": [{"role": "user", "content": text}], **body}
                url = f"{simulator.base_url}/chat/completions"
                return client.post(url, json=payload, headers=headers)

            return ask

        yield make


@pytest.fixture
def ask(simulator: Simulator, asking: Callable[[Simulator], Ask]) -> Ask:
    """Send the simulator a chat completion request."""
    return asking(simulator)


@pytest.fixture
def post(simulator: Simulator) -> Iterator[Post]:
    """Post a body as it is."""
    headers = {"authorization": f"Bearer {simulator.api_token}"}
    url = f"{simulator.base_url}/chat/completions"
    with httpx.Client(
        trust_env=False, verify=False, timeout=WAIT_SECONDS, headers=headers
    ) as client:
        yield lambda body: client.post(url, content=body.encode())


@pytest.fixture
def chunks() -> Callable[[httpx.Response], list[Any]]:
    """Parse the events of a whole stream; [DONE] must be the last."""

    def parse(response: httpx.Response) -> list[Any]:
        lines = [line for line in response.text.split("\n\n") if line]
        assert lines.pop() == "data: [DONE]"
        return [json.loads(line.removeprefix("data: ")) for line in lines]

    return parse


@pytest.fixture
def wait_until() -> Callable[[Callable[[], bool]], None]:
    """Wait for a condition."""
    return patience.wait_until
