"""Tool servers and permissions in the config of a run."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import pytest

from chutes_opencode.catalog.providers import find_provider
from chutes_opencode.errors import ConfigurationError
from chutes_opencode.opencode.config import (
    Target,
    build_config,
    checked_tools,
    permission_rules,
    tool_prefix,
)
from chutes_opencode.request import McpServer, PromptRequest

WEB = McpServer("web", url="http://host:1/mcp")


def written(*servers: McpServer) -> dict[str, Any]:
    target = Target(find_provider("chutes"), "http://127.0.0.1:8000/v1")
    request = PromptRequest("", "m", tools=servers)
    config = build_config(request, target, plugin=Path("/guard.js"), key="key-1")
    mcp: dict[str, Any] = config["mcp"]
    return mcp


# --- tool servers ------------------------------------------------------------------------------


def test_a_remote_server_is_written_with_its_headers() -> None:
    server = McpServer("web", url="http://host:1/mcp", headers={"x": "y"}, timeout_seconds=2.5)

    assert written(server) == {
        "web": {
            "type": "remote",
            "url": "http://host:1/mcp",
            "headers": {"x": "y"},
            "oauth": False,
            "enabled": True,
            "timeout": 2500,
        }
    }


def test_a_local_server_is_written_with_its_environment() -> None:
    server = McpServer("files", command=("serve", "--all"), environment={"A": "b"})

    assert written(server) == {
        "files": {
            "type": "local",
            "command": ["serve", "--all"],
            "environment": {"A": "b"},
            "enabled": True,
            "timeout": 30_000,
        }
    }


def test_without_tools_there_are_no_servers() -> None:
    assert written() == {}


@pytest.mark.parametrize(
    ("name", "prefix"), [("web", "web_"), ("a.b", "a_b_"), ("a-b_c", "a-b_c_"), ("9", "9_")]
)
def test_tools_are_seen_under_their_servers_name(name: str, prefix: str) -> None:
    assert tool_prefix(name) == prefix


@pytest.mark.parametrize("name", ["", "-a", ".a", "_a", "a b", "a/b", "a{b", "ü", "a\n", "a" * 65])
def test_a_name_that_a_tool_cannot_begin_with_is_refused(name: str) -> None:
    with pytest.raises(ConfigurationError, match="needs a name of 1-64"):
        checked_tools([McpServer(name, url="http://host/mcp")])


@pytest.mark.parametrize(
    ("server", "problem"),
    [
        pytest.param(McpServer("a"), "needs either url= or command=", id="neither"),
        pytest.param(
            McpServer("a", url="http://host/mcp", command=("x",)),
            "needs either url= or command=",
            id="both",
        ),
        pytest.param(McpServer("a", url=""), "needs either url= or command=", id="empty url"),
        pytest.param(McpServer("a", command=()), "needs either url= or command=", id="no words"),
        pytest.param(
            McpServer("a", url="http://h", timeout_seconds=float("inf")),
            "timeout_seconds",
            id="endless",
        ),
        pytest.param(
            McpServer("a", url="http://h", timeout_seconds=float("nan")),
            "timeout_seconds",
            id="nan",
        ),
        pytest.param(
            McpServer("a", url="http://h", timeout_seconds=0), "timeout_seconds", id="no time"
        ),
        pytest.param(
            McpServer("a", url="http://h", timeout_seconds=cast("float", "5")),
            "timeout_seconds",
            id="time as text",
        ),
        pytest.param(
            McpServer("a", command=cast("tuple[str, ...]", "ls -l")),
            "needs command= as a list of strings",
            id="a command line",
        ),
        pytest.param(
            McpServer("a", command=cast("tuple[str, ...]", ("ls", 5))),
            "needs command= as a list of strings",
            id="a word that is none",
        ),
        pytest.param(McpServer("a", url=cast("str", 5)), "needs url= as a string", id="url"),
        pytest.param(
            McpServer("a", url="http://h", headers={"A": cast("str", 5)}),
            "strings as values",
            id="header",
        ),
    ],
)
def test_a_server_that_cannot_be_reached_is_refused(server: McpServer, problem: str) -> None:
    with pytest.raises(ConfigurationError, match=problem):
        checked_tools([server])


@pytest.mark.parametrize("names", [("a", "a"), ("a.b", "a_b")])
def test_servers_whose_tools_could_not_be_told_apart_are_refused(names: tuple[str, str]) -> None:
    with pytest.raises(ConfigurationError, match="is there twice"):
        checked_tools([McpServer(name, url="http://host/mcp") for name in names])


# --- permissions -------------------------------------------------------------------------------

DEFAULT = {"*": "allow", "external_directory": "deny", "question": "deny"}


@pytest.mark.parametrize(
    ("permission", "rules"),
    [
        pytest.param(None, DEFAULT, id="inside all, outside nothing"),
        pytest.param({}, DEFAULT, id="no rules"),
        pytest.param("deny", DEFAULT | {"*": "deny"}, id="all denied"),
        pytest.param("allow", DEFAULT, id="outside stays denied"),
        pytest.param("ask", DEFAULT | {"*": "deny"}, id="nobody can be asked"),
        pytest.param({"bash": "ask"}, DEFAULT | {"bash": "deny"}, id="ask one"),
        pytest.param(
            {"external_directory": "allow"}, DEFAULT | {"external_directory": "allow"}, id="outside"
        ),
        pytest.param(
            {"bash": {"*": "ask", "git *": "allow"}},
            DEFAULT | {"bash": {"*": "deny", "git *": "allow"}},
            id="patterns",
        ),
        pytest.param({"question": "allow"}, DEFAULT, id="nothing can be asked"),
        pytest.param({"*": "allow"}, DEFAULT, id="outside only by its own name"),
    ],
)
def test_permissions(permission: Any, rules: dict[str, Any]) -> None:
    assert permission_rules(PromptRequest("", "m", permission=permission)) == rules


@pytest.mark.parametrize(
    "permission", [None, {"question": "allow", "q*": "allow"}, {"bash": "deny"}]
)
def test_the_denied_question_is_the_last_rule_since_the_last_wins(permission: Any) -> None:
    rules = permission_rules(PromptRequest("", "m", permission=permission))

    assert list(rules)[-1] == "question"


def test_a_callers_rule_comes_after_the_general_one() -> None:
    request = PromptRequest("", "m", permission={"bash": "allow", "edit": "deny"})

    assert list(permission_rules(request))[:1] == ["*"]


def test_rules_keep_the_callers_order_since_the_last_wins() -> None:
    request = PromptRequest("", "m", permission={"bash": "allow", "*": "deny", "read": "allow"})

    names = list(permission_rules(request))

    assert names == ["bash", "*", "external_directory", "read", "question"]


def test_without_builtin_tools_only_the_servers_tools_are_allowed() -> None:
    request = PromptRequest("", "m", tools=(WEB,), builtin_tools=False)

    assert permission_rules(request) == {"*": "deny", "web_*": "allow", "question": "deny"}


def test_a_servers_tool_can_be_denied() -> None:
    request = PromptRequest(
        "", "m", tools=(WEB,), builtin_tools=False, permission={"web_post": "deny"}
    )

    assert permission_rules(request)["web_post"] == "deny"


@pytest.mark.parametrize("permission", ["allow", {"bash": "allow"}, {"web_x": "deny", "w": "deny"}])
def test_a_rule_for_builtin_tools_that_are_off_is_refused(permission: Any) -> None:
    request = PromptRequest("", "m", tools=(WEB,), builtin_tools=False, permission=permission)

    with pytest.raises(ConfigurationError, match="but builtin_tools is False"):
        permission_rules(request)


@pytest.mark.parametrize(
    ("permission", "named"),
    [("yes", r"'\*'"), ({"bash": True}, "'bash'"), ({"bash": {"git *": None}}, r"'bash.git \*'")],
)
def test_a_rule_is_allow_ask_or_deny(permission: Any, named: str) -> None:
    with pytest.raises(ConfigurationError, match=f"permission {named} must be allow, ask or deny"):
        permission_rules(PromptRequest("", "m", permission=permission))


@pytest.mark.parametrize("rules", [{"bash": {"*": {"rm": "deny"}}}, {"bash": 5}, "perhaps"])
def test_rules_of_another_shape_are_refused(rules: Any) -> None:
    with pytest.raises(ConfigurationError, match="must be allow, ask or deny"):
        permission_rules(PromptRequest("", "m", permission=rules))
