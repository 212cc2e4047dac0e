"""Good answers of POST /v1/chat/completions."""

import json
import time
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from chutes_opencode.simulator import Simulator

Ask = Callable[..., httpx.Response]
Asking = Callable[[Simulator], Ask]
Chunks = Callable[[httpx.Response], list[Any]]
Post = Callable[[str], httpx.Response]

TOOL_STEP = {"tool": "bash", "arguments": {"command": "echo 'é'"}}
USAGE = {"stream": True, "stream_options": {"include_usage": True}}


def content(answer: httpx.Response) -> str:
    return str(answer.json()["choices"][0]["message"]["content"])


def streamed_text(chunks: list[Any], field: str = "content") -> str:
    return "".join(c["choices"][0]["delta"].get(field) or "" for c in chunks if c["choices"])


def script(*steps: object) -> str:
    return f"Please do: {json.dumps({'steps': steps})}"


def test_a_completion_has_openais_shape_and_chutes_headers(ask: Ask) -> None:
    answer = ask("sim/echo", "hello you")

    body = answer.json()
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["x-chutes-invocationid"].replace("-", "") in body["id"]
    assert answer.headers["x-chutes-quota-total"] == "5000"
    assert answer.headers["x-chutes-quota-used"] == "1"
    assert answer.headers["x-chutes-quota-remaining"] == "4999"
    assert (body["object"], body["model"]) == ("chat.completion", "sim/echo")
    (choice,) = body["choices"]
    assert choice["message"] == {"role": "assistant", "content": "hello you"}
    assert choice["finish_reason"] == "stop"
    assert body["usage"] == {
        "prompt_tokens": 3,
        "completion_tokens": 3,
        "total_tokens": 6,
        "prompt_tokens_details": {"cached_tokens": 0},
        "completion_tokens_details": {"reasoning_tokens": 0},
    }


def test_a_stream_has_role_text_finish_usage_and_done(ask: Ask, chunks: Chunks) -> None:
    answer = ask("sim/echo", "hello", **USAGE)

    events = chunks(answer)
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert {event["object"] for event in events} == {"chat.completion.chunk"}
    assert len({(event["id"], event["model"], event["created"]) for event in events}) == 1
    deltas = [event["choices"][0]["delta"] for event in events[:-1]]
    assert deltas == [
        {"role": "assistant", "content": ""},
        {"content": "hell"},
        {"content": "o"},
        {},
    ]
    finishes = [event["choices"][0]["finish_reason"] for event in events[:-1]]
    assert finishes == [None, None, None, "stop"]
    assert events[-1]["choices"] == []
    assert events[-1]["usage"]["total_tokens"] == 4
    assert all("usage" not in event for event in events[:-1])


def test_usage_is_told_in_a_stream_only_when_asked_for(ask: Ask, chunks: Chunks) -> None:
    assert all("usage" not in event for event in chunks(ask("sim/echo", stream=True)))


@pytest.mark.parametrize(("mode", "told"), [("end", 1), ("every", 5), ("never", 0)])
def test_a_scenario_says_where_usage_stands(
    asking: Asking, chunks: Chunks, mode: str, told: int
) -> None:
    with Simulator({"usage": mode}) as simulator:
        ask = asking(simulator)
        events = chunks(ask("sim/echo", "hello", **USAGE))
        whole = ask("sim/echo", "hello").json()

    usages = [event["usage"]["completion_tokens"] for event in events if "usage" in event]
    assert usages == {"end": [2], "every": [0, 1, 2, 2, 2], "never": []}[mode]
    assert len(usages) == told
    assert ("usage" in whole) == (mode != "never")


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize(
    "text",
    [
        "x",
        " leading and trailing \n",
        "--help",
        "quotes \" ' \\ \\n and {env:HOME} `$x`",
        "a\r\nb\tc\x00\x01\x7f\x85\u2028\ufeff",
        "héllo 🙂 中文 e\u0301",
        "lone \ud83d surrogate",
        "data: [DONE]\n\ndata: {}",
    ],
)
def test_echo_is_exact(post: Post, chunks: Chunks, text: str, stream: bool) -> None:
    body = json.dumps({"model": "sim/echo", "stream": stream, "messages": [_user(text)]})

    answer = post(body)

    said = streamed_text(chunks(answer)) if stream else content(answer)
    assert said == text


