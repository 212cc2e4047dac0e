"""The readable log of an instance: one appended file, in the form of the seed's backend."""

from __future__ import annotations

import re
import threading
import uuid
from datetime import datetime
from pathlib import Path

from chutes_opencode.errors import ConfigurationError
from chutes_opencode.masking import mask
from chutes_opencode.results import QueryResult

MESSAGE_CUT = 500


class TranscriptLog:
    """Appends each prompt of an instance to one file."""

    def __init__(self, folder: Path, name: str) -> None:
        """Name the file `<name>_<time>_<random>.log`.

        Args:
            folder: Is made if it is missing.
            name: The instance's `logging_name`.

        Raises:
            ConfigurationError: The folder cannot be made.
        """
        stamp = datetime.now().astimezone().strftime("%Y%m%d_%H%M%S")
        safe_name = re.sub(r"[^\w.-]", "_", name)
        self.path = folder / f"{safe_name}_{stamp}_{uuid.uuid4().hex[:6]}.log"
        self._lock = threading.Lock()
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigurationError(raw_message=f"log_dir {folder}: {error}") from error

    def __getstate__(self) -> dict[str, object]:
        """Leave the lock behind: a copy in another process appends to the same file."""
        return {"path": self.path}

    def __setstate__(self, state: dict[str, Path]) -> None:
        """Take the path, make a lock."""
        self.path = state["path"]
        self._lock = threading.Lock()

    def append(self, prompt: str, result: QueryResult) -> None:
        """Append one prompt with its session, in one write."""
        shown = prompt[:MESSAGE_CUT] + ("..." if len(prompt) > MESSAGE_CUT else "")
        now = datetime.now().astimezone().strftime("%Y-%m-%d %H:%M:%S")
        failure = f"[Error]\n{result.error}\n\n" if result.error else ""
        entry = (
            f"{'=' * 80}\n[{now}] session {result.session_id}\n{'=' * 80}\n\n"
            f"[User Message]\n{shown}\n\n{result.stream_result}{failure}{'-' * 80}\n\n"
        )
        # A model may write half of a surrogate pair, which UTF-8 cannot.
        data = mask(entry).encode(errors="backslashreplace")
        with self._lock, self.path.open("ab", buffering=0) as file:
            file.write(data)
