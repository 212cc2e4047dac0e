"""What opencode adds is taken out; what the caller said goes on unchanged."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chutes_opencode.relay.rewrite import (
    MarkerMissingError,
    max_output,
    read_body,
    requested_tools,
    rewrite,
    write_body,
)
from chutes_opencode.relay.terms import SystemRule, Terms, Upstream
from chutes_opencode.request import ChatMessage

MARKER = "marker-5f0c"
ENVIRONMENT = "\nYou are powered by the model named X.\n<env>\n  Working directory: /tmp/w\n</env>"
USER = {"role": "user", "content": "What is 6 * 7?"}
HIDDEN = "/tmp/private/attachments"
NOTE = {"type": "text", "text": f'Called the Read tool with: {{"filePath":"{HIDDEN}/a.png"}}'}
READ = {"type": "text", "text": "Image read successfully"}
IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
WORDS = {"type": "text", "text": "What is in the picture?"}


def terms(**fields: Any) -> Terms:
    upstream = Upstream("chutes", "https://llm.example/v1", lambda: None)
    return Terms(upstream, {"m": None}, "m", **fields)


def system(keep_context: bool = False, message: str = "Be brief.") -> Terms:
    return terms(system=SystemRule(MARKER, message, keep_context))


def rewritten(messages: list[Any], terms: Terms, *, main: bool = True) -> Any:
    return rewrite({"messages": messages}, terms, main=main, model="m")["messages"]


# --- the system message --------------------------------------------------------------------------


def test_the_whole_system_message_becomes_the_callers() -> None:
    head = {"role": "system", "content": MARKER + ENVIRONMENT}

    assert rewritten([head, USER], system()) == [{"role": "system", "content": "Be brief."}, USER]


@pytest.mark.parametrize("role", ["system", "developer"])
def test_other_system_messages_are_dropped(role: str) -> None:
    first = {"role": role, "content": "skills"}
    head = {"role": role, "content": [{"type": "text", "text": MARKER}, IMAGE]}

    assert rewritten([first, head, USER, first], system()) == [
        {"role": role, "content": "Be brief."},
        USER,
    ]


def test_an_empty_system_message_is_none() -> None:
    head = {"role": "system", "content": MARKER + ENVIRONMENT}

    assert rewritten([head, USER], system(message="")) == [USER]


def test_with_the_context_only_the_marker_is_replaced() -> None:
    head = {"role": "system", "content": MARKER + ENVIRONMENT, "name": "kept"}
    more = {"role": "system", "content": "skills"}

    assert rewritten([head, more, USER], system(keep_context=True)) == [
        {"role": "system", "content": "Be brief." + ENVIRONMENT, "name": "kept"},
        more,
        USER,
    ]


def test_with_the_context_the_marker_may_stand_in_a_part() -> None:
    head = {"role": "system", "content": [IMAGE, {"type": "text", "text": MARKER + " …"}, "odd"]}

    assert rewritten([head], system(keep_context=True)) == [
        {"role": "system", "content": [IMAGE, {"type": "text", "text": "Be brief. …"}, "odd"]}
    ]


@pytest.mark.parametrize(
    "messages",
    [
        [],
        [USER],
        [{"role": "system", "content": "P" + ENVIRONMENT}, USER],
        [{"role": "user", "content": MARKER}],
        [{"role": "system", "content": None}, "odd"],
    ],
)
def test_a_request_without_the_marker_is_refused_unless_it_is_a_sub_agents(
    messages: list[Any],
) -> None:
    with pytest.raises(MarkerMissingError, match="is not the one we configured"):
        rewritten(messages, system())

    assert rewritten(messages, system(), main=False) == messages


def test_the_marker_never_reaches_the_model_from_a_sub_agent_either() -> None:
    head = {"role": "system", "content": MARKER}

    assert rewritten([head], system(), main=False) == [{"role": "system", "content": "Be brief."}]


def test_without_a_rule_the_system_message_is_left() -> None:
    head = {"role": "system", "content": MARKER}

    assert rewritten([head], terms()) == [head]


# --- attachments ---------------------------------------------------------------------------------


def test_opencodes_words_about_an_attached_file_are_dropped() -> None:
    message = {"role": "user", "content": [NOTE, READ, IMAGE, WORDS]}

    (changed,) = rewritten([message], terms(hidden_paths=(HIDDEN,)))

    assert changed == {"role": "user", "content": [IMAGE, WORDS]}


def test_a_message_of_nothing_else_is_dropped() -> None:
    message = {"role": "user", "content": [NOTE]}

    assert rewritten([message, USER], terms(hidden_paths=(HIDDEN,))) == [USER]


def test_a_path_is_found_in_its_json_spelling() -> None:
    note = {"type": "text", "text": 'Read {"filePath":"/tmp/a \\"b\\"/x.png"}'}
    message = {"role": "user", "content": [note, WORDS]}

    (changed,) = rewritten([message], terms(hidden_paths=('/tmp/a "b"',)))

    assert changed["content"] == [WORDS]


@pytest.mark.parametrize(
    "message",
    [
        {"role": "user", "content": "Image read successfully"},
        {"role": "user", "content": f"Look at {HIDDEN}"},
        {"role": "user", "content": [READ, IMAGE]},
        {"role": "tool", "content": [NOTE]},
        {"role": "user", "content": None},
        "odd",
    ],
)
def test_the_callers_own_words_stay(message: Any) -> None:
    assert rewritten([message], terms(hidden_paths=(HIDDEN,))) == [message]


def test_without_attachments_nothing_is_dropped() -> None:
    message = {"role": "user", "content": [NOTE, READ, WORDS]}

    assert rewritten([message], terms()) == [message]


# --- parameters ----------------------------------------------------------------------------------


def test_what_nobody_asked_for_is_dropped() -> None:
    body = {"messages": [], "temperature": 0.55, "top_p": 1, "store": False, "model": "m"}
    keys = frozenset({"model", "messages", "top_p"})

    changed = rewrite(body, terms(body_keys=keys), main=True, model="m")

    assert changed == {"messages": [], "top_p": 1, "model": "m"}


@pytest.mark.parametrize("keys", [None, frozenset({"model"})])
def test_a_body_that_is_no_chat_is_left_as_it_is(keys: frozenset[str] | None) -> None:
    body = {"model": "m", "input": "text", "dimensions": 8}

    assert rewrite(body, terms(body_keys=keys), main=True, model="m") == body


def test_without_a_list_of_keys_a_chat_is_left_as_it_is() -> None:
    body = {"messages": [], "temperature": 0.55, "model": "m"}

    assert rewrite(body, terms(), main=True, model="m") == body


def test_a_chat_is_given_the_callers_values() -> None:
    body = {"messages": [], "max_tokens": 4096, "seed": 1}
    given = terms(
        body_keys=frozenset({"model", "messages", "max_tokens"}), body_values={"max_tokens": 9}
    )

    changed = rewrite(body, given, main=True, model="m")

    assert changed == {"messages": [], "max_tokens": 9, "model": "m"}


def test_what_is_no_chat_is_given_nothing() -> None:
    changed = rewrite({"prompt": "x"}, terms(body_values={"seed": 1}), main=True, model="m")

    assert changed == {"prompt": "x", "model": "m"}


HISTORY = (ChatMessage("user", "one"), ChatMessage("assistant", "two"))
TOLD = [{"role": "user", "content": "one"}, {"role": "assistant", "content": "two"}]
ASKED = {"role": "user", "content": "three"}
SYSTEM = {"role": "system", "content": "s"}


@pytest.mark.parametrize(
    ("messages", "sent"),
    [
        pytest.param([SYSTEM, ASKED], [SYSTEM, *TOLD, ASKED], id="after the system message"),
        pytest.param([ASKED, SYSTEM], [*TOLD, ASKED, SYSTEM], id="first, without one"),
        pytest.param([SYSTEM], [SYSTEM, *TOLD], id="alone"),
    ],
)
def test_history_stands_before_the_sessions_messages(messages: list[Any], sent: list[Any]) -> None:
    assert rewritten(messages, terms(history=HISTORY)) == sent


def test_a_sub_agent_is_told_no_history() -> None:
    assert rewritten([SYSTEM, ASKED], terms(history=HISTORY), main=False) == [SYSTEM, ASKED]


def test_the_model_is_the_one_to_ask() -> None:
    assert rewrite({"model": "a"}, terms(), main=True, model="b:latency") == {"model": "b:latency"}


@pytest.mark.parametrize(
    ("body", "options"),
    [
        ({"stream": True}, {"include_usage": True}),
        ({"stream": True, "stream_options": None}, {"include_usage": True}),
        (
            {"stream": True, "stream_options": {"include_usage": False, "x": 1}},
            {"include_usage": True, "x": 1},
        ),
        ({"stream": False}, None),
        ({}, None),
    ],
)
def test_a_stream_is_asked_for_its_usage(body: dict[str, Any], options: Any) -> None:
    assert rewrite(body, terms(), main=True, model="m").get("stream_options") == options


def test_the_request_itself_stays_as_it_is() -> None:
    body = {
        "stream": True,
        "stream_options": {},
        "temperature": 1,
        "messages": [
            {"role": "system", "content": [{"type": "text", "text": MARKER}]},
            {"role": "user", "content": [NOTE, WORDS]},
        ],
    }
    before = copy.deepcopy(body)
    rule = SystemRule(MARKER, "Be brief.", keep_context=True)

    rewrite(
        body,
        terms(system=rule, hidden_paths=(HIDDEN,)),
        main=True,
        model="m",
    )

    assert body == before


# --- what a request asks for ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tools", "names"),
    [
        (None, ()),
        ("odd", ()),
        ([{"function": {"name": "bash"}}, {"function": {"name": "my_add"}}], ("bash", "my_add")),
        ([{"function": {}}, {}, "odd", {"function": {"name": 5}}], ()),
    ],
)
def test_tools_are_told_by_name(tools: Any, names: tuple[str, ...]) -> None:
    assert requested_tools({"tools": tools}) == names


@pytest.mark.parametrize(
    ("body", "tokens"),
    [
        ({}, 4096),
        ({"max_tokens": 100}, 100),
        ({"max_tokens": 100, "max_completion_tokens": 50}, 100),
        ({"max_tokens": 50, "max_completion_tokens": 100}, 100),
        ({"max_tokens": 100, "n": 3}, 300),
        ({"max_tokens": 100, "n": 3, "best_of": 5}, 500),
        ({"max_tokens": 100, "prompt": "one"}, 100),
        ({"max_tokens": 100, "prompt": ["one", "two", [3, 4]]}, 300),
        ({"max_tokens": 100, "prompt": [1, 2, 3]}, 100),
        ({"max_tokens": 10.5}, 11),
        ({"max_tokens": True}, 4096),
        ({"max_tokens": 0, "n": 0}, 4096),
        ({"max_tokens": "5", "n": None}, 4096),
    ],
)
def test_output_is_bounded_by_what_is_asked_for(body: dict[str, Any], tokens: int) -> None:
    assert max_output(body, 4096) == tokens


# --- JSON ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "raw",
    [
        b'{"a":"\xc3\xa9 \xe2\x80\xa8"}',
        b'{"a":"\\ud83d"}',
        b'{"a":12345678901234567890123456789}',
        b'{"a":0.1,"b":1e-07,"c":-0.0,"d":1.0}',
        b'{"b":1,"a":[null,true,{}]}',
    ],
)
def test_a_body_is_written_as_it_was_read(raw: bytes) -> None:
    assert write_body(read_body(raw)) == raw


@pytest.mark.parametrize(
    "raw",
    [
        *(b"", b"[]", b"5", b"{half", b"\xff"),
        *(b'{"a":NaN}', b'{"a":-Infinity}', b'{"a":1e999}', b'{"a":' + b"[" * 100_000),
    ],
)
def test_what_is_no_body_is_refused(raw: bytes) -> None:
    with pytest.raises(ValueError, match=r".+"):
        read_body(raw)


contents = st.one_of(
    st.none(),
    st.text(),
    st.sampled_from([MARKER, MARKER + ENVIRONMENT, "\ud83d"]),
    st.lists(st.sampled_from([NOTE, READ, IMAGE, WORDS, {"type": "text", "text": MARKER}, 5])),
)
bodies = st.fixed_dictionaries(
    {},
    optional={
        "messages": st.lists(
            st.fixed_dictionaries(
                {"role": st.sampled_from(["system", "user", "assistant", "tool"])},
                optional={"content": contents},
            )
        ),
        "stream": st.booleans(),
        "temperature": st.floats(allow_nan=False, allow_infinity=False),
        "metadata": st.dictionaries(st.text(), st.integers()),
    },
)


@given(bodies, st.booleans())
def test_whatever_comes_only_what_is_ours_is_changed(
    body: dict[str, Any], keep_context: bool
) -> None:
    rule = SystemRule(MARKER, "Be brief.", keep_context)
    everything = terms(system=rule, hidden_paths=(HIDDEN,))

    changed = rewrite(body, everything, main=False, model="m")

    assert MARKER not in json.dumps(with_role(changed, "system"))
    assert HIDDEN not in json.dumps(with_role(changed, "user"))
    assert with_role(changed, "tool") == with_role(body, "tool")
    said = [message for message in with_role(body, "assistant") if message.get("content")]
    assert with_role(changed, "assistant") == said
    assert changed.get("metadata") == body.get("metadata")
    assert read_body(write_body(changed)) == changed


def with_role(body: dict[str, Any], role: str) -> list[Any]:
    return [message for message in body.get("messages", []) if message["role"] == role]
