"""A prompt and its arguments become one call: everything looked up, checked and resolved."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path
from typing import Any, cast

import pytest

from chutes_opencode.call import Call
from chutes_opencode.catalog.models import Model, Price
from chutes_opencode.catalog.providers import find_provider
from chutes_opencode.errors import ConfigurationError, InvalidRequestError, OpenCodeError
from chutes_opencode.limits import Budget
from chutes_opencode.options import Options
from chutes_opencode.prepare import prepare
from chutes_opencode.relay.terms import ReplayKey
from chutes_opencode.request import ChatMessage, FilePart, Limits, McpServer, Params
from chutes_opencode.runtime import Runtime
from chutes_opencode.settings import Settings, load_settings

PRICE = Price(1.0, 2.0)
PNG = b"\x89PNG\r\n\x1a\n"
WEB = McpServer("web", url="http://h")
SCHEMA = {"type": "object"}


class Means:
    """Of a runtime only what is looked up."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.budgets = (Budget("max_total_cost_usd", 9.0),)
        self.inherited = {"NODE_EXTRA_CA_CERTS": "/ca.pem"}
        self.asked: list[str | None] = []
        self.models: dict[str | None, Model] = {}

    async def resolve(self, asked: str | None) -> Model:
        self.asked.append(asked)
        if asked in self.models:
            return self.models[asked]
        name = "Org/M" if asked in ("m", "by-default") else f"Org/{asked}"
        return Model(name, price=PRICE, input_modalities=("text", "image"))


@pytest.fixture
def means(tmp_path: Path) -> Means:
    environ = {"HOME": str(tmp_path), "CHUTES_OPENCODE_DEFAULT_MODEL": "by-default"}
    return Means(load_settings(environ=environ, cwd=tmp_path, retries=5, deadline_seconds=99.0))


def call(means: Means, setup: dict[str, Any] | None = None, **arguments: Any) -> Call:
    fields: dict[str, Any] = {
        "model": "m",
        "system_message": "",
        "provider": find_provider("chutes"),
    }
    options = Options(**fields | (setup or {}))
    arguments = {"prompt": "hi"} | arguments
    return asyncio.run(prepare(options, cast("Runtime", means), **arguments))


def test_a_bare_prompt(means: Means) -> None:
    made = call(means)

    request = made.request
    assert (request.prompt, request.model) == ("hi", "Org/M")
    assert request.system_message == "You are a helpful assistant."
    assert (request.history, request.attachments, request.tools) == ((), (), ())
    assert (request.work_dir, request.session_id, request.keep_session) == (None, None, False)
    assert made.price == PRICE
    assert (made.policy.retries, made.deadline_seconds) == (5, 99.0)
    assert made.node_id == socket.gethostname()
    assert made.schema is None


def test_the_relays_terms_come_with_it(means: Means) -> None:
    made = call(means, {"fallback_models": ("a", "b")}, sample_index=3)

    assert made.terms is not None
    assert (made.terms.model, made.terms.fallback_models) == ("Org/M", ("Org/a", "Org/b"))
    assert made.terms.prices == dict.fromkeys(("Org/M", "Org/a", "Org/b"), PRICE)
    assert made.terms.budgets == means.budgets
    assert made.terms.upstream.ca_files == ("/ca.pem",)
    assert made.terms.replay is None
    assert means.asked == ["m", "a", "b"]


def test_equal_prompts_with_other_numbers_are_other_samples(means: Means, tmp_path: Path) -> None:
    made = call(means, {"cache": tmp_path}, sample_index=3)

    assert made.terms is not None
    assert made.terms.replay == ReplayKey(tmp_path, 3)


def test_without_the_relay_there_are_no_terms(means: Means) -> None:
    assert call(means, {"relay": False}).terms is None


@pytest.mark.parametrize(("model", "asked"), [("m", "m"), (None, "by-default")])
def test_the_model_is_the_instances_else_the_settings(
    means: Means, model: str | None, asked: str
) -> None:
    call(means, {"model": model})

    assert means.asked == [asked]


@pytest.mark.parametrize("own", ["own", None])
def test_a_prompt_may_name_a_model_of_its_own(means: Means, own: str | None) -> None:
    made = call(means, {"fallback_models": ("a",)}, model=own)

    named = "Org/own" if own else "Org/M"
    assert made.terms is not None
    assert (made.request.model, made.terms.model) == (named, named)
    assert made.terms.prices == {named: PRICE, "Org/a": PRICE}
    assert made.terms.fallback_models == ("Org/a",)


def test_price_and_modalities_are_those_of_the_prompts_own_model(means: Means) -> None:
    means.models["blind"] = Model("Org/blind", price=Price(5.0, 6.0))

    assert call(means, model="blind").price == Price(5.0, 6.0)
    with pytest.raises(InvalidRequestError, match="Org/blind"):
        call(means, model="blind", files=[("a.png", PNG, "image/png")])


