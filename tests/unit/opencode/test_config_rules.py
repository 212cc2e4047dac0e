"""Permission rules as a session knows them, and what of them reaches its sub-agents."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from chutes_opencode.opencode.config import holds_for_sub_agents, permission_rules, rule_list
from chutes_opencode.request import McpServer, PromptRequest

WEB = (McpServer("web", url="http://127.0.0.1:9/mcp"),)


def rules(**fields: Any) -> dict[str, Any]:
    return permission_rules(PromptRequest("", "m", **fields))


def test_the_rules_keep_their_order_since_the_last_wins() -> None:
    asked = {"edit": {"*": "deny", "*.txt": "allow", "a.txt": "ask"}, "bash": "deny"}

    flat = rule_list(rules(permission=asked))

    assert [tuple(rule.values()) for rule in flat] == [
        ("*", "*", "allow"),
        ("external_directory", "*", "deny"),
        ("edit", "*", "deny"),
        ("edit", "*.txt", "allow"),
        ("edit", "a.txt", "deny"),
        ("bash", "*", "deny"),
        ("question", "*", "deny"),
    ]
    assert {tuple(rule) for rule in flat} == {("permission", "pattern", "action")}


def test_no_rules_are_an_empty_list() -> None:
    assert rule_list({}) == []


def test_outputs_that_were_cut_may_be_read_whatever_the_rules_before_say() -> None:
    *_, last = rule_list(rules(permission="deny"), outputs=Path("/data/outputs"))

    assert last == {
        "permission": "external_directory",
        "pattern": "/data/outputs/*",
        "action": "allow",
    }


@pytest.mark.parametrize(
    ("fields", "holds"),
    [
        ({}, True),
        ({"permission": "allow"}, True),
        ({"permission": {"bash": "deny", "edit": {"*.md": "deny"}}}, True),
        ({"permission": {"external_directory": {"*": "deny", "/data/*": "allow"}}}, True),
        ({"permission": {"edit": {"*": "deny", "*.txt": "allow"}}}, False),
        ({"permission": {"bash": "deny", "bas?": "allow"}}, False),
        ({"permission": {"bash": "deny", "*": "allow"}}, False),
        ({"permission": {"*": "deny", "read": "allow", "task": "allow"}}, False),
        ({"permission": {"*": "deny", "task": {"*": "deny", "explore": "allow"}}}, False),
        # Where there are no sub-agents it makes no difference.
        ({"permission": "deny"}, True),
        ({"permission": {"*": "deny", "read": "allow"}}, True),
        ({"permission": {"edit": {"*": "deny", "*.txt": "allow"}, "t*k": "deny"}}, True),
        ({"builtin_tools": False}, True),
        ({"builtin_tools": False, "tools": WEB, "permission": {"web_post": "deny"}}, True),
    ],
)
def test_what_of_a_sessions_rules_holds_for_its_sub_agents(
    fields: dict[str, Any], holds: bool
) -> None:
    assert holds_for_sub_agents(rules(**fields)) is holds