def test_five_megabytes_are_echoed_exactly_and_quickly(ask: Ask, chunks: Chunks) -> None:
    text = "é🙂x\n" * (5_000_000 // 8)
    started = time.process_time()  # of client and server: both are in this process

    answer = ask("sim/echo", text, stream=True)

    assert time.process_time() - started < 30
    assert streamed_text(chunks(answer)) == text


@pytest.mark.parametrize(
    ("model", "text", "expected"),
    [
        ("sim/arithmetic", "17 + 25 =", "42"),
        ("sim/vision", "look", "look"),
        ("Qwen/Qwen3-32B-TEE", "What is 17 + 25?", "42"),
        ("Qwen/Qwen3-32B-TEE", "Just talk", "Just talk"),
        ("sim/size/20", "x", "0123456789abcdef0123"),
    ],
)
def test_models_reply_in_their_way(ask: Ask, model: str, text: str, expected: str) -> None:
    assert content(ask(model, text)) == expected


@pytest.mark.parametrize(
    ("asked", "served"),
    [
        ("Qwen/Qwen3-32B", "Qwen/Qwen3-32B-TEE"),
        ("Qwen/Qwen3-32B-TEE:latency", "Qwen/Qwen3-32B-TEE"),
        ("sim/echo,sim/arithmetic", "sim/echo"),
        ("nope,sim/arithmetic", "sim/arithmetic"),
        ("sim/fault/429-capacity,sim/fault/503-cold,sim/echo", "sim/echo"),
        ("sim/fault/503-disabled:latency, sim/echo:throughput", "sim/echo"),
    ],
)
def test_an_answer_names_the_model_that_served(ask: Ask, asked: str, served: str) -> None:
    assert ask(asked).json()["model"] == served


def test_a_list_fails_over_on_429_and_503_only(ask: Ask) -> None:
    assert ask("sim/fault/500-exhausted,sim/echo").status_code == 500
    assert ask("sim/fault/429-capacity,sim/fault/503-disabled").status_code == 503


def test_reasoning_comes_first_and_in_its_own_field(ask: Ask, chunks: Chunks) -> None:
    whole = ask("sim/reasoning", "abcd").json()
    events = chunks(ask("sim/reasoning", "abcd", **USAGE))

    reasoning = "The message has 4 characters.\n"
    message = whole["choices"][0]["message"]
    assert message == {"role": "assistant", "content": "abcd", "reasoning_content": reasoning}
    assert streamed_text(events, "reasoning_content") == reasoning
    assert streamed_text(events) == "abcd"
    assert events[-1]["usage"] == whole["usage"]
    assert whole["usage"]["completion_tokens_details"] == {"reasoning_tokens": 8}
    assert whole["usage"]["completion_tokens"] == 9


def test_tool_calls_are_streamed_as_openai_does(ask: Ask, chunks: Chunks) -> None:
    events = chunks(ask("sim/script", script({"tools": [TOOL_STEP, TOOL_STEP]}), **USAGE))

    deltas = [event["choices"][0]["delta"] for event in events[1:-2]]
    calls: dict[int, dict[str, Any]] = {}
    for (delta,) in (delta["tool_calls"] for delta in deltas):
        call = calls.setdefault(delta["index"], {"arguments": "", **delta})
        call["arguments"] += delta["function"]["arguments"]
        call.setdefault("name", delta["function"].get("name"))
    assert len(deltas) > 4
    assert [call["name"] for call in calls.values()] == ["bash", "bash"]
    assert len({call["id"] for call in calls.values()}) == 2
    assert all(json.loads(call["arguments"]) == TOOL_STEP["arguments"] for call in calls.values())
    assert events[-2]["choices"][0]["finish_reason"] == "tool_calls"


def test_tool_calls_of_a_whole_answer(ask: Ask) -> None:
    (choice,) = ask("sim/script", script({**TOOL_STEP, "text": ""})).json()["choices"]

    (call,) = choice["message"]["tool_calls"]
    assert choice["message"]["content"] is None
    assert (call["type"], call["function"]["name"]) == ("function", "bash")
    assert json.loads(call["function"]["arguments"]) == TOOL_STEP["arguments"]
    assert choice["finish_reason"] == "tool_calls"


def test_a_scripts_steps_follow_the_conversation(ask: Ask) -> None:
    prompt = _user(script(TOOL_STEP, {"text": "one", "finish_reason": "length"}))
    answers = [{"role": "assistant", "content": "x"}, {"role": "tool", "content": "y"}] * 2

    second = ask("sim/script", messages=[prompt, *answers[:2]]).json()["choices"][0]
    third = ask("sim/script", messages=[prompt, *answers]).json()["choices"][0]

    assert (second["message"]["content"], second["finish_reason"]) == ("one", "length")
    assert (third["message"]["content"], third["finish_reason"]) == ("done", "stop")


def test_tools_on_offer_are_ignored_but_counted(ask: Ask) -> None:
    tools = [{"type": "function", "function": {"name": "bash"}}]

    answer = ask("sim/echo", "1234", tools=tools).json()

    assert answer["choices"][0]["message"]["content"] == "1234"
    size = len(json.dumps(tools, separators=(",", ":")))
    assert answer["usage"]["prompt_tokens"] == 1 + -(-size // 4)


@pytest.mark.parametrize("field", ["max_tokens", "max_completion_tokens"])
def test_max_tokens_cut_a_recorded_models_answer(ask: Ask, field: str) -> None:
    answer = ask("Qwen/Qwen3-32B-TEE", "abcé🙂fgh", **{field: 1}).json()

    (choice,) = answer["choices"]
    assert choice["message"]["content"] == "abc"
    assert choice["finish_reason"] == "length"
    assert answer["usage"]["completion_tokens"] == 1


def test_max_tokens_leave_sim_models_and_short_answers_alone(ask: Ask) -> None:
    assert content(ask("sim/echo", "a long enough text", max_tokens=1)) == "a long enough text"
    assert content(ask("Qwen/Qwen3-32B-TEE", "short", max_tokens=100)) == "short"


def test_a_rule_may_make_a_sim_model_honour_max_tokens(asking: Asking) -> None:
    with Simulator({"rules": [{"model": "sim/echo", "honour_max_tokens": True}]}) as simulator:
        assert content(asking(simulator)("sim/echo", "a long text", max_tokens=1)) == "a lo"


def test_an_image_is_taken_and_counted(ask: Ask) -> None:
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
    parts = [{"type": "text", "text": "look"}, image]

    answer = ask("sim/vision", messages=[{"role": "user", "content": parts}]).json()

    assert answer["choices"][0]["message"]["content"] == "look"
    assert answer["usage"]["prompt_tokens"] == 1 + 256


def test_a_session_finds_its_history_cached(ask: Ask) -> None:
    history = [_user("12345678"), {"role": "assistant", "content": "1234"}]
    session = {"x-session-id": "ses_1"}

    def cached(messages: list[Any], headers: dict[str, str]) -> int:
        usage = ask("sim/echo", messages=messages, headers=headers).json()["usage"]
        return int(usage["prompt_tokens_details"]["cached_tokens"])

    assert cached(history, session) == 0
    assert cached([*history, _user("next")], session) == 3
    assert cached([*history, _user("next")], {"x-session-id": "ses_2"}) == 0
    assert cached(history, {}) == 0


def test_delays_and_chunk_size_come_from_the_scenario(asking: Asking, chunks: Chunks) -> None:
    scenario = {
        "token_delay_s": 0.05,
        "chunk_size": 2,
        "rules": [{"model": "sim/echo", "first_byte_delay_s": 0.1, "token_delay_s": 0.1}],
    }
    with Simulator(scenario) as simulator:
        ask = asking(simulator)
        started = time.monotonic()
        events = chunks(ask("sim/echo", "abcd", stream=True))
        echoed = time.monotonic()
        ask("sim/arithmetic", "1 + 1")
        solved = time.monotonic()

    assert [event["choices"][0]["delta"].get("content") for event in events[1:3]] == ["ab", "cd"]
    assert echoed - started > 0.3
    assert solved - echoed > 0.05


def _user(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}
