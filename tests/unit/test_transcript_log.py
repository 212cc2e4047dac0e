"""The readable log of an instance: one appended file in the seed's form."""

from __future__ import annotations

import pickle
import re
import threading
from pathlib import Path

import pytest

from chutes_opencode.errors import ConfigurationError, ServerError
from chutes_opencode.masking import MASK, register_secret
from chutes_opencode.results import QueryResult
from chutes_opencode.transcript_log import TranscriptLog


def result(stream: str = "[Response]\n42\n\n", error: ServerError | None = None) -> QueryResult:
    return QueryResult("42", 0, "", stream, error is None, session_id="ses_1", error=error)


def test_a_prompt_is_logged_with_its_session(tmp_path: Path) -> None:
    log = TranscriptLog(tmp_path / "logs", "name")

    log.append("What is 6 x 7?", result())

    line = "=" * 80
    assert re.fullmatch(
        rf"{line}\n\[\d{{4}}-\d\d-\d\d \d\d:\d\d:\d\d\] session ses_1\n{line}\n\n"
        rf"\[User Message\]\nWhat is 6 x 7\?\n\n\[Response\]\n42\n\n{'-' * 80}\n\n",
        log.path.read_text("utf-8"),
    )


def test_the_file_is_named_after_instance_and_time(tmp_path: Path) -> None:
    path = TranscriptLog(tmp_path, "name").path

    assert path.parent == tmp_path
    assert re.fullmatch(r"name_\d{8}_\d{6}_[0-9a-f]{6}\.log", path.name)
    assert TranscriptLog(tmp_path, "name").path != path


def test_nothing_is_written_before_the_first_prompt(tmp_path: Path) -> None:
    assert not TranscriptLog(tmp_path, "name").path.exists()


@pytest.mark.parametrize(("length", "more"), [(500, ""), (501, "..."), (5_000_000, "...")])
def test_a_long_prompt_is_cut(tmp_path: Path, length: int, more: str) -> None:
    log = TranscriptLog(tmp_path, "name")

    log.append("x" * length, result())

    assert f"[User Message]\n{'x' * 500}{more}\n\n[Response]" in log.path.read_text()


def test_a_failure_is_logged_with_its_reason(tmp_path: Path) -> None:
    log = TranscriptLog(tmp_path, "name")

    log.append("hi", result(error=ServerError("node", raw_message="down")))

    assert "[Error]\nserver_error on node: down\n\n" in log.path.read_text()


def test_secrets_are_masked(tmp_path: Path) -> None:
    register_secret("hunter2-hunter2")
    log = TranscriptLog(tmp_path, "name")

    log.append("my key: hunter2-hunter2", result(stream="hunter2-hunter2\n"))

    text = log.path.read_text()
    assert "hunter2" not in text
    assert text.count(MASK) == 2


def test_entries_of_many_threads_do_not_mix(tmp_path: Path) -> None:
    log = TranscriptLog(tmp_path, "name")

    def write(number: int) -> None:
        for _ in range(20):
            log.append(f"<{number}>", result(stream=f"<{number}>" * 500))

    threads = [threading.Thread(target=write, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    entries = log.path.read_text().split("-" * 80 + "\n\n")
    assert entries.pop() == ""
    assert len(entries) == 80
    assert all(len(set(re.findall(r"<\d>", entry))) == 1 for entry in entries)


def test_a_copy_in_another_process_appends_to_the_same_file(tmp_path: Path) -> None:
    log = TranscriptLog(tmp_path, "name")
    copy: TranscriptLog = pickle.loads(pickle.dumps(log))

    log.append("one", result())
    copy.append("two", result())

    assert re.findall(r"\[User Message\]\n(\w+)", log.path.read_text()) == ["one", "two"]


def test_a_folder_that_cannot_be_made_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")

    with pytest.raises(ConfigurationError, match=r"log_dir .*file"):
        TranscriptLog(tmp_path / "file", "name")


@pytest.mark.parametrize("name", ["a/b", "../x", "..", "/etc/x"])
def test_a_name_that_leads_out_of_the_folder_does_not(tmp_path: Path, name: str) -> None:
    log = TranscriptLog(tmp_path / "logs", name)

    log.append("hi", result())

    assert [path.parent for path in tmp_path.rglob("*.log")] == [tmp_path / "logs"]


def test_half_a_character_is_written_as_its_escape(tmp_path: Path) -> None:
    log = TranscriptLog(tmp_path, "name")

    log.append("é\ud800", result())

    assert "é\\ud800" in log.path.read_text("utf-8")
