"""Bad input: one clear typed error each, before anything is spent."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from chutes_opencode import (
    AuthenticationError,
    ChutesOpenCodeLLM,
    ConfigurationError,
    InvalidRequestError,
    Limits,
    McpServer,
    ModelNotFoundError,
    OpenCodeNotFoundError,
    Params,
    Simulator,
)

SECRET = "cpk_secret_0123456789abcdef"


def prompting(prompt: str = "hello", **arguments: Any) -> Callable[[], object]:
    """Return a call that makes an instance and prompts; `call` has the prompt's own arguments."""
    call = arguments.pop("call", {})
    given: dict[str, Any] = {"model": "sim/echo", "retries": 1, **arguments}
    return lambda: ChutesOpenCodeLLM(**given).prompt(prompt, **call)


TWICE = (McpServer("a.b", url="http://127.0.0.1:9"), McpServer("a_b", url="http://127.0.0.1:9"))
ARGUMENTS: dict[str, tuple[Callable[[], object], type[Exception], str]] = {
    "no model": (prompting(model=None), ConfigurationError, "no model is named; .*Qwen/"),
    "unknown model": (prompting(model="sim/ehco"), ModelNotFoundError, "sim/ehco"),
    "missing work_dir": (prompting(work_dir="/no/where"), ConfigurationError, "/no/where"),
    "work_dir of a call": (
        prompting(call={"work_dir": "/no/where"}),
        ConfigurationError,
        "/no/where",
    ),
    "file as work_dir": (prompting(work_dir="/etc/passwd"), ConfigurationError, "/etc/passwd"),
    "negative timeout": (prompting(timeout_seconds=-1), ConfigurationError, "timeout_seconds"),
    "timeout of zero": (prompting(timeout_seconds=0), ConfigurationError, "timeout_seconds"),
    "endless timeout": (
        prompting(timeout_seconds=float("inf")),
        ConfigurationError,
        "timeout_seconds",
    ),
    "negative deadline": (prompting(deadline_seconds=-1), ConfigurationError, "deadline_seconds"),
    "no attempts": (prompting(retries=0), ConfigurationError, "retries"),
    "no requests": (
        prompting(limits=Limits(max_requests=0)),
        ConfigurationError,
        "max_requests",
    ),
    "engine": (prompting(engine="fast"), ConfigurationError, "engine"),
    "provider": (prompting(provider="nobody"), ConfigurationError, "nobody"),
    "relay": (prompting(relay="yes"), ConfigurationError, "relay"),
    "cost limit without the relay": (
        prompting(limits=Limits(max_cost_usd=1.0), relay=False),
        ConfigurationError,
        "max_cost_usd",
    ),
    "token limit without the relay": (
        prompting(limits=Limits(max_tokens=9), relay=False),
        ConfigurationError,
        "max_tokens",
    ),
    "fallback without the relay": (
        prompting(fallback_models=("sim/echo",), relay=False),
        ConfigurationError,
        "fallback_models",
    ),
    "cache without the relay": (prompting(cache="/c", relay=False), ConfigurationError, "cache"),
    "fallback": (prompting(fallback_models=("sim/ehco",)), ModelNotFoundError, "sim/ehco"),
    "no money": (
        prompting(limits=Limits(max_cost_usd=-1.0)),
        ConfigurationError,
        "max_cost_usd",
    ),
    "reserved body key": (
        prompting(params=Params(extra_body={"stream": False})),
        ConfigurationError,
        "stream",
    ),
    "body that is no JSON": (
        prompting(params=Params(extra_body={"a": float("nan")})),
        InvalidRequestError,
        "extra_body",
    ),
    "temperature": (
        prompting(params=Params(temperature=-1)),
        ConfigurationError,
        "temperature",
    ),
    "max_tokens": (prompting(params=Params(max_tokens=0)), ConfigurationError, "max_tokens"),
    "blank prompt": (prompting(" \n"), InvalidRequestError, "empty"),
    "no prompt": (prompting(""), InvalidRequestError, "empty"),
    "agent name": (prompting(agent_name="../x"), ConfigurationError, "agent_name"),
    "isolation breaker": (prompting(env={"HOME": "/"}), ConfigurationError, "HOME"),
    "variable name": (prompting(env={"a=b": "c"}), ConfigurationError, "a=b"),
    "permission": (prompting(permission={"bash": "perhaps"}), ConfigurationError, "perhaps"),
    "permission without tools": (
        prompting(permission={"bash": "allow"}, builtin_tools=False),
        ConfigurationError,
        "bash",
    ),
    "tool server twice": (prompting(tools=TWICE), ConfigurationError, "twice"),
    "no tool server": (prompting(tools=["x"]), ConfigurationError, "tool server"),
    "role": (
        prompting(call={"messages": [{"role": "tool", "content": "x"}]}),
        InvalidRequestError,
        "tool",
    ),
    "history and session": (
        prompting(call={"messages": [{"role": "user", "content": "x"}], "session_id": "ses_x"}),
        ConfigurationError,
        "session_id",
    ),
    "schema": (prompting(call={"output_schema": {"type": 5}}), ConfigurationError, "schema"),
}


@pytest.mark.parametrize(("call", "error", "words"), ARGUMENTS.values(), ids=ARGUMENTS)
def test_a_bad_argument(
    simulator: Simulator, call: Callable[[], object], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words) as raised:
        call()
    assert type(raised.value) is error
    assert getattr(raised.value, "hint", "")
    assert {request.path for request in simulator.requests} <= {"/v1/models"}


