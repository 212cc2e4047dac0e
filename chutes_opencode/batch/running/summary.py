"""What a call of `run_batch` came to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Unpack

from chutes_opencode.base_error import Details
from chutes_opencode.batch.durable import StoreError
from chutes_opencode.errors import OpenCodeError
from chutes_opencode.results import Usage


@dataclass(frozen=True, slots=True)
class BatchSummary:
    """What a batch came to: `total == done + failed + skipped + left`, always.

    Attributes:
        out_dir: The run's folder; of a run at a URL, its copy on this machine.
        total: Tasks of the batch: items × models × samples.
        done: Finished well in this session.
        failed: Failures that stand: of this session, and of earlier ones if not tried again.
        skipped: Finished well in an earlier session.
        left: Tasks without a result; the same call again runs them.
        bad: Rows that were left out (`skip_bad`).
        usage: Tokens of the whole run: earlier sessions and tries in vain included.
        cost_usd: US dollars of the same; None if no price is known.
        errors: The failures that stand in the run's results, by the class of their error.
        duration_s: Seconds that this session took.
        stopped_by: "" if it came to its end; else why not: "interrupt", "budget",
            "authentication", "billing", "store", "executor", "models", …
        stop_error: The error that stopped it, if one did.
        resent: About how many prompts of the whole run were sent again because what ran them was
            lost: a worker, or the process of an earlier session.
        place: The run's folder as it was given, or its URL.
    """

    out_dir: Path
    total: int = 0
    done: int = 0
    failed: int = 0
    skipped: int = 0
    left: int = 0
    bad: int = 0
    usage: Usage = field(default_factory=Usage)
    cost_usd: float | None = None
    errors: Mapping[str, int] = field(default_factory=dict)
    duration_s: float = 0.0
    stopped_by: str = ""
    stop_error: OpenCodeError | None = None
    resent: int = 0
    place: str = ""

    @property
    def ok(self) -> bool:
        """Whether every task of the batch has an answer."""
        return self.done + self.skipped == self.total


class BrokenRunError(StoreError):
    """The run's folder could not be written any more while the batch ran.

    Attributes:
        summary: What it had come to; what it counts as done is safe.
    """

    def __init__(
        self,
        node_id: str = "unknown",
        exit_code: int = -1,
        raw_message: str = "",
        summary: BatchSummary | None = None,
        **details: Unpack[Details],
    ) -> None:
        """Take the arguments of all errors, then the summary."""
        self.summary = summary
        super().__init__(node_id, exit_code, raw_message, **details)
