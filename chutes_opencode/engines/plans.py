"""Which server a prompt needs: what must be fixed when an opencode starts, and nothing else."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from chutes_opencode.catalog.models import Model
from chutes_opencode.engines.leftovers import write_shell_plugin
from chutes_opencode.engines.server_plan import Launch, ServerPlan
from chutes_opencode.engines.wire import GuardWire
from chutes_opencode.opencode.binary import Binary
from chutes_opencode.opencode.config import (
    Target,
    build_config,
    holds_for_sub_agents,
    key_placeholder,
    output_ceiling,
    permission_rules,
    render_config,
    rule_list,
)
from chutes_opencode.opencode.workspace import Workspace, build_environment
from chutes_opencode.relay.server import Relay
from chutes_opencode.request import PromptRequest

_MOST = 64


@dataclass(slots=True)
class Plans:
    """Makes plans, and remembers them as long as the models stay the same.

    A plan's key is a digest of the whole config, all models included: too dear for each prompt.

    Attributes:
        owner: Digest of the account; servers are shared with nobody else.
        binary: opencode.
        inherited: What of the caller's environment it gets.
        temp_root: Where workspaces are made.
    """

    owner: str
    binary: Binary
    inherited: Mapping[str, str] = field(repr=False)
    temp_root: Path
    _models: tuple[Model, ...] = ()
    _unpriced: tuple[Model, ...] = ()
    _plans: dict[tuple[object, ...], ServerPlan] = field(default_factory=dict)

    def shared(self, request: PromptRequest, target: Target, relay: Relay) -> ServerPlan:
        """Return the plan of a server that prompts share; the rest of the request is per session.

        Args:
            request: What is run.
            target: Where its model requests go.
            relay: Of this process.
        """
        if target.models != self._models:  # the same objects are compared in no time
            self._plans.clear()
            self._models = target.models
            # Prices move often, and only the relay needs them.
            bare = (replace(model, price=None) for model in target.models)
            self._unpriced = tuple(sorted(bare, key=lambda model: model.id))
        rules = permission_rules(request)
        listed = any(model.id == request.model for model in self._unpriced)
        fixed = PromptRequest(
            prompt="",
            model=self._unpriced[0].id if listed else request.model,
            system_message=None if request.system_message is None else "",
            agent_name=request.agent_name,
            permission=_fixed_rules(request, rules),
            rules_file=request.rules_file,
            env=request.env,
        )
        what = (
            *("" if listed else fixed.model, fixed.system_message, fixed.agent_name),
            *(fixed.rules_file, tuple(sorted(fixed.env.items())), target.base_url, relay.id),
            json.dumps(fixed.permission),
        )
        if what not in self._plans:
            if len(self._plans) >= _MOST:
                self._plans.clear()
            plan = self._plan(fixed, replace(target, models=self._unpriced), relay)
            self._plans[what] = replace(plan, family=f"{self.owner} {what}")
        return self._plans[what]

    def guarded(
        self, request: PromptRequest, target: Target, key: str
    ) -> tuple[ServerPlan, list[GuardWire]]:
        """Return the plan of a server for one prompt that goes without the relay.

        Args:
            request: What is run.
            target: Where its model requests go.
            key: The provider's.

        Returns:
            The plan, and a list that has the prompt's wire once the server was started.
        """
        wires: list[GuardWire] = []

        def prepare(workspace: Workspace) -> Launch:
            wire = GuardWire(request, target, workspace, key, server=True)
            wires[:] = [wire]
            placeholder = key_placeholder()
            config = build_config(request, target, plugin=wire.plugin, key=placeholder)
            own = {
                # They are added to the folder, as with the relay.
                "mcp": {},
                "plugin": [*config["plugin"], write_shell_plugin(workspace.root).as_uri()],
            }
            environment = build_environment(
                workspace,
                self.inherited,
                request.env,
                key=key,
                output_ceiling=output_ceiling(request, target),
            )
            return Launch(render_config(config | own, key=placeholder), environment)

        return replace(self._plan(request, target, None), exclusive=True, prepare=prepare), wires

    def _plan(self, request: PromptRequest, target: Target, relay: Relay | None) -> ServerPlan:
        return ServerPlan(
            self.owner, request, target, self.binary, self.inherited, self.temp_root, relay
        )


def _fixed_rules(request: PromptRequest, rules: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Return the rules that the config has to hold, since a session's are not enough."""
    if not holds_for_sub_agents(rules):
        return rules
    # opencode's block tells of skills unless the config, not the session, denies them (seen).
    block = request.context or request.system_message is None
    return {"skill": "deny"} if block and _denies_skills(rules) else None


def _denies_skills(rules: Mapping[str, Any]) -> bool:
    about = [rule for rule in rule_list(rules) if fnmatchcase("skill", rule["permission"])]
    return bool(about) and (about[-1]["pattern"], about[-1]["action"]) == ("*", "deny")
