"""What is fixed when an `opencode serve` starts, and what it is started with."""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

from chutes_opencode.engines.commands import without_plugins
from chutes_opencode.engines.leftovers import write_shell_plugin
from chutes_opencode.opencode.binary import Binary
from chutes_opencode.opencode.config import (
    Target,
    build_config,
    key_placeholder,
    output_ceiling,
    render_config,
)
from chutes_opencode.opencode.workspace import Workspace, build_environment
from chutes_opencode.relay.lease import Lease
from chutes_opencode.relay.server import Relay
from chutes_opencode.request import PromptRequest


@dataclass(frozen=True, slots=True)
class Launch:
    """What a server is started with.

    Attributes:
        config: Text of its config file.
        environment: Its whole environment, but for the server's password.
        marker: The agent's prompt in the config, which the relay replaces; None: it is not to be.
    """

    config: str
    environment: Mapping[str, str] = field(repr=False)
    marker: str | None = None


Prepare = Callable[[Workspace], Launch]


@dataclass(frozen=True)  # no slots: the key is kept beside the fields
class ServerPlan:
    """What is fixed when a server starts; prompts whose plans have the same key may share one.

    Attributes:
        owner: Digest of the account: who may share.
        request: A prompt's; all that a session or the relay brings with it is at its default.
        target: Where the models are.
        binary: opencode.
        inherited: What of the caller's environment it gets.
        temp_root: Where its workspace is made.
        relay: Of this process; None: it talks to the provider itself.
        family: Names plans that differ in their list of models only; "": it has none.
        exclusive: Whether it is for one prompt only.
        prepare: Makes config and environment in its workspace, in the place of what the other
            fields tell.
    """

    owner: str
    request: PromptRequest
    target: Target
    binary: Binary
    inherited: Mapping[str, str] = field(repr=False)
    temp_root: Path
    relay: Relay | None = None
    family: str = ""
    exclusive: bool = False
    prepare: Prepare | None = field(default=None, repr=False)

    def follows(self, other: ServerPlan) -> bool:
        """Tell whether it differs from another plan in its list of models only."""
        return bool(self.family) and self.family == other.family and self.key != other.key

    @cached_property
    def key(self) -> str:
        """Digest of what matters; a price does not.

        Raises:
            OpenCodeError: The config or the environment cannot be made of this.
        """
        launch = _launch(self, Workspace(Path("/")), "key", marker="marker", plugin=None)
        told = [
            self.owner,
            str(self.binary.path),
            self.binary.version,
            str(self.temp_root),
            "" if self.relay is None else self.relay.id,
            launch.config,
            sorted(launch.environment.items()),
        ]
        return hashlib.sha256(json.dumps(told).encode()).hexdigest()


def prepare(plan: ServerPlan, workspace: Workspace, lease: Lease | None) -> Launch:
    """Return what a server of a plan is started with; its plugin is written to the workspace.

    Args:
        plan: What is fixed.
        workspace: Where it will live.
        lease: Its way by the relay.

    Raises:
        OpenCodeError: The config or the environment cannot be made of this.
        OSError: The workspace cannot be written.
    """
    if plan.prepare is not None:
        return plan.prepare(workspace)
    plugin = None if plan.relay is None else write_shell_plugin(workspace.root)
    key = "" if lease is None else lease.key
    return _launch(plan, workspace, key, marker=f"system-{uuid.uuid4().hex}", plugin=plugin)


def _launch(
    plan: ServerPlan, workspace: Workspace, key: str, *, marker: str, plugin: Path | None
) -> Launch:
    """Write config and environment; a pure function of its arguments."""
    given = plan.request.system_message is not None
    request = replace(plan.request, system_message=marker if given else None)
    models = tuple(replace(model, price=None) for model in plan.target.models)
    base_url = plan.target.base_url if plan.relay is None else plan.relay.url
    target = replace(plan.target, base_url=base_url, models=models)
    relayed = plan.relay is not None
    placeholder = key_placeholder()
    config = build_config(request, target, plugin=plugin, key=placeholder, patient=relayed)
    environment = build_environment(
        workspace,
        plan.inherited,
        request.env,
        key=key,
        output_ceiling=output_ceiling(request, target),
    )
    return Launch(
        render_config(config, key=placeholder),
        environment if plugin is not None else without_plugins(environment),
        marker if given else None,
    )