def test_a_model_of_its_own_that_is_empty_is_not_the_instances(means: Means) -> None:
    call(means, model="")

    assert means.asked == [""]


def test_a_budget_is_shared_with_all_prompts_that_are_given_it(means: Means) -> None:
    budget = Budget("mine", 1.0)

    first, second = (call(means, budget=budget), call(means, budget=budget))

    assert first.terms is not None
    assert second.terms is not None
    assert first.terms.budgets == second.terms.budgets == (*means.budgets, budget)


def test_a_budget_that_is_given_twice_is_drawn_on_once(means: Means) -> None:
    made = call(means, budget=means.budgets[0])

    assert made.terms is not None
    assert made.terms.budgets == means.budgets


@pytest.mark.parametrize(
    ("own", "given", "messages", "sent"),
    [
        ("mine", {}, None, "mine"),
        ("mine", {"system_message": "its own"}, None, "its own"),
        ("mine", {"system_message": ""}, None, "You are a helpful assistant."),
        ("mine", {"system_message": None}, None, None),
        (
            "mine",
            {"system_message": "its own"},
            [{"role": "system", "content": "the chat's"}],
            "the chat's",
        ),
    ],
)
def test_a_prompts_own_system_message(
    means: Means, own: str, given: dict[str, Any], messages: Any, sent: str | None
) -> None:
    request = call(means, {"system_message": own}, messages=messages, **given).request

    assert request.system_message == sent


@pytest.mark.parametrize(
    ("own", "messages", "sent"),
    [
        ("", None, "You are a helpful assistant."),
        (None, None, None),
        ("mine", None, "mine"),
        ("mine", [{"role": "system", "content": "the chat's"}], "the chat's"),
        ("mine", [{"role": "system", "content": ""}], "You are a helpful assistant."),
    ],
)
def test_the_system_message(means: Means, own: str | None, messages: Any, sent: str | None) -> None:
    request = call(means, {"system_message": own}, messages=messages).request

    assert request.system_message == sent


def test_a_chat_becomes_history_and_prompt(means: Means) -> None:
    rows = [("user", "a"), ("assistant", "b"), ("user", "c")]
    messages = [{"role": role, "content": text} for role, text in rows]

    request = call(means, prompt="", messages=messages).request

    assert request.prompt == "c"
    assert request.history == (ChatMessage("user", "a"), ChatMessage("assistant", "b"))


def test_files_are_framed_or_attached(means: Means) -> None:
    files = [("n.txt", b"words", "text/plain"), ("a.png", PNG, "image/png")]

    request = call(means, files=files).request

    assert request.prompt == '<file name="n.txt">\nwords\n</file>\n\nhi'
    assert request.attachments == (FilePart("a.png", PNG, "image/png"),)


def test_a_schema_is_an_instruction_after_the_prompt(means: Means) -> None:
    made = call(means, output_schema=SCHEMA)

    assert made.schema is not None
    assert made.request.prompt == made.schema.instruct("hi")


@pytest.mark.parametrize(
    ("setup", "arguments", "field", "value"),
    [
        ({"params": Params(seed=1)}, {}, "params", Params(seed=1)),
        ({"params": Params(seed=1)}, {"params": Params(seed=2)}, "params", Params(seed=2)),
        ({"params": Params(seed=1)}, {"params": Params()}, "params", Params()),
        ({"tools": (WEB,)}, {}, "tools", (WEB,)),
        ({"tools": (WEB,)}, {"tools": []}, "tools", ()),
        ({}, {"tools": [WEB]}, "tools", (WEB,)),
        ({"work_dir": Path("/w")}, {}, "work_dir", Path("/w")),
        ({"work_dir": Path("/w")}, {"work_dir": "/v"}, "work_dir", Path("/v")),
        ({}, {"keep_session": True}, "keep_session", True),
        ({}, {"keep_session": "/k"}, "keep_session", Path("/k")),
        ({}, {"session_id": "ses_1"}, "session_id", "ses_1"),
        ({"limits": Limits(max_requests=7)}, {}, "max_requests", 7),
        ({"env": {"A": "b"}}, {}, "env", {"A": "b"}),
        ({"extra_cli_args": ("--auto",)}, {}, "extra_cli_args", ("--auto",)),
    ],
)
def test_a_prompts_own_value_wins_over_the_instances(
    means: Means, setup: dict[str, Any], arguments: dict[str, Any], field: str, value: Any
) -> None:
    assert getattr(call(means, setup, **arguments).request, field) == value


