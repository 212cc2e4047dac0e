"""The border of the command line: errors become messages and exit codes."""

from __future__ import annotations

import json
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

import chutes_opencode
from chutes_opencode import errors
from chutes_opencode.cli.app import Root
from chutes_opencode.cli.output import exit_code
from chutes_opencode.masking import register_secret

Run = Callable[..., Any]

EXIT_CODES = {
    "OpenCodeError": 1,
    "PermanentError": 1,
    "RetryOnceError": 1,
    "TransientError": 1,
    "UnknownOpenCodeError": 1,
    "EmptyResponseError": 1,
    "StructuredOutputError": 1,
    "WorkerLostError": 1,
    "NoWorkerError": 1,
    "ConfigurationError": 2,
    "OpenCodeNotFoundError": 2,
    "ToolServerError": 2,
    "AuthenticationError": 3,
    "BillingError": 4,
    "RateLimitError": 5,
    "CapacityError": 5,
    "InvalidRequestError": 6,
    "ModelNotFoundError": 6,
    "ContextOverflowError": 6,
    "ContentFilterError": 6,
    "ServerError": 7,
    "ColdModelError": 7,
    "TruncatedStreamError": 7,
    "PromptTimeoutError": 8,
    "LimitExceededError": 8,
    "MaxOutputTokensError": 8,
}


def all_errors() -> list[type[errors.OpenCodeError]]:
    found = [errors.OpenCodeError]
    for cls in found:
        found.extend(cls.__subclasses__())
    return [cls for cls in found if cls.__name__ in chutes_opencode.__all__]


def test_each_error_of_the_tree_has_its_exit_code() -> None:
    assert {cls.__name__: exit_code(cls()) for cls in all_errors()} == EXIT_CODES


@pytest.mark.parametrize(
    ("error", "code"), [(None, 0), (ValueError(), 1), (KeyboardInterrupt(), 130)]
)
def test_other_ends_have_an_exit_code(error: BaseException | None, code: int) -> None:
    assert exit_code(error) == code


@pytest.fixture
def failing() -> Callable[..., Any]:
    """Run a command line of our root whose only command raises."""

    def call(error: BaseException, *args: str) -> Any:
        app = typer.Typer(cls=Root, pretty_exceptions_enable=False)

        @app.callback()
        def root(debug: bool = typer.Option(False, "--debug")) -> None:
            """Root."""

        @app.command()
        def fail(as_json: bool = typer.Option(False, "--json"), text: str = "") -> None:
            raise error

        return CliRunner().invoke(app, ["fail", *args])

    return call


def test_a_typed_error_is_two_lines_on_stderr(failing: Run) -> None:
    result = failing(errors.BillingError(raw_message="no balance", hint="Pay."))

    assert (result.exit_code, result.stdout) == (4, "")
    assert result.stderr == "error: no balance\nfix: Pay.\n"


def test_with_json_an_error_is_one_object_on_stdout(failing: Run) -> None:
    result = failing(errors.BillingError(raw_message="no balance", status=402), "--json")

    assert result.exit_code == 4
    shown = json.loads(result.stdout)
    assert shown["ok"] is False
    assert shown["error"]["type"] == "BillingError"
    assert shown["error"]["status"] == 402
    assert shown["error"]["exit_code"] == 4
    assert result.stderr == ""


@pytest.mark.parametrize("error", [errors.ServerError(raw_message="x"), ValueError("x")])
def test_a_traceback_needs_debug(failing: Run, error: Exception) -> None:
    assert "Traceback" not in failing(error).stderr
    assert "Traceback" in failing(error, "--debug").stderr


def test_debug_may_be_a_value_after_the_double_dash(failing: Run) -> None:
    assert "Traceback" not in failing(ValueError("x"), "--", "--debug").stderr


def test_no_secret_is_printed(failing: Run) -> None:
    register_secret("cli-secret-0001")

    for args in ((), ("--debug",), ("--json",)):
        result = failing(ValueError("broke cli-secret-0001"), *args)
        assert "cli-secret" not in result.output
        assert result.exit_code == 1


def test_a_fault_of_the_machine_is_not_called_ours(failing: Run) -> None:
    result = failing(PermissionError(13, "Permission denied", "/sealed/x"))

    assert result.exit_code == 1
    assert "/sealed/x" in result.stderr
    assert "fault of chutes-opencode" not in result.stderr


@pytest.mark.parametrize("error", [KeyboardInterrupt(), typer.Abort()])
def test_ctrl_c_is_130(failing: Run, error: BaseException) -> None:
    result = failing(error)
    assert (result.exit_code, result.stdout) == (130, "")

    result = failing(error, "--json")
    assert json.loads(result.stdout)["error"]["type"] == "KeyboardInterrupt"


def test_a_reader_that_went_away_is_no_fault(failing: Run) -> None:
    result = failing(BrokenPipeError(32, "Broken pipe"))

    assert (result.exit_code, result.output) == (1, "")


def test_the_version_is_the_distributions(run: Run) -> None:
    assert run("--version").stdout == f"{version('chutes-opencode')}\n"


COMMANDS = (
    "setup",
    "prompt",
    "batch",
    "models",
    "providers",
    "account",
    "doctor",
    "config",
    "simulator",
)


def test_help_names_every_command(run: Run) -> None:
    shown = run("--help").stdout

    for name in (*COMMANDS, "--version", "--debug"):
        assert name in shown


@pytest.mark.parametrize("args", [["bogus"], ["config", "bogus"], ["doctor", "--bogus"]])
def test_wrong_usage_is_2(run: Run, args: list[str]) -> None:
    assert run(*args).exit_code == 2

    result = run(*args, "--json")
    assert (result.exit_code, json.loads(result.stdout)["error"]["type"]) == (2, "UsageError")
