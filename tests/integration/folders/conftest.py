"""One server for all tests of this folder; the model is the simulator, asked without the relay."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from chutes_opencode import Simulator
from chutes_opencode.catalog.providers import find_provider
from chutes_opencode.engines.leftovers import write_shell_plugin
from chutes_opencode.engines.server import Server
from chutes_opencode.engines.server_plan import Launch, ServerPlan
from chutes_opencode.opencode.binary import Binary
from chutes_opencode.opencode.config import Target, build_config, key_placeholder, render_config
from chutes_opencode.opencode.workspace import Workspace, build_environment
from tests.integration.folders.stage import Stage, asked, on_loop
from tests.patience import PROCESS_SECONDS


@pytest.fixture(scope="package")
def stage(opencode: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """One server for all tests of this folder."""
    with Simulator() as simulator:
        target = Target(find_provider("chutes"), simulator.base_url)

        def prepare(workspace: Workspace) -> Launch:
            placeholder = key_placeholder()
            plugin = write_shell_plugin(workspace.root)
            config = build_config(asked(), target, plugin=plugin, key=placeholder, patient=True)
            environment = build_environment(
                workspace,
                {"PATH": os.environ["PATH"]},
                {},
                key=simulator.api_token,
                output_ceiling=32_000,
            )
            return Launch(render_config(config, key=placeholder), environment)

        plan = ServerPlan(
            owner="nobody",
            request=asked(),
            target=target,
            binary=Binary(opencode, "1"),
            inherited={},
            temp_root=tmp_path_factory.mktemp("servers"),
            prepare=prepare,
        )
        server = on_loop(Server.start(plan, seconds=PROCESS_SECONDS))
        try:
            yield Stage(server, simulator)
        finally:
            root = server.workspace.root
            on_loop(server.stop())
            assert not root.exists()


@pytest.fixture(autouse=True)
def nothing_is_left(stage: Stage) -> Iterator[None]:
    """Fail a test after which a process of a tool runs on; the server itself does."""
    yield
    assert stage.asleep() == set()
