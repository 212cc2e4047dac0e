"""ChutesOpenCodeLLM: opencode as a dependable Python function."""

from __future__ import annotations

import asyncio
import os
import queue
import uuid
from collections.abc import (
    AsyncGenerator,
    AsyncIterator,
    Callable,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, Unpack

from chutes_opencode import background
from chutes_opencode.arguments import PromptArguments, as_folder, tool_servers
from chutes_opencode.batching import check_batch, completed
from chutes_opencode.call import CallRunner
from chutes_opencode.catalog.providers import find_provider
from chutes_opencode.engine_set import choose_engine, default_places
from chutes_opencode.engines.chat import refuse_arguments
from chutes_opencode.engines.pool import shared_pool
from chutes_opencode.engines.pool_limits import EngineStats
from chutes_opencode.errors import OpenCodeError
from chutes_opencode.event_log import log_event
from chutes_opencode.events import FOR_OBSERVERS_ONLY, Done, Event, PromptFailed, PromptStarted
from chutes_opencode.limits import Budget
from chutes_opencode.logs import level_name, make_logger
from chutes_opencode.options import INSTANCE_SHAPES, Options, check_params
from chutes_opencode.prepare import prepare
from chutes_opencode.relay.server import RelayStats, shared_relay
from chutes_opencode.request import Limits, Params, check_shapes
from chutes_opencode.results import QueryResult
from chutes_opencode.runtime import Runtime, instance_settings
from chutes_opencode.settings import Settings
from chutes_opencode.transcript_log import TranscriptLog

if TYPE_CHECKING:
    from chutes_opencode.distributed.tasks import ResultRef

Item = str | Mapping[str, Any]


class ChutesOpenCodeLLM:
    """Prompts to the opencode agent on Chutes models: bounded, honest, isolated.

    One object in, one object out: `prompt()` returns a `QueryResult` or raises a typed error.
    Instances are cheap, hold no state per call, and may be shared across threads, event loops,
    notebooks and forks; a pickle carries neither key nor process.

    Example::

        llm = ChutesOpenCodeLLM(model="Qwen/Qwen3-32B-TEE")
        print(llm.prompt("What is 17 + 25?").result)
    """

    def __init__(
        self,
        model: str | None = None,
        system_message: str | None = "",
        *,
        provider: str = "chutes",
        base_url: str | None = None,
        engine: str = "auto",
        params: Params | None = None,
        tools: Iterable[Any] = (),
        builtin_tools: bool = True,
        permission: Mapping[str, Any] | str | None = None,
        work_dir: str | Path | None = None,
        project_rules: bool = False,
        env: Mapping[str, str] | None = None,
        agent_name: str = "chutes",
        timeout_seconds: float | None = None,
        deadline_seconds: float | None = None,
        retries: int | None = None,
        retry_after_tools: bool = False,
        limits: Limits | None = None,
        fallback_models: Sequence[str] = (),
        cache: str | Path | None = None,
        relay: bool = True,
        isolation: str = "shared",
        context: bool | None = None,
        settings: Settings | None = None,
        log_dir: str | Path | None = None,
        logging_name: str = "chutes_opencode",
        logging_level: int | str | None = None,
        on_event: Callable[[Event], object] | None = None,
        opencode_bin: str | Path | None = None,
        extra_cli_args: Sequence[str] = (),
    ) -> None:
        """Set up an instance; nothing is started or fetched yet.

        Args:
            model: Model id, with or without `chutes/`; None: the setting `default_model`.
            system_message: Sent literally; "": "You are a helpful assistant."; None: opencode's.
            provider: Registry id of the provider.
            base_url: Root of its API; None: the setting, or what its registry entry says.
            engine: "run": an opencode process per prompt; "serve": a session per prompt on a warm
                opencode server; "direct": a plain chat completion without opencode; "auto": the
                setting `engine`; that is "auto", too: the first single prompt as "run", all others
                and every batch as "serve".
            params: Sampling parameters of every prompt.
            tools: MCP servers for every prompt: `McpServer`, or objects with name, hostname, port.
            builtin_tools: False: no shell, no files, no web: a pure chat.
            permission: opencode permission rules over the default: everything inside `work_dir`,
                nothing outside, nothing asked ("ask" means "deny").
            work_dir: The agent's folder; None: an empty one of its own for each prompt.
            project_rules: True: the work_dir's AGENTS.md (or CLAUDE.md) is given to the agent.
            env: Extra variables for the agent's tools.
            agent_name: The agent's name in opencode.
            timeout_seconds: Seconds for one attempt; None: the setting (600).
            deadline_seconds: Seconds for a whole call, waits included; None: no deadline.
            retries: Attempts in all; None: the setting (3).
            retry_after_tools: True: start a prompt again even if its agent has used tools in a
                `work_dir` of yours.
            limits: What a prompt may use.
            fallback_models: Asked in this order when the model is full, cold or gone.
            cache: Folder of earlier answers: a prompt that was run before costs nothing.
            relay: False: opencode talks to the provider itself, under the eyes of a guard plugin,
                and a command of its agent can read the key.
            isolation: "shared": prompts of one account may share a warm server, where a command
                of one agent can see the others; "prompt": a process and a lease for each.
            context: opencode's environment block (folder, date) after the system message; None:
                only with tools on.
            settings: Instead of `load_settings()`.
            log_dir: Folder for a readable log of this instance's prompts.
            logging_name: Name of the logger and of the file in `log_dir`.
            logging_level: Least severe level that is logged to stderr; None: the setting.
            on_event: Is told of every event of every prompt, from a thread of ours.
            opencode_bin: The opencode binary; None: the setting, PATH, the installed one.
            extra_cli_args: Further arguments of `opencode run`.

        Raises:
            ConfigurationError: A value that cannot be, or a combination that no engine offers.
        """
        given = locals()
        check_shapes(given, INSTANCE_SHAPES)
        check_params(params or Params())
        overrides = {
            "timeout_seconds": timeout_seconds,
            "deadline_seconds": deadline_seconds,
            "retries": retries,
            "opencode_bin": opencode_bin,
        }
        settings = instance_settings(settings, overrides)
        entry = find_provider(provider, files=settings.provider_files())
        self.settings = settings.for_provider(entry, base_url=base_url)
        self._options = Options(
            model=model,
            system_message=system_message,
            provider=entry,
            engine=self.settings.engine if engine == "auto" else engine,
            params=params or Params(),
            tools=tool_servers(tools),
            builtin_tools=builtin_tools,
            permission=permission,
            work_dir=None if work_dir is None else as_folder(work_dir),
            project_rules=project_rules,
            env=dict(env or {}),
            agent_name=agent_name,
            retry_after_tools=retry_after_tools,
            limits=limits or Limits(),
            isolation=isolation,
            context=context,
            extra_cli_args=tuple(extra_cli_args),
            relay=relay,
            fallback_models=tuple(fallback_models),
            cache=None if cache is None else as_folder(cache, "cache").absolute(),
        )
        if self._options.engine == "direct":
            refuse_arguments(given)
        self._log_name = logging_name
        self._log_level = level_name(logging_level) or self.settings.log_level
        self._log_file = TranscriptLog(Path(log_dir), logging_name) if log_dir else None
        self._on_event = on_event
        self._runtimes: dict[int, Runtime] = {}
        self._totals: dict[int, Budget] = {}

    def prompt(self, prompt: str = "", **arguments: Unpack[PromptArguments]) -> QueryResult:
        """Run one prompt and wait for its end.

        Args:
            prompt: The user's message, sent exactly.
            **arguments: See `PromptArguments`.

        Returns:
            The result. `success=False` with `error` only for a timeout or an unknown error that
            outlived the attempts.

        Raises:
            OpenCodeError: Every other failure; its `result` holds what was done and paid for.
        """
        return background.Job(self._ask({"prompt": prompt, **arguments})).result()

    async def aprompt(self, prompt: str = "", **arguments: Unpack[PromptArguments]) -> QueryResult:
        """Run one prompt from any event loop; as `prompt`.

        A cancelled call has ended everything that it had started when it returns.
        """
        return await background.Job(self._ask({"prompt": prompt, **arguments})).join()

    def stream(self, prompt: str = "", **arguments: Unpack[PromptArguments]) -> Iterator[Event]:
        """Run one prompt and yield what happens; arguments as in `prompt`.

        The last event is `Done` with the result. Closing the iterator ends the prompt.

        Raises:
            OpenCodeError: At the end, as in `prompt`.
        """
        events: queue.SimpleQueue[Event | None] = queue.SimpleQueue()
        job = background.Job(self._streamed({"prompt": prompt, **arguments}, events))
        try:
            while (event := events.get()) is not None:
                yield event
            job.result()  # raises what ended it
        finally:
            job.cancel()

    def batch(self, items: Iterable[Item], concurrency: int | None = None) -> list[QueryResult]:
        """Run many prompts at once.

        Args:
            items: Prompts, or mappings of `prompt`'s arguments.
            concurrency: How many at once; None: as many as the settings allow the engine
                (`max_sessions`, for `run` `max_processes`).

        Returns:
            A result per item, in the items' order. A failed item's error is in its `error`; after
            an account error (authentication, billing) the rest is not sent.
        """
        return sorted(self.map(items, concurrency), key=lambda result: result.index or 0)

    def map(self, items: Iterable[Item], concurrency: int | None = None) -> Iterator[QueryResult]:
        """Yield the results of `batch` as they complete, reading no further ahead than needed.

        Each carries its item's position in `index`.
        """
        results = self._completed(items, concurrency)
        try:
            while (result := background.Job(anext(results, None)).result()) is not None:
                yield result
        finally:
            background.Job(results.aclose()).result()

    async def amap(
        self, items: Iterable[Item], concurrency: int | None = None
    ) -> AsyncIterator[QueryResult]:
        """Yield the results of `batch` as they complete, on any event loop."""
        results = self._completed(items, concurrency)
        try:
            while (result := await background.Job(anext(results, None)).join()) is not None:
                yield result
        finally:
            await background.Job(results.aclose()).join()

    def remote(self, prompt: str = "", **arguments: Unpack[PromptArguments]) -> ResultRef:
        """Run one prompt on a Ray cluster (extra `[ray]`); as `prompt_task.remote`, see there."""
        from chutes_opencode.distributed.tasks import prompt_task

        return prompt_task.remote(self, prompt, **arguments)

    @staticmethod
    def relay_stats() -> RelayStats:
        """Tell what this process's relay does now: open prompts, and how each account is paced."""
        return shared_relay().stats()

    @staticmethod
    def engine_stats() -> EngineStats:
        """Tell what this process's warm servers do now, and how many have ended, and why."""
        return shared_pool().stats()

    def close(self) -> None:
        """End what the instance keeps running; it can be used again afterwards."""
        runtime = self._runtimes.pop(os.getpid(), None)
        if runtime is not None:
            background.Job(runtime.close()).result()

    def __enter__(self) -> Self:
        """Return the instance."""
        return self

    def __exit__(self, *_exc: object) -> None:
        """Close the instance."""
        self.close()

    def __getstate__(self) -> dict[str, Any]:
        """Leave processes, catalogue and key behind; the key is read where the copy is used."""
        return {**self.__dict__, "_runtimes": {}, "_totals": {}}

    def __repr__(self) -> str:
        """Name model, provider and engine."""
        options = self._options
        return (
            f"ChutesOpenCodeLLM(model={options.model!r}, provider={options.provider.id!r}, "
            f"engine={options.engine!r})"
        )

    @property
    def options(self) -> Options:
        """What it was set up with."""
        return self._options

    async def _ask(
        self,
        arguments: Mapping[str, Any],
        observe: Callable[[Event], None] | None = None,
        *,
        single: bool = True,
    ) -> QueryResult:
        """Carry one prompt out, on the background loop."""
        prompt_id = uuid.uuid4().hex[:12]
        log = self._logger().bind(prompt_id=prompt_id)

        def tell(event: Event) -> None:
            marked = replace(event, prompt_id=prompt_id)
            log_event(log, marked)
            for observer in filter(None, (observe, self._on_event)):
                try:
                    observer(marked)
                except Exception as error:  # noqa: BLE001 - an observer must not cost a paid prompt
                    log.warning("observer failed", error=repr(error))

        try:
            runtime = await self._runtime()
            call = await prepare(self._options, runtime, **arguments)
            engines, session_id = runtime.engines, call.request.session_id
            engine = await engines.get(engines.choose(self._options, session_id, single=single))
            if warning := engines.take_warning():
                log.warning("opencode", warning=warning)
            tell(PromptStarted(model=call.request.model, engine=engine.name))
            result = await CallRunner(call, engine, engines.slots(engine.name), tell).run()
        except OpenCodeError as error:
            tell(PromptFailed(error=error))
            self._write_log(arguments, error.result)
            raise
        tell(Done(result=result))
        self._write_log(arguments, result)
        return result

    async def _streamed(
        self, arguments: Mapping[str, Any], events: queue.SimpleQueue[Event | None]
    ) -> QueryResult:
        def put(event: Event) -> None:
            if not isinstance(event, FOR_OBSERVERS_ONLY):
                events.put(event)

        try:
            return await self._ask(arguments, put)
        finally:
            events.put(None)

    def _completed(
        self, items: Iterable[Item], concurrency: int | None
    ) -> AsyncGenerator[QueryResult, None]:
        engine = choose_engine(self._options, single=False)
        places = default_places(self.settings, engine) if concurrency is None else concurrency
        check_batch(items, places)
        return completed(items, partial(self._ask, single=False), places)

    async def _runtime(self) -> Runtime:
        """Return this process's engine, catalogue and places; made when first needed."""
        pid = os.getpid()
        if pid not in self._runtimes:
            made = await asyncio.to_thread(
                Runtime.make,
                self.settings,
                self._options.provider,
                total=self._total(),
                isolated=self._options.isolation == "prompt",
            )
            self._runtimes.setdefault(pid, made)
        return self._runtimes[pid]

    def _total(self) -> Budget | None:
        """Return what all prompts of the instance may cost in this process, spent sums included."""
        usd = self._options.limits.max_total_cost_usd
        if usd is None:
            return None
        return self._totals.setdefault(os.getpid(), Budget("max_total_cost_usd", usd))

    def _logger(self) -> Any:
        return make_logger(self._log_name, self._log_level, self.settings.log_format)

    def _write_log(self, arguments: Mapping[str, Any], result: QueryResult | None) -> None:
        if self._log_file is not None and result is not None:
            try:
                self._log_file.append(str(arguments.get("prompt", "")), result)
            except OSError as error:  # a full disk must not cost a paid prompt
                self._logger().warning("log_dir cannot be written", error=repr(error))
