"""The words that are known exactly, as data: a provider's error bodies, opencode's names.

`classify` takes a provider's as an argument, so that it knows no provider.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace

from chutes_opencode.errors import (
    AuthenticationError,
    BillingError,
    CapacityError,
    ColdModelError,
    ConfigurationError,
    ContentFilterError,
    ContextOverflowError,
    InvalidRequestError,
    MaxOutputTokensError,
    ModelNotFoundError,
    OpenCodeError,
    RateLimitError,
    ServerError,
    StructuredOutputError,
    ToolServerError,
)

ErrorClass = type[OpenCodeError]


@dataclass(frozen=True, slots=True)
class BodyPattern:
    """A known error body and what it means.

    Attributes:
        statuses: HTTP statuses under which the body is believed. Where no status was told (an
            error inside a stream) the body alone decides.
        regex: Searched, ignoring case, in the message and in the `type` and `code` of the body.
        error: The class that it means.
        until_midnight: Whether it ends at the next UTC midnight.
    """

    statuses: tuple[int, ...]
    regex: str
    error: ErrorClass
    until_midnight: bool = False

    def matches(self, status: int | None, texts: tuple[str, ...]) -> bool:
        """Tell whether one of `texts`, answered with `status`, is this body."""
        believed = status is None or status in self.statuses
        return believed and any(re.search(self.regex, text, re.IGNORECASE) for text in texts)


@dataclass(frozen=True, slots=True)
class ProviderPatterns:
    """How one provider words its errors.

    Attributes:
        bodies: Known bodies; the first that matches wins.
        reset_fields: Fields of an error object that hold the time of a quota's reset.
        request_id_headers: Headers (lower case) that hold the provider's id of the request.
    """

    bodies: tuple[BodyPattern, ...] = ()
    reset_fields: tuple[str, ...] = ()
    request_id_headers: tuple[str, ...] = ("x-request-id",)

    def preceded_by(self, bodies: tuple[BodyPattern, ...]) -> ProviderPatterns:
        """Return these with further bodies, which win over those here."""
        return replace(self, bodies=(*bodies, *self.bodies))


_OVERFLOW = (400, 413, 422)

OPENAI_BODIES = (
    # The engines (vLLM, SGLang) and OpenAI itself: prompt and answer do not fit.
    BodyPattern(_OVERFLOW, r"maximum context length is [\d,]+ tokens", ContextOverflowError),
    BodyPattern(
        _OVERFLOW, r"exceeds the model's maximum context length of [\d,]+", ContextOverflowError
    ),
    BodyPattern(
        _OVERFLOW,
        r"input \([\d,]+ tokens\) is longer than the model's context length",
        ContextOverflowError,
    ),
    BodyPattern(_OVERFLOW, r"longer than the maximum model length of [\d,]+", ContextOverflowError),
    BodyPattern(_OVERFLOW, r"^context_length_exceeded$", ContextOverflowError),
    # Machine words (`type`, `code`): the precise ones before the general ones.
    BodyPattern((402, 403, 429), r"^insufficient_quota$", BillingError),
    BodyPattern((400, 404), r"^model_not_found$", ModelNotFoundError),
    BodyPattern((401, 403), r"^(invalid_api_key|authentication_error)$", AuthenticationError),
    BodyPattern((429,), r"^rate_limit(_exceeded|_error)?$", RateLimitError),
    BodyPattern((500, 503, 529), r"^(overloaded|overloaded_error|server_error)$", ServerError),
    BodyPattern((400, 422), r"^(invalid_request_error|BadRequestError)$", InvalidRequestError),
    # Their plain words say no more than their status; they count where no status was told.
    BodyPattern((429,), r"^(rate limit (reached|exceeded)|too many requests)", RateLimitError),
    BodyPattern((408,), r"^request timed out", ServerError),
    BodyPattern((409,), r"^the resource is locked", InvalidRequestError),
    BodyPattern((500, 503), r"^the (server had an error|engine is restarting)", ServerError),
)
"""Bodies in the shape of OpenAI's API, which most providers and engines share."""

OPENAI_PATTERNS = ProviderPatterns(
    bodies=OPENAI_BODIES, request_id_headers=("x-request-id", "request-id")
)
"""A provider of which nothing else is known."""

