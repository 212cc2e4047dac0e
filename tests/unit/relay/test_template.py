"""Stored forms: an answer that is put back says what it said, with today's paths."""

from __future__ import annotations

import itertools
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chutes_opencode.relay.stream import StreamCheck
from chutes_opencode.relay.template import fill_template, make_template

OLD, NEW = "/tmp/chutes-opencode-x1y2/work", "/var/t/other-33/work"
DONE = b"data: [DONE]\n\n"
USAGE = {"prompt_tokens": 30, "completion_tokens": 12, "total_tokens": 42}


def sse(*chunks: Any) -> bytes:
    return b"".join(b"data: " + json.dumps(chunk).encode() + b"\n\n" for chunk in chunks) + DONE


def say(delta: dict[str, Any], finish: str | None = None, choice: int = 0) -> dict[str, Any]:
    return {"model": "m", "choices": [{"index": choice, "delta": delta, "finish_reason": finish}]}


def arguments(text: str, index: int = 0) -> dict[str, Any]:
    return say({"tool_calls": [{"index": index, "function": {"arguments": text}}]})


def replayed(body: bytes, then: str = OLD, today: str = NEW) -> bytes:
    template = make_template(body, (then,))
    assert template is not None
    filled = fill_template(template, (today,))
    assert filled is not None
    return filled


# --- the message that a reader of the stream comes to --------------------------------------------


def read(body: bytes) -> dict[str, Any]:
    """Read a stream as any client of such an API does."""
    message: dict[str, Any] = {"choices": {}, "usage": None, "done": False}
    for line in body.decode().split("\n"):
        data = line.removeprefix("data:").strip()
        if not line.startswith("data:") or data == "[DONE]":
            message["done"] = message["done"] or data == "[DONE]"
            continue
        document = json.loads(data)
        message["usage"] = document.get("usage") or message["usage"]
        for choice in document["choices"]:
            empty: dict[str, Any] = {"order": [], "texts": {}, "calls": {}, "finish": None}
            told = message["choices"].setdefault(choice["index"], empty)
            told["finish"] = choice.get("finish_reason") or told["finish"]
            read_delta(told, choice["delta"])
    for choice in message["choices"].values():
        for tool in choice["calls"].values():
            tool["arguments"] = json.loads(tool["arguments"])
    return message


def read_delta(told: dict[str, Any], delta: dict[str, Any]) -> None:
    for name in ("reasoning_content", "content"):
        if delta.get(name):
            told["texts"][name] = told["texts"].get(name, "") + delta[name]
            if told["order"][-1:] != [name]:
                told["order"].append(name)
    for row in delta.get("tool_calls") or ():
        empty = {"id": row.get("id"), "name": row["function"].get("name"), "arguments": ""}
        if row["index"] not in told["calls"]:
            told["order"].append(row["index"])
        tool = told["calls"].setdefault(row["index"], empty)
        tool["arguments"] += row["function"].get("arguments") or ""


def checked(body: bytes) -> tuple[Any, ...]:
    check = StreamCheck()
    assert check.feed(body) + check.finish() == body
    text = {
        kind: "".join(t for k, t in check.deltas if k == kind) for kind in ("text", "reasoning")
    }
    return check.outcome, check.finish_reason, check.usage, check.tool_names, check.done, text


def moved(value: Any) -> Any:
    """Return a value in which the old path is the new one."""
    if isinstance(value, str):
        return value.replace(OLD, NEW)
    if isinstance(value, dict):
        return {moved(key): moved(item) for key, item in value.items()}
    return [moved(item) for item in value] if isinstance(value, list) else value


def cut(text: str, places: list[int]) -> list[str]:
    ends = sorted({place % (len(text) + 1) for place in places} | {0, len(text)})
    return [text[start:end] for start, end in itertools.pairwise(ends)]


TEXTS = st.lists(st.sampled_from([OLD, "é\u2028", " and ", '"', "\\", "\n", "{", "x"])).map("".join)
PLACES = st.lists(st.integers(0, 10_000), max_size=30)
CALLS = st.lists(
    st.tuples(TEXTS, PLACES, st.booleans(), st.sampled_from([",", ", "])), min_size=1, max_size=3
)


@settings(deadline=None)
@given(
    calls=CALLS,
    reasoning=TEXTS,
    content=TEXTS,
    places=PLACES,
    choice=st.integers(0, 1),
    data=st.data(),
)
def test_however_the_pieces_are_cut_a_reader_comes_to_the_same_message(
    calls: list[tuple[str, list[int], bool, str]],
    reasoning: str,
    content: str,
    places: list[int],
    choice: int,
    data: st.DataObject,
) -> None:
    said = [say({"role": "assistant", "content": ""}, choice=choice)]
    said += [say({"reasoning_content": p}, choice=choice) for p in cut(reasoning, places)]
    said += [say({"content": p}, choice=choice) for p in cut(content, places)]
    streams = []
    for index, (text, where, ascii_only, comma) in enumerate(calls):
        document = json.dumps(
            {"filePath": OLD + "/a", text: [text, 1.5, None]},
            ensure_ascii=ascii_only,
            separators=(comma, ":"),
        )
        if data.draw(st.booleans()):
            document = document.replace("/", "\\/")
        first = {"index": index, "id": f"c{index}", "type": "function"}
        rows = [{**first, "function": {"name": f"tool{index}", "arguments": ""}}]
        rows += [{"index": index, "function": {"arguments": p}} for p in cut(document, where)]
        streams.append([say({"tool_calls": [row]}, choice=choice) for row in rows])
    while any(streams):  # parallel calls, interleaved
        stream = data.draw(st.sampled_from([rows for rows in streams if rows]))
        said.append(stream.pop(0))
    body = sse(*said, say({}, "tool_calls", choice=choice), {"choices": [], "usage": USAGE})

    again = replayed(body)

    assert read(again) == moved(read(body))
    assert OLD not in again.decode().replace("\\", "")
    outcome, *seen, texts = checked(body)
    assert checked(again) == (outcome, *seen, moved(texts))
    assert outcome == "whole"


