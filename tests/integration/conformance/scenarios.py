"""The scenarios that every engine plays. `run` with the relay is the reference, where it is one."""

from __future__ import annotations

import base64
import sys

from chutes_opencode import Limits, McpServer, Params
from tests.integration.conformance.differences import (
    COUNTED,
    DIRECT,
    EMPTY_PART,
    ERRORS,
    GUARDS_WORDS,
    NAMED,
    NOTHING_SAID,
    OWN_ERROR,
    PRIVATE_PATH,
    REFUSED_RULES,
    RUN_STRAIGHT,
    SERVE,
    SERVE_STRAIGHT,
    STRAIGHT,
    TOKENS,
    differ,
)
from tests.integration.conformance.scenario import (
    CACHE,
    OUTSIDE,
    REMOTE,
    SESSION,
    WORK,
    Scenario,
    agent,
    bash,
    chat,
    failing,
    script,
    tool,
)
from tests.patience import WAIT_SECONDS

# --- what is asked --------------------------------------------------------------------------------

NASTY = (
    "\ufeff'single' \"double\" `back` \\ \\n \\u0041 $HOME $(id) %s {} {env:HOME} {{env:PATH}} "
    "{file:/etc/hostname} @/etc/hostname !`id` <b>&amp;</b> \r\n crlf \r cr \t \x01\x07\x08 "
    "\x1b[31m\x7f\x85 \u2028\u2029\u200b\u202e \N{GRINNING FACE}\U0001f468\u200d\U0001f469 "
    "e\u0301 \ufffd \uffff\r\n"
)
HUGE = "-" + "0123456789abcde\n" * 20_000
HISTORY = [
    {"role": "user", "content": "before {env:HOME}"},
    {"role": "assistant", "content": "well\r\n"},
    {"role": "user", "content": "and"},
    {"role": "assistant", "content": "so on"},
]
PARAMS = Params(
    temperature=0.25,
    top_p=0.5,
    max_tokens=321,
    stop=("END", "STOP"),
    seed=7,
    reasoning_effort="low",
    extra_body={"top_k": 5, "min_p": 0.1, "chat_template_kwargs": {"enable_thinking": False}},
)
SHORT = Params(max_tokens=100)
PICTURE = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAIAAAACCAIAAAD91JpzAAAAEElEQVR4nGP4z8AARAwQCgAf7gP9i18U1AAAAABJRU5E"
    "rkJggg=="
)
PAPER = b"%PDF-1.4\n1 0 obj<</Type/Catalog>>endobj\ntrailer<</Root 1 0 R>>\n%%EOF\n"
SCHEMA = {
    "type": "object",
    "properties": {"answer": {"type": "integer"}},
    "required": ["answer"],
    "additionalProperties": False,
}
RIGHT = script({"text": '{"answer": 7}'})
LOCAL = """
import os
from mcp.server import MCPServer
server = MCPServer("local")

@server.tool()
def shout(text: str) -> str:
    "Shout."
    return f"{text.upper()}{os.environ['MARK']}"

server.run("stdio")
"""
BY_COMMAND = McpServer(
    "local",
    command=(sys.executable, "-c", LOCAL),
    environment={"MARK": "!{env:HOME}"},
    timeout_seconds=WAIT_SECONDS,
)
BY_URL = McpServer("remote", url=REMOTE, timeout_seconds=WAIT_SECONDS)

# --- the scenarios --------------------------------------------------------------------------------

