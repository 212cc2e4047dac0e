"""status.json is whole or not there, and reads back as it was."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from chutes_opencode.batch.running.progress import Snapshot
from chutes_opencode.batch.running.status import Status, read_status, write_status

SHOWN = Snapshot(total=3, done=1, errors={"ServerError": 1}, waiting="rate limit until 12:03:20")


def test_it_reads_back_as_it_was_written(tmp_path: Path) -> None:
    write_status(tmp_path, Snapshot())
    write_status(tmp_path, SHOWN)

    assert read_status(tmp_path) == Status(os.getpid(), SHOWN)
    assert os.listdir(tmp_path) == ["status.json"]  # noqa: PTH208 - hidden ones too


def test_what_a_killed_process_left_is_written_over(tmp_path: Path) -> None:
    (tmp_path / ".status.json.new").write_text("x" * 10_000)

    write_status(tmp_path, SHOWN)

    assert read_status(tmp_path) == Status(os.getpid(), SHOWN)
    assert os.listdir(tmp_path) == ["status.json"]  # noqa: PTH208 - hidden ones too


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"pid": null}', '{"pid": "x"}', "null"])
def test_what_cannot_be_read_is_no_status(tmp_path: Path, text: str) -> None:
    assert read_status(tmp_path) is None
    (tmp_path / "status.json").write_text(text)
    assert read_status(tmp_path) is None


def test_fields_of_a_later_version_are_passed_over(tmp_path: Path) -> None:
    write_status(tmp_path, SHOWN)
    path = tmp_path / "status.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"new": 1}))

    assert read_status(tmp_path) == Status(os.getpid(), SHOWN)


def test_a_folder_that_refuses_it_is_left_as_it_was(tmp_path: Path) -> None:
    (tmp_path / "status.json").mkdir()

    with pytest.raises(OSError, match="status"):
        write_status(tmp_path, SHOWN)

    assert os.listdir(tmp_path) == ["status.json"]  # noqa: PTH208 - hidden ones too