@pytest.mark.parametrize(
    ("setup", "tools", "context"),
    [
        ({}, None, True),
        ({"builtin_tools": False}, None, False),
        ({"builtin_tools": False}, [WEB], True),
        ({"context": False}, None, False),
        ({"builtin_tools": False, "context": True}, None, True),
    ],
)
def test_the_environment_block_follows_only_where_there_are_tools(
    means: Means, setup: dict[str, Any], tools: Any, context: bool
) -> None:
    assert call(means, setup, tools=tools).request.context is context


@pytest.mark.parametrize(
    ("present", "asked", "found"),
    [
        (["AGENTS.md"], True, "AGENTS.md"),
        (["CLAUDE.md"], True, "CLAUDE.md"),
        (["AGENTS.md", "CLAUDE.md"], True, "AGENTS.md"),
        ([], True, None),
        (["AGENTS.md"], False, None),
    ],
)
def test_a_folders_rules_are_given_only_when_asked(
    means: Means, tmp_path: Path, present: list[str], asked: bool, found: str | None
) -> None:
    for name in present:
        (tmp_path / name).write_text("rules")

    request = call(means, {"project_rules": asked}, work_dir=tmp_path).request

    assert request.rules_file == (tmp_path / found if found else None)


def test_without_a_folder_there_are_no_rules(means: Means) -> None:
    assert call(means, {"project_rules": True}).request.rules_file is None


@pytest.mark.parametrize(
    ("setup", "arguments", "cls", "message"),
    [
        ({}, {"prompt": ""}, InvalidRequestError, "the prompt is empty"),
        ({"system_message": "a\0"}, {}, InvalidRequestError, "the system message holds a NUL"),
        (
            {},
            {"messages": [{"role": "user", "content": "\ud800"}]},
            InvalidRequestError,
            r"messages\[0\] holds a lone surrogate",
        ),
        (
            {},
            {"messages": [{"role": "user", "content": "a"}], "session_id": "ses_1"},
            ConfigurationError,
            "messages and session_id exclude each other",
        ),
        ({}, {"params": Params(max_tokens=0)}, ConfigurationError, "params.max_tokens"),
        ({}, {"params": {"seed": 1}}, ConfigurationError, "params must be a Params"),
        ({}, {"prompt": 5}, ConfigurationError, "prompt must be a string, not int"),
        ({}, {"prompt": None}, ConfigurationError, "prompt must be a string, not NoneType"),
        ({}, {"messages": "x"}, ConfigurationError, "messages must be a list of messages"),
        ({}, {"files": "notes.txt"}, ConfigurationError, "files must be a list of files"),
        ({}, {"files": [5]}, InvalidRequestError, "neither a path nor"),
        ({}, {"files": [("a", b"x")]}, InvalidRequestError, "neither a path nor"),
        ({}, {"files": [("a", "x", "text/plain")]}, InvalidRequestError, "neither a path nor"),
        ({}, {"tools": 5}, ConfigurationError, "tools must be a list of tool servers"),
        ({}, {"work_dir": ""}, ConfigurationError, "work_dir is empty"),
        ({}, {"sample_index": "1"}, ConfigurationError, "sample_index must be a whole number"),
        ({}, {"session_id": 5}, ConfigurationError, "session_id must be a session id"),
        ({}, {"model": 5}, ConfigurationError, "model must be a string"),
        ({}, {"system_message": 5}, ConfigurationError, "system_message must be a string or None"),
        ({}, {"system_message": "a\0"}, InvalidRequestError, "the system message holds a NUL"),
        ({}, {"budget": 5.0}, ConfigurationError, "budget must be a Budget"),
        ({"relay": False}, {"budget": Budget("b", 1.0)}, ConfigurationError, "needs the relay"),
        ({}, {"modle": "m"}, ConfigurationError, "a prompt has no argument 'modle'"),
        ({}, {"engine": "run"}, ConfigurationError, "a prompt has no argument 'engine'"),
        ({}, {"options": {}}, ConfigurationError, "a prompt has no argument 'options'"),
        ({}, {"keep_session": 5}, ConfigurationError, "keep_session must be True, False or"),
        ({}, {"files": [("a.pdf", b"%PDF-", "application/pdf")]}, InvalidRequestError, "no pdf"),
        ({}, {"output_schema": {"type": "nonsense"}}, ConfigurationError, "output_schema"),
    ],
)
def test_what_cannot_be_sent_is_refused(
    means: Means,
    setup: dict[str, Any],
    arguments: dict[str, Any],
    cls: type[OpenCodeError],
    message: str,
) -> None:
    with pytest.raises(cls, match=message):
        call(means, setup, **arguments)


@pytest.mark.parametrize(
    ("setup", "given"), [({"system_message": None}, {}), ({}, {"system_message": None})]
)
def test_opencodes_own_system_message_cannot_be_had_without_its_block(
    means: Means, setup: dict[str, Any], given: dict[str, Any]
) -> None:
    with pytest.raises(ConfigurationError, match="needs a system message"):
        call(means, setup | {"context": False}, **given)
