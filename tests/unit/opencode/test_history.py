"""Messages as opencode takes them over: a document for import, events for a running server."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from chutes_opencode.catalog.providers import find_provider
from chutes_opencode.opencode.history import import_document, replay_events
from chutes_opencode.opencode.transcript import transcript_from_export
from chutes_opencode.request import ChatMessage, PromptRequest
from chutes_opencode.results import TextPart

NOW = 1_795_179_007_263
CHAT = (
    ChatMessage("user", "What is 6 x 7?"),
    ChatMessage("assistant", "42"),
    ChatMessage("user", "Sure?"),
    ChatMessage("assistant", "Yes."),
)


def document(history: tuple[ChatMessage, ...] = CHAT, now_ms: int | None = NOW) -> dict[str, Any]:
    request = PromptRequest("next", "Org/Model", agent_name="boss", history=history)
    return import_document(request, find_provider("chutes"), Path("/project/dir"), now_ms=now_ms)


def test_the_history_reads_back_as_an_export_of_the_same_chat() -> None:
    transcript = transcript_from_export(document())

    assert [(m.role, m.text) for m in transcript.messages] == [(m.role, m.text) for m in CHAT]
    assert all(turn.finish_reason == "stop" for turn in transcript.turns)
    assert transcript.usage.total == 0


def test_all_of_it_is_dated_before_now_and_in_order() -> None:
    created = [message["info"]["time"]["created"] for message in document()["messages"]]

    assert created == sorted(set(created))
    assert created[-1] < NOW
    assert transcript_from_export(document(), since_ms=NOW).messages == ()


def test_ids_are_unique_and_sort_as_opencode_sorts_them() -> None:
    messages = document()["messages"]

    ids = [message["info"]["id"] for message in messages]
    parts = [message["parts"][0]["id"] for message in messages]

    assert ids == sorted(set(ids))
    assert parts == sorted(set(parts))
    assert all(len(identifier) == len("msg_") + 26 for identifier in ids)


def test_a_later_session_sorts_first() -> None:
    earlier, later = document(now_ms=NOW), document(now_ms=NOW + 1)

    assert later["info"]["id"] < earlier["info"]["id"]


def test_the_ids_are_of_the_shape_that_real_ones_have() -> None:
    """Of a captured session: made at NOW, ses_e06fe32e0ffe…; its first message msg_1f901cd92001…"""
    start = NOW + 1 + len(CHAT)

    assert document(now_ms=start)["info"]["id"].startswith("ses_e06fe32e0ffe")
    (message,) = document(CHAT[:1], now_ms=1795179007378 + 2)["messages"]
    assert message["info"]["id"].startswith("msg_1f901cd92001")


def test_each_message_refers_to_session_parent_and_parts() -> None:
    made = document()

    ids = [message["info"]["id"] for message in made["messages"]]
    for message in made["messages"]:
        info, (part,) = message["info"], message["parts"]
        assert info["sessionID"] == part["sessionID"] == made["info"]["id"]
        assert part["messageID"] == info["id"]
        assert info["agent"] == "boss"
    assert [m["info"].get("parentID") for m in made["messages"]] == [None, ids[0], None, ids[2]]


def test_models_and_folder_are_those_of_the_request() -> None:
    user, assistant = (message["info"] for message in document()["messages"][:2])

    assert user["model"] == {"providerID": "chutes", "modelID": "Org/Model"}
    assert (assistant["providerID"], assistant["modelID"]) == ("chutes", "Org/Model")
    assert assistant["path"] == {"cwd": "/project/dir", "root": "/"}
    assert document()["info"]["directory"] == "/project/dir"


def test_without_a_time_it_is_now() -> None:
    before = int(time.time() * 1000)

    updated = document(now_ms=None)["info"]["time"]["updated"]

    assert before <= updated <= int(time.time() * 1000)


@given(st.lists(st.builds(ChatMessage, st.sampled_from(["user", "assistant"]), st.text())))
def test_any_text_is_kept_exactly(history: list[ChatMessage]) -> None:
    transcript = transcript_from_export(document(tuple(history)))

    assert [message.parts for message in transcript.messages] == [
        (TextPart(message.text),) for message in history
    ]


# --- events for a running server ------------------------------------------------------------------

SESSION = "ses_e06fe32e0ffePnSqYB8y1MBHaP"
USER, ANSWER = "msg_1ff45053f001Z6nbqJKuFl13rA", "msg_1ff450671001PbnD57RqJQsh3A"
ROWS: tuple[dict[str, Any], ...] = (
    {
        "info": {"id": USER, "sessionID": "ses_old", "role": "user", "time": {"created": 5}},
        "parts": [
            {"id": "prt_1", "messageID": USER, "sessionID": "ses_old", "text": f"see {USER}"},
            {"id": "prt_2", "messageID": USER, "sessionID": "ses_old", "type": "file"},
        ],
    },
    {
        "info": {"id": ANSWER, "sessionID": "ses_old", "parentID": USER, "role": "assistant"},
        "parts": [],
    },
)


def events(rows: Sequence[dict[str, Any]] = ROWS, now_ms: int = NOW) -> list[dict[str, Any]]:
    return replay_events(SESSION, rows, now_ms=now_ms)


def test_each_message_and_part_is_an_event_after_the_session_was_made() -> None:
    told = events()

    assert [(event["seq"], event["type"]) for event in told] == [
        (1, "message.updated.1"),
        (2, "message.part.updated.1"),
        (3, "message.part.updated.1"),
        (4, "message.updated.1"),
    ]
    assert {event["aggregateID"] for event in told} == {SESSION}
    assert {event["data"]["sessionID"] for event in told} == {SESSION}
    assert len({event["id"] for event in told}) == len(told)


def test_messages_get_new_ids_and_know_each_other_by_them() -> None:
    user, first, second, answer = (
        event["data"].get("info") or event["data"]["part"] for event in events()
    )

    assert user["id"] not in (USER, ANSWER)
    assert {part["messageID"] for part in (first, second)} == {user["id"]}
    assert answer["parentID"] == user["id"]
    assert {entry["sessionID"] for entry in (user, first, second, answer)} == {SESSION}


def test_what_was_said_and_when_stays_as_it_is() -> None:
    user, first, second, _ = (
        event["data"].get("info") or event["data"]["part"] for event in events()
    )

    assert user["time"] == {"created": 5}
    assert (first["text"], second["type"]) == (f"see {USER}", "file")
    assert ROWS[0]["info"]["id"] == USER, "what was given is not changed"


def test_new_ids_sort_as_the_messages_do_and_before_those_of_later_ones() -> None:
    later = events(now_ms=NOW + 4)[0]["data"]["info"]["id"]

    told = [event["data"] for event in events()]
    ids = [data["info"]["id"] for data in told if "info" in data]
    parts = [data["part"]["id"] for data in told if "part" in data]

    assert [*ids, later] == sorted({*ids, later})
    assert parts == sorted(set(parts))
    assert all(len(identifier) == len(USER) for identifier in (*ids, *parts))


def test_two_copies_share_no_id() -> None:
    assert not {event["id"] for event in events()} & {event["id"] for event in events()}
    assert events()[0]["data"]["info"]["id"] != events()[0]["data"]["info"]["id"]
