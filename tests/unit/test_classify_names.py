"""The truth table of opencode's error names → class, tried again?, after how many seconds."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from chutes_opencode.classify import (
    classify_error,
    classify_reason,
)
from chutes_opencode.errors import (
    AuthenticationError,
    ColdModelError,
    ConfigurationError,
    ContentFilterError,
    ContextOverflowError,
    InvalidRequestError,
    MaxOutputTokensError,
    ModelNotFoundError,
    OpenCodeError,
    RateLimitError,
    RetryOnceError,
    ServerError,
    StructuredOutputError,
    ToolServerError,
    TransientError,
    UnknownOpenCodeError,
)
from chutes_opencode.patterns import (
    OPENCODE_NAMES,
)
from chutes_opencode.retry import RetryPolicy, Wait, decide

NOW = datetime(2026, 11, 21, 18, 30, tzinfo=UTC)
CAPTURES = Path(__file__).parents[1] / "captures"
CURRENT = CAPTURES / "opencode-1.18.33"


def wait_of(error: OpenCodeError) -> float | None:
    """Seconds that the default policy waits after a first failure; None: it does not try again."""
    decision = decide(RetryPolicy(), error, 1, now=NOW, random01=0.5)
    return decision.seconds if isinstance(decision, Wait) else None


NAMED = {
    "APIError": UnknownOpenCodeError,  # without a status, flag and known words it says nothing
    "UnknownError": UnknownOpenCodeError,
    "MessageAbortedError": UnknownOpenCodeError,
    "ProviderAuthError": AuthenticationError,
    "MessageOutputLengthError": MaxOutputTokensError,
    "ContextOverflowError": ContextOverflowError,
    "ContentFilterError": ContentFilterError,
    "StructuredOutputError": StructuredOutputError,
    "ProviderModelNotFoundError": ModelNotFoundError,
    "ModelNotFoundError": ModelNotFoundError,
    "SessionRunnerModel.ModelUnavailableError": ModelNotFoundError,
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
    "SessionRunnerModel.UnsupportedApiError": ConfigurationError,
    "SkillInvalidError": ConfigurationError,
    "SkillNameMismatchError": ConfigurationError,
    "AI_LoadSettingError": ConfigurationError,
    "AI_NoSuchProviderError": ConfigurationError,
    "MCPFailed": ToolServerError,
    "McpServerNotFoundError": ToolServerError,
    "InvalidRequestError": InvalidRequestError,
    "BadRequestError": InvalidRequestError,
    "NotFoundError": InvalidRequestError,
    "SessionNotFoundError": InvalidRequestError,
    "Session.NotFoundError": InvalidRequestError,
    "MessageNotFoundError": InvalidRequestError,
    "ImageDecodeError": InvalidRequestError,
    "ImageInvalidDataUrlError": InvalidRequestError,
    "ImageSizeError": InvalidRequestError,
    "AI_InvalidPromptError": InvalidRequestError,
    "AI_UnsupportedFunctionalityError": InvalidRequestError,
    "AI_LoadAPIKeyError": AuthenticationError,
    "AI_NoSuchModelError": ModelNotFoundError,
    "ServiceUnavailableError": ServerError,
    "ProviderHeaderTimeoutError": ServerError,
    "ProviderResponseStreamError": ServerError,
    "AI_EmptyResponseBodyError": ServerError,
    "AI_InvalidResponseDataError": ServerError,
    "AI_InvalidStreamPartError": ServerError,
    "AI_JSONParseError": ServerError,
    "AI_TypeValidationError": ServerError,
}

# What the default policy does after a first error of a family: seconds, or None.
FAMILY_WAITS: list[tuple[type[OpenCodeError], float | None]] = [
    (RateLimitError, 60.0),
    (ColdModelError, 10.0),
    (TransientError, 1.0),
    (RetryOnceError, 0.0),
    (OpenCodeError, None),
]

SCHEMA_NAMES = [*(CURRENT / "error_names.txt").read_text().split(), "BadRequestError"]


def test_the_table_of_names_is_whole() -> None:
    assert set(NAMED) - {"APIError", "UnknownError", "MessageAbortedError"} == set(OPENCODE_NAMES)
    assert set(NAMED) <= {
        *SCHEMA_NAMES,
        "ProviderHeaderTimeoutError",
        "ProviderResponseStreamError",
    }


@pytest.mark.parametrize("name", SCHEMA_NAMES)
def test_every_error_name_of_opencode_has_its_class(name: str) -> None:
    error = classify_error({"name": name, "data": {"message": "xyz"}})

    assert type(error) is NAMED.get(name, UnknownOpenCodeError)
    assert error.raw_message == "xyz"
    expected = next(wait for family, wait in FAMILY_WAITS if isinstance(error, family))
    assert wait_of(error) == expected


@pytest.mark.parametrize("name", SCHEMA_NAMES)
def test_a_name_in_the_log_means_the_same(name: str) -> None:
    assert type(classify_reason(f"{name}: xyz")) is (
        NAMED.get(name, UnknownOpenCodeError)
        if name.endswith(("Error", "Failed"))
        else UnknownOpenCodeError
    )
