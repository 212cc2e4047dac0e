"""Exchanges on disk: what counts as the same request, what is stored, what is given back."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import pytest

from chutes_opencode.masking import register_secret
from chutes_opencode.relay.replay import Recorded, Recorder, Request, find
from chutes_opencode.relay.terms import ReplayKey

SSE = "text/event-stream"
SESSION = "ses_e06fe32e0ffePnSqYB8y1MBHaP"
OTHER_SESSION = "ses_f17af43f1aafQoTrZC9z2NCIbQ"
DONE = b"data: [DONE]\n\n"


def asked(
    folder: Path,
    *messages: Any,
    volatile: tuple[str, ...] = (),
    sample: int = 0,
    step: int = 0,
    base_url: str = "https://llm.example/v1",
    path: str = "/chat/completions",
    **body: Any,
) -> Request:
    key = ReplayKey(folder, sample, volatile)
    content = {"model": "m", "messages": list(messages), **body}
    return Request(key, base_url=base_url, path=path, body=content, step=step)


def user(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


def told(text: str) -> dict[str, Any]:
    return {"role": "tool", "tool_call_id": "c", "content": text}


def deltas(*texts: str) -> bytes:
    chunks = [{"choices": [{"index": 0, "delta": {"content": text}}]} for text in texts]
    return b"".join(b"data: " + json.dumps(chunk).encode() + b"\n\n" for chunk in chunks) + DONE


def store(request: Request, body: bytes, *, content_type: str = SSE) -> bool:
    with Recorder(request) as recorder:
        for start in range(0, len(body), 10):
            recorder.write(body[start : start + 10])
        return recorder.commit(status=200, content_type=content_type)


# --- the same request ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changed",
    [
        {"sample": 1},
        {"step": 1},
        {"base_url": "https://other.example/v1"},
        {"path": "/completions"},
        {"model": "n"},
        {"temperature": 0.5},
        {"messages": []},
        {"messages": None},
    ],
    ids=lambda changed: next(iter(changed)),
)
def test_whatever_is_asked_for_tells_requests_apart(
    tmp_path: Path, changed: dict[str, Any]
) -> None:
    assert asked(tmp_path, user("hi")).digest != asked(tmp_path, user("hi"), **changed).digest


def test_the_order_of_keys_does_not(tmp_path: Path) -> None:
    first = asked(tmp_path, {"role": "user", "content": "hi"}, a=1, b=2)
    second = asked(tmp_path, {"content": "hi", "role": "user"}, b=2, a=1)

    assert first.digest == second.digest


def test_the_paths_of_the_workspace_do_not(tmp_path: Path) -> None:
    first = asked(tmp_path, user("in /w/1/x"), volatile=("/w/1", "/h/1"), tools=[{"cwd": "/h/1"}])
    second = asked(tmp_path, user("in /w/2/x"), volatile=("/w/2", "/h/2"), tools=[{"cwd": "/h/2"}])
    exchanged = asked(tmp_path, user("in /w/2/x"), volatile=("/h/2", "/w/2"))

    assert first.digest == second.digest
    assert first.digest != exchanged.digest


def test_a_path_that_begins_like_another_is_its_own(tmp_path: Path) -> None:
    first = asked(tmp_path, user("/w/1 /w/1/in"), volatile=("/w/1", "", "/w/1/in"))
    second = asked(tmp_path, user("/w/2 /x/in"), volatile=("/w/2", "/x/in"))

    assert first.digest == second.digest


@pytest.mark.parametrize("kind", ["ses", "tool"])
def test_opencodes_ids_in_the_model_and_tool_messages_do_not(tmp_path: Path, kind: str) -> None:
    call = {"role": "assistant", "tool_calls": [{"function": {"arguments": "{}"}}]}
    one, other = SESSION.replace("ses", kind), OTHER_SESSION.replace("ses", kind)

    first = asked(tmp_path, call, told(f"see /x/{one}"), "odd")
    second = asked(tmp_path, call, told(f"see /x/{other}"), "odd")

    assert first.digest == second.digest
    assert first.names == (one,)


def test_an_id_in_the_callers_words_is_the_callers(tmp_path: Path) -> None:
    first = asked(tmp_path, user(SESSION), told(SESSION))
    second = asked(tmp_path, user(OTHER_SESSION), told(OTHER_SESSION))

    assert first.digest != second.digest


def test_which_id_stands_where_matters(tmp_path: Path) -> None:
    first = asked(tmp_path, told(f"{SESSION} {OTHER_SESSION} {SESSION}"))
    second = asked(tmp_path, told(f"{SESSION} {OTHER_SESSION} {OTHER_SESSION}"))

    assert first.digest != second.digest


def test_the_date_and_folder_of_the_environment_block_do_not(tmp_path: Path) -> None:
    block = "P\n<env>\n  Working directory: {}\n  Platform: linux\n  Today's date: {}\n</env>"

    first = asked(tmp_path, {"role": "system", "content": block.format("/a", "Fri")})
    second = asked(tmp_path, {"role": "system", "content": block.format("/b", "Sat")})
    third = asked(tmp_path, {"role": "system", "content": block.format("/b", "Sat") + "!"})

    assert first.digest == second.digest != third.digest


@pytest.mark.parametrize("role", ["user", "system"])
def test_a_date_in_the_callers_words_is_the_callers(tmp_path: Path, role: str) -> None:
    first = asked(tmp_path, {"role": role, "content": "Today's date: Fri"})
    second = asked(tmp_path, {"role": role, "content": "Today's date: Sat"})

    assert first.digest != second.digest


def test_a_system_message_of_parts_is_taken_as_it_is(tmp_path: Path) -> None:
    parts = [{"type": "text", "text": "P"}]

    first = asked(tmp_path, {"role": "system", "content": parts})

    assert first.digest == asked(tmp_path, {"role": "system", "content": parts}).digest


def test_any_json_has_a_digest(tmp_path: Path) -> None:
    odd: Any = {"role": "assistant", "content": ["\ud83d", None, 1e300, 10**30, True, {"a": []}]}

    assert len(asked(tmp_path, odd, None, 5).digest) == 64


# --- storing and giving back ---------------------------------------------------------------------


def test_an_answer_is_given_back_byte_for_byte(tmp_path: Path) -> None:
    body = deltas("six times seven", " is 42 é\u2028")

    assert store(asked(tmp_path, user("hi")), body)

    assert find(asked(tmp_path, user("hi"))) == Recorded(200, SSE, body)
    assert find(asked(tmp_path, user("ho"))) is None


def test_changing_strings_are_put_back_as_they_are_today(tmp_path: Path) -> None:
    then = asked(tmp_path, told(SESSION), volatile=("/w/1",))
    today = asked(tmp_path, told(OTHER_SESSION), volatile=("/w/22",))

    assert store(then, deltas(f"resume {SESSION}", "read /w/1/notes.txt"))

    found = find(today)
    assert found is not None
    assert found.body == deltas(f"resume {OTHER_SESSION}", "read /w/22/notes.txt")
    assert b"/w/1" not in then.file.read_bytes()


def test_json_answers_are_kept_too(tmp_path: Path) -> None:
    body = b'{"choices": [{"message": {"content": "in /w/1"}}]}'

    assert store(asked(tmp_path, volatile=("/w/1",)), body, content_type="application/json")

    found = find(asked(tmp_path, volatile=("/w/2",)))
    assert found == Recorded(200, "application/json", body.replace(b"/w/1", b"/w/2"))


def test_a_string_in_pieces_is_put_back_in_one(tmp_path: Path) -> None:
    pieces = deltas("read /w", "/1/notes.txt")

    assert store(asked(tmp_path, user("hi"), volatile=("/w/1",)), pieces)

    found = find(asked(tmp_path, user("hi"), volatile=("/w/22",)))
    assert found is not None
    assert b"read /w/22/notes.txt" in found.body


@pytest.mark.parametrize(
    "body",
    [deltas("a {{chutes-opencode:0}} of its own"), b"data: {half\n\n", b"data: \xff\n\n"],
    ids=["placeholder", "no JSON", "no text"],
)
def test_what_could_not_be_replayed_truly_is_not_stored(tmp_path: Path, body: bytes) -> None:
    request = asked(tmp_path, user("hi"), volatile=("/w/1",))

    assert not store(request, body)

    assert find(request) is None
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_what_goes_to_the_provider_stays_as_it_is(tmp_path: Path) -> None:
    system = {"role": "system", "content": "P\n<env>\n  Today's date: Fri\n</env>"}

    asked(tmp_path, system)

    assert "Fri" in system["content"]


def test_an_answer_with_a_secret_is_not_stored(tmp_path: Path) -> None:
    register_secret("a-registered-secret-value")

    assert not store(asked(tmp_path), deltas("it is a-registered-secret-value"))
    assert not store(asked(tmp_path), deltas("Authorization: Bearer abcdefgh12345"))


def test_only_a_good_status_is_stored(tmp_path: Path) -> None:
    with Recorder(asked(tmp_path)) as recorder:
        recorder.write(b"{}")

        assert not recorder.commit(status=404, content_type="application/json")


def test_what_is_not_committed_is_not_stored(tmp_path: Path) -> None:
    with Recorder(asked(tmp_path)) as recorder:
        recorder.write(deltas("half"))

    assert find(asked(tmp_path)) is None
    assert not recorder.commit(status=200, content_type=SSE)
    recorder.write(b"ignored")


def test_an_answer_that_is_too_long_is_not_stored(tmp_path: Path) -> None:
    with Recorder(asked(tmp_path), max_body_bytes=20) as recorder:
        recorder.write(b"x" * 15)
        recorder.write(b"x" * 15)

        assert not recorder.commit(status=200, content_type=SSE)


def test_files_are_for_their_owner_only(tmp_path: Path) -> None:
    request = asked(tmp_path / "cache")

    store(request, deltas("private"))

    assert request.file.stat().st_mode & 0o077 == 0
    assert (tmp_path / "cache").stat().st_mode & 0o077 == 0


def test_a_later_answer_replaces_an_earlier_one(tmp_path: Path) -> None:
    request = asked(tmp_path)
    store(request, deltas("first"))

    store(request, deltas("second"))

    found = find(request)
    assert found is not None
    assert found.body == deltas("second")
    assert len([path for path in tmp_path.rglob("*") if path.is_file()]) == 1


# --- what cannot be trusted ----------------------------------------------------------------------


HEAD = {"format": 1, "status": 200, "content_type": SSE}


@pytest.mark.parametrize(
    "change",
    [
        lambda data: b"",
        lambda data: data[:-1],
        lambda data: data.replace(b"42", b"43"),
        lambda data: data.replace(b'"format": 1', b'"format": 2'),
        lambda data: data.replace(b'"status": 200', b'"status": "x"'),
        lambda data: data.replace(b'"status"', b'"state"'),
        lambda data: b"[]" + data[data.index(b"\n") :],
        lambda data: b"[" * 100_000 + data,
        lambda data: b"\xff" + data,
    ],
    ids=range(9),
)
def test_a_file_that_is_not_as_it_was_written_is_no_answer(tmp_path: Path, change: Any) -> None:
    request = asked(tmp_path)
    store(request, deltas("42"))

    request.file.write_bytes(change(request.file.read_bytes()))

    assert find(request) is None


def test_a_string_that_needs_an_escape_today_is_not_put_back(tmp_path: Path) -> None:
    store(asked(tmp_path, volatile=("/w/1",)), deltas("in /w/1"))

    for odd in ('/w/"2"', "/w\\2", "/w/\n"):
        assert find(asked(tmp_path, volatile=(odd,))) is None


def test_a_number_that_stands_for_nothing_is_no_answer(tmp_path: Path) -> None:
    store(asked(tmp_path, user("hi"), volatile=("/w/1",)), deltas("in /w/1"))

    assert find(asked(tmp_path, user("hi"))) is None


@pytest.mark.parametrize("when", ["open", "write", "store"])
def test_a_cache_that_cannot_be_written_disturbs_nobody(
    tmp_path: Path, when: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "cache"
    request = asked(folder)
    if when == "open":
        folder.write_bytes(b"a file in the folder's place")
    if when == "write":
        monkeypatch.setattr(tempfile, "TemporaryFile", FullDisk)
    recorder = Recorder(request)
    if when == "store":
        request.file.mkdir(parents=True)  # a folder in the file's place

    recorder.write(deltas("42"))

    assert not recorder.commit(status=200, content_type=SSE)
    assert find(request) is None
    assert list(tmp_path.rglob("*.part")) == []


class FullDisk:
    """A file that takes nothing and says so again when it is closed."""

    def __init__(self, **_options: Any) -> None:
        pass

    def write(self, _data: bytes) -> int:
        raise OSError(28, "No space left on device")

    def close(self) -> None:
        raise OSError(28, "No space left on device")
