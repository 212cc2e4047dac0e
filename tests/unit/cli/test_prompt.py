"""The command `prompt`: what it asks, and what it prints where."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import pytest

from chutes_opencode.cli import prompt as command
from chutes_opencode.errors import BillingError, ConfigurationError, PromptTimeoutError
from chutes_opencode.events import TextDelta
from chutes_opencode.request import Limits, Params
from chutes_opencode.results import Attempt, QueryResult
from tests.unit.cli.fake_llm import FakeLLM

Run = Callable[..., Any]


class Terminal(io.StringIO):
    """What a person sees."""

    def isatty(self) -> bool:
        return True


def test_into_a_pipe_goes_the_answer_alone(run: Run, llm: FakeLLM) -> None:
    result = run("prompt", "What is 6 * 7?")

    assert (result.exit_code, result.stdout, result.stderr) == (0, "It is 42.\n", "")
    assert llm.asked["message"] == "What is 6 * 7?"
    assert llm.closed == ["llm"]


@pytest.mark.parametrize("arguments", [("prompt", "-"), ("prompt",)])
def test_the_prompt_may_come_from_standard_input(
    run: Run, llm: FakeLLM, arguments: tuple[str, ...]
) -> None:
    run(*arguments, input="line 1\r\nline 2\n")

    assert llm.asked["message"] == "line 1\r\nline 2\n"


def test_a_prompt_may_begin_with_a_dash(run: Run, llm: FakeLLM) -> None:
    run("prompt", "--", "--help")

    assert llm.asked["message"] == "--help"


def test_standard_input_that_is_no_text_is_refused(run: Run, llm: FakeLLM) -> None:
    result = run("prompt", "-", input=b"\xff\xfe")

    assert result.exit_code == 6
    assert "standard input is not UTF-8 at byte 0" in result.stderr


def test_without_a_prompt_at_a_terminal_it_says_so(
    monkeypatch: pytest.MonkeyPatch, llm: FakeLLM
) -> None:
    monkeypatch.setattr(sys, "stdin", Terminal())

    with pytest.raises(ConfigurationError, match="there is no prompt"):
        command.read_message(None)


def test_options_reach_the_instance_and_the_call(run: Run, llm: FakeLLM, home: Path) -> None:
    schema = home / "schema.json"
    schema.write_text('{"type": "object"}')

    run("prompt", "x", "--model", "acme/model", "--system", "Be brief.", "--no-tools")
    plain = dict(llm.made)
    arguments = [
        "--file",
        "a.txt",
        "--file",
        "b.png",
        "--schema",
        str(schema),
        "--session",
        "ses_9",
    ]
    run("prompt", "x", *arguments, "--keep-session", "--max-requests", "7", "--work-dir", "there")

    assert (plain["model"], plain["system_message"]) == ("acme/model", "Be brief.")
    assert (plain["builtin_tools"], plain["work_dir"], plain["limits"]) == (False, None, Limits())
    assert not plain["project_rules"]
    assert llm.made["limits"] == Limits(max_requests=7)
    assert llm.made["work_dir"] == Path("there")
    assert llm.asked == {
        "message": "x",
        "files": [Path("a.txt"), Path("b.png")],
        "output_schema": {"type": "object"},
        "session_id": "ses_9",
        "keep_session": True,
        "sample_index": 0,
    }


def test_here_is_this_folder_with_its_rules(run: Run, llm: FakeLLM) -> None:
    run("prompt", "x", "--here")

    assert (llm.made["work_dir"], llm.made["project_rules"]) == (Path.cwd(), True)


def test_here_and_another_folder_exclude_each_other(run: Run, llm: FakeLLM) -> None:
    result = run("prompt", "x", "--here", "--work-dir", "there")

    assert result.exit_code == 2
    assert "--here and --work-dir exclude each other" in result.stderr


def test_time_and_attempts_become_settings(run: Run, llm: FakeLLM) -> None:
    run("prompt", "x", "--timeout", "9.5", "--retries", "1")

    assert (llm.made["settings"].timeout_seconds, llm.made["settings"].retries) == (9.5, 1)


@pytest.mark.parametrize(
    ("options", "params"),
    [
        ([], Params()),
        (["--temperature", "0.5", "--max-tokens", "9"], Params(temperature=0.5, max_tokens=9)),
        (["--params", "top_p=0.9", "--params", "seed=3"], Params(top_p=0.9, seed=3)),
        (["--params", 'stop=["a", "b"]'], Params(stop=("a", "b"))),
        (["--params", "stop=end"], Params(stop="end")),
        (["--params", "min_p=0.1"], Params(extra_body={"min_p": 0.1})),
        (["--params", "text=a=b"], Params(extra_body={"text": "a=b"})),
        (["--params", "temperature=1", "--temperature", "0"], Params(temperature=0.0)),
        (["--reasoning-effort", "low"], Params(reasoning_effort="low")),
    ],
)
def test_sampling_parameters(run: Run, llm: FakeLLM, options: list[str], params: Params) -> None:
    run("prompt", "x", *options)

    assert llm.made["params"] == params


@pytest.mark.parametrize("pair", ["temperature", "=1"])
def test_a_parameter_without_key_or_value_is_refused(run: Run, llm: FakeLLM, pair: str) -> None:
    result = run("prompt", "x", "--params", pair)

    assert result.exit_code == 2
    assert "is not of the form key=value" in result.stderr


@pytest.mark.parametrize(("text", "reason"), [(None, "No such file"), ("{", "is not JSON")])
def test_a_schema_that_cannot_be_read_is_refused(
    run: Run, llm: FakeLLM, tmp_path: Path, text: str | None, reason: str
) -> None:
    path = tmp_path / "schema.json"
    if text is not None:
        path.write_text(text)

    result = run("prompt", "x", "--schema", str(path))

    assert result.exit_code == 2
    assert reason in result.stderr


def test_a_schema_makes_the_value_the_output(run: Run, llm: FakeLLM, tmp_path: Path) -> None:
    (tmp_path / "schema.json").write_text("{}")
    llm.answer = QueryResult("…", 0, "", "", success=True, structured={"name": "Zoë"})

    result = run("prompt", "x", "--schema", str(tmp_path / "schema.json"))

    assert json.loads(result.stdout) == {"name": "Zoë"}


def test_json_is_one_object_with_everything(run_json: Run, llm: FakeLLM) -> None:
    code, shown = run_json("prompt", "x")

    assert (code, shown["ok"], shown["error"]) == (0, True, None)
    assert (shown["result"], shown["finish_reason"]) == ("It is 42.", "stop")
    assert (shown["model"], shown["served_model"]) == ("acme/model", "acme/model-TEE")
    assert (shown["usage"]["input"], shown["cost_usd"]) == (20, 0.000123)
    assert [attempt["number"] for attempt in shown["attempts"]] == [1]
    assert (shown["replayed"], shown["exchanges"]) == (False, [])


def test_json_of_a_failure_holds_what_was_paid_for(run_json: Run, llm: FakeLLM) -> None:
    error = BillingError(raw_message="no balance", status=402)
    failed = Attempt(number=1, engine="run", error=error, cost_usd=0.5)
    error.result = QueryResult("part", 1, "", "", cost_usd=0.5, attempts=(failed,), error=error)
    llm.failure = error

    code, shown = run_json("prompt", "x")

    assert (code, shown["ok"]) == (4, False)
    assert (shown["error"]["type"], shown["error"]["status"]) == ("BillingError", 402)
    assert (shown["result"], shown["cost_usd"]) == ("part", 0.5)
    assert shown["attempts"][0]["error"]["message"] == "no balance"


def test_an_error_that_comes_as_a_result_is_a_failure_too(run: Run, llm: FakeLLM) -> None:
    llm.answer = QueryResult("", -1, "", "", error=PromptTimeoutError(raw_message="too slow"))

    result = run("prompt", "x")

    assert (result.exit_code, result.stdout) == (8, "")
    assert "error: too slow" in result.stderr


def test_an_interrupt_is_130(run: Run, llm: FakeLLM) -> None:
    llm.failure = KeyboardInterrupt()

    result = run("prompt", "x")

    assert result.exit_code == 130
    assert llm.closed == ["llm"]


def test_a_kept_session_is_named(run: Run, llm: FakeLLM) -> None:
    result = run("prompt", "x", "--keep-session")

    assert (result.stdout, result.stderr) == ("It is 42.\n", "kept: --session ses_1\n")


def test_thoughts_are_shown_on_stderr_when_asked_for(run: Run, llm: FakeLLM) -> None:
    result = run("prompt", "x", "--thinking")

    assert (result.stdout, result.stderr) == ("It is 42.\n", "Let me see.\n")


def test_another_provider_may_be_asked(run: Run, llm: FakeLLM) -> None:
    run("prompt", "x", "--provider", "ollama", "--model", "llama3")

    assert (llm.made["provider"], llm.made["model"]) == ("ollama", "llama3")
    assert llm.made["settings"].base_url == "http://localhost:11434/v1"
    assert run("prompt", "x", "--provider", "olama").exit_code == 2


def test_simulate_asks_the_embedded_simulator_and_says_so(run: Run, llm: FakeLLM) -> None:
    result = run("prompt", "x", "--simulate")

    assert result.stderr.startswith("simulated: the answer comes from the embedded simulator")
    assert llm.made["settings"].is_loopback
    assert llm.made["model"] == command.SIMULATED_MODEL


def test_the_instance_is_a_real_one() -> None:
    instance = command.open_llm(model="acme/model")

    assert (
        repr(instance) == "ChutesOpenCodeLLM(model='acme/model', provider='chutes', engine='auto')"
    )


def ask(llm: Any, *, as_json: bool = False) -> str:
    """Ask at a terminal; return what was seen on it."""
    with redirect_stdout(Terminal()) as screen, redirect_stderr(screen):
        command._answer(llm, "x", {}, as_json=as_json, thinking=False)
    return screen.getvalue()


def test_at_a_terminal_text_appears_as_it_comes(llm: FakeLLM) -> None:
    llm.events = (TextDelta(text="It is "), TextDelta(text="42."))

    shown = ask(llm)

    assert shown.startswith("It is 42.\n")
    assert "acme/model, 1.5 s, 25 tokens in 1 request, 0.000123 USD" in shown
    assert llm.closed == ["stream"]


def test_at_a_terminal_a_failed_result_is_raised(llm: FakeLLM) -> None:
    llm.answer = QueryResult("", -1, "", "", error=PromptTimeoutError(raw_message="too slow"))

    with pytest.raises(PromptTimeoutError, match="too slow"):
        ask(llm)

    assert llm.closed == ["stream"]


def test_json_at_a_terminal_is_not_streamed(llm: FakeLLM) -> None:
    assert ask(llm, as_json=True).startswith('{"ok": true')
    assert llm.closed == []
