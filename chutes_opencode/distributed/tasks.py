"""Prompts as Ray tasks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from typing import TYPE_CHECKING, Any, Self, Unpack

from chutes_opencode.arguments import PROMPT_SHAPES, PromptArguments, check_names
from chutes_opencode.distributed.connect import connect
from chutes_opencode.distributed.drain import DRAIN_SECONDS
from chutes_opencode.distributed.extra import ray
from chutes_opencode.distributed.setup.parcel import Parcel
from chutes_opencode.distributed.setup.secrets import key_of, pack, refuse_keys
from chutes_opencode.distributed.setup.worker_setup import WorkerSetup
from chutes_opencode.distributed.task_worker import NEVER, carry_out
from chutes_opencode.errors import ConfigurationError
from chutes_opencode.request import check_shapes
from chutes_opencode.results import QueryResult

if TYPE_CHECKING:
    from chutes_opencode.llm import ChutesOpenCodeLLM

MEMORY_BYTES = 1 << 30
"""What a prompt may need on its node: opencode 400 to 800 MiB, and this process."""


ResultRef = ray.ObjectRef[QueryResult]
"""A result that `ray.get` waits for."""


@dataclass(frozen=True, slots=True)
class PromptTask:
    """What `prompt_task` is: a prompt that can be sent to a cluster.

    `prompt_task.remote(llm, "…")` returns an `ObjectRef` of its `QueryResult`, and
    `prompt_task.options(…)` one with other options of Ray's. Ray gives a task one processor and
    1 GiB, and never runs it a second time: a prompt that was under way may have been paid for.

    Attributes:
        ray_options: Ray's, over the defaults.
        install: Whether a worker without opencode may fetch it from npm.
        limiter: Whether the whole cluster shares one limiter for each account.
        drain_seconds: How long a prompt may go on after its worker was told to end.
    """

    ray_options: Mapping[str, Any] = field(default_factory=dict)
    install: bool = False
    limiter: bool = True
    drain_seconds: float = DRAIN_SECONDS

    def options(
        self,
        *,
        install: bool | None = None,
        limiter: bool | None = None,
        drain_seconds: float | None = None,
        **ray_options: Any,
    ) -> Self:
        """Return a task with other options.

        Args:
            install: Whether a worker without opencode may fetch it from npm.
            limiter: Whether the whole cluster shares one limiter for each account.
            drain_seconds: How long a prompt may go on after its worker was told to end.
            **ray_options: As of Ray's own tasks: `num_cpus`, `memory`, `resources`,
                `scheduling_strategy`, `max_retries`, …

        Raises:
            ConfigurationError: An option that a prompt cannot have.
        """
        if ray_options.get("num_returns", 1) != 1:
            raise ConfigurationError(raw_message="a prompt has one result: num_returns is 1")
        return replace(
            self,
            ray_options={**self.ray_options, **ray_options},
            install=self.install if install is None else install,
            limiter=self.limiter if limiter is None else limiter,
            drain_seconds=self.drain_seconds if drain_seconds is None else drain_seconds,
        )

    def remote(
        self, llm: ChutesOpenCodeLLM, prompt: str = "", **arguments: Unpack[PromptArguments]
    ) -> ResultRef:
        """Send a prompt to the cluster; connects to one if that was not done.

        Folders and files that are named must be there on the worker's machine, too.

        Args:
            llm: The instance; equal ones use the same engine on a worker.
            prompt: As in `ChutesOpenCodeLLM.prompt`.
            **arguments: As there.

        Returns:
            What `ray.get` makes the result of, or raises the error from.

        Raises:
            ConfigurationError: No cluster; a key in `runtime_env` or in an argument; a limit in
                dollars that one process keeps for itself.
        """
        check_names(arguments)
        check_shapes({"prompt": prompt, **arguments}, PROMPT_SHAPES)
        connect()
        _refuse_process_limits(llm, arguments)
        setup = WorkerSetup.of_driver(llm, install=self.install, limiter=self.limiter)
        refuse_keys(self.ray_options.get("runtime_env") or {}, setup.key_names)
        task = _task().options(name="prompt", **self.ray_options)
        packed = pack({"prompt": prompt, **arguments}, key_of(llm.settings))
        sent: ResultRef = task.remote(setup, Parcel.of(llm), packed, self.drain_seconds)
        return sent


prompt_task = PromptTask()
"""The task with its defaults."""


@cache
def _task() -> Any:
    """Return Ray's side of it; a prompt is run once, whatever becomes of it."""
    return ray.remote(
        num_cpus=1, memory=MEMORY_BYTES, max_retries=0, retry_exceptions=False, max_calls=NEVER
    )(carry_out)


def _refuse_process_limits(llm: ChutesOpenCodeLLM, arguments: Mapping[str, Any]) -> None:
    """Refuse limits that each of the workers' processes would keep for itself."""
    named = {
        "Limits(max_total_cost_usd)": llm.options.limits.max_total_cost_usd,
        "max_process_cost_usd": llm.settings.max_process_cost_usd,
        "budget": arguments.get("budget"),
    }
    for name, value in named.items():
        if value is not None:
            raise ConfigurationError(
                raw_message=f"{name} is counted in one process, and tasks run in many",
                hint="Use Limits(max_cost_usd=…) of each prompt, or a batch with max_cost_usd.",
            )
