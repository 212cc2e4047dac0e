"""What is found in a server's log."""

from __future__ import annotations

from pathlib import Path

import pytest

from chutes_opencode.engines.server_log import TAIL_BYTES, error_behind, last_words

LINE = 'timestamp=2026 level=ERROR message="request failed" ref={ref} error="{error}"\n'


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "serve.err"


def test_the_error_behind_a_reference(log: Path) -> None:
    lines = [LINE.format(ref=f"err_{n}", error=f"no {n}\\n    at x") for n in range(3)]
    log.write_text("".join(lines))

    assert error_behind(log, "err_1") == "no 1\n    at x"


@pytest.mark.parametrize("ref", ["err_9", "err_", "", "timestamp", "\n"])
def test_what_is_no_reference_has_no_error(log: Path, ref: str) -> None:
    log.write_text(LINE.format(ref="err_1", error="one") + 'timestamp=2026 ref="" error=x\n')

    assert error_behind(log, ref) is None


def test_a_reference_that_a_prompt_has_written_is_none(log: Path) -> None:
    log.write_text("ref=err_1 error=forged\ntimestamp=2026 message='ref=err_1 error'\n")

    assert error_behind(log, "err_1") is None


def test_a_line_may_hold_line_ends_of_other_alphabets(log: Path) -> None:
    log.write_text(LINE.format(ref="err_1", error="one\u2028two"))

    assert error_behind(log, "err_1") == "one\u2028two"


def test_only_the_end_of_a_long_log_is_read(log: Path) -> None:
    log.write_text(LINE.format(ref="err_1", error="old") + "x" * TAIL_BYTES + "\n")
    with log.open("a") as file:
        file.write(LINE.format(ref="err_2", error="y" * 10_000))

    assert error_behind(log, "err_1") is None
    assert error_behind(log, "err_2") == "y" * 2000


def test_without_a_log_there_is_nothing(log: Path) -> None:
    assert error_behind(log, "err_1") is None
    assert last_words(log) == ""


def test_the_last_words_are_what_is_no_log(log: Path) -> None:
    log.write_text(LINE.format(ref="err_1", error="one") + "panic: no memory\n")

    assert last_words(log) == "panic: no memory"
