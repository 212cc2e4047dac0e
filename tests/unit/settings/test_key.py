"""The key: where it comes from, and that it shows nowhere."""

from __future__ import annotations

import copy
import json
import pickle
import traceback
from pathlib import Path
from typing import Any

import cloudpickle  # type: ignore[import-untyped]
import pytest

from chutes_opencode.errors import AuthenticationError, ConfigurationError
from chutes_opencode.masking import MASK, mask
from tests.unit.settings.place import KEY, Place


@pytest.mark.parametrize(
    ("environ", "source"),
    [
        (
            {"CHUTES_API_TOKEN": KEY, "CHUTES_API_KEY": "other-key-1"},
            "environment CHUTES_API_TOKEN",
        ),
        ({"CHUTES_API_TOKEN": "", "CHUTES_API_KEY": KEY}, "environment CHUTES_API_KEY"),
        ({"CHUTES_OPENCODE_API_TOKEN": KEY}, "environment CHUTES_OPENCODE_API_TOKEN"),
        ({"CHUTES_API_TOKEN": f" {KEY}\r\n"}, "environment CHUTES_API_TOKEN"),
    ],
)
def test_the_key_comes_from_the_environment(
    place: Place, environ: dict[str, str], source: str
) -> None:
    settings = place.load({"CHUTES_API_TOKEN_FILE": "/missing"} | environ)

    assert (settings.require_token(), settings.sources["api_token"]) == (KEY, source)


def test_the_key_comes_from_a_file_that_the_environment_names(place: Place) -> None:
    path = place.root / "secret"
    path.write_text(f"{KEY}\n")

    settings = place.load({"CHUTES_API_TOKEN_FILE": str(path)})

    assert settings.require_token() == KEY
    assert settings.sources["api_token"] == f"environment CHUTES_API_TOKEN_FILE ({path})"


def test_a_settings_file_names_the_file_of_the_key(place: Place) -> None:
    (place.user_file.parent / "secret").write_text(KEY)
    place.user_file.write_text("apiTokenFile = 'secret'")

    assert place.load().require_token() == KEY
    assert place.load(api_token_file=place.user_file.parent / "secret").require_token() == KEY


def test_a_key_beside_a_key_file_wins(place: Place) -> None:
    place.user_file.write_text(f"api_token = '{KEY}'\napi_token_file = '/missing'")

    assert place.load().require_token() == KEY


@pytest.mark.parametrize("content", ["/missing", "/", "a\\u0000b"])
def test_a_key_file_that_cannot_be_read_is_refused(place: Place, content: str) -> None:
    place.user_file.write_text(f'api_token_file = "{content}"')

    assert f"{place.user_file}:1: api_token_file: " in place.refusal()


def test_a_key_file_is_a_path(place: Place) -> None:
    place.user_file.write_text("api_token_file = 7")

    assert place.refusal() == f"{place.user_file}:1: api_token_file: should be a path"


def test_opencodes_own_store_comes_last(place: Place) -> None:
    path = place.store_opencode_key(json.dumps({"chutes": {"type": "api", "key": f"{KEY}\n"}}))

    assert place.load().require_token() == KEY
    assert place.load().sources["api_token"] == str(path)
    assert place.load({"CHUTES_BASE_URL": "http://127.0.0.1:1/v1"}).require_token() == KEY
    assert place.load({"CHUTES_API_KEY": "another-key"}).require_token() == "another-key"


def test_opencodes_chutes_key_goes_to_no_other_host(place: Place) -> None:
    place.store_opencode_key(json.dumps({"chutes": {"type": "api", "key": KEY}}))

    assert place.load({"CHUTES_BASE_URL": "https://llm.example.org/v1"}).api_token is None


def test_opencodes_store_is_where_xdg_says(place: Place, tmp_path: Path) -> None:
    (tmp_path / "data" / "opencode").mkdir(parents=True)
    entry = {"chutes": {"type": "api", "key": KEY}}
    (tmp_path / "data" / "opencode" / "auth.json").write_text(json.dumps(entry))

    assert place.load({"XDG_DATA_HOME": str(tmp_path / "data")}).require_token() == KEY