# --- byte for byte, merged, or not at all --------------------------------------------------------


def test_an_answer_without_changing_strings_stays_byte_for_byte() -> None:
    body = b': hello\r\n\r\ndata:{ "choices" :[]}\r\n\r\n' + DONE

    assert make_template(body, (OLD,)) == body


def test_a_string_that_stands_in_one_piece_is_all_that_is_changed() -> None:
    body = sse(say({"content": "six"}), say({"content": f" in {OLD}/a"}), say({}, "stop"))

    assert replayed(body) == body.replace(OLD.encode(), NEW.encode())


def test_a_string_beside_what_is_said_is_changed_too() -> None:
    body = f": of {OLD}\n\n".encode() + sse({OLD: 1}, say({}, "stop"))

    assert replayed(body) == body.replace(OLD.encode(), NEW.encode())


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_pieces_are_found_whatever_ends_the_lines(end: str) -> None:
    body = sse(say({"content": OLD[:9]}), say({"content": OLD[9:]}), say({}, "stop"))

    again = replayed(b"\xef\xbb\xbf" + body.replace(b"\n", end.encode()))

    assert read(again)["choices"][0]["texts"] == {"content": NEW}


def test_a_json_answer_is_told_again_without_escapes() -> None:
    escaped = json.dumps({"filePath": OLD + "/é"}).replace("/", "\\/")
    function = {"name": "read", "arguments": escaped}
    message = {"content": None, "tool_calls": [{"id": "c", "function": function}]}
    body = json.dumps({"choices": [{"message": message, "finish_reason": "stop"}]}).encode()

    told = json.loads(replayed(body))["choices"][0]["message"]["tool_calls"][0]["function"]

    assert json.loads(told["arguments"]) == {"filePath": NEW + "/é"}


def test_a_key_may_hold_a_changing_string() -> None:
    body = sse(arguments(json.dumps({OLD: 1})), say({}, "stop"))

    assert read_arguments(replayed(body)) == {NEW: 1}


def read_arguments(body: bytes) -> Any:
    return read(body)["choices"][0]["calls"][0]["arguments"]


def test_a_string_of_another_alphabet_is_found_in_its_escapes() -> None:
    then, today = "/tmp/é-1", "/tmp/ü-2"
    body = sse(arguments(json.dumps({"filePath": f"{then}/a"})), say({"content": then}, "stop"))

    again = replayed(body, then, today)

    assert read_arguments(again) == {"filePath": f"{today}/a"}
    assert read(again)["choices"][0]["texts"] == {"content": today}


@pytest.mark.parametrize(
    "body",
    [
        sse(say({"content": OLD[:5]}), say({"reasoning_content": "."}), say({"content": OLD[5:]})),
        sse(arguments('{"p":"' + OLD.replace("/", "\\/"))),
        sse(say({"content": OLD.replace("/", "\\/")})),
        sse({"choices": [{"text": OLD[:5]}]}, {"choices": [{"text": OLD[5:]}]}),
        sse(say({"content": "a {{chutes-"}), say({"content": "opencode:0}} of its own"})),
        b": {{chutes-opencode:0}}\n\n" + sse(say({"content": "x"})),
        sse(say({"content": OLD[:5]}), {"created": 1e300}, say({"content": OLD[5:]})).replace(
            b"1e+300", b"1e999"
        ),
        b"data: " + b"[" * 100_000 + b"\n\n",
        b"data: {half\n\n",
        b"data: \xff\n\n",
    ],
    ids=[
        "interrupted",
        "escaped in half an object",
        "escaped in a text",
        "no chat",
        "placeholder",
        "placeholder in a comment",
        "infinite",
        "deep",
        "no JSON",
        "no text",
    ],
)
def test_what_could_not_be_replayed_truly_has_no_stored_form(body: bytes) -> None:
    assert make_template(body, (OLD,)) is None


def test_a_secret_in_pieces_is_a_secret() -> None:
    body = sse(say({"content": "Authorization: Bea"}), say({"content": "rer abcdefgh12345"}))

    assert make_template(body, ()) is None


def test_the_longer_of_two_strings_is_the_one_that_is_meant() -> None:
    body = sse(say({"content": "/w/1/in /w/1"}))

    template = make_template(body, ("/w/1", "/w/1/in"))

    assert template is not None
    assert fill_template(template, ("/a", "/b")) == sse(say({"content": "/b /a"}))


@settings(deadline=None)
@given(st.binary(max_size=300) | st.text(alphabet='data: {}[]"\n\\u002f/w1', max_size=300))
def test_any_bytes_have_a_stored_form_or_none(body: bytes | str) -> None:
    data = body if isinstance(body, bytes) else body.encode()

    template = make_template(data, ("/w1",))

    assert template is None or fill_template(template, ("/w1",)) is not None
