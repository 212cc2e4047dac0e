"""Transcripts: one line a result, bounded, in files that follow each other."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from chutes_opencode.batch.durable import StoreError
from chutes_opencode.batch.store.transcripts import (
    TranscriptShards,
    read_transcript,
    transcript_line,
)
from chutes_opencode.errors import ServerError
from chutes_opencode.results import (
    Attempt,
    Exchange,
    Message,
    QueryResult,
    ReasoningPart,
    TextPart,
    ToolPart,
    Transcript,
    Usage,
)
from tests.unit.batch.store_room import record

A = record("a")
KIB = 1024


def result(*messages: Message, exchanges: tuple[Exchange, ...] = ()) -> QueryResult:
    return QueryResult(
        "", 0, "", "", True, transcript=Transcript("s", messages), exchanges=exchanges
    )


def tool(output: str = "out", **given: Any) -> ToolPart:
    return ToolPart("bash", "call_1", "completed", {"command": "ls", **given}, output)


def test_a_transcript_has_messages_attempts_and_exchanges() -> None:
    turn = Message(
        "assistant",
        (ReasoningPart("hm"), tool(), TextPart("42")),
        Usage(input=1),
        0.5,
        "stop",
        "m",
        {"name": "APIError"},
    )
    given = QueryResult(
        "42",
        0,
        "",
        "",
        True,
        transcript=Transcript("s", (Message("user", (TextPart("q"),)), turn)),
        attempts=(Attempt(1, "serve", error=ServerError("n", raw_message="down", status=503)),),
        exchanges=(Exchange(200, headers={"retry-after": "1"}, usage=Usage(2), tools=("bash",)),),
    )

    values = json.loads(transcript_line(A, given))

    assert (values["id"], values["model"], values["sample"], values["cut"]) == ("a", "m", 0, "")
    user, assistant = values["messages"]
    assert user["parts"] == [{"type": "text", "text": "q"}]
    assert [part["type"] for part in assistant["parts"]] == ["reasoning", "tool", "text"]
    assert assistant["parts"][1] == {
        "type": "tool",
        "tool": "bash",
        "call_id": "call_1",
        "status": "completed",
        "input": {"command": "ls"},
        "output": "out",
        "error": None,
    }
    assert assistant["usage"]["input"] == 1
    assert (assistant["cost_usd"], assistant["finish_reason"]) == (0.5, "stop")
    assert assistant["error"] == {"name": "APIError"}
    (attempt,) = values["attempts"]
    assert attempt["error"]["type"] == "ServerError"
    assert (attempt["error"]["message"], attempt["error"]["status"]) == ("down", 503)
    (exchange,) = values["exchanges"]
    assert (exchange["status"], exchange["tools"]) == (200, ["bash"])
    assert (exchange["headers"], exchange["usage"]["input"]) == ({"retry-after": "1"}, 2)


def test_secrets_are_masked_wherever_text_is() -> None:
    key = "cpk_0123456789abcdef.key"
    parts = (TextPart(key), ReasoningPart(key), tool(key, token=key))
    turn = Message("assistant", parts, error={"data": key})

    line = transcript_line(A, result(turn, exchanges=(Exchange(200, body=key, error=key),)))

    assert key not in line.decode()
    assert line.count(b"[masked]") == 7


@pytest.mark.parametrize(
    ("messages", "stays"),
    [
        pytest.param(
            [Message("assistant", (tool("x" * 900 * KIB), TextPart("answer")))],
            ("answer", "characters left out"),
            id="one long output",
        ),
        pytest.param(
            [Message("assistant", (tool("x" * 9 * KIB), TextPart("answer")))] * 20,
            ("answer", "characters left out"),
            id="many outputs",
        ),
        pytest.param(
            [Message("assistant", (tool(file="x" * 900 * KIB), TextPart("answer")))],
            ("answer", "characters left out"),
            id="a long input",
        ),
        pytest.param(
            [Message("assistant", (TextPart("x" * 900 * KIB + "the end"),))],
            ("the end", "characters left out"),
            id="a long answer",
        ),
        pytest.param(
            [Message("assistant", (TextPart(f"answer {n}"),)) for n in range(5000)],
            ("answer 0", "answer 4999"),
            id="many messages",
        ),
        pytest.param(
            [Message("user", error={f"{number:0400}": 1 for number in range(1000)})],
            ('"cut":"all"',),
            id="what nothing else bounds",
        ),
    ],
)
def test_a_long_transcript_is_cut_where_it_matters_least(
    messages: list[Message], stays: tuple[str, ...]
) -> None:
    line = transcript_line(A, result(*messages), max_bytes=128 * KIB).decode()

    assert len(line.encode()) <= 128 * KIB
    assert json.loads(line)["cut"]
    assert all(text in line for text in stays)


def test_a_transcript_within_the_bound_is_whole() -> None:
    line = transcript_line(A, result(Message("assistant", (tool("x" * 900 * KIB),))))

    assert json.loads(line)["messages"][0]["parts"][0]["output"] == "x" * 900 * KIB


# --- the files -----------------------------------------------------------------------------------


def test_lines_are_found_by_their_place(tmp_path: Path) -> None:
    shards = TranscriptShards(tmp_path / "transcripts")
    places = [shards.add(b'{"id":"%d"}\n' % number) for number in range(3)]
    shards.commit()
    shards.close()

    assert places[0] == "0001.jsonl:0"
    found = [read_transcript(tmp_path / "transcripts", place)["id"] for place in places]
    assert found == ["0", "1", "2"]


def test_a_full_file_is_followed_by_another_in_the_next_session_too(tmp_path: Path) -> None:
    files = []
    for _ in range(2):
        shards = TranscriptShards(tmp_path, shard_bytes=30)
        places = [shards.add(b'{"id":"%02d"}\n' % number) for number in range(4)]
        shards.commit()
        shards.close()
        files += [place.split(".")[0] for place in places]

    assert files == ["0001"] * 3 + ["0002"] * 3 + ["0003"] * 2
    assert len(list(tmp_path.iterdir())) == 3


def test_nothing_is_made_before_the_first_line(tmp_path: Path) -> None:
    shards = TranscriptShards(tmp_path / "transcripts")
    shards.commit()
    shards.close()

    assert not (tmp_path / "transcripts").exists()


@pytest.mark.parametrize(
    ("place", "words"),
    [
        ("", "no place"),
        ("0001.jsonl", "no place"),
        ("0001.jsonl:x", "no place"),
        ("../run.json:0", "no place"),
        ("/etc/passwd:0", "no place"),
        ("0001.jsonl:3", "holds no transcript at 3"),
        ("0001.jsonl:99", "holds no transcript at 99"),
        ("0002.jsonl:0", r"(?i)no such file.*0002\.jsonl"),
    ],
)
def test_a_place_that_holds_none_is_a_clear_error(tmp_path: Path, place: str, words: str) -> None:
    (tmp_path / "0001.jsonl").write_text('{"id":"a"}\n')

    with pytest.raises(StoreError, match=words):
        read_transcript(tmp_path, place)
