"""The file `.in_flight`: what a killed process leaves true of what it had under way.

status.json is written once a second, so a killed batch had mostly sent other prompts by then. This
one holds a single number, written over in place whenever a prompt begins or is durable.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from chutes_opencode.batch.durable import FILE_MODE

NAME = ".in_flight"
_FORM = b"%15d\n"


class InFlightFile:
    """Holds how many prompts would be sent in vain if this process were killed now."""

    def __init__(self, folder: Path) -> None:
        """Open it; what an earlier process left stands until something is told.

        Args:
            folder: The run's.

        Raises:
            OSError: It cannot be written.
        """
        self._path = folder / NAME
        self._descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT, FILE_MODE)

    def tell(self, count: int) -> None:
        """Write the number. It is the system's at once, so a killed process has told it.

        Raises:
            OSError: It cannot be written.
        """
        os.pwrite(self._descriptor, _FORM % count, 0)

    def remove(self) -> None:
        """Remove the file: the batch ended in good order, and nothing is under way."""
        os.close(self._descriptor)
        with suppress(OSError):
            self._path.unlink()


def read_in_flight(folder: Path) -> int | None:
    """Read what a killed process left; None: there is none, or none that can be read."""
    try:
        return int((folder / NAME).read_bytes())
    except (OSError, ValueError):
        return None
