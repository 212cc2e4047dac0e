"""No key where Ray would show it."""

from __future__ import annotations

from typing import Any

import pytest

from chutes_opencode.credentials import CHUTES, Endpoint
from chutes_opencode.distributed.setup.secrets import (
    key_names,
    key_of,
    refuse_key_in,
    refuse_keys,
)
from chutes_opencode.errors import ConfigurationError
from chutes_opencode.masking import register_secret
from chutes_opencode.settings import load_settings

KEY = "cpk_cluster_key_0123456789"
WORD = "a-registered-secret-word"
NAMES = key_names(CHUTES)


def test_the_names_are_ours_and_the_providers() -> None:
    other = Endpoint(id="other", key_env=("OTHER_API_KEY", "CHUTES_API_KEY"))

    assert key_names(other) == (
        "CHUTES_API_TOKEN",
        "CHUTES_API_KEY",
        "CHUTES_OPENCODE_API_TOKEN",
        "OTHER_API_KEY",
    )


@pytest.mark.parametrize("name", NAMES)
def test_a_variable_of_ours_is_refused_whatever_it_holds(name: str) -> None:
    with pytest.raises(ConfigurationError, match=rf"\(env_vars\.{name}\)") as caught:
        refuse_keys({"env_vars": {name: "not-shown"}}, NAMES)

    assert "not-shown" not in f"{caught.value} {caught.value.hint}"
    assert "CHUTES_API_TOKEN_FILE" in caught.value.hint


@pytest.mark.parametrize("secret", [KEY, WORD])
@pytest.mark.parametrize(
    ("place", "shape"),
    [
        ("env_vars.NOTE", lambda secret: {"env_vars": {"NOTE": f"it is {secret}"}}),
        ("working_dir", lambda secret: {"working_dir": f"s3://key:{secret}@bucket/code.zip"}),
        ("pip.packages[1]", lambda secret: {"pip": {"packages": ["x", f"y @ {secret}"]}}),
        ("config.[masked]", lambda secret: {"config": {secret: 1}}),
    ],
)
def test_a_key_anywhere_in_it_is_refused(secret: str, place: str, shape: Any) -> None:
    register_secret(WORD)

    with pytest.raises(ConfigurationError) as caught:
        refuse_keys(shape(secret), NAMES)

    assert f"({place})" in caught.value.raw_message
    assert secret not in f"{caught.value} {caught.value.hint}"


@pytest.mark.parametrize(
    "harmless",
    [
        {},
        {"env_vars": None},
        {"env_vars": {"CHUTES_API_TOKEN": "", "CHUTES_API_TOKEN_FILE": "/run/secrets/token"}},
        {"env_vars": {"CHUTES_BASE_URL": "https://llm.chutes.ai/v1"}, "pip": ["httpx"]},
    ],
)
def test_what_is_no_key_passes(harmless: dict[str, Any]) -> None:
    refuse_keys(harmless, NAMES)


def test_the_key_in_arguments_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="stands in an argument") as caught:
        refuse_key_in(b"\x80\x05 ... " + KEY.encode() + b".", KEY)

    assert KEY not in str(caught.value)


@pytest.mark.parametrize("key", [None, "another-key-than-that"])
def test_arguments_without_the_key_pass(key: str | None) -> None:
    refuse_key_in(b"about " + KEY.encode(), key)


@pytest.mark.parametrize(("token", "key"), [(KEY, KEY), (None, None), ("short", None)])
def test_the_drivers_key_is_known_if_it_has_one(token: str | None, key: str | None) -> None:
    assert key_of(load_settings(api_token=token)) == key
