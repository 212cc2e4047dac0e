"""How single settings are read, and refused: what files, variables and arguments may write."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, SecretStr, ValidationError


def _number(value: object) -> object:
    if isinstance(value, bool):
        raise ValueError("should be a number")
    return value


def _words(value: object) -> object:
    return [part for part in value.split(",") if part.strip()] if isinstance(value, str) else value


def _stripped_secret(value: object) -> object:
    secret = value.get_secret_value() if isinstance(value, SecretStr) else value
    return (secret.strip() or None) if isinstance(secret, str) else value


Seconds = Annotated[float, BeforeValidator(_number), Field(gt=0, allow_inf_nan=False)]
Interval = Annotated[float, BeforeValidator(_number), Field(ge=0, allow_inf_nan=False)]
Count = Annotated[int, BeforeValidator(_number), Field(ge=1)]
Text = Annotated[str | None, BeforeValidator(lambda value: None if value == "" else value)]
Words = Annotated[tuple[str, ...], BeforeValidator(_words)]
Token = Annotated[SecretStr | None, BeforeValidator(_stripped_secret)]
Lower = BeforeValidator(lambda value: value.lower() if isinstance(value, str) else value)


# What pydantic would say in the words of Python's types.
_WORDING = {
    "tuple_type": "should be a list",
    "frozen_set_type": "should be a list",
    "dict_type": "should be a table",
    "bool_type": "should be true or false",
    "bool_parsing": "should be true or false",
    "string_too_short": "should not be empty",
}


def describe_flaw(flaw: Mapping[str, Any]) -> str:
    """Say what a value should be.

    Args:
        flaw: One of `ValidationError.errors()`.
    """
    said = re.sub(r"^(Input |Value error, )", "", flaw["msg"])
    return _WORDING.get(flaw["type"], said)


def describe_flaws(
    error: ValidationError, values: Mapping[str, Any], sources: Mapping[str, str]
) -> str:
    """Say of each field that cannot be where it stands and what it should be; shows no secret."""
    reasons = []
    for flaw in error.errors(include_url=False, include_context=False):
        name = str(flaw["loc"][0])
        text = describe_flaw(flaw)
        secret = name == "api_token" or "@" in str(values[name])
        shown = "" if secret else f" (it is {values[name]!r:.80})"
        reasons.append(f"{sources[name]}: {name}: {text}{shown}")
    return "; ".join(reasons)
