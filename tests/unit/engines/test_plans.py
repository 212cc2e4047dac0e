"""Which server a prompt needs."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from chutes_opencode.catalog.models import Model, Price
from chutes_opencode.catalog.providers import find_provider
from chutes_opencode.engines.plans import Plans
from chutes_opencode.opencode.binary import Binary
from chutes_opencode.opencode.config import KEY_VARIABLE, Target, permission_rules
from chutes_opencode.opencode.workspace import Workspace
from chutes_opencode.relay.server import Relay
from chutes_opencode.request import (
    ChatMessage,
    FilePart,
    McpServer,
    Params,
    PromptRequest,
)

KEY = "cpk_unit.test.key.of.nobody"
MODELS = (Model("org/b", price=Price(1.0, 2.0)), Model("org/a", price=Price(3.0, 4.0)))
TARGET = Target(find_provider("chutes"), "https://chutes.test/v1", MODELS)
REQUEST = PromptRequest(prompt="hello", model="org/b", system_message="Be brief.")


@pytest.fixture(scope="module")
def relay() -> Iterator[Relay]:
    with Relay() as relay:
        yield relay


@pytest.fixture
def plans(tmp_path: Path) -> Plans:
    return Plans("digest", Binary(Path("/opt/opencode"), "1.18.33"), {"PATH": "/bin"}, tmp_path)


# --- servers that prompts share -------------------------------------------------------------------


@pytest.mark.parametrize(
    "change",
    [
        {"prompt": "another"},
        {"model": "org/a"},
        {"system_message": "Be long."},
        {"history": (ChatMessage("user", "before"),)},
        {"attachments": (FilePart("a.png", b"1", "image/png"),)},
        {"params": Params(temperature=1.0, max_tokens=7)},
        {"tools": (McpServer("a", url="http://a"),)},
        {"builtin_tools": False, "context": False},
        {"permission": "deny", "context": False},
        {"permission": {"bash": "deny"}},
        {"context": False},
        {"work_dir": Path("/work")},
        {"session_id": "ses_1"},
        {"keep_session": True},
        {"hold": True},
        {"max_requests": 1},
        {"timeout_seconds": 1.0},
    ],
    ids=str,
)
def test_what_a_session_or_the_relay_brings_with_it_needs_no_other_server(
    plans: Plans, relay: Relay, change: dict[str, Any]
) -> None:
    first = plans.shared(REQUEST, TARGET, relay)

    assert plans.shared(replace(REQUEST, **change), TARGET, relay) is first


@pytest.mark.parametrize(
    "change",
    [
        {"model": "org/unlisted"},
        {"system_message": None},
        {"system_message": None, "context": False, "builtin_tools": False},
        {"builtin_tools": False},
        {"permission": "deny"},
        {"permission": {"skill": "deny"}},
        {"permission": {"*": "deny", "read": "allow"}},
        {"agent_name": "other"},
        {"rules_file": Path("/rules.md")},
        {"env": {"TOKEN": "x"}},
    ],
    ids=str,
)
def test_what_is_fixed_at_the_start_needs_another_server(
    plans: Plans, relay: Relay, change: dict[str, Any]
) -> None:
    first = plans.shared(REQUEST, TARGET, relay)

    assert plans.shared(replace(REQUEST, **change), TARGET, relay).key != first.key


@pytest.mark.parametrize("context", [True, False])
def test_skills_are_not_told_of_where_they_are_denied(
    plans: Plans, relay: Relay, *, context: bool
) -> None:
    plan = plans.shared(replace(REQUEST, builtin_tools=False, context=context), TARGET, relay)

    assert plan.request.permission == ({"skill": "deny"} if context else None)


def test_rules_that_sub_agents_do_not_inherit_are_fixed(plans: Plans, relay: Relay) -> None:
    asked = replace(REQUEST, permission={"*": "deny", "read": "allow", "task": "allow"})

    plan = plans.shared(asked, TARGET, relay)

    assert plan.request.permission == permission_rules(asked)


def test_another_address_or_relay_needs_another_plan(plans: Plans, relay: Relay) -> None:
    first = plans.shared(REQUEST, TARGET, relay)

    moved = plans.shared(REQUEST, replace(TARGET, base_url="https://other.test/v1"), relay)
    with Relay() as another:
        elsewhere = plans.shared(REQUEST, TARGET, another)

    assert moved is not first
    assert elsewhere.key != first.key


@pytest.mark.parametrize(
    "models",
    [
        pytest.param(MODELS[::-1], id="another order"),
        pytest.param(tuple(replace(one, price=None) for one in MODELS), id="other prices"),
    ],
)
def test_a_catalogue_that_says_the_same_needs_no_other_server(
    plans: Plans, relay: Relay, models: tuple[Model, ...]
) -> None:
    first = plans.shared(REQUEST, TARGET, relay)

    assert plans.shared(REQUEST, replace(TARGET, models=models), relay).key == first.key


def test_another_catalogue_needs_another_server(plans: Plans, relay: Relay) -> None:
    first = plans.shared(REQUEST, TARGET, relay)
    more = replace(TARGET, models=(*MODELS, Model("org/new")))

    assert plans.shared(REQUEST, more, relay).key != first.key


def test_a_catalogue_without_models_is_no_trouble(plans: Plans, relay: Relay) -> None:
    plan = plans.shared(REQUEST, replace(TARGET, models=()), relay)

    assert plan.request.model == "org/b"


def test_what_is_remembered_has_a_bound(plans: Plans, relay: Relay) -> None:
    def plan(number: int) -> object:
        return plans.shared(replace(REQUEST, agent_name=f"a{number}"), TARGET, relay)

    first = plan(0)
    assert plan(0) is first
    for number in range(1, 65):
        plan(number)

    assert plan(0) is not first


def test_no_plan_shows_what_the_caller_told(plans: Plans, relay: Relay) -> None:
    plan = plans.shared(REQUEST, TARGET, relay)

    assert (plan.request.prompt, plan.request.system_message) == ("", "")
    assert (plan.exclusive, plan.prepare, plan.owner) == (False, None, "digest")
    assert all(model.price is None for model in plan.target.models)


# --- a server of one prompt, without the relay ----------------------------------------------------


def test_without_the_relay_a_prompt_has_a_server_and_a_guard_of_its_own(
    plans: Plans, tmp_path: Path
) -> None:
    workspace = Workspace(tmp_path / "workspace")
    workspace.guard.parent.mkdir(parents=True)
    tools = (McpServer("a", url="http://a"),)

    plan, wires = plans.guarded(replace(REQUEST, tools=tools), TARGET, KEY)

    assert (plan.exclusive, plan.relay, wires) == (True, None, [])
    assert plan.prepare is not None
    launch = plan.prepare(workspace)
    (wire,) = wires
    config = json.loads(launch.config)
    assert wire.plugin == workspace.guard
    assert "export const Guard" in workspace.guard.read_text()
    shell = workspace.root / "shell.js"
    assert config["plugin"] == [wire.plugin.as_uri(), shell.as_uri()]
    assert "CHUTES_OPENCODE_LEASE" in shell.read_text(), "what hides the key from shells"
    spec = json.loads(workspace.guard.with_name("guard.json").read_text())
    assert spec["server"], "it must not remove the key: each folder's config is read anew"
    assert config["mcp"] == {}, "they are added to the folder"
    assert config["agent"]["chutes"]["prompt"] == "Be brief."
    assert config["provider"]["chutes"]["options"]["baseURL"] == TARGET.base_url
    assert launch.environment[KEY_VARIABLE] == KEY
    assert KEY not in launch.config
    assert launch.marker is None


def test_each_start_has_a_wire_of_its_own(plans: Plans, tmp_path: Path) -> None:
    plan, wires = plans.guarded(REQUEST, TARGET, KEY)
    assert plan.prepare is not None
    for name in ("first", "second"):
        workspace = Workspace(tmp_path / name)
        workspace.guard.parent.mkdir(parents=True)
        plan.prepare(workspace)

    (wire,) = wires
    assert wire.plugin == Workspace(tmp_path / "second").guard
