"""Every error of the package, in one tree, branched by what the caller should do.

::

    OpenCodeError
    ├── PermanentError             never retried, raised at once
    │   ├── AuthenticationError    the key: missing, malformed, refused (401, 403)
    │   ├── BillingError           the account: no balance, quota used (402, some 429)
    │   ├── InvalidRequestError    the request (400, 409, 413, 422 and other 4xx)
    │   │   ├── ModelNotFoundError     no such model (any more)
    │   │   └── ContextOverflowError   prompt and answer do not fit the model
    │   ├── ContentFilterError     the provider withheld the answer
    │   ├── LimitExceededError     one of our own limits: max_requests, max_cost, …
    │   └── ConfigurationError     settings, agent, flag
    │       ├── OpenCodeNotFoundError  no usable opencode binary
    │       └── ToolServerError        an MCP server that did not come up
    ├── RetryOnceError             worth exactly one more try
    │   ├── MaxOutputTokensError   the answer was cut at the output limit
    │   └── StructuredOutputError  the answer does not fit the output schema
    └── TransientError             retried with backoff and jitter
        ├── RateLimitError         429
        │   └── CapacityError          all instances are full
        ├── ServerError            5xx, connection trouble
        │   ├── ColdModelError         no instance yet
        │   └── TruncatedStreamError   the stream ended without a finish reason
        ├── PromptTimeoutError     our deadline; the process tree is gone
        ├── UnknownOpenCodeError   anything unclassified
        ├── EmptyResponseError     a clean end without an answer
        └── WorkerLostError        a cluster's worker was lost with the prompt
            └── NoWorkerError          no worker of the cluster is left

All of them survive pickle, cloudpickle and copy with every field and their cause. The positional
constructor arguments are those of the seed's backend.
"""

from __future__ import annotations

from datetime import datetime
from typing import Unpack

from chutes_opencode.base_error import Details, OpenCodeError, TypedError
from chutes_opencode.masking import mask

__all__ = [
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
]


class PermanentError(TypedError):
    """Trying again cannot help: raised at once."""

    default_error_type = "permanent"


class RetryOnceError(TypedError):
    """Sampling may do better a second time: one more try, then raised."""

    default_error_type = "retry_once"


class TransientError(TypedError):
    """Waiting helps: retried with backoff and jitter."""

    default_error_type = "transient"


class AuthenticationError(PermanentError):
    """The key is missing, malformed or refused (401, 403, ProviderAuthError)."""

    default_error_type = "authentication_failed"
    default_hint = (
        "Set CHUTES_API_TOKEN to a valid key (get one at https://chutes.ai), "
        "or store one with `chutes-opencode config init`."
    )


class BillingError(PermanentError):
    """The account has no balance, or a plan's quota is used up (402; 429 of a quota).

    Attributes:
        reset_time: When the quota is fresh again (aware), if the provider told.
    """

    default_error_type = "billing_error"
    default_hint = "Add balance to the account, wait for the quota's reset, or use another model."

    def __init__(
        self,
        node_id: str = "unknown",
        exit_code: int = -1,
        raw_message: str = "",
        reset_time: datetime | None = None,
        **details: Unpack[Details],
    ) -> None:
        """Take the seed's positional arguments, then the time of the reset."""
        self.reset_time = reset_time
        super().__init__(node_id, exit_code, raw_message, **details)


class InvalidRequestError(PermanentError):
    """The request itself is wrong (400, 409, 413, 422 and other 4xx)."""

    default_error_type = "invalid_request"
    default_hint = "Change the request: the message says what is wrong with it."


class ModelNotFoundError(InvalidRequestError):
    """No such model, or no longer (404, "disabled", opencode's own unknown model).

    Attributes:
        suggestions: The nearest model ids that exist, best first.
    """

    default_error_type = "model_not_found"
    default_hint = "Use a model id that the provider lists at `GET /v1/models`."

    def __init__(
        self,
        node_id: str = "unknown",
        exit_code: int = -1,
        raw_message: str = "",
        suggestions: tuple[str, ...] = (),
        **details: Unpack[Details],
    ) -> None:
        """Take the seed's positional arguments, then the suggestions."""
        self.suggestions = tuple(suggestions)
        if suggestions and not details.get("hint"):
            details["hint"] = f"Did you mean {' or '.join(suggestions[:3])}?"
        super().__init__(node_id, exit_code, raw_message, **details)


class ContextOverflowError(InvalidRequestError):
    """Prompt, history and answer together are longer than the model's context."""

    default_error_type = "context_overflow"
    default_hint = "Shorten the prompt, lower max_tokens, or use a model with a longer context."


class ContentFilterError(PermanentError):
    """The provider's content filter withheld the answer (finish reason content_filter)."""

    default_error_type = "content_filter"
    default_hint = "Rephrase the prompt; the provider's filter withheld this answer."


class LimitExceededError(PermanentError):
    """One of our own limits ended the prompt; `result` holds what was done until then.

    Attributes:
        limit: Which one: "max_requests", "max_tokens", "max_cost_usd", "max_total_cost_usd" or
            "max_process_cost_usd".
        overrun: Whether one answer went on beyond what it was allowed to cost: something of the
            limit may be left for others.
    """

    default_error_type = "limit_exceeded"
    default_hint = "Raise the limit if the work is worth it; the partial result is in `.result`."

    def __init__(
        self,
        node_id: str = "unknown",
        exit_code: int = -1,
        raw_message: str = "",
        limit: str = "",
        *,
        overrun: bool = False,
        **details: Unpack[Details],
    ) -> None:
        """Take the seed's positional arguments, then the name of the limit."""
        self.limit = limit
        self.overrun = overrun
        super().__init__(node_id, exit_code, raw_message, **details)


