"""Which prompts may share a server, and what it is started with."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from chutes_opencode.catalog.models import Model, Price
from chutes_opencode.catalog.providers import find_provider
from chutes_opencode.engines.server_plan import Launch, ServerPlan, prepare
from chutes_opencode.errors import ConfigurationError
from chutes_opencode.opencode.binary import Binary
from chutes_opencode.opencode.config import KEY_VARIABLE, Target
from chutes_opencode.opencode.workspace import Workspace
from chutes_opencode.relay.server import Relay
from chutes_opencode.request import PromptRequest

MODEL = Model("org/model", context_length=1000, price=Price(1.0, 2.0))
REQUEST = PromptRequest(prompt="", model="org/model", system_message="")


@pytest.fixture(scope="module")
def relay() -> Iterator[Relay]:
    with Relay() as relay:
        yield relay


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path)


@pytest.fixture
def plan(relay: Relay) -> ServerPlan:
    return ServerPlan(
        owner="digest",
        request=REQUEST,
        target=Target(find_provider("chutes"), "https://chutes.test/v1", (MODEL,)),
        binary=Binary(Path("/opt/opencode"), "1.18.33"),
        inherited={"PATH": "/bin"},
        temp_root=Path("/tmp"),
        relay=relay,
    )


def config_of(launch: Launch) -> dict[str, Any]:
    config: dict[str, Any] = json.loads(launch.config)
    return config


def test_equal_plans_share_a_server(plan: ServerPlan) -> None:
    assert plan.key == replace(plan).key


def test_a_price_is_nothing_that_a_server_knows(plan: ServerPlan, workspace: Workspace) -> None:
    dearer = replace(MODEL, price=Price(3.0, 4.0))
    other = replace(plan, target=replace(plan.target, models=(dearer,)))

    assert other.key == plan.key
    assert "cost" not in prepare(plan, workspace, None).config


@pytest.mark.parametrize(
    "change",
    [
        {"owner": "another"},
        {"binary": Binary(Path("/opt/opencode"), "1.19.0")},
        {"binary": Binary(Path("/usr/bin/opencode"), "1.18.33")},
        {"inherited": {"PATH": "/usr/bin"}},
        {"temp_root": Path("/var/tmp")},
        {"relay": None},
        {"request": replace(REQUEST, env={"TOKEN": "x"})},
        {"request": replace(REQUEST, agent_name="other")},
        {"request": replace(REQUEST, system_message=None)},
        {"request": replace(REQUEST, rules_file=Path("/rules.md"))},
        {"request": replace(REQUEST, model="org/unlisted")},
    ],
    ids=str,
)
def test_whatever_else_a_server_is_started_with_parts_them(
    plan: ServerPlan, change: dict[str, Any]
) -> None:
    assert replace(plan, **change).key != plan.key


def test_another_model_in_the_catalogue_parts_them(plan: ServerPlan) -> None:
    models = (MODEL, Model("org/new"))

    assert replace(plan, target=replace(plan.target, models=models)).key != plan.key


def test_another_relay_parts_them(plan: ServerPlan) -> None:
    with Relay() as another:
        assert replace(plan, relay=another).key != plan.key


def test_a_new_relay_on_an_old_port_parts_them(plan: ServerPlan, relay: Relay) -> None:
    class Successor(Relay):
        """Stands at the URL of one that has stopped."""

        url = relay.url

    assert replace(plan, relay=Successor()).key != plan.key


@pytest.mark.parametrize("change", [{"exclusive": True}, {"prepare": lambda _: Launch("", {})}])
def test_how_it_is_used_does_not(plan: ServerPlan, change: dict[str, Any]) -> None:
    assert replace(plan, **change).key == plan.key


def test_an_environment_that_would_break_the_isolation_is_refused(plan: ServerPlan) -> None:
    with pytest.raises(ConfigurationError):
        _ = replace(plan, request=replace(REQUEST, env={"HOME": "/root"})).key


def test_opencode_asks_the_relay_with_the_lease_key(
    plan: ServerPlan, workspace: Workspace, relay: Relay
) -> None:
    with relay.lease() as lease:
        launch = prepare(plan, workspace, lease)

    options = config_of(launch)["provider"]["chutes"]["options"]
    assert options["baseURL"] == relay.url
    assert options["apiKey"] == f"{{env:{KEY_VARIABLE}}}"
    assert launch.environment[KEY_VARIABLE] == lease.key
    assert lease.key not in launch.config


def test_each_start_has_a_marker_of_its_own_for_a_system_message(
    plan: ServerPlan, workspace: Workspace
) -> None:
    launches = [prepare(plan, workspace, None) for _ in range(2)]

    prompts = [config_of(launch)["agent"]["chutes"]["prompt"] for launch in launches]
    assert prompts == [launch.marker for launch in launches]
    assert len(set(prompts)) == 2


def test_without_a_system_message_there_is_no_marker(
    plan: ServerPlan, workspace: Workspace
) -> None:
    bare = replace(plan, request=replace(REQUEST, system_message=None))

    launch = prepare(bare, workspace, None)

    assert launch.marker is None
    assert "prompt" not in config_of(launch)["agent"]["chutes"]


def test_by_the_relay_it_loads_the_plugin_that_marks_shells(
    plan: ServerPlan, workspace: Workspace
) -> None:
    launch = prepare(plan, workspace, None)

    [plugin] = config_of(launch)["plugin"]
    assert Path(plugin.removeprefix("file://")).read_text() != ""
    assert "OPENCODE_PURE" not in launch.environment


def test_without_the_relay_it_loads_no_plugin(plan: ServerPlan, workspace: Workspace) -> None:
    launch = prepare(replace(plan, relay=None), workspace, None)

    config = config_of(launch)
    assert config["plugin"] == []
    assert config["provider"]["chutes"]["options"]["baseURL"] == "https://chutes.test/v1"
    assert launch.environment["OPENCODE_PURE"] == "1"


def test_a_plan_may_prepare_everything_itself(plan: ServerPlan, workspace: Workspace) -> None:
    own = Launch("{}", {"A": "b"})

    seen = prepare(replace(plan, prepare=lambda place: own), workspace, None)

    assert seen is own


def test_no_secret_shows_in_the_repr(plan: ServerPlan, workspace: Workspace) -> None:
    lent = replace(plan, inherited={"SECRET": "hidden-value"})

    assert "hidden-value" not in repr(lent) + repr(prepare(lent, workspace, None))