@pytest.mark.parametrize(
    "content",
    [
        "no json",
        "[]",
        "{}",
        '{"chutes": "text"}',
        '{"chutes": {"type": "oauth", "key": "cpk_settings_test_0001"}}',
        '{"chutes": {"type": "api"}}',
        '{"chutes": {"type": "api", "key": 5}}',
        '{"chutes": {"type": "api", "key": " "}}',
    ],
)
def test_a_store_of_another_form_holds_no_key(place: Place, content: str) -> None:
    place.store_opencode_key(content)

    assert place.load().api_token is None


def test_a_missing_key_says_how_to_set_it(place: Place) -> None:
    with pytest.raises(AuthenticationError) as caught:
        place.load(api_token="  ").require_token()

    assert "CHUTES_API_TOKEN" in caught.value.hint


@pytest.mark.parametrize(
    ("key", "flaw"),
    [
        ("cpk_two words_1234", "has white space inside"),
        ("cpk_two\nlines_1234", "has white space inside"),
        ("cpk_bell\x07_123456", "has control characters"),
        ("cpk_schlüssel_1234", "has characters that are not ASCII"),
        ("cpk_123", "is shorter than 8 characters"),
    ],
)
def test_a_malformed_key_is_refused_without_showing_it(place: Place, key: str, flaw: str) -> None:
    settings = place.load({"CHUTES_API_TOKEN": key})

    with pytest.raises(AuthenticationError) as caught:
        settings.require_token()

    assert caught.value.raw_message == f"the API key from environment CHUTES_API_TOKEN {flaw}"
    assert key not in "".join(traceback.format_exception(caught.value))


def test_the_key_shows_nowhere(place: Place) -> None:
    settings = place.load(api_token=KEY)

    for shown in (
        repr(settings),
        str(settings),
        str(settings.model_dump()),
        settings.model_dump_json(),
    ):
        assert KEY not in shown
    assert mask(f"x {KEY}") == f"x {MASK}"
    with pytest.raises(ConfigurationError) as caught:
        place.load(api_token=KEY, retries=0)
    assert KEY not in "".join(traceback.format_exception(caught.value))


def test_a_key_that_is_no_text_is_refused_without_showing_it(place: Place) -> None:
    assert place.refusal(api_token=12345678) == "argument: api_token: should be a valid string"


@pytest.mark.parametrize("module", [pickle, cloudpickle])
def test_a_pickle_carries_no_key(place: Place, module: Any) -> None:
    settings = place.load(api_token=KEY, retries=5)

    data = module.dumps(settings)
    back = pickle.loads(data)

    assert KEY.encode() not in data
    assert back.api_token is None
    assert back.retries == 5
    assert copy.deepcopy(settings).require_token() == KEY


def test_a_key_that_its_variable_still_holds_is_not_looked_for_again(place: Place) -> None:
    environ = place.environ | {"CHUTES_API_TOKEN": f" {KEY}\n"}
    before = place.load({"CHUTES_API_TOKEN": KEY})

    assert before.with_fresh_token(environ=environ, cwd=place.project) is before


def test_a_stronger_variable_wins_over_the_one_that_held_the_key(place: Place) -> None:
    before = place.load({"CHUTES_API_KEY": KEY})
    environ = place.environ | {"CHUTES_API_KEY": KEY, "CHUTES_API_TOKEN": "stronger-key-1"}

    fresh = before.with_fresh_token(environ=environ, cwd=place.project)

    assert fresh.require_token() == "stronger-key-1"


def test_a_fresh_key_is_read_where_the_settings_are_used(place: Place) -> None:
    before = place.load({"CHUTES_API_TOKEN": KEY}, retries=5)
    environ = place.environ | {"CHUTES_API_TOKEN": "rotated-key-1"}

    fresh = before.with_fresh_token(environ=environ, cwd=place.project)
    unpickled = pickle.loads(pickle.dumps(before)).with_fresh_token(
        environ=environ, cwd=place.project
    )

    assert (fresh.require_token(), fresh.retries) == ("rotated-key-1", 5)
    assert unpickled.require_token() == "rotated-key-1"