def test_an_unknown_model_names_those_that_are_meant(simulator: Simulator) -> None:
    with pytest.raises(ModelNotFoundError) as raised:
        ChutesOpenCodeLLM("chutes/Qwen/Qwen3-23B-TEE").prompt("hello")
    assert "Qwen/Qwen3-32B-TEE" in raised.value.suggestions
    assert "Qwen/Qwen3-32B-TEE" in raised.value.hint


BAD_KEYS = {
    "none": ("", "no Chutes API key"),
    "blank": ("  ", "no Chutes API key"),
    "white space": (f"{SECRET} x", "white space"),
    "line break": (f"{SECRET}\nX: y", "white space"),
    "not ASCII": (f"{SECRET}\xe9", "ASCII"),
    "short": ("cpk_1", "shorter"),
}
BAD_SETTINGS = {
    "plain http": ("CHUTES_BASE_URL", "http://llm.example.org/v1", "unencrypted"),
    "no URL": ("CHUTES_BASE_URL", "llm.example.org", "base_url"),
    "timeout": ("CHUTES_OPENCODE_TIMEOUT_SECONDS", "soon", "timeout_seconds"),
    "temp folder": ("TMPDIR", "/dev/null", "/dev/null"),
    "no temp folder": ("TMPDIR", "/no/where", "/no/where"),
    "key file": ("CHUTES_API_TOKEN_FILE", "/no/where", "/no/where"),
}


@pytest.mark.parametrize(("key", "words"), BAD_KEYS.values(), ids=BAD_KEYS)
def test_a_bad_key(
    simulator: Simulator, monkeypatch: pytest.MonkeyPatch, key: str, words: str
) -> None:
    monkeypatch.setenv("CHUTES_API_TOKEN", key)

    with pytest.raises(AuthenticationError, match=words) as raised:
        ChutesOpenCodeLLM("sim/echo").prompt("hello")
    assert "CHUTES_API_TOKEN" in raised.value.hint
    assert SECRET not in repr(vars(raised.value))
    assert simulator.requests == ()


@pytest.mark.parametrize(("name", "value", "words"), BAD_SETTINGS.values(), ids=BAD_SETTINGS)
def test_a_bad_setting(
    simulator: Simulator, monkeypatch: pytest.MonkeyPatch, name: str, value: str, words: str
) -> None:
    if name == "CHUTES_API_TOKEN_FILE":
        monkeypatch.delenv("CHUTES_API_TOKEN")
    monkeypatch.setenv(name, value)

    with pytest.raises(ConfigurationError, match=words) as raised:
        ChutesOpenCodeLLM("sim/echo").prompt("hello")
    assert raised.value.hint
    assert simulator.bill.total.requests == 0


def test_a_malformed_settings_file_is_named_with_line_and_field(
    simulator: Simulator, tmp_path: Path
) -> None:
    file = tmp_path / "cwd" / "chutes-opencode.toml"

    file.write_text("retries = 2\ntimeout_seconds = 'soon'\n")
    with pytest.raises(ConfigurationError, match=r"chutes-opencode\.toml.*2.*timeout_seconds"):
        ChutesOpenCodeLLM("sim/echo")

    file.write_text("retries = 2\nretries = = 3\n")
    with pytest.raises(ConfigurationError, match=r"chutes-opencode\.toml.*line 2"):
        ChutesOpenCodeLLM("sim/echo")


def program(path: Path, text: str, mode: int = 0o755) -> Path:
    path.write_text(text)
    path.chmod(mode)
    return path


BINARIES: dict[str, tuple[Callable[[Path], Path], str]] = {
    "missing": (lambda folder: folder / "nowhere", "is no file"),
    "folder": (lambda folder: folder, "is no file"),
    "not executable": (
        lambda folder: program(folder / "opencode", "#!/bin/sh\n", 0o644),
        "not executable",
    ),
    "too old": (
        lambda folder: program(folder / "opencode", "#!/bin/sh\necho 1.15.13\n"),
        "1.15.13.*oldest",
    ),
    "another program": (
        lambda folder: program(folder / "opencode", "#!/bin/sh\necho hello\n"),
        "not opencode",
    ),
    "failing": (
        lambda folder: program(folder / "opencode", "#!/bin/sh\necho broken >&2; exit 3\n"),
        "exit code 3: broken",
    ),
    "no program": (lambda folder: program(folder / "opencode", "\x7fELF"), "does not run"),
}


@pytest.mark.parametrize(("make", "words"), BINARIES.values(), ids=BINARIES)
@pytest.mark.parametrize("by", ["argument", "environment"])
def test_a_bad_binary(
    simulator: Simulator,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    make: Callable[[Path], Path],
    words: str,
    by: str,
) -> None:
    path = make(tmp_path / "home")
    monkeypatch.setenv("OPENCODE_BIN", str(path))
    if by == "argument":
        monkeypatch.delenv("OPENCODE_BIN")

    with pytest.raises(OpenCodeNotFoundError, match=words) as raised:
        ChutesOpenCodeLLM("sim/echo", opencode_bin=path if by == "argument" else None).prompt("x")
    assert str(path) in raised.value.raw_message
    assert "chutes-opencode setup" in raised.value.hint
    assert simulator.bill.total.requests == 0


def test_no_binary_anywhere(
    simulator: Simulator, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("OPENCODE_BIN")
    monkeypatch.setenv("CHUTES_OPENCODE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("PATH", os.defpath)

    with pytest.raises(OpenCodeNotFoundError, match="no opencode on PATH") as raised:
        ChutesOpenCodeLLM("sim/echo").prompt("hello")
    assert "chutes-opencode setup" in raised.value.hint
