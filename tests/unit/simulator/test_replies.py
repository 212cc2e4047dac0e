import json
from typing import Any

import pytest

from chutes_opencode.simulator.replies import (
    Reply,
    ReplyError,
    ToolCall,
    endless_call,
    find_script,
    halved,
    kind_of,
    make_reply,
    read_step,
)

SCRIPT = '{"steps": [{"tool": "bash", "arguments": {"command": "ls"}}, {"text": "end"}]}'
BASH = ToolCall("bash", '{"command": "ls"}')


def user(text: object) -> dict[str, Any]:
    return {"role": "user", "content": text}


def assistant(text: str = "") -> dict[str, Any]:
    return {"role": "assistant", "content": text}


def tool(name: str, **schema: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "parameters": schema}}


@pytest.mark.parametrize(
    ("model", "kind"),
    [
        ("sim/echo", "echo"),
        ("sim/vision", "echo"),
        ("sim/arithmetic", "arithmetic"),
        ("sim/reasoning", "reasoning"),
        ("sim/script", "script"),
        ("sim/size/12", "size"),
        ("sim/fault/429-capacity", "auto"),
        ("Qwen/Qwen3-32B-TEE", "auto"),
    ],
)
def test_a_model_id_has_its_kind_of_reply(model: str, kind: str) -> None:
    assert kind_of(model) == kind


@pytest.mark.parametrize(
    ("kind", "text", "expected"),
    [
        ("echo", "what is 1 + 1?", Reply("what is 1 + 1?")),
        ("auto", "what is 1 + 1?", Reply("2")),
        ("auto", "no sum", Reply("no sum")),
        ("arithmetic", "17 + 25", Reply("42")),
        ("arithmetic", "no sum", Reply("no arithmetic expression found")),
        ("text", "anything", Reply("fixed")),
        ("reasoning", "abc", Reply("abc", reasoning="The message has 3 characters.\n")),
        ("reasoning", "1 + 1", Reply("2", reasoning="The message has 5 characters.\n")),
    ],
)
def test_replies_are_made_of_the_last_user_message(kind: str, text: str, expected: Reply) -> None:
    messages = [user("earlier 5 + 5"), assistant("10"), user(text)]

    assert make_reply(kind, "any/model", messages, text="fixed") == expected


@pytest.mark.parametrize(
    ("messages", "expected"),
    [
        ([user([{"type": "text", "text": "a"}, {"type": "image_url"}, user("x")])], "a"),
        ([user([{"type": "text", "text": "a"}, {"type": "text", "text": "b"}])], "ab"),
        ([user(None)], ""),
        ([{"role": "system", "content": "s"}], ""),
        ([user("first"), assistant("x"), {"role": "tool", "content": "t"}], "first"),
    ],
)
def test_the_text_of_a_message_is_its_text_parts(messages: list[Any], expected: str) -> None:
    assert make_reply("echo", "sim/echo", messages).text == expected


@pytest.mark.parametrize("size", [0, 1, 15, 16, 17, 100_000])
def test_a_size_model_says_exactly_so_many_bytes(size: int) -> None:
    text = make_reply("size", f"sim/size/{size}", [user("x")]).text

    assert len(text.encode()) == size
    assert text.startswith("0123456789abcdef"[:size])


@pytest.mark.parametrize("size", ["", "x", "-1", "1.5", "50000001", "9" * 9, "²"])
def test_a_size_that_is_no_number_of_bytes_is_refused(size: str) -> None:
    with pytest.raises(ReplyError, match="number of bytes"):
        make_reply("size", f"sim/size/{size}", [user("x")])


@pytest.mark.parametrize(
    ("later", "expected"),
    [
        ([], Reply(tool_calls=(BASH,), finish_reason="tool_calls")),
        ([assistant(), {"role": "tool", "content": "out"}], Reply("end")),
        ([assistant(), assistant()], Reply("done")),
    ],
)
def test_a_script_goes_one_step_with_each_answer(later: list[Any], expected: Reply) -> None:
    messages = [user("old"), assistant("old"), user(f"please {SCRIPT} now"), *later]

    assert make_reply("script", "sim/script", messages) == expected


