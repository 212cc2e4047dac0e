"""chutes-opencode: opencode as a dependable Python function, on Chutes models.

Every public name can be imported from here; they are loaded when they are first used, so that
`import chutes_opencode` itself costs next to nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from chutes_opencode.arguments import PromptArguments
    from chutes_opencode.batch.estimate.estimate import Estimate, estimate_batch
    from chutes_opencode.batch.item import BatchItem
    from chutes_opencode.batch.record import Record, RecordedError
    from chutes_opencode.batch.report.page import write_report
    from chutes_opencode.batch.running.progress import Snapshot
    from chutes_opencode.batch.running.runner import BatchArguments, arun_batch, run_batch
    from chutes_opencode.batch.running.stop import StopSwitch
    from chutes_opencode.batch.running.summary import BatchSummary
    from chutes_opencode.batch.store.folder import RunFolder
    from chutes_opencode.catalog.catalog import Catalog
    from chutes_opencode.catalog.comparison import Changes
    from chutes_opencode.catalog.listing import Listing
    from chutes_opencode.catalog.models import Model, Price
    from chutes_opencode.catalog.providers import Provider, register_provider
    from chutes_opencode.catalog.selection import Selection
    from chutes_opencode.classify import classify_error
    from chutes_opencode.distributed import PromptPool as PromptPool
    from chutes_opencode.distributed import PromptWorker as PromptWorker
    from chutes_opencode.distributed import RayExecutor as RayExecutor
    from chutes_opencode.distributed import prompt_dataset as prompt_dataset
    from chutes_opencode.distributed import prompt_task as prompt_task
    from chutes_opencode.distributed import ray_batch as ray_batch
    from chutes_opencode.engines.pool_limits import EngineStats
    from chutes_opencode.errors import (
        AuthenticationError,
        BillingError,
        CapacityError,
        ColdModelError,
        ConfigurationError,
        ContentFilterError,
        ContextOverflowError,
        EmptyResponseError,
        InvalidRequestError,
        LimitExceededError,
        MaxOutputTokensError,
        ModelNotFoundError,
        NoWorkerError,
        OpenCodeError,
        OpenCodeNotFoundError,
        PermanentError,
        PromptTimeoutError,
        RateLimitError,
        RetryOnceError,
        ServerError,
        StructuredOutputError,
        ToolServerError,
        TransientError,
        TruncatedStreamError,
        UnknownOpenCodeError,
        WorkerLostError,
    )
    from chutes_opencode.events import (
        AttemptEnded,
        Done,
        Event,
        PromptCancelled,
        PromptFailed,
        PromptStarted,
        ReasoningDelta,
        RequestStarted,
        Retrying,
        StepEnd,
        StepRestarted,
        TextDelta,
        ToolCall,
        ToolResult,
        Waiting,
    )
    from chutes_opencode.limits import Budget
    from chutes_opencode.llm import ChutesOpenCodeLLM
    from chutes_opencode.opencode.transcript import parse_run_error, parse_session_id
    from chutes_opencode.relay.limiter import LimiterStats
    from chutes_opencode.relay.server import RelayStats
    from chutes_opencode.request import Limits, McpServer, Params
    from chutes_opencode.results import (
        Attempt,
        Exchange,
        Message,
        QueryResult,
        Transcript,
        Usage,
    )
    from chutes_opencode.retry import RetryPolicy
    from chutes_opencode.settings import Settings, load_settings
    from chutes_opencode.simulator import Scenario, Simulator

_HOMES = {
    "batch.estimate.estimate": (
        "Estimate",
        "estimate_batch",
    ),
    "batch.store.folder": ("RunFolder",),
    "batch.item": ("BatchItem",),
    "batch.running.progress": ("Snapshot",),
    "batch.record": (
        "Record",
        "RecordedError",
    ),
    "batch.report.page": ("write_report",),
    "batch.running.runner": (
        "BatchArguments",
        "arun_batch",
        "run_batch",
    ),
    "batch.running.stop": ("StopSwitch",),
    "batch.running.summary": ("BatchSummary",),
    "limits": ("Budget",),
    "arguments": ("PromptArguments",),
    "catalog.catalog": ("Catalog",),
    "catalog.comparison": ("Changes",),
    "catalog.listing": ("Listing",),
    "catalog.models": ("Model", "Price"),
    "catalog.providers": ("Provider", "register_provider"),
    "catalog.selection": ("Selection",),
    "classify": ("classify_error",),
    "engines.pool_limits": ("EngineStats",),
    "errors": (
        "AuthenticationError",
        "BillingError",
        "CapacityError",
        "ColdModelError",
        "ConfigurationError",
        "ContentFilterError",
        "ContextOverflowError",
        "EmptyResponseError",
        "InvalidRequestError",
        "LimitExceededError",
        "MaxOutputTokensError",
        "ModelNotFoundError",
        "NoWorkerError",
        "OpenCodeError",
        "OpenCodeNotFoundError",
        "PermanentError",
        "PromptTimeoutError",
        "RateLimitError",
        "RetryOnceError",
        "ServerError",
        "StructuredOutputError",
        "ToolServerError",
        "TransientError",
        "TruncatedStreamError",
        "UnknownOpenCodeError",
        "WorkerLostError",
    ),
    "events": (
        "AttemptEnded",
        "Done",
        "Event",
        "PromptCancelled",
        "PromptFailed",
        "PromptStarted",
        "ReasoningDelta",
        "RequestStarted",
        "Retrying",
        "StepEnd",
        "StepRestarted",
        "TextDelta",
        "ToolCall",
        "ToolResult",
        "Waiting",
    ),
    "llm": ("ChutesOpenCodeLLM",),
    "opencode.transcript": ("parse_run_error", "parse_session_id"),
    "relay.limiter": ("LimiterStats",),
    "relay.server": ("RelayStats",),
    "request": ("Limits", "McpServer", "Params"),
    "results": (
        "Attempt",
        "Exchange",
        "Message",
        "QueryResult",
        "Transcript",
        "Usage",
    ),
    "retry": ("RetryPolicy",),
    "settings": ("Settings", "load_settings"),
    "simulator": ("Scenario", "Simulator"),
}
# They need the extra `[ray]`, so they are not in `__all__`: a star import must do without it.
_OF_EXTRAS = {
    "distributed": (
        "PromptPool",
        "PromptWorker",
        "RayExecutor",
        "prompt_dataset",
        "prompt_task",
        "ray_batch",
    ),
}
_HOME_OF = {
    name: home for homes in (_HOMES, _OF_EXTRAS) for home, names in homes.items() for name in names
}

__all__ = [
    "Attempt",
    "AttemptEnded",
    "AuthenticationError",
    "BatchArguments",
    "BatchItem",
    "BatchSummary",
    "BillingError",
    "Budget",
    "CapacityError",
    "Catalog",
    "Changes",
    "ChutesOpenCodeLLM",
    "ColdModelError",
    "ConfigurationError",
    "ContentFilterError",
    "ContextOverflowError",
    "Done",
    "EmptyResponseError",
    "EngineStats",
    "Estimate",
    "Event",
    "Exchange",
    "InvalidRequestError",
    "LimitExceededError",
    "LimiterStats",
    "Limits",
    "Listing",
    "MaxOutputTokensError",
    "McpServer",
    "Message",
    "Model",
    "ModelNotFoundError",
    "NoWorkerError",
    "OpenCodeError",
    "OpenCodeNotFoundError",
    "Params",
    "PermanentError",
    "Price",
    "PromptArguments",
    "PromptCancelled",
    "PromptFailed",
    "PromptStarted",
    "PromptTimeoutError",
    "Provider",
    "QueryResult",
    "RateLimitError",
    "ReasoningDelta",
    "Record",
    "RecordedError",
    "RelayStats",
    "RequestStarted",
    "RetryOnceError",
    "RetryPolicy",
    "Retrying",
    "RunFolder",
    "Scenario",
    "Selection",
    "ServerError",
    "Settings",
    "Simulator",
    "Snapshot",
    "StepEnd",
    "StepRestarted",
    "StopSwitch",
    "StructuredOutputError",
    "TextDelta",
    "ToolCall",
    "ToolResult",
    "ToolServerError",
    "Transcript",
    "TransientError",
    "TruncatedStreamError",
    "UnknownOpenCodeError",
    "Usage",
    "Waiting",
    "WorkerLostError",
    "__version__",
    "arun_batch",
    "classify_error",
    "estimate_batch",
    "load_settings",
    "parse_run_error",
    "parse_session_id",
    "register_provider",
    "run_batch",
    "write_report",
]


def __getattr__(name: str) -> Any:
    """Load a public name from the module that holds it."""
    if name == "__version__":
        from importlib.metadata import version

        return version("chutes-opencode")
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_HOME_OF[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """List the public names."""
    return sorted(__all__)