CHUTES_PATTERNS = ProviderPatterns(
    bodies=(
        BodyPattern((429,), r"^Free models limit reached for today", BillingError, True),
        BodyPattern(
            (429,),
            r"^(Infrastructure is at maximum capacity|infra_overload$|no_targets$)",
            CapacityError,
        ),
        BodyPattern((503,), r"^No instances available", ColdModelError),
        BodyPattern((503,), r"^This chute is currently disabled", ModelNotFoundError),
        BodyPattern((404,), r"^(model not found: |No matching chute found)", ModelNotFoundError),
        BodyPattern((402,), r"^(Quota exceeded|Subscription usage cap exceeded)", BillingError),
        BodyPattern(
            (500,),
            r"^(exhausted all available targets|No result returned from upstream)",
            ServerError,
        ),
        *OPENAI_BODIES,
    ),
    reset_fields=("quota_reset_timestamp", "reset_at"),
    request_id_headers=("x-request-id", "x-chutes-invocationid"),
)
"""The Chutes API: of every provider with the quirk `chutes_errors`."""

OPENCODE_NAMES: Mapping[str, ErrorClass] = {
    "ProviderAuthError": AuthenticationError,
    "MessageOutputLengthError": MaxOutputTokensError,
    "ContextOverflowError": ContextOverflowError,
    "ContentFilterError": ContentFilterError,
    "StructuredOutputError": StructuredOutputError,
    "ProviderModelNotFoundError": ModelNotFoundError,
    "ModelNotFoundError": ModelNotFoundError,
    "ProviderInitError": ConfigurationError,
    "ProviderNotFoundError": ConfigurationError,
    "ProviderNoModelsError": ConfigurationError,
    "ProviderNoProvidersError": ConfigurationError,
    "ConfigJsonError": ConfigurationError,
    "ConfigInvalidError": ConfigurationError,
    "ConfigDirectoryTypoError": ConfigurationError,
    "ConfigFrontmatterError": ConfigurationError,
    "ConfigRemoteAuthError": ConfigurationError,
    "SessionRunnerModel.ModelNotSelectedError": ConfigurationError,
    "SessionRunnerModel.ModelUnavailableError": ModelNotFoundError,
    "SessionRunnerModel.UnsupportedApiError": ConfigurationError,
    "SkillInvalidError": ConfigurationError,
    "SkillNameMismatchError": ConfigurationError,
    "InvalidRequestError": InvalidRequestError,
    "BadRequestError": InvalidRequestError,
    "NotFoundError": InvalidRequestError,
    "SessionNotFoundError": InvalidRequestError,
    "Session.NotFoundError": InvalidRequestError,
    "MessageNotFoundError": InvalidRequestError,
    "ImageDecodeError": InvalidRequestError,
    "ImageInvalidDataUrlError": InvalidRequestError,
    "ImageSizeError": InvalidRequestError,
    "MCPFailed": ToolServerError,
    "McpServerNotFoundError": ToolServerError,
    "ServiceUnavailableError": ServerError,
    "ProviderHeaderTimeoutError": ServerError,
    "ProviderResponseStreamError": ServerError,
    # The AI SDK's own names, as they stand in opencode's log.
    "AI_LoadAPIKeyError": AuthenticationError,
    "AI_NoSuchModelError": ModelNotFoundError,
    "AI_InvalidPromptError": InvalidRequestError,
    "AI_UnsupportedFunctionalityError": InvalidRequestError,
    "AI_LoadSettingError": ConfigurationError,
    "AI_NoSuchProviderError": ConfigurationError,
    "AI_EmptyResponseBodyError": ServerError,
    "AI_InvalidResponseDataError": ServerError,
    "AI_InvalidStreamPartError": ServerError,
    "AI_JSONParseError": ServerError,
    "AI_TypeValidationError": ServerError,
}
"""Every error name of opencode that means something to a caller.

The names beside these (worktrees, terminals, accounts, …) do not end a prompt and stay unknown.
"""

OPENCODE_WORDS: tuple[tuple[str, ErrorClass], ...] = (
    (r"^Model not found: ", ModelNotFoundError),
    (
        r"^(Cannot connect to API|Unable to connect|Connection reset by server"
        r"|The socket connection was closed|The operation timed out|Response decompression failed"
        r"|Provider response headers timed out|SSE read timed out|JSON parsing failed"
        r"|Type validation failed|Invalid JSON response|Failed to process .* response)",
        ServerError,
    ),
    (r"^Agent not found", ConfigurationError),
    (r"^Session not found|^You must provide a message", InvalidRequestError),
    (r"^Configuration is invalid|is not valid JSON\(C\)|bad file reference", ConfigurationError),
)
"""opencode's own words for what it tells without a status."""
