"""`config`: what it shows, checks and writes."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from chutes_opencode.cli import config
from chutes_opencode.cli.config import with_key
from chutes_opencode.settings import FIELDS, load_settings, user_file
from chutes_opencode.simulator import DEFAULT_API_TOKEN, Simulator

Run = Callable[..., Any]
KEY = DEFAULT_API_TOKEN


@pytest.fixture
def simulator(home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Simulator]:
    with Simulator() as running:
        monkeypatch.setenv("CHUTES_BASE_URL", running.base_url)
        yield running


def test_show_names_each_value_and_its_source(run_json: Run, home: Path) -> None:
    Path("chutes-opencode.toml").write_text("retries = 5\nmodel_filter = ['a', 'b']")

    code, shown = run_json("config", "show")

    assert code == 0
    assert set(shown) == set(FIELDS)
    assert shown["retries"] == {"value": 5, "source": f"{Path.cwd() / 'chutes-opencode.toml'}:1"}
    assert shown["api_token"] == {"value": None, "source": "default"}


def test_show_never_prints_the_key(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHUTES_API_KEY", KEY)

    for args in ((), ("--json",)):
        result = run("config", "show", *args)
        assert KEY not in result.output
        assert "[masked]" in result.stdout
        assert "environment CHUTES_API_KEY" in result.stdout


def test_the_table_has_one_unfolded_line_a_setting(run: Run) -> None:
    Path("chutes-opencode.toml").write_text(f"model_filter = ['{'x' * 200}', 'b']")

    lines = run("config", "show").stdout.splitlines()

    assert len(lines) == 1 + len(FIELDS)
    assert f"{'x' * 200}, b" in "".join(lines)


def test_a_bad_setting_is_2(run_json: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHUTES_OPENCODE_RETRIES", "0")

    code, shown = run_json("config", "show")

    assert code == 2
    assert "environment CHUTES_OPENCODE_RETRIES: retries" in shown["error"]["message"]


def test_validate_checks_the_files_that_exist(run: Run, run_json: Run) -> None:
    assert run("config", "validate").exit_code == 0

    Path("chutes-opencode.toml").write_text("retries = 5")
    result = run("config", "validate")
    assert (result.exit_code, result.stdout) == (0, f"{Path.cwd() / 'chutes-opencode.toml'}: ok\n")
    assert run_json("config", "validate")[1]["files"][0]["fields"] == ["retries"]


def test_validate_names_file_line_and_field(run: Run, run_json: Run) -> None:
    Path("good.toml").write_text("retries = 5")
    Path("bad.toml").write_text("\nretires = 5")

    result = run("config", "validate", "good.toml", "bad.toml", "missing.toml")

    assert result.exit_code == 2
    assert result.stdout == "good.toml: ok\n"
    assert "bad.toml:2: retires: unknown setting; did you mean retries?" in result.stderr
    assert "missing.toml: no such file" in result.stderr
    assert "fix: " in result.stderr
    assert run_json("config", "validate", "bad.toml")[0] == 2


def test_init_stores_an_accepted_key_for_the_user_alone(run: Run, simulator: Simulator) -> None:
    result = run("config", "init", "--token-stdin", input=f"{KEY}\n")

    assert result.exit_code == 0
    assert KEY not in result.output
    assert "(accepted)" in result.stdout
    assert stat.S_IMODE(user_file().stat().st_mode) == 0o600
    assert os.listdir(user_file().parent) == ["config.toml"]  # noqa: PTH208 - names, hidden too
    assert load_settings().require_token() == KEY
    assert [request.path for request in simulator.requests] == ["/users/me"]


def test_init_stores_no_refused_key(run_json: Run, simulator: Simulator) -> None:
    code, shown = run_json("config", "init", "--token-stdin", input="cpk_somebody_else")

    assert (code, shown["error"]["type"]) == (3, "AuthenticationError")
    assert not user_file().exists()


def test_init_stores_a_key_that_nobody_can_judge(
    run: Run, run_json: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CHUTES_BASE_URL", "https://llm.example.org/v1")

    result = run("config", "init", "--token-stdin", input=KEY)

    assert result.exit_code == 0
    assert "without a check" in result.stderr
    assert run_json("config", "init", "--token-stdin", input=KEY)[1]["key"] == "unknown"


@pytest.mark.parametrize("key", ["", " \n", "short", "two words of it", "schlüssel-eins"])
def test_init_refuses_what_is_no_key(run: Run, key: str) -> None:
    result = run("config", "init", "--token-stdin", input=key)

    assert result.exit_code == 3
    assert not user_file().exists()


def test_init_replaces_another_key_only_when_forced(run: Run, simulator: Simulator) -> None:
    path = user_file()
    path.parent.mkdir(parents=True)
    path.write_text("# mine\napi_token = 'another-key-1'\nretries = 5\n")

    refused = run("config", "init", "--token-stdin", input=KEY)
    assert refused.exit_code == 2
    assert "another-key-1" not in refused.output
    assert "--force" in refused.stderr

    assert run("config", "init", "--token-stdin", "--force", input=KEY).exit_code == 0
    assert path.read_text() == f'# mine\napi_token = "{KEY}"\nretries = 5\n'
    assert run("config", "init", "--token-stdin", input=KEY).exit_code == 0


def test_init_asks_hidden_at_a_terminal(
    run: Run, simulator: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[bool] = []

    def prompt(text: str, *, hide_input: bool, err: bool) -> str:
        asked.append(hide_input and err)
        return KEY

    monkeypatch.setattr(config, "_at_terminal", lambda: True)
    monkeypatch.setattr(typer, "prompt", prompt)

    assert run("config", "init").exit_code == 0
    assert asked == [True]


def test_init_without_a_terminal_says_how_else(run: Run) -> None:
    result = run("config", "init")

    assert result.exit_code == 2
    assert "--token-stdin" in result.stderr


def test_init_says_when_the_file_cannot_be_written(run: Run, simulator: Simulator) -> None:
    user_file().parent.parent.mkdir(parents=True, exist_ok=True)
    user_file().parent.write_text("a file where the folder should be")

    result = run("config", "init", "--token-stdin", input=KEY)

    assert result.exit_code == 2


def test_init_leaves_a_file_that_it_cannot_edit(run: Run, simulator: Simulator) -> None:
    path = user_file()
    path.parent.mkdir(parents=True)
    path.write_text("api_token = '''\nanother-key-1'''\n")

    result = run("config", "init", "--token-stdin", "--force", input=KEY)

    assert result.exit_code == 2
    assert path.read_text() == "api_token = '''\nanother-key-1'''\n"


def test_init_says_when_the_disk_is_full(
    run: Run, simulator: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_path: Path, _text: str) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(config, "write_private", full)

    result = run("config", "init", "--token-stdin", input=KEY)

    assert result.exit_code == 2
    assert "cannot be written: No space left on device" in result.stderr


def test_a_write_that_fails_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)

    with pytest.raises(OSError, match="No space"):
        config.write_private(tmp_path / "config.toml", "text")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("", 'api_token = "k"\n'),
        ("retries = 5\n", 'api_token = "k"\nretries = 5\n'),
        ("a = 1\n  apiToken= 'old' # mine\nb = 2\n", 'a = 1\napi_token = "k"\nb = 2\n'),
        ("[table]\nx = 1\n", 'api_token = "k"\n[table]\nx = 1\n'),
    ],
)
def test_the_key_is_put_into_its_line_or_at_the_top(before: str, after: str) -> None:
    assert with_key(before, "k") == after
