"""Settings: where each value comes from, and what is refused."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import platformdirs
import pytest
from pydantic import SecretStr

from chutes_opencode.errors import ConfigurationError
from chutes_opencode.settings import (
    FIELDS,
    Settings,
    check_file,
    inherited_environment,
    installer_environment,
    load_settings,
    project_file,
    stored_in_file,
    user_file,
)
from tests.unit.settings.place import KEY, Place


def test_defaults(place: Place) -> None:
    settings = place.load()

    assert settings.model_dump(exclude={"sources", "max_processes"}) == {
        "api_token": None,
        "base_url": "https://llm.chutes.ai/v1",
        "management_url": "https://api.chutes.ai",
        "opencode_bin": None,
        "home": user_file(place.environ).parents[2] / ".local" / "share" / "chutes-opencode"
        if sys.platform == "linux"
        else user_file(place.environ).parent,
        "temp_dir": Path("/tmp"),
        "default_model": None,
        "model_filter": (),
        "extra_models": (),
        "providers_file": None,
        "auto_refresh": True,
        "refresh_interval": 3600.0,
        "engine": "auto",
        "timeout_seconds": 600.0,
        "deadline_seconds": None,
        "retries": 3,
        "max_process_cost_usd": None,
        "max_sessions": 64,
        "start_seconds": 120.0,
        "first_byte_seconds": 300.0,
        "idle_seconds": 120.0,
        "tool_seconds": 600.0,
        "finish_seconds": 30.0,
        "max_servers": 4,
        "server_idle_seconds": 300.0,
        "server_max_prompts": 2000,
        "server_max_mib": 2500,
        "server_max_disk_mib": 4096,
        "server_max_folders": 256,
        "log_level": "warning",
        "log_format": "console",
    }
    assert settings.max_processes >= 2
    assert set(settings.sources) == set(FIELDS)
    assert set(settings.sources.values()) == {"default"}


def test_each_field_has_a_sentence() -> None:
    assert [n for n, f in Settings.model_fields.items() if not f.description] == []


@pytest.mark.parametrize("system", ["linux", "darwin"])
def test_folders_are_those_of_platformdirs(system: str, monkeypatch: pytest.MonkeyPatch) -> None:
    platforms = {"linux": "platformdirs.unix:Unix", "darwin": "platformdirs.macos:MacOS"}
    module, _, name = platforms[system].partition(":")
    monkeypatch.setattr(sys, "platform", system)
    monkeypatch.setenv("HOME", "/somebody")
    for variable in ("XDG_CONFIG_HOME", "XDG_DATA_HOME"):
        monkeypatch.delenv(variable, raising=False)
    folders = getattr(pytest.importorskip(module), name)("chutes-opencode")

    settings = load_settings(environ={"HOME": "/somebody"})

    assert user_file({"HOME": "/somebody"}) == Path(folders.user_config_dir, "config.toml")
    assert settings.home == Path(folders.user_data_dir)


def test_an_argument_beats_the_environment_beats_the_project_beats_the_user(place: Place) -> None:
    place.user_file.write_text(
        "retries = 4\ntimeout_seconds = 4\nrefresh_interval = 4\nlog_level='info'"
    )
    place.project_file.write_text("retries = 5\ntimeout_seconds = 5\n\nrefreshInterval = 5\n")
    environ = {"CHUTES_OPENCODE_RETRIES": "6", "CHUTES_OPENCODE_TIMEOUT_SECONDS": "6"}

    settings = place.load(environ, retries=7, refresh_interval=None)

    assert (settings.retries, settings.sources["retries"]) == (7, "argument")
    assert settings.timeout_seconds == 6
    assert settings.sources["timeout_seconds"] == "environment CHUTES_OPENCODE_TIMEOUT_SECONDS"
    assert settings.refresh_interval == 5
    assert settings.sources["refresh_interval"] == f"{place.project_file}:4"
    assert settings.log_level == "info"
    assert settings.sources["log_level"] == f"{place.user_file}:4"


@pytest.mark.parametrize(
    ("environ", "field", "value"),
    [
        ({"CHUTES_BASE_URL": "http://127.0.0.1:9/v1/"}, "base_url", "http://127.0.0.1:9/v1"),
        ({"CHUTES_OPENCODE_BASE_URL": "http://[::1]/v1"}, "base_url", "http://[::1]/v1"),
        ({"OPENCODE_BIN": "/bin/oc"}, "opencode_bin", Path("/bin/oc")),
        ({"CHUTES_OPENCODE_HOME": "/data"}, "home", Path("/data")),
        ({"CHUTES_OPENCODE_AUTO_REFRESH": "false"}, "auto_refresh", False),
        (
            {"CHUTES_OPENCODE_MODEL_FILTER": "Qwen/*, deepseek*,"},
            "model_filter",
            ("Qwen/*", "deepseek*"),
        ),
        ({"CHUTES_OPENCODE_LOG_FORMAT": "JSON"}, "log_format", "json"),
        ({"CHUTES_OPENCODE_DEFAULT_MODEL": " a/b "}, "default_model", "a/b"),
        ({"CHUTES_OPENCODE_RETRIES": " "}, "retries", 3),
        ({"CHUTES_BASE_URL": ""}, "base_url", "https://llm.chutes.ai/v1"),
        ({"TMPDIR": "/scratch"}, "temp_dir", Path("/scratch")),
    ],
)
def test_the_environment_sets_fields(
    place: Place, environ: dict[str, str], field: str, value: object
) -> None:
    assert getattr(place.load(environ), field) == value


def test_paths_start_at_home_at_the_file_or_at_the_current_folder(place: Place) -> None:
    place.project_file.write_text("opencodeBin = '~/bin/oc'\nhome = 'state'")

    settings = place.load({"CHUTES_OPENCODE_TEMP_DIR": "scratch"})

    assert settings.opencode_bin == place.root / "home" / "bin" / "oc"
    assert settings.home == place.project / "state"
    assert settings.temp_dir == place.project / "scratch"
    assert place.load(home="~").home == place.root / "home"


def test_a_key_that_was_an_argument_stays(place: Place) -> None:
    settings = place.load(api_token=SecretStr(KEY))

    again = settings.with_fresh_token(environ=place.environ, cwd=place.project)

    assert again.require_token() == KEY


def test_fields_are_set_anew_by_arguments(place: Place) -> None:
    settings = place.load({"CHUTES_API_TOKEN": KEY, "CHUTES_OPENCODE_RETRIES": "5"})

    changed = settings.overridden(timeout_seconds=7)

    assert (changed.timeout_seconds, changed.sources["timeout_seconds"]) == (7, "argument")
    assert (changed.retries, changed.require_token()) == (5, KEY)
    assert changed.sources["retries"] == "environment CHUTES_OPENCODE_RETRIES"
    with pytest.raises(ConfigurationError, match="timeout_seconds"):
        settings.overridden(timeout_seconds=-1)


@pytest.mark.parametrize(
    ("base_url", "management_url"),
    [
        ("https://llm.chutes.ai/v1", "https://api.chutes.ai"),
        ("http://127.0.0.1:81/v1", "http://127.0.0.1:81"),
        ("https://llm.example.org/v1", None),
    ],
)
def test_the_management_url_follows_the_base_url(
    place: Place, base_url: str, management_url: str | None
) -> None:
    assert place.load(base_url=base_url).management_url == management_url


@pytest.mark.parametrize(
    ("base_url", "management_url", "fits"),
    [
        ("https://llm.chutes.ai/v1", "https://api.chutes.ai/", True),
        ("https://llm.chutes.ai/v1", "https://my-chute.chutes.ai", False),
        ("http://127.0.0.1:81/v1", "http://localhost:82", True),
        ("http://127.0.0.1:81/v1", "https://api.chutes.ai", False),
        ("https://llm.example.org/v1", "https://llm.example.org/api", True),
        ("https://llm.example.org/v1", "https://other.example.org", False),
    ],
)
def test_the_key_goes_to_no_other_management_host(
    place: Place, base_url: str, management_url: str, fits: bool
) -> None:
    urls: dict[str, Any] = {"base_url": base_url, "management_url": management_url}
    if fits:
        assert place.load(**urls).management_url == management_url.rstrip("/")
    else:
        assert "does not belong to" in place.refusal(**urls)


def test_an_unencrypted_url_is_refused_once_there_is_a_key(place: Place) -> None:
    environ = {"CHUTES_BASE_URL": "http://llm.example.org/v1"}

    assert place.load(environ).base_url == "http://llm.example.org/v1"
    assert place.refusal(environ, api_token=KEY) == (
        "environment CHUTES_BASE_URL: base_url: http://llm.example.org/v1 would send the key "
        "unencrypted"
    )


def test_whose_url_it_is(place: Place) -> None:
    chutes, here = place.load(), place.load(base_url="http://localhost:1/v1")

    assert (chutes.is_chutes, chutes.is_loopback) == (True, False)
    assert (here.is_chutes, here.is_loopback) == (False, True)
    assert not place.load(base_url="https://my-chute.chutes.ai/v1").is_chutes


@pytest.mark.parametrize(
    ("field", "value", "flaw"),
    [
        ("timeout_seconds", -1, "should be greater than 0 (it is -1)"),
        ("timeout_seconds", 0, "should be greater than 0 (it is 0)"),
        ("timeout_seconds", float("inf"), "should be a finite number (it is inf)"),
        ("deadline_seconds", -0.5, "should be greater than 0 (it is -0.5)"),
        ("refresh_interval", -1, "should be greater than or equal to 0 (it is -1)"),
        ("retries", 0, "should be greater than or equal to 1 (it is 0)"),
        ("retries", True, "should be a number (it is True)"),
        ("max_processes", 0, "should be greater than or equal to 1 (it is 0)"),
        ("log_format", "xml", "should be 'console' or 'json' (it is 'xml')"),
        ("log_level", 3, "should be 'debug', 'info', 'warning', 'error' or 'critical' (it is 3)"),
        ("base_url", 3, "should be a valid string (it is 3)"),
        ("base_url", "host", "should be a URL like https://host/v1 (it is 'host')"),
        ("base_url", "https://u:p@h", "should be a URL without user name, query or fragment"),
        ("model_filter", 3, "should be a list (it is 3)"),
        ("auto_refresh", "maybe", "should be true or false (it is 'maybe')"),
        ("opencode_bin", 3, "is not a valid path for <class 'pathlib.Path'> (it is 3)"),
    ],
)
def test_a_bad_value_is_refused_by_name(place: Place, field: str, value: Any, flaw: str) -> None:
    assert place.refusal(**{field: value}) == f"argument: {field}: {flaw}"


def test_an_unknown_argument_is_refused(place: Place) -> None:
    assert place.refusal(timeout=3) == (
        "argument timeout: unknown setting; did you mean timeout_seconds?"
    )


@pytest.mark.parametrize(
    ("text", "line", "flaw"),
    [
        ("retries = 2\ntimeout_seconds = -5\n", 2, "timeout_seconds: should be greater than 0"),
        ("\n[server]\nport = 1\n", 2, "server: unknown setting"),
        ("# c\ntimeoutSecond = 5\n", 2, "timeoutSecond: unknown setting; did you mean timeout_sec"),
        ("apiToken = 'k'\napi_token = 'k'\n", 2, "api_token: set twice in this file"),
        ("retries = 2\nretries = 3\n", 2, "not TOML: Cannot overwrite a value"),
        ("retries = \nx = 1", 1, "not TOML: Invalid value (at line 1"),
        ("retries = 2\nlog_level = 'info", 2, "not TOML: "),
    ],
)
def test_a_malformed_file_is_refused_by_file_line_and_field(
    place: Place, text: str, line: int, flaw: str
) -> None:
    place.project_file.write_text(text)

    assert place.refusal().startswith(f"{place.project_file}:{line}: {flaw}")


def test_a_file_that_cannot_be_read_is_refused(place: Place) -> None:
    place.project_file.mkdir()
    assert place.refusal() == f"{place.project_file}: cannot be read: Is a directory"

    place.project_file.rmdir()
    place.project_file.write_bytes(b"\xff\xfe\x00")
    assert place.refusal() == f"{place.project_file}: cannot be read: is not UTF-8"


def test_a_file_may_have_a_byte_order_mark_and_crlf(place: Place) -> None:
    place.project_file.write_bytes(b"\xef\xbb\xbfretries = 4\r\nlog_level = 'info'\r\n")

    assert place.load().retries == 4


def test_a_file_is_checked_by_itself(place: Place) -> None:
    place.project_file.write_text("retries = 4\nlogLevel = 'info'")
    assert check_file(place.project_file, environ=place.environ) == ("retries", "log_level")

    place.project_file.write_text("retries = -4")
    with pytest.raises(ConfigurationError, match=r"toml:1: retries: should be greater"):
        check_file(place.project_file, environ=place.environ)
    with pytest.raises(ConfigurationError, match="no such file"):
        check_file(place.user_file, environ=place.environ)


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("", None),
        (f"api_token = ' {KEY} '", KEY),
        ("api_token_file = '/x'", None),
        ("retries=1", None),
    ],
)
def test_the_key_of_one_file(place: Place, text: str, key: str | None) -> None:
    place.user_file.write_text(text)

    assert stored_in_file(place.user_file, environ=place.environ) == key


def test_a_user_without_a_home_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", no_home)

    with pytest.raises(ConfigurationError, match="no home folder"):
        load_settings(environ={})


def test_the_example_file_holds_the_defaults(place: Place) -> None:
    example = Path(__file__).parents[3] / "configs" / "config.toml"
    place.user_file.write_text(example.read_text())

    loaded = place.load()

    assert loaded.model_dump(exclude={"sources"}) == Settings(
        home=loaded.home, temp_dir=loaded.temp_dir, management_url="https://api.chutes.ai"
    ).model_dump(exclude={"sources"})
    commented = [line for line in example.read_text().splitlines() if line.startswith("# ")]
    named = {line.removeprefix("# ").split(" = ")[0] for line in [*commented] if " = " in line}
    set_here = {name for name, source in loaded.sources.items() if source != "default"}
    assert named | set_here == {*FIELDS, "api_token_file"}


def test_this_processs_environment_and_folder_are_the_default(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(place.project)
    monkeypatch.setenv("HOME", place.environ["HOME"])
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    monkeypatch.setenv("CHUTES_OPENCODE_RETRIES", "9")
    monkeypatch.setenv("OPENCODE_CONFIG", "/c")
    place.project_file.write_text(f"log_level = 'info'\napi_token = '{KEY}'")

    assert load_settings().retries == 9
    assert load_settings().log_level == "info"
    assert user_file() == place.user_file
    assert check_file(place.project_file) == ("log_level", "api_token")
    assert stored_in_file(project_file()) == KEY
    assert "CHUTES_OPENCODE_RETRIES" not in inherited_environment()
    assert "HOME" not in inherited_environment()
    installer = installer_environment()
    assert installer["HOME"] == place.environ["HOME"]
    assert not [name for name in installer if name.startswith(("CHUTES_", "OPENCODE_"))]


def test_folders_exist_for_platformdirs_names() -> None:
    assert platformdirs.user_config_dir("chutes-opencode") == str(user_file().parent)