CHATS = (
    chat("plain chat", {"prompt": "What is it?"}, says="What is it?"),
    chat(
        "system message and prompt byte for byte",
        {"prompt": NASTY},
        options={"system_message": NASTY},
        straight=True,
        says=NASTY,
    ),
    chat("a huge prompt", {"prompt": HUGE}, says=HUGE),
    chat(
        "context without tools",
        {"prompt": "hello"},
        options={"context": True, "work_dir": WORK},
        direct=False,
    ),
    chat(
        "history, and every sampling parameter",
        {"messages": [{"role": "system", "content": "Be brief."}, *HISTORY], "prompt": "last"},
        options={"params": PARAMS},
        straight=True,
        says="last",
    ),
    chat(
        "a reasoning model, and one stop word",
        {"prompt": "17 + 25", "params": Params(stop="END", temperature=0.0)},
        model="sim/reasoning",
        says="42",
    ),
    chat(
        "files",
        {
            "prompt": "What is it?",
            "files": [
                ("a.png", PICTURE, "image/png"),
                ("notes {env:HOME}.txt", b"one\r\ntwo", "text/plain"),
                ("paper.pdf", PAPER, "application/pdf"),
            ],
        },
        model="sim/vision",
        straight=True,
        differs=differ(
            "`opencode run` is given paths, and notes in the user's message that it has read them",
            "/results/*/transcript/messages/0/parts",
            engines=(SERVE, DIRECT, SERVE_STRAIGHT),
        ),
    ),
    chat(
        "a structured answer",
        {"prompt": RIGHT, "output_schema": SCHEMA},
        model="sim/script",
    ),
    chat(
        "a structured answer that is mended",
        {"prompt": script({"text": RIGHT}), "output_schema": SCHEMA},
        model="sim/script",
        straight=True,
        differs=differ(
            "each turn has a server of its own, where a copy of the session has an id of its own; "
            "the simulator caches by session",
            *(*TOKENS, "/requests"),
            engines=(SERVE_STRAIGHT,),
        ),
    ),
    chat(
        "a session that is kept and continued",
        {"prompt": "one", "messages": HISTORY[:2], "keep_session": True},
        {"prompt": "two", "session_id": SESSION, "keep_session": True},
        {"prompt": "three", "session_id": SESSION},
        direct=False,
        says="three",
    ),
    chat(
        "the cache",
        {"prompt": "hello"},
        {"prompt": "hello"},
        options={"cache": CACHE},
        says="hello",
        differs=differ(
            "opencode prices a replayed message as if it had been paid; the result's cost is 0",
            "/results/1/transcript/messages/*/cost_usd",
            engines=(DIRECT,),
        ),
    ),
)
ENDS = (
    failing("finish-length", "MaxOutputTokensError"),
    failing(
        "finish-content-filter",
        "ContentFilterError",
        differs=(
            *OWN_ERROR,
            *differ(
                "opencode has words of its own for it",
                *(f"{place}/raw_message" for place in ERRORS[:2]),
                engines=(DIRECT,),
            ),
        ),
    ),
    failing("empty-answer", "EmptyResponseError"),
    failing("401-invalid", "AuthenticationError", differs=NOTHING_SAID),
    failing("402-quota", "BillingError", straight=True, differs=(*NOTHING_SAID, *GUARDS_WORDS)),
    failing("404-model", "ModelNotFoundError", differs=NOTHING_SAID),
    failing("400-overflow-vllm", "ContextOverflowError", differs=NOTHING_SAID),
    failing("500-exhausted", "ServerError", options={"retries": 2}, differs=NOTHING_SAID),
    failing(
        "stream-bare-end",
        "TruncatedStreamError",
        options={"retries": 2},
        differs=(*OWN_ERROR, *EMPTY_PART),
    ),
    Scenario(
        "a broken stream, without the relay",
        ({"prompt": "hello"},),
        {"model": "sim/fault/stream-bare-end", "builtin_tools": False, "retries": 1},
        # Nobody there can have opencode repeat a step, and what died is counted by estimate.
        engines=STRAIGHT,
        reference=RUN_STRAIGHT,
        ends="TruncatedStreamError",
        estimated="the provider told no usage; the guard takes a token for four characters",
    ),
    chat(
        "a rate limit, and then an answer",
        {"prompt": script({"text": "good", "fault": "429-retry-after-seconds", "times": 1})},
        model="sim/script",
        options={"retries": 2},
        says="good",
    ),
    chat(
        "a broken stream, and then an answer",
        {"prompt": script({"text": "a whole answer", "fault": "stream-bare-end", "times": 1})},
        model="sim/script",
        options={"retries": 2},
        says="a whole answer",
        differs=EMPTY_PART,
    ),
    chat(
        "a fallback model",
        {"prompt": "hello"},
        model="sim/fault/503-disabled",
        options={"fallback_models": ["sim/echo"], "retries": 2},
        says="hello",
    ),
    chat(
        "a timeout",
        {"prompt": "some words that break off"},
        model="sim/fault/stream-stall",
        options={"timeout_seconds": 8},
        begins="timeout_seconds",
        ends="PromptTimeoutError",
        differs=(
            *differ(
                "an `opencode run` that is ended has told of whole parts only, and cannot be asked",
                *("/results/*/result", "/results/*/stream_result"),
                "/results/*/transcript/messages",
            ),
            *differ(
                "so it counts no turn",
                *(f"{place}/num_turns" for place in COUNTED),
            ),
        ),
    ),
    chat(
        "a deadline",
        {"prompt": "hello"},
        model="sim/fault/stream-stall-first-byte",
        options={"deadline_seconds": 8, "retries": 2},
        begins="deadline_seconds",
        ends="PromptTimeoutError",
        differs=(
            *NOTHING_SAID,
            *differ(
                "the relay ends it, and at the same time the attempt's time is up; before the model"
                " has said anything `opencode run` tells no session",
                *("/results/*/returncode", *(f"{place}/session_id" for place in NAMED)),
                *(f"{place}/{name}" for place in ERRORS for name in ("exit_code", "cause")),
                *(f"{place}/raw_message" for place in ERRORS),
                always=False,
            ),
        ),
    ),
)
TASK = tool(
    "task",
    description="d",
    prompt=script(bash("echo sub > made-by-the-sub-agent"), {"text": "inner"}),
    subagent_type="general",
)
AGENTS = (
    agent(
        "an agent with several steps",
        {"text": "First I write.", **tool("write", filePath=f"{WORK}/new", content="one\n")},
        {"reasoning": "Then I look.", **bash("cat new; pwd; echo $MARK > mark")},
        tool("read", filePath=f"{WORK}/old"),
        tool("edit", filePath=f"{WORK}/old", oldString="before", newString="after"),
        {"tools": [bash("sleep 0.5; echo one"), tool("read", filePath=f"{WORK}/old")]},
        tool("nowhere", x=1),
        {"tool": "bash", "arguments": "no JSON"},
        files={"old": "before\r\n"},
        options={"env": {"MARK": "{env:HOME}"}},
        straight=True,
    ),
    agent(
        "what is forbidden",
        tool("read", filePath=f"{OUTSIDE}/secret"),
        tool("write", filePath=f"{OUTSIDE}/new", content="x"),
        bash(f"cat {OUTSIDE}/secret"),
        bash("rm old"),
        tool("webfetch", url="http://127.0.0.1:9/", format="text"),
        files={"old": "before"},
        options={"permission": {"bash": {"rm *": "ask"}, "webfetch": "deny"}},
        straight=True,
        differs=REFUSED_RULES,
    ),
    agent("a sub-agent", TASK, straight=True),
    agent(
        "a sub-agent that may do less",
        TASK,
        options={"permission": {"bash": "deny"}, "context": False},
    ),
    agent(
        "a folder of its own",
        bash("pwd; ls -A; touch mine"),
        options={"work_dir": None},
        differs=PRIVATE_PATH,
    ),
    agent(
        "opencode's own system message with tools and rules",
        bash("echo well"),
        options={"system_message": None, "project_rules": True, "agent_name": "other"},
        files={"AGENTS.md": "Obey {env:HOME}."},
    ),
    agent(
        "tool servers by URL and by command",
        tool("remote_note", text="hello {env:HOME}"),
        tool("local_shout", text="hello"),
        options={"builtin_tools": False, "tools": [BY_URL, BY_COMMAND]},
        straight=True,
    ),
    agent(
        "a tool server that is not there",
        options={"tools": [McpServer("broken", command=("/nowhere/to/be/found",))]},
        differs=NOTHING_SAID,
        ends="ToolServerError",
        says="",
    ),
    agent(
        "a stream that breaks between tools",
        bash("echo x >> file"),
        {"text": "halfway there", **bash("cat file"), "fault": "stream-close", "times": 1},
        options={"retries": 2},
    ),
    agent(
        "max_requests",
        *[bash("echo x >> file")] * 5,
        options={"limits": Limits(max_requests=3)},
        ends="LimitExceededError",
        says="",
        straight=True,
        differs=differ(
            "without the relay it is the guard that refuses, in words of its own",
            "/results/*/transcript/messages/*/error",
            engines=STRAIGHT,
        ),
    ),
    agent(
        "max_tokens",
        *[bash("echo x >> file")] * 5,
        options={"limits": Limits(max_tokens=20_000)},
        ends="LimitExceededError",
        says="",
    ),
    agent(
        "max_cost_usd",
        *[bash("echo x >> file")] * 5,
        options={"limits": Limits(max_cost_usd=0.0032), "params": SHORT},
        ends="LimitExceededError",
        says="",
    ),
)
SCENARIOS = (*CHATS, *ENDS, *AGENTS)
