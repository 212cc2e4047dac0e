"""What a server has written to stderr: its last words, and the errors of its log."""

from __future__ import annotations

import os
from pathlib import Path

from chutes_opencode.opencode.transcript import parse_log_line, without_log_lines

TAIL_BYTES = 1 << 16
TAIL_CHARACTERS = 2000


def last_words(log: Path) -> str:
    """Return the end of what it has written besides its log, not masked yet."""
    return without_log_lines(_tail(log))[-TAIL_CHARACTERS:]


def error_behind(log: Path, ref: str) -> str | None:
    """Return the error that an answer's `ref` stands for, not masked yet.

    Only the end of the log is looked at: it is to be asked for soon after the answer.
    """
    # Not splitlines: a logged prompt may hold a line end of another alphabet.
    for line in reversed(_tail(log).split("\n")):
        fields = parse_log_line(line) if ref and ref in line else {}
        if fields.get("ref") == ref and "error" in fields:
            return fields["error"][:TAIL_CHARACTERS]
    return None


def _tail(log: Path) -> str:
    try:
        with log.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - TAIL_BYTES))
            return file.read().decode("utf-8", "replace")
    except OSError:
        return ""  # it went with the workspace