class ConfigurationError(PermanentError):
    """Something of ours is set wrongly: a setting, an agent, a flag, a combination of them."""

    default_error_type = "configuration"
    default_hint = (
        "Correct what is named; `chutes-opencode config show` names each setting's source."
    )


class OpenCodeNotFoundError(ConfigurationError):
    """There is no opencode binary that can be used."""

    default_error_type = "opencode_not_found"
    default_hint = "Run `chutes-opencode setup`, or point OPENCODE_BIN at an opencode binary."


class ToolServerError(ConfigurationError):
    """An MCP server did not come up, or its tools never reached the model."""

    default_error_type = "tool_server"
    default_hint = "Start the tool server, check its URL or command, and try again."


class MaxOutputTokensError(RetryOnceError):
    """The answer was cut at the output limit (finish reason length).

    Attributes:
        partial_text: What had been written until then.
    """

    default_error_type = "max_output_tokens"
    default_hint = "Raise params.max_tokens or ask for a shorter answer."

    def __init__(
        self,
        node_id: str = "unknown",
        exit_code: int = -1,
        raw_message: str = "",
        partial_text: str = "",
        **details: Unpack[Details],
    ) -> None:
        """Take the seed's positional arguments."""
        self.partial_text = partial_text
        super().__init__(node_id, exit_code, raw_message, **details)


class StructuredOutputError(RetryOnceError):
    """The answer does not fit the output schema, even after the repair turn.

    Attributes:
        partial_text: The answer as it was.
        validation_errors: What is wrong with it, one sentence each.
    """

    default_error_type = "structured_output"
    default_hint = "Simplify output_schema, describe it in the prompt, or use a stronger model."

    def __init__(
        self,
        node_id: str = "unknown",
        exit_code: int = -1,
        raw_message: str = "",
        partial_text: str = "",
        validation_errors: tuple[str, ...] = (),
        **details: Unpack[Details],
    ) -> None:
        """Take the arguments of its sibling, then the validation errors."""
        self.partial_text = partial_text
        self.validation_errors = tuple(validation_errors)
        super().__init__(node_id, exit_code, raw_message, **details)


class RateLimitError(TransientError):
    """Too many requests (429).

    Attributes:
        reset_time: When to try again (aware), None if the provider did not tell.
    """

    default_error_type = "rate_limit"
    default_hint = "Lower the concurrency, or wait until `.reset_time`."

    def __init__(
        self,
        node_id: str = "unknown",
        reset_time: datetime | None = None,
        raw_message: str = "",
        exit_code: int = -1,
        **details: Unpack[Details],
    ) -> None:
        """Take the seed's positional arguments; note their order."""
        self.reset_time = reset_time
        super().__init__(node_id, exit_code, raw_message, **details)


class CapacityError(RateLimitError):
    """All instances of the model are full: seconds to minutes, or another model."""

    default_error_type = "capacity"
    default_hint = "Wait a little, or use another model: all instances of this one are full."


class ServerError(TransientError):
    """The provider or the way to it failed (5xx, 408, 425, 499, connection trouble).

    Attributes:
        retry_after: Seconds that the provider asked to wait, None if it did not.
    """

    default_error_type = "server_error"
    default_hint = "Try again later; if it lasts, look at the provider's status page."

    def __init__(
        self,
        node_id: str = "unknown",
        exit_code: int = -1,
        raw_message: str = "",
        retry_after: float | None = None,
        **details: Unpack[Details],
    ) -> None:
        """Take the seed's positional arguments."""
        self.retry_after = retry_after
        super().__init__(node_id, exit_code, raw_message, **details)


class ColdModelError(ServerError):
    """No instance of the model runs yet: minutes, sooner with a warm-up."""

    default_error_type = "cold_model"
    default_hint = "Wait some minutes for an instance to start, or use another model."


class TruncatedStreamError(ServerError):
    """The answer's stream ended without a finish reason: it is not whole."""

    default_error_type = "truncated_stream"
    default_hint = "Try again: the provider's stream broke off; the partial text is in `.result`."


class PromptTimeoutError(TransientError):
    """Our deadline passed; the whole process tree was gone when this was raised."""

    default_error_type = "timeout"
    default_hint = (
        "Raise timeout_seconds (or deadline_seconds, if that was shorter), or make the prompt's "
        "work smaller."
    )


class UnknownOpenCodeError(TransientError):
    """A failure that fits no other class.

    Attributes:
        stderr: What opencode wrote to its stderr, secrets masked.
    """

    default_error_type = "unknown"
    default_hint = "Read `.stderr` and `.raw_message`; they are all that opencode told."

    def __init__(
        self,
        node_id: str = "unknown",
        exit_code: int = -1,
        raw_message: str = "",
        stderr: str = "",
        **details: Unpack[Details],
    ) -> None:
        """Take the seed's positional arguments."""
        self.stderr = mask(stderr)
        super().__init__(node_id, exit_code, raw_message, **details)


class EmptyResponseError(TransientError):
    """opencode ended well and said nothing."""

    default_error_type = "empty_response"
    default_hint = "Try again; if it lasts, the model answers this prompt with nothing."


class WorkerLostError(TransientError):
    """The worker on which the prompt ran is gone, and with it what the prompt came to."""

    default_error_type = "worker_lost"
    default_hint = "Run it again; what was asked until then may have been billed."


class NoWorkerError(WorkerLostError):
    """No worker of the cluster is left, and none came in time."""

    default_error_type = "no_worker"
    default_hint = "Look at the cluster (`ray status`), then run the same again: it goes on."