def test_a_script_may_come_from_a_scenario() -> None:
    steps = [{"text": "one"}, {"text": "two"}]

    assert make_reply("script", "m", [user(SCRIPT)], steps=steps) == Reply("one")


def test_a_prompt_without_a_script_is_told_so() -> None:
    assert "no script" in make_reply("script", "sim/script", [user("hello {}")]).text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('{"steps": []}', []),
        ('x {"a": 1} {"b": {"steps": [1]}} y', [1]),
        ('{ broken {"steps": [{"text": "}"}]} }', [{"text": "}"}]),
        ('{"steps": "no list"}', None),
        ('{"steps": [1]', None),
        ('"steps" {', None),
        ('{"a":' * 5_000 + '"steps"', None),
        ("nothing", None),
    ],
)
def test_the_first_balanced_object_with_steps_is_the_script(
    text: str, expected: list[Any] | None
) -> None:
    assert find_script(text) == expected


def test_a_step_may_hold_everything() -> None:
    step = {
        "text": "t",
        "reasoning": "r",
        "tool": "a",
        "tools": [{"tool": "b", "arguments": "{broken"}],
        "finish_reason": "length",
        "fault": "429-capacity",
        "times": 2,
        "delay_s": 1,
    }

    assert read_step(step) == Reply(
        "t", "r", (ToolCall("a", "{}"), ToolCall("b", "{broken")), "length", "429-capacity", 2, 1.0
    )


@pytest.mark.parametrize(
    ("step", "message"),
    [
        ("x", "steps[0]: expected an object"),
        ({"txt": "x"}, "steps[0]: unknown field 'txt'"),
        ({"text": 1}, "steps[0].text: unexpected 1"),
        ({"times": True}, "steps[0].times: unexpected True"),
        ({"tools": [1]}, "steps[0].tools: expected objects"),
        ({"tools": [{"arguments": {}}]}, "steps[0].tools: expected objects"),
        ({"tools": [{"tool": "a", "arguments": 1}]}, "steps[0].tools: expected objects"),
    ],
)
def test_a_malformed_step_is_named(step: object, message: str) -> None:
    with pytest.raises(ReplyError) as caught:
        make_reply("script", "m", [user(json.dumps({"steps": [step]}))])

    assert str(caught.value).startswith(message)


@pytest.mark.parametrize(
    ("tools", "name", "arguments"),
    [
        ([], "unknown_tool", {}),
        (["odd", {"function": None}, {"function": {}}], "unknown_tool", {}),
        ([tool("bash"), tool("glob")], "glob", {}),
        ([tool("edit")], "edit", {}),
        (
            [
                tool(
                    "edit",
                    type="object",
                    required=["s", "i", "n", "b", "a", "o", "e", "u", "z"],
                    properties={
                        "s": {"type": "string"},
                        "i": {"type": "integer"},
                        "n": {"type": "number"},
                        "b": {"type": "boolean"},
                        "a": {"type": "array"},
                        "o": {"type": "object"},
                        "e": {"enum": ["first", "second"]},
                        "z": {"type": "null"},
                        "optional": {"type": "string"},
                    },
                )
            ],
            "edit",
            {
                "s": "x",
                "i": 1,
                "n": 1,
                "b": False,
                "a": [],
                "o": {},
                "e": "first",
                "u": {},
                "z": None,
            },
        ),
        ([{"function": {"name": "odd", "parameters": [1]}}], "odd", {}),
    ],
)
def test_an_endless_call_names_an_offered_tool_with_arguments_that_fit(
    tools: list[Any], name: str, arguments: dict[str, Any]
) -> None:
    (call,) = endless_call(tools).tool_calls

    assert (call.name, json.loads(call.arguments)) == (name, arguments)


def test_half_a_reply_has_the_first_half_of_its_text_and_no_calls() -> None:
    assert halved(Reply("12345", tool_calls=(BASH,))) == Reply("123")
